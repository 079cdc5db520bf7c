"""Texts of a table or of a folder as Splits: read once into a store, labels as classes, one text in one split only."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import itertools
import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from tfkit.data.folders import TEXTS, Scan, class_name_warnings, scan, skipped_notes, splits_of_folder
from tfkit.data.splits import Cutting, Skipped, Splits, cut_by_class, listed
from tfkit.data.store import Store, Writer, prepare
from tfkit.data.tables import FLAGS, Row, Table, choose, open_table, read_rows
from tfkit.data.text_decoding import Cleaner, known_as, read_document, short
from tfkit.environment import files
from tfkit.environment.files import digest_of
from tfkit.environment.process import watched
from tfkit.errors import DataError

RECIPE, _READING = 3, 5
"""Parts of the fingerprint, and of the key of every store: raise the latter when the same file gives other texts."""

SKIPPED_LISTED = 10_000
"""So many examples that cannot be used are listed by name; all are counted."""


class Example(NamedTuple):
    """One text as it was found."""

    text: str
    label: str
    place: int
    """Its line in a table, or the number of its file."""

    language: str = ""
    name: str = ""
    """What it is called, where its place does not say."""


Reading = Callable[[list[str]], Iterator[Example | Skipped]]
"""Goes through the examples in their order; appends what there is to say to the list."""


class TextSource:
    """Strings, read from their store when they are needed; see `tfkit.data.Source`.

    Attributes:
      entry: class_names, languages, names, notes, and what was skipped.
      columns: of a table, which were taken: text_column, label_column, language_column.
      lengths: int32 [n], in characters.
      languages: of each text, where a column says.
      digests: uint64 [n, 2], of the text, composed and with its white space folded.
      places: int64 [n]: its line in a table, or the number of its file.
    """

    def __init__(self, store: Store, columns: Mapping[str, str | None]) -> None:
        self.entry, self.columns = store.entry, columns
        self.labels, self.lengths = store.rows["labels"], store.rows["lengths"].astype(np.int32)
        self.digests, self.places = store.rows["texts"], store.rows["places"]
        self.class_names = tuple(self.entry["class_names"])
        self.skipped = tuple(Skipped(*skipped) for skipped in self.entry["skipped"])
        self.names: Sequence[str] = self.entry["names"]
        self.shape: tuple[int, ...] = ()
        self.fingerprint = digest_of(self.entry["fingerprint"], "texts", RECIPE)
        self.languages: tuple[str, ...] | None = None
        if columns.get("language_column"):
            self.languages = tuple(self.entry["languages"][code] for code in store.rows["language"])
        self._content = store.read

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return bytes [b], UTF-8."""
        return np.fromiter((self._content(int(index)) for index in indices), object, len(indices))

    def raw(self, index: int) -> str:
        """Return one text."""
        return self._content(index).decode()


def read_texts(
    key: str,
    read: Reading,
    *,
    size: int,
    class_names: tuple[str, ...] = (),
    columns: Mapping[str, str | None] | None = None,
) -> TextSource:
    """Return the texts of the store under `key`; it is written when it is absent or damaged.

    Args:
      key: digest of all that the texts depend on.
      read: yields the examples.
      size: bytes that the texts will take at most, by the size of their file.
      class_names: where they are known beforehand.
      columns: see `TextSource`.

    Raises:
      DataError: the disk of the cache has no room.
    """

    def write(writer: Writer, _: Store | None) -> None:
        if not writer.has_room:
            raise DataError(
                f"The disk of {files.cache_root()} has no room for a copy of the texts ({size / 1e9:.1f} GB).\n"
                f"  Give another folder: export {files.CACHE_VARIABLE}=/some/folder"
            )
        _write(writer, read, class_names)

    return TextSource(prepare("texts", digest_of(key, _READING), write, size=size), columns or {})


