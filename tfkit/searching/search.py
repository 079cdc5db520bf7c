"""tfkit.search: documents to an index in a run folder, and the answers of both to questions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from tfkit import hub, reporting
from tfkit.environment import files
from tfkit.environment.packages import versions
from tfkit.errors import DataError
from tfkit.hub import Encoder
from tfkit.run import HITS, INDEX, REPORT, Run
from tfkit.searching.documents import Documents, load_documents
from tfkit.searching.index import ENCODER, Index
from tfkit.settings.options import SearchConfig
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings


@takes_settings(SearchConfig)
def search(documents: str | Path | None = None, *, query: str | Sequence[str], **settings: Any) -> Any:
    """Find the passages of documents that answer questions by their meaning.

    The index is made once, in the run folder; the same call with other questions embeds nothing again.

    Args:
      documents: a folder of .txt, .md, .rst or .html files, a table (CSV, TSV, JSON, JSONL, Parquet), or a run folder
        of an earlier search. None: the embedded docstrings.
      query: one question, or several.
      settings: what the flags of recipes.search_text are called: `run_dir`, `top`, `model_handle`, `text_column`...

    Returns:
      A pandas DataFrame, the best passage first: query, name (of the document), passage, score (cosine), text.

    Raises:
      ConfigError: a setting is unknown or cannot be.
      DataError: the documents cannot be read.

    Example:
      tfkit.search("documents/", query="how do I cancel", run_dir="runs/documents", top=3)
    """
    import pandas as pd

    if documents is not None:
        path = Path(documents)
        name = "run_dir" if (path / INDEX).is_dir() else "data_file" if path.is_file() else "data_dir"
        settings[name] = path
    settings["query"] = (query,) if isinstance(query, str) else tuple(query)
    answers = search_documents(from_keywords(SearchConfig, settings, call="tfkit.search")).read(HITS)[
        "answers"
    ]
    rows = [{"query": answer["query"], **hit} for answer in answers for hit in answer["hits"]]
    return pd.DataFrame(rows, columns=["query", "name", "passage", "score", "text"])


def search_documents(config: SearchConfig) -> Run:
    """Make an index of documents, or take the one that is there, and answer questions from it.

    Args:
      config: which documents, which encoder, which questions.

    Returns:
      The run, with index/ and hits.json; `tfkit.searching.Index.open(run.path / "index")` answers further questions.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    folder, questions = run_dir(config, recipe="search_text"), _questions(config)
    whole = (folder / INDEX).is_dir() and (folder / REPORT).is_file()
    if whole and config.run_dir is not None and not config.names_data and not config.overwrite:
        run = Run.open(folder)
        run.check_writable()
        named = None if config.model_handle is None and config.max_length is None else _load_encoder(config)
        return _answer(run, Index.open(run.path / INDEX, encoder=named), questions, config)
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            index = Index.open(run.path / INDEX)
            if _read_documents(config).fingerprint != index.description["fingerprint"]:
                run.say("The documents have changed since the index was made; --overwrite makes it anew.")
            return _answer(run, index, questions, config)
        began = time.monotonic()
        run.versions = versions()
        index = _make_index(run, _read_documents(config), config)
        _answer(run, index, questions, config)
        run.record({"time/total_seconds": time.monotonic() - began})
        reporting.write_report(run)
    return run


def _answer(run: Run, index: Index, questions: Sequence[str], config: SearchConfig) -> Run:
    """Find and keep what answers the questions."""
    answers = [
        {"query": question, "hits": [asdict(hit) for hit in hits]}
        for question, hits in zip(questions, index.queries(questions, top=config.top), strict=True)
    ]
    files.write_json(run.path / HITS, {"answers": answers})
    return run


def _make_index(run: Run, documents: Documents, config: SearchConfig) -> Index:
    """Embed the documents, and write the index and all that is known of it into the run's folder."""
    from tfkit.reporting.tensorboard import write_projector

    model = _load_encoder(config).check()
    for note in (*documents.notes, *model.notes):
        run.note(note)
    began = time.monotonic()
    index = Index.build(documents.documents, model, fingerprint=documents.fingerprint)
    seconds = time.monotonic() - began
    index.save(run.path / INDEX)
    counts = {name: index.description[name] for name in ("documents", "passages")}
    run.note(
        f"{counts['documents']:,} documents in {counts['passages']:,} passages were embedded by"
        f" {index.description['engine']} in {seconds:.1f} s. Each question is compared with all: the search is exact."
    )
    run.record({f"search/{name}": count for name, count in counts.items()} | {"time/embed_seconds": seconds})
    run.provenance = {
        "recipe": {"name": "search_text"},
        "data": {"origin": documents.origin, "fingerprint": documents.fingerprint, **counts},
        "model": model.origin,
    }
    passages = index.passages  # as points, coloured by the folder or package of their documents
    write_projector(
        run.logdir,
        index.vectors,
        labels=[PurePosixPath(hit.name).parts[0] if "/" in hit.name else "documents" for hit in passages],
        names=[f"{hit.name}: {' '.join(hit.text.split())[:60]}" for hit in passages],
    )
    return index


def _load_encoder(config: SearchConfig) -> Encoder:
    """Return the encoder that a config names."""
    return hub.load_model(
        config.model_handle or ENCODER,
        modality="texts",
        preprocessor=config.preprocessor,
        max_length=config.max_length,
    )


def _read_documents(config: SearchConfig) -> Documents:
    """Return the documents that a config names."""
    source = config.data_dir or config.data_file or config.dataset
    return load_documents(source, text_column=config.text_column)


def _questions(config: SearchConfig) -> list[str]:
    """Return those of the command line and those of the file, without empty lines.

    Raises:
      DataError: the file is no UTF-8 text.
    """
    from tfkit.data.text_decoding import binary_kind, decode

    texts = [text for text in config.query if text.strip()]
    if config.queries_file is not None:
        content = config.queries_file.read_bytes()
        if kind := binary_kind(content):
            raise DataError(f"{config.queries_file} is no text, but {kind}: a question a line is expected.")
        texts += [line.strip() for line in decode(content)[0].splitlines() if line.strip()]
    return texts


def format_hits(question: str, hits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a question and what was found, as hits.json has it, as lines for a terminal."""
    lines = ["", question]
    for hit in hits:
        part = f" [{hit['passage'] + 1}]" if hit["passage"] else ""
        lines.append(f"  {hit['score']:.3f}  {hit['name']}{part}")
        text = " ".join(hit["text"].split())
        lines.append(f"         {text if len(text) <= 100 else text[:99] + '…'}")
    return lines
