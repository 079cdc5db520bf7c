"""The whole job: documents to an index in a run folder, and what it answers."""

from __future__ import annotations

import time
from pathlib import PurePosixPath

from tfkit import hub
from tfkit import run as runs
from tfkit.config.search import SearchConfig
from tfkit.errors import DataError
from tfkit.run import Run
from tfkit.search.documents import Documents, load_documents
from tfkit.search.index import Hit, Index

ENCODER = "minilm-l6-v2"
_FIRST_WORDS = 60  # characters of a passage that the Projector shows


def make(run: Run, documents: Documents, config: SearchConfig) -> Index:
    """Embed the documents, and write the index and all that is known of it into the run's folder."""
    encoder = hub.resolve_text(
        config.model_handle or ENCODER, preprocessor=config.preprocessor, max_length=config.max_length
    ).check()
    for note in (*documents.notes, *encoder.notes):
        run.note(note)
    began = time.monotonic()
    index = Index.build(documents.documents, encoder, fingerprint=documents.fingerprint, seed=config.seed)
    seconds = time.monotonic() - began
    index.save(run.path / runs.INDEX)
    known = index.description
    run.note(
        f"{known['documents']:,} documents in {known['passages']:,} passages were embedded by {known['engine']} in"
        f" {seconds:.1f} s."
    )
    run.note(f"Searching: {known['why']} Recall of the ten nearest: {known['recall_at_10']:.3f}.")
    run.record(
        {
            "search/documents": known["documents"],
            "search/passages": known["passages"],
            "search/recall_at_10": known["recall_at_10"],
            "time/embed_seconds": seconds,
        }
    )
    run.provenance = {
        "recipe": {"name": "search_text"},
        "data": {
            "origin": documents.origin,
            "fingerprint": documents.fingerprint,
            "documents": known["documents"],
            "passages": known["passages"],
        },
        "model": {
            "handle": encoder.handle,
            "digest": encoder.digest,
            "licence": encoder.licence,
            "parameters": encoder.parameters,
            "feature_size": encoder.feature_size,
            "max_length": encoder.max_length,
        },
    }
    _project(run, index)
    return index


def changed(index: Index, config: SearchConfig) -> bool:
    """Whether the documents that are named now are others than those of the index."""
    return read(config).fingerprint != index.description["fingerprint"]


def read(config: SearchConfig) -> Documents:
    """The documents that a config names."""
    source = config.data_dir or config.data_file or config.dataset
    return load_documents(source, text_column=config.text_column)


def questions(config: SearchConfig) -> list[str]:
    """Those of the command line and those of the file, without empty lines.

    Raises:
      DataError: the file is no UTF-8 text.
    """
    from tfkit.data import encodings

    asked = [text for text in config.query if text.strip()]
    if config.queries_file is not None:
        content = config.queries_file.read_bytes()
        if kind := encodings.binary_kind(content):
            raise DataError(f"{config.queries_file} is no text, but {kind}: a question a line is expected.")
        asked += [line.strip() for line in encodings.decode(content)[0].splitlines() if line.strip()]
    return asked


def shown(question: str, hits: list[Hit], *, width: int = 100) -> list[str]:
    """A question and what was found, as lines for a terminal."""
    lines = ["", question]
    for hit in hits:
        text = " ".join(hit.text.split())
        part = f" [{hit.passage + 1}]" if hit.passage else ""
        lines.append(f"  {hit.score:.3f}  {hit.name}{part}")
        lines.append(f"         {text if len(text) <= width else text[: width - 1] + '…'}")
    return lines


def _project(run: Run, index: Index) -> None:
    """The passages as points, coloured by the folder or package of their documents."""
    from tfkit.tensorboard import write_projector

    passages = index.passages
    write_projector(
        run.logdir,
        index.vectors,
        labels=[PurePosixPath(hit.name).parts[0] if "/" in hit.name else "documents" for hit in passages],
        names=[f"{hit.name}: {' '.join(hit.text.split())[:_FIRST_WORDS]}" for hit in passages],
    )
