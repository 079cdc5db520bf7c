"""Documents without labels: a folder of text files, a column of a table, the embedded docstrings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tfkit.data.loaders import load_texts
from tfkit.data.splits import Skipped, listed
from tfkit.data.tables import Nested, Table, choose_text, is_number, open_table, refuse_numbers, remark_notes
from tfkit.data.text_decoding import Cleaner, read_document, short
from tfkit.environment import files
from tfkit.errors import DataError

EMBEDDED = "docstrings"
SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")


class Document(NamedTuple):
    """A text and what it is called."""

    name: str
    """The path of a file below its folder, or "mails.csv:17"."""
    text: str
    """All of it."""


class Documents(NamedTuple):
    """All documents of one place."""

    documents: tuple[Document, ...]
    origin: str
    notes: tuple[str, ...] = ()
    """What was passed over or changed, a sentence each."""

    @property
    def fingerprint(self) -> str:
        """Digest of all names and texts."""
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
    return _checked(path, _of_table(table, column, notes), str(path), notes)


def _of_table(table: Table, column: int, notes: list[str]) -> Iterator[tuple[str, str] | Skipped]:
    remarks: defaultdict[str, list[int]] = defaultdict(list)
    rows = numbers = 0
    for row in table.rows((column,)):
        if isinstance(row, Skipped):
            yield row
            continue
        if row.remark:
            remarks[row.remark].append(row.line)
        name, text = f"{table.path.name}:{row.line}", row.cells[0] or ""
        rows += 1
        numbers += is_number(text)
        yield (
            Skipped(name, "has a list or an object for a text") if isinstance(text, Nested) else (name, text)
        )
    refuse_numbers(table, column, numbers, rows)
    notes += remark_notes(table.path.name, remarks)


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