def folded(text: str) -> str:
    """Return what makes two texts the same one: composed characters, and white space of one kind."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _write(writer: Writer, read: Reading, class_names: tuple[str, ...]) -> None:
    columns = {name: array("q") for name in ("labels", "lengths", "language", "places")}
    texts, names = bytearray(), []
    skipped: list[Skipped] = []
    notes: list[str] = []
    reasons: Counter[str] = Counter()
    codes = {name: code for code, name in enumerate(class_names)}
    languages: dict[str, int] = {}
    contents = hashlib.sha256()
    for example in read(notes):
        if isinstance(example, Skipped):
            reasons[example.reason] += 1
            if len(skipped) < SKIPPED_LISTED:
                skipped.append(example)
            continue
        # A lone half of a pair, which JSON can hold, has no UTF-8.
        content = example.text.encode("utf-8", "replace")
        writer.add(content)
        contents.update(len(content).to_bytes(8, "little") + content)
        texts += hashlib.blake2b(folded(example.text).encode("utf-8", "replace"), digest_size=16).digest()
        columns["labels"].append(codes.setdefault(example.label, len(codes)))
        columns["lengths"].append(len(example.text))
        columns["language"].append(languages.setdefault(example.language, len(languages)))
        columns["places"].append(example.place)
        if example.name:
            names.append(example.name)
    numbers = all(name.isascii() and name.isdecimal() for name in codes)
    order = list(class_names) or sorted(codes, key=int if numbers else str)
    rank = np.empty(max(1, len(order)), np.int64)
    rank[[codes[name] for name in order]] = np.arange(len(order))
    rows = {name: np.asarray(column, np.int64) for name, column in columns.items()}
    rows |= {"labels": rank[rows["labels"]], "texts": np.frombuffer(bytes(texts), "<u8").reshape(-1, 2)}
    entry = {
        "class_names": order, "languages": list(languages), "names": names, "skipped": skipped,
        "reasons": reasons, "fingerprint": contents.hexdigest()[:32], "notes": notes,
    }  # fmt: skip
    writer.finish(entry, **rows)


class LineNames(Sequence[str]):
    """ "mails.csv:17" for each row, from the numbers alone."""

    def __init__(self, file: str, lines: np.ndarray) -> None:
        self._file, self._lines = file, lines

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        """Return the name of one row."""
        return f"{self._file}:{self._lines[index]}"


class Groups:
    """Rows of the same text, by their digests.

    Attributes:
      repeated: rows whose text is in another row too.
      contradicting: rows whose text has another label in another row.
    """

    def __init__(self, digests: np.ndarray, labels: np.ndarray) -> None:
        """Find the groups.

        Args:
          digests: uint64 [n, 2]; the first half says which are of one text.
          labels: int64 [n].
        """
        _, starts, self._of, counts = np.unique(
            digests[:, 0], return_index=True, return_inverse=True, return_counts=True
        )
        self._names = [f"{first:016x}{second:016x}" for first, second in digests[starts].tolist()]
        self.repeated = int(counts[counts > 1].sum())
        # The most frequent label of a text; the order of the rows decides nothing.
        classes = int(labels.max(initial=0)) + 1
        pairs, times = np.unique(self._of * classes + labels, return_counts=True)
        group, label = np.divmod(pairs, classes)
        _, first, labels_of = np.unique(
            group[order := np.lexsort((label, -times, group))], return_index=True, return_counts=True
        )
        self._labels = label[order][first]
        self.contradicting = int(counts[labels_of > 1].sum())

    def cut(self, class_names: Sequence[str], **how: Any) -> dict[str, np.ndarray]:
        """Return the rows of each split, drawn from the digest of the text: rows may move in their file.

        Args:
          class_names: one for each label.
          how: see `cut_by_class`.

        Raises:
          DataError: a class has fewer different texts than there are splits.
        """
        parts = cut_by_class(
            self._names, self._labels, class_names=class_names, noun="different texts", **how
        )
        rows = {}
        for split, groups in parts.items():
            rank = np.full(len(self._names), -1)
            rank[groups] = np.arange(len(groups))
            here = np.flatnonzero(rank[self._of] >= 0)
            rows[split] = here[np.argsort(rank[self._of[here]], kind="stable")]
        return rows


def _notes(source: TextSource, groups: Groups, noun: str) -> Iterator[str]:
    """Yield what a user should know of the texts of a table or folder, one sentence each."""
    yield from source.entry["notes"]
    if groups.repeated:
        yield f"{groups.repeated} {noun} have a text that is there more than once: each text is in one split."
    if groups.contradicting:
        yield f"{groups.contradicting} {noun} have a text that is there with another label too: one must be wrong."


_MANY_LABELS = 1000


def load_table(path: Path, cutting: Cutting, asked: Mapping[str, str | None]) -> Splits:
    """Load a table; see `load_texts` and `choose`."""
    table = open_table(path)
    chosen, notes = choose(table, asked)
    status = table.path.stat()
    source = read_texts(
        digest_of(str(table.path.resolve()), status.st_size, status.st_mtime_ns, table.columns, chosen),
        lambda notes: _read_table(table, chosen, notes),
        size=2 * max(status.st_size, table.size),  # what is not in UTF-8 may grow by half
        columns=dict.fromkeys(FLAGS)
        | dict(zip(FLAGS, (table.columns[column] for column in chosen), strict=False)),
    )
    source.names = LineNames(table.path.name, source.places)
    names, where = source.class_names, _column(table, chosen[1])
    skipped = skipped_notes(f"{path}", source.skipped, "rows", source.entry["reasons"], strict=cutting.strict)
    context = "".join(f"\n  {note}" for note in (*table.notes, *source.entry["notes"], *skipped))
    if len(names) < 2:
        found = ", ".join(repr(short(name)) for name in names) or "no value"
        raise DataError(
            f"{where} has {found} in all {len(source.labels)} rows that can be used; a classifier needs two values or"
            f" more.{context}"
        )
    counts = np.bincount(source.labels, minlength=len(names)).tolist()
    notes = [*table.notes, *notes, *check_labels(dict(zip(names, counts, strict=True)), where=where)]
    if unprintable := [ascii(short(name)) for name in names if not name.isprintable()]:
        raise DataError(
            f"{where} has values with characters that cannot be printed: {listed(unprintable)}.\n"
            f"  Class names are written to labels.txt, one a line.{context}"
        )
    groups = Groups(source.digests, source.labels)
    how: dict[str, Any] = {"held_out": cutting.held_out, "seed": cutting.seed, "where": f"{path}: "}
    return cutting.splits(
        source, groups.cut(names, hint="".join(f"\n  {note}" for note in skipped), **how),
        class_names=names, origin=str(path), skipped=source.skipped,
        notes=(*notes, *skipped, *_notes(source, groups, "rows"), *class_name_warnings(names)),
    )  # fmt: skip


def _progress(examples: Iterable[Any]) -> Iterable[Any]:
    return tqdm(examples, desc="Reading texts", unit="text", delay=1, disable=not watched())


def _read_table(table: Table, chosen: Sequence[int], notes: list[str]) -> Iterator[Example | Skipped]:
    name, first = table.path.name, table.columns[chosen[1]]
    cleaner, as_label = Cleaner(), LabelCleaner()
    known: Counter[str] = Counter()
    wrong = good = 0
    for row in _progress(read_rows(table, tuple(chosen), notes)):
        if not isinstance(row, Row):
            wrong += " fields instead of " in row.reason
            yield row
            continue
        good += 1
        place = f"{name}:{row.line}"
        text, cell, *language = (value or "" for value in row.cells)
        text, label = cleaner(text), as_label(cell)
        known[label] += 1
        if len(known) > _MANY_LABELS and len(known) > good / 2:  # before the memory is full of them
            check_labels(known, where=_column(table, chosen[1]))
        if not text.strip():
            yield Skipped(place, "has no text")
        elif not label:
            yield Skipped(place, f"has no label ({short(cell)!r})" if cell.strip() else "has no label")
        else:
            yield Example(text, label, row.line, "".join(language).strip())
    if wrong > good:
        raise DataError(
            f"{table.path}: {wrong} of {wrong + good} rows have another number of fields than the first line.\n"
            "  What holds the delimiter, a quote or a line break needs quotes; pandas.DataFrame.to_csv writes them."
        )
    if first in known and not first.startswith("column "):
        notes.append(
            f"{name}: Its first line is taken for names, but {short(first)!r} is the label of {known[first]} rows:"
            " if it is a row, write a line of names above it."
        )
    notes += [*as_label.notes(), *cleaner.notes()]


def _column(table: Table, label: int) -> str:
    return f"The label column '{short(table.columns[label])}' of {table.path}"


def load_documents(folder: Path, cutting: Cutting) -> Splits:
    """Load `folder`/<class>/<text> or `folder`/<split>/<class>/<text>; see `load_texts`."""
    found = scan(folder, TEXTS)
    stamps = [(file.name, file.size, file.mtime_ns) for file in found.files]
    source = read_texts(
        digest_of("documents", str(folder.resolve()), stamps),
        lambda notes: _read_folder(found, notes),
        size=2 * sum(file.size for file in found.files),
        class_names=found.class_names,
    )
    texts = [found.files[place] for place in source.places]
    source.names = [file.name for file in texts]
    groups = Groups(source.digests, source.labels)
    if found.given:
        groups.repeated = 0  # it is for the folder to say which split they are in

    def cut(members: np.ndarray, **how: Any) -> dict[str, np.ndarray]:
        return Groups(source.digests[members], source.labels[members]).cut(source.class_names, **how)

    return splits_of_folder(
        found, source, texts, cutting, cut, digests=[*map(tuple, source.digests.tolist())],
        unreadable=source.skipped, reasons=source.entry["reasons"], notes=[*_notes(source, groups, "files")],
    )  # fmt: skip


def _read_folder(found: Scan, notes: list[str]) -> Iterator[Example | Skipped]:
    cleaner = Cleaner()
    names: dict[str, list[str]] = {}  # of the files in each encoding but UTF-8
    for place, file in enumerate(_progress(found.files)):
        try:
            text, encoding = read_document(found.root / file.name)
        except DataError as err:
            yield Skipped(file.name, str(err))
            continue
        if encoding not in ("utf-8", "utf-8-sig"):
            names.setdefault(encoding, []).append(file.name)
        if (text := cleaner(text)).strip():
            yield Example(text, found.class_names[file.label], place)
        else:
            yield Skipped(file.name, "has no text")
    for encoding, of in names.items():
        notes.append(f"Not in UTF-8, but read as {known_as(encoding)}: {len(of)} files ({listed(of, 3)}).")
    notes += cleaner.notes()


# What pandas takes for missing, with the cases that it lacks.
_MISSING = frozenset({"", "#n/a", "#n/a n/a", "#na", "-nan", "<na>", "n/a", "nan", "null"})
_MISSING_AS_WRITTEN = frozenset({"NA", "None"})
_WHOLE = re.compile(r"[+-]?\d+[.,]0+")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)?|[.,]\d+)([eE][+-]?\d+)?%?")
_DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}([T ].*)?|\d{1,2}:\d{2}(:\d{2})?")
_FEW_NUMBERS = 10
_MANY_NUMBERS = 20
_LONGEST = 200


class LabelCleaner:
    """Labels as they are compared; counts what it changes."""

    def __init__(self) -> None:
        self.missing: Counter[str] = Counter()
        self._whole = self._lists = 0

    def __call__(self, value: str) -> str:
        """Return a label; empty where it is missing. A list of one label is that label, and 1.0 is 1."""
        label = _normal(value)
        if isinstance(found := _as_list(label), list) and len(found) < 2:
            label = _normal("" if found in ([], [None]) else str(found[0]))
            self._lists += 1
        if label.lower() in _MISSING or label in _MISSING_AS_WRITTEN:
            if label:
                self.missing[label[:_LONGEST]] += 1
            return ""
        if _WHOLE.fullmatch(label):
            self._whole += 1
            label = re.split("[.,]", label)[0]
        return label

    def notes(self) -> Iterator[str]:
        """Yield what was changed."""
        if self.missing:
            shown = listed([f"{label!r} ({count})" for label, count in self.missing.most_common()])
            yield f"Labels that count as missing, as pandas has it: {shown}. A class needs another name."
        if self._lists:
            yield f"{self._lists} labels are lists of one or none: that one is taken."
        if self._whole:
            yield f"{self._whole} labels are whole numbers with decimals: 1.0 is taken as 1."


def _normal(value: str) -> str:
    return unicodedata.normalize("NFC", " ".join(value.split()))


def check_labels(counts: Mapping[str, int], *, where: str) -> list[str]:
    """Refuse labels that are no classes.

    Args:
      counts: of each label.
      where: "The label column 'score' of mails.csv".

    Returns:
      A note where they can be either.

    Raises:
      DataError: they are several at once, quantities, dates, ids or texts; with what would work.
    """
    names, rows = list(counts), sum(counts.values())
    several = [name for name in names if _as_list(name) is not None]
    sign = "written as lists or objects"
    for mark in ";|,":
        if not several:
            several, sign = _joined(names, mark), f"joined by {mark!r}"
    if several:
        often = max(several, key=lambda name: counts[name])
        raise DataError(
            f"{where} has several labels in {sum(counts[name] for name in several)} of {rows} rows, {sign}:"
            f" {short(often)!r} ({counts[often]} times) and {len(several) - 1} other combinations.\n"
            "  Each would be a class. Give a column that says yes or no to one label, and train for each such column;\n"
            "  or only the rows that have one. Of objects, pandas.json_normalize(records) makes columns."
        )
    many, few = len(names) > max(rows / 2, _FEW_NUMBERS), len(names) <= _FEW_NUMBERS
    numeric = all(_NUMBER.fullmatch(name) for name in names)
    numbers = sorted((float(name.rstrip("%").replace(",", ".")), name) for name in names if numeric)
    fractions = any(not value.is_integer() for value, _ in numbers)
    kind = ""
    if numeric:
        kind = "quantities" if many or (fractions and not few) else ""
    elif sum(bool(_DATE.fullmatch(name)) for name in names) >= 0.9 * len(names) and not few:
        kind = "dates or times"
    elif many or any(len(name) > _LONGEST for name in names):
        kind = "an id or a text"
    if kind:
        shown = ", ".join(f"{short(name)!r} ({count})" for name, count in Counter(counts).most_common(3))
        raise DataError(
            f"{where} has {len(names)} values in {rows} rows ({shown}, ...): it looks like {kind}, and each value would"
            " be a class.\n  Give another one: label_column (--label-column). Of quantities make ranges:\n"
            "  frame['label'] = pandas.cut(frame[COLUMN], 3, labels=['low', 'medium', 'high'])"
        )
    notes = []
    if twice := [name for (value, name), (after, _) in itertools.pairwise(numbers) if value == after]:
        notes.append(f"{where} has one number in several spellings, each a class: {listed(twice)}.")
    if fractions or (numeric and len(names) > _MANY_NUMBERS):
        notes.append(
            f"{where} holds {len(names)} numbers, from {numbers[0][1]} to {numbers[-1][1]}: each is a class of its own,"
            " near to no other. If they are quantities, cut them in ranges (pandas.cut)."
        )
    return notes


def _joined(names: list[str], mark: str) -> list[str]:
    """Return the labels that are put together of others by this sign: each part is met in other labels too."""
    if mark == "," and all(re.fullmatch(r"[+-]?\d+(,\d+)?", name) for name in names):
        pairs = sum("," in name for name in names)
        if pairs == len(names) or (2 * pairs > len(names) > _FEW_NUMBERS):
            return []  # decimals
    split = {name: [part.strip() for part in name.split(mark) if part.strip()] for name in names}
    found = {name: parts for name, parts in split.items() if len(parts) > 1}
    met = Counter(part for parts in split.values() for part in set(parts))
    of_found = {part for parts in found.values() for part in parts}
    again = sum(met[part] > 1 for part in of_found)
    turned = Counter(frozenset(parts) for parts in found.values())
    likely = again >= 0.8 * len(of_found) and len(met) < len(names)
    return list(found) if likely or max(turned.values(), default=0) > 1 else []


def _as_list(label: str) -> list[Any] | dict[str, Any] | None:
    """Return a list, or an object, as JSON or as Python writes it."""
    if label[:1] not in ("[", "(", "{") or len(label) > 10_000:
        return None
    if "' '" in label:  # as NumPy prints one: ['joy' 'anger']
        return re.findall(r"'([^']*)'", label)
    for parse in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            found = parse(label)
            if isinstance(found, dict):
                return found
            return list(found) if isinstance(found, list | tuple | set) else None
    return None
