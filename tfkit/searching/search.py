"""tfkit.search: documents to an index in a run folder, and the answers of both to questions."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from tfkit import hub, reporting
from tfkit.data.loaders import load_texts
from tfkit.data.splits import Skipped, listed
from tfkit.data.tables import choose_text, open_table, read_rows
from tfkit.data.text_decoding import Cleaner, decode, is_binary, read_document, short
from tfkit.environment import files
from tfkit.environment.packages import versions
from tfkit.errors import DataError
from tfkit.hub import Encoder
from tfkit.run import HITS, INDEX, REPORT, Run
from tfkit.searching.index import Document, Index
from tfkit.settings.options import EMBEDDED, ENCODER, SearchConfig
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings

SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")


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
    run = search_documents(from_keywords(SearchConfig, settings, call="tfkit.search"))
    found = [(answer["query"], answer["hits"]) for answer in run.read(HITS)["answers"]]
    rows = [{"query": question, **hit} for question, hits in found for hit in hits]
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
    texts = [text for text in config.query if text.strip()]
    if config.queries_file is not None:
        content = config.queries_file.read_bytes()
        if is_binary(content):
            raise DataError(
                f"{config.queries_file} is a binary file: a text with a question a line is expected."
            )
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


class Documents(NamedTuple):
    """All documents of one place."""

    documents: tuple[Document, ...]
    origin: str
    notes: tuple[str, ...] = ()
    """What was passed over or changed, a sentence each."""

    @property
    def fingerprint(self) -> str:
        """Return the digest of all names and texts."""
        return files.digest_of(*map(tuple, self.documents))


def load_documents(source: str | Path, *, text_column: str | None = None) -> Documents:
    """Return documents for a search.

    HTML becomes the text that its reader sees; encodings are found out.

    Args:
      source: a folder, whose .txt, .md, .rst and .html files at any depth are documents; a .csv, .tsv, .jsonl or
        .parquet file with a document a row; or "docstrings", the embedded ones.
      text_column: of a table; left out, the one whose name says it.

    Returns:
      The documents, and what was left out and why.

    Raises:
      DataError: there is no document.

    Example:
      >>> load_documents("docstrings").documents[0].text  # doctest: +SKIP
      'Compute the arithmetic mean along the specified axis.'
    """
    if source == EMBEDDED:
        splits = load_texts(EMBEDDED)
        texts = splits.source
        # A name that is there twice is of one function and its overloads.
        of_name = {texts.names[i]: str(texts.raw(i)) for i in reversed(range(len(texts.labels)))}
        documents = tuple(Document(name, text) for name, text in reversed(of_name.items()))
        return Documents(documents, splits.origin)
    path = Path(source)
    if path.is_dir():
        if text_column:
            raise DataError(f"{path} is a folder: it has no column {text_column!r}.")
        return _checked(path, _of_folder(path), f"{path}/", [])
    table = open_table(path)
    column = choose_text(table, text_column=text_column)
    notes = [*table.notes, f"{path.name}: The column '{short(table.columns[column])}' is searched."]
    rows = (
        row if isinstance(row, Skipped) else (f"{path.name}:{row.line}", row.cells[0] or "")
        for row in read_rows(table, (column,), notes)
    )
    return _checked(path, rows, str(path), notes)


def _of_folder(folder: Path) -> Iterator[tuple[str, str] | Skipped]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            yield name, read_document(path)[0]
        except DataError as err:
            yield Skipped(name, str(err))


def _checked(
    path: Path, examples: Iterable[tuple[str, str] | Skipped], origin: str, notes: list[str]
) -> Documents:
    """Return those that hold something; the others are counted and named."""
    cleaner, documents, unusable, empty = Cleaner(), [], [], []
    for example in examples:
        if isinstance(example, Skipped):
            unusable.append(f"{example.path} ({example.reason})")
        elif text := cleaner(example[1]).strip():
            documents.append(Document(example[0], text))
        else:
            empty.append(example[0])
    for kind, names in (("are empty", empty), ("cannot be used", unusable)):
        if names:
            notes.append(f"{len(names)} documents {kind}: {listed(names, 3)}.")
    notes += [note.split(" The model is")[0] for note in cleaner.notes()]
    if not documents:
        what = f"text in a file that ends in {', '.join(SUFFIXES)}" if path.is_dir() else "row with a text"
        raise DataError("\n  ".join([f"{path} holds no {what}: there is nothing to search.", *notes]))
    return Documents(tuple(documents), origin, tuple(notes))
