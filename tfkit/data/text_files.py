"""A folder of documents as Splits of texts: one subfolder a class, one file a text.

Texts that were read once: one file of all of them, and small numbers about each, read back by place.

Texts in their store as a Source, and as Splits: one text is in one split, however often it is there.

What there is to say about texts that were read.

A table as Splits of texts: its rows are read once, one after the other.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, overload

import numpy as np
from tqdm.auto import tqdm

from tfkit.data import folders
from tfkit.data import store as stores
from tfkit.data.folders import TEXTS, Scan, class_name_warnings, count_leaked, cut_folder, folder_notes, scan
from tfkit.data.labels import LabelCleaner, check_labels
from tfkit.data.splits import (
    SPLIT_NAMES,
    Skipped,
    Splits,
    check_enough,
    check_fractions,
    cut_by_class,
    listed,
)
from tfkit.data.tables import (
    Columns,
    Nested,
    Remarks,
    Row,
    Table,
    choose,
    is_number,
    open_table,
    refuse_numbers,
)
from tfkit.data.text_decoding import Cleaner, read_document, short
from tfkit.environment import files
from tfkit.environment.files import digest_of
from tfkit.environment.process import watched
from tfkit.errors import DataError

RECIPE = 3
"""Part of the key of every store: raise it when the same file gives other texts."""

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


class Reading(Protocol):
    """Goes through the examples once."""

    notes: list[str]
    """What there is to say, once it has gone through them."""

    def __iter__(self) -> Iterator[Example | Skipped]:
        """The examples in their order; Skipped for one that cannot be used."""


class TextStore:
    """The texts of one table or folder, in their store.

    Attributes:
      entry: class_names, languages, names, notes, and what was skipped.
      labels: int64 [n], into `class_names`.
      lengths: int32 [n], characters.
      language: int64 [n], into entry["languages"].
      digests: uint64 [n, 2], of the text, composed and with its white space folded.
      places: int64 [n].
    """

    def __init__(self, prepared: stores.Store) -> None:
        self.entry = prepared.entry
        self.labels, self.lengths = prepared.rows["labels"], prepared.rows["lengths"].astype(np.int32)
        self.language, self.places = prepared.rows["language"], prepared.rows["places"]
        self.digests = prepared.rows["texts"]
        self.content = prepared.read
        self.class_names = tuple(self.entry["class_names"])
        self.skipped = tuple(Skipped(*skipped) for skipped in self.entry["skipped"])


def get(key: str, read: Callable[[], Reading], *, size: int, class_names: tuple[str, ...] = ()) -> TextStore:
    """Return the store under `key`; it is written when it is absent or damaged.

    Args:
      key: digest of all that the texts depend on.
      read: begins to read the examples.
      size: bytes that the texts will take at most, by the size of their file.
      class_names: where they are known beforehand.

    Raises:
      DataError: the disk of the cache has no room.
    """

    def write(writer: stores.Writer, _: stores.Store | None) -> None:
        if not writer.has_room:
            raise DataError(
                f"The disk of {files.cache_root()} has no room for a copy of the texts ({size / 1e9:.1f} GB).\n"
                f"  Give another folder: export {files.CACHE_VARIABLE}=/some/folder"
            )
        _write(writer, read(), class_names)

    return TextStore(stores.prepare("texts", key, write, size=size))


def folded(text: str) -> str:
    """Return what makes two texts the same one: composed characters, and white space of one kind."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _write(writer: stores.Writer, reading: Reading, class_names: tuple[str, ...]) -> None:
    columns = {name: array("q") for name in ("labels", "lengths", "language", "places")}
    texts, names = bytearray(), []
    skipped: list[Skipped] = []
    reasons: Counter[str] = Counter()
    codes = {name: code for code, name in enumerate(class_names)}
    languages: dict[str, int] = {}
    contents = hashlib.sha256()
    for example in reading:
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
        "reasons": reasons, "fingerprint": contents.hexdigest()[:32], "notes": list(reading.notes),
    }  # fmt: skip
    writer.finish(entry, **rows)


class TextSource:
    """Strings, read from their store as they are asked for; see `tfkit.data.Source`."""

    def __init__(
        self,
        store: TextStore,
        names: Sequence[str],
        *,
        with_languages: bool = False,
        columns: Mapping[str, str | None] | None = None,
    ) -> None:
        """Take all texts of the store.

        Args:
          store: of n texts.
          names: n.
          with_languages: whether the store knows the language of each.
          columns: of a table, which were taken: text_column, label_column, language_column.
        """
        self.columns = columns or {}
        self.labels = store.labels
        self.names = names
        self.shape: tuple[int, ...] = ()
        self.lengths = store.lengths
        """int32 [n], in characters."""
        self.fingerprint = digest_of(store.entry["fingerprint"], "texts", RECIPE)
        self.languages: tuple[str, ...] | None = None
        """Of each text, where a column says."""
        if with_languages:
            of_code = store.entry["languages"]
            self.languages = tuple(of_code[code] for code in store.language)
        self._store = store

    def read(self, indices: np.ndarray) -> np.ndarray:
        """bytes [b], UTF-8."""
        out = np.empty(len(indices), object)
        for row, index in enumerate(indices):
            out[row] = self._store.content(int(index))
        return out

    def raw(self, index: int) -> str:
        """The text."""
        return self._store.content(index).decode()


class LineNames(Sequence[str]):
    """ "mails.csv:17" for each row, from the numbers alone."""

    def __init__(self, file: str, lines: np.ndarray) -> None:
        self._file, self._lines = file, lines

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """The name of one row, or of some."""
        if isinstance(index, slice):
            return LineNames(self._file, self._lines[index])
        return f"{self._file}:{self._lines[index]}"


class Groups:
    """Rows of the same text, by their digests."""

    def __init__(self, digests: np.ndarray, labels: np.ndarray) -> None:
        """Sort the rows so that those of one text follow each other, in the order of the table.

        Args:
          digests: uint64 [n, 2].
          labels: int64 [n].
        """
        first, second = digests[:, 0], digests[:, 1]
        self.order = np.lexsort((second, first))
        a, b = first[self.order], second[self.order]
        new = np.ones(len(a), bool)
        new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
        self.starts = np.flatnonzero(new)
        self.counts = np.diff([*self.starts, len(a)]).astype(np.int64)
        self.names = [f"{x:016x}{y:016x}" for x, y in zip(a[self.starts], b[self.starts], strict=True)]
        labels = labels[self.order]
        self.labels = labels[self.starts].copy()
        self.repeated = int(np.sum(self.counts[self.counts > 1]))
        """Rows whose text is in another row too."""
        self.contradicting = 0
        """Rows whose text has another label in another row."""
        for group in np.flatnonzero(self.counts > 1):
            own = labels[self.starts[group] : self.starts[group] + self.counts[group]]
            if (own != own[0]).any():
                self.contradicting += len(own)
                # The most frequent label; the order of the rows decides nothing.
                self.labels[group] = min(Counter(own.tolist()).items(), key=lambda item: (-item[1], item[0]))[
                    0
                ]

    def rows(self, groups: np.ndarray) -> np.ndarray:
        """The rows of these groups, int64, group after group."""
        counts = self.counts[groups]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.order[np.repeat(self.starts[groups], counts) + within]


def cut_texts(
    groups: Groups,
    class_names: Sequence[str],
    *,
    held_out: Mapping[str, float],
    seed: int,
    where: str,
    hint: str = "",
) -> dict[str, np.ndarray]:
    """split -> its rows. The digest of a text is what its split is drawn from, so that rows may move in their file.

    Raises:
      DataError: a class has fewer different texts than there are splits.
    """
    check_enough(
        groups.labels,
        class_names=class_names,
        splits=("train", *held_out),
        where=where,
        hint=hint,
        noun="different texts",
    )
    parts = cut_by_class(groups.names, groups.labels, class_names=class_names, held_out=held_out, seed=seed)
    return {split: groups.rows(parts[split]) for split in SPLIT_NAMES if split in parts}


_REASONS = 6
"""So many are listed, the most frequent ones."""


def skipped_text(store: TextStore, noun: str) -> str:
    """How many examples cannot be used, with the first of each kind; empty if all can.

    Args:
      store: of the others.
      noun: what an example is: "rows", "files".
    """
    parts = []
    reasons = sorted(store.entry["reasons"].items(), key=lambda item: -item[1])
    for reason, count in reasons[:_REASONS]:
        places = [one.path for one in store.skipped if one.reason == reason][:3]
        more = ", ..." if count > len(places) else ""
        parts.append(f"{reason}: {count} ({', '.join(places)}{more})")
    if len(reasons) > _REASONS:
        parts.append(f"other reasons: {sum(count for _, count in reasons[_REASONS:])}")
    total = sum(store.entry["reasons"].values())
    return f"{total} {noun} that cannot be used: {'; '.join(parts)}" if parts else ""


def notes(store: TextStore, groups: Groups, where: str, noun: str) -> Iterator[str]:
    """One sentence for each thing that was found out about a table or folder."""
    if skipped := skipped_text(store, noun):
        yield f"{where} has {skipped}."
    yield from store.entry["notes"]
    if groups.repeated:
        yield (
            f"{groups.repeated} {noun} have a text that is there more than once, but for white space: "
            "those of one text are in one split."
        )
    if groups.contradicting:
        yield (
            f"{groups.contradicting} {noun} have a text that is there with another label too: "
            "no classifier can have both right."
        )


_MANY_LABELS = 1000


def load_table(
    path: Path,
    *,
    text_column: str | None,
    label_column: str | None,
    language_column: str | None,
    strict: bool,
    global_batch_size: int,
    seed: int,
    held_out: Mapping[str, float],
) -> Splits:
    """Splits of a table; see `load_texts`."""
    table = open_table(path)
    chosen = choose(
        table, text_column=text_column, label_column=label_column, language_column=language_column
    )
    status = path.stat()
    key = files.digest_of(
        str(path.resolve()),
        status.st_size,
        status.st_mtime_ns,
        table.columns,
        chosen.wanted,
        RECIPE,
    )
    # What is not in UTF-8 may grow by half.
    store = get(key, lambda: _TableReading(table, chosen), size=2 * max(status.st_size, table.size))
    skipped = skipped_text(store, "rows")
    if strict and skipped:
        raise DataError(f"{path} has {skipped}.\n  Without strict they are skipped.")
    of_labels = _check_classes(store, table, label_column=table.columns[chosen.label], skipped=skipped)
    groups = Groups(store.digests, store.labels)
    indices = cut_texts(
        groups,
        store.class_names,
        held_out=held_out,
        seed=seed,
        where=f"{path}: ",
        hint=f"\n  It has {skipped}." if skipped else "",
    )
    names = LineNames(path.name, store.places)
    return Splits(
        source=TextSource(
            store, names, with_languages=chosen.language is not None, columns=chosen.named(table)
        ),
        indices=indices,
        class_names=store.class_names,
        global_batch_size=global_batch_size,
        seed=seed,
        origin=str(path),
        skipped=store.skipped,
        notes=(
            *table.notes,
            *chosen.notes,
            *of_labels,
            *notes(store, groups, str(path), "rows"),
            *class_name_warnings(store.class_names),
        ),
    )


class _TableReading:
    """The rows of a table as examples; see `textstore.Reading`."""

    def __init__(self, table: Table, chosen: Columns) -> None:
        self.notes: list[str] = []
        self._table, self._chosen = table, chosen

    def __iter__(self) -> Iterator[Example | Skipped]:
        name, columns_ = self._table.path.name, self._table.columns
        cleaner, as_label, remarks = Cleaner(), LabelCleaner(), Remarks(name)
        known: Counter[str] = Counter()
        languages: set[str | None] = set()
        wrong = good = numbers = 0
        for row in tqdm(
            self._table.rows(self._chosen.wanted),
            desc="Reading texts",
            unit="text",
            delay=1,
            disable=not watched(),
        ):
            if not isinstance(row, Row):
                wrong += row.reason.startswith("has ")
                yield row
                continue
            good += 1
            remarks.add(row)
            text, cell, *language = row.cells
            if isinstance(text, Nested):
                yield Skipped(f"{name}:{row.line}", "has a list or an object for a text")
                continue
            text, label = cleaner(text or ""), as_label(cell or "")
            known[label] += 1
            if len(known) > _MANY_LABELS and len(known) > good / 2:  # before the memory is full of them
                check_labels(known, where=_column(self._table.path, columns_[self._chosen.label]))
            if not text.strip() or not label:
                what = f"has no label ({short(cell)!r})" if cell and cell.strip() else "has no label"
                yield Skipped(f"{name}:{row.line}", what if text.strip() else "has no text")
                continue
            languages.update(language)
            if len(languages) > _MANY_LABELS:
                raise DataError(
                    f"The language column '{short(columns_[self._chosen.language or 0])}' of {self._table.path}"
                    f" has more than {_MANY_LABELS} values: it holds no languages.\n"
                    "  Give another one (--language-column), or call it otherwise."
                )
            numbers += len(text) < 30 and is_number(text)
            yield Example(text, label, row.line, (language[0] or "").strip() if language else "")
        refuse_numbers(self._table, self._chosen.text, numbers, good)
        if wrong > good:
            raise DataError(
                f"{self._table.path}: {wrong} of {wrong + good} rows have another number of fields than the first line"
                f" ({len(columns_)}).\n"
                "  A cell that holds the delimiter, a quote or a line break is written in quotes; "
                "pandas.DataFrame.to_csv does so."
            )
        if (first := columns_[self._chosen.label]) in known and not first.startswith("column "):
            self.notes.append(
                f"{name}: Its first line is taken for names, but {short(first)!r} is the label of {known[first]} rows"
                " too: if it is a row, write a line of names above it."
            )
        self.notes += [*as_label.notes(), *remarks.notes(), *cleaner.notes()]


def _column(path: Path, label_column: str) -> str:
    return f"The label column '{short(label_column)}' of {path}"


def _check_classes(store: TextStore, table: Table, *, label_column: str, skipped: str) -> list[str]:
    """Refuse labels that are no classes; notes on those that may be none."""
    rows, names = len(store.labels), store.class_names
    path = table.path
    said = "".join(f"\n  {note}" for note in (*table.notes, *store.entry["notes"]))
    if not rows:
        raise DataError(f"{path} has no text with a label: it has {skipped or 'no rows'}.{said}")
    if len(names) < 2:
        raise DataError(
            f"{_column(path, label_column)} has one value, {short(names[0])!r}, in all {rows} rows that can be used; "
            f"a classifier needs two or more.{f' It has {skipped}.' if skipped else ''}{said}"
        )
    counts = np.bincount(store.labels, minlength=len(names)).tolist()
    found = check_labels(dict(zip(names, counts, strict=True)), where=_column(path, label_column))
    if unprintable := [name for name in names if not name.isprintable()]:
        raise DataError(
            f"{path} has labels with characters that cannot be printed: "
            f"{listed([ascii(short(one)) for one in unprintable])}.\n"
            f"  Class names are written to labels.txt, one a line.{said}"
        )
    return found


def load_documents(
    folder: Path,
    *,
    strict: bool,
    global_batch_size: int,
    seed: int,
    held_out: Mapping[str, float],
) -> Splits:
    """Splits of `folder`/<class>/<text> or of `folder`/<split>/<class>/<text>; see `load_texts`."""
    found = scan(folder, TEXTS)
    held_out = {split: fraction for split, fraction in held_out.items() if split not in found.given}
    check_fractions(held_out)
    stamps = [(file.name, file.size, file.mtime_ns) for file in found.files]
    store = get(
        files.digest_of("documents", str(folder.resolve()), stamps, RECIPE),
        lambda: _Documents(found),
        size=2 * sum(file.size for file in found.files),
        class_names=found.class_names,
    )
    skipped = (*found.skipped, *store.skipped)
    if strict and skipped:
        raise DataError(
            f"{folder}/ has {folders.skipped_text(skipped, 'files')}.\n  Without strict they are skipped."
        )
    skipped_here = skipped_text(store, "files")

    def cut(members: np.ndarray, here: Mapping[str, float], where: str) -> dict[str, np.ndarray]:
        return cut_texts(
            Groups(store.digests[members], store.labels[members]),
            store.class_names,
            held_out=here,
            seed=seed,
            where=where,
            hint=f"\n  It has {skipped_here}." if skipped_here else "",
        )

    texts = [found.files[place] for place in store.places]
    indices = cut_folder(found, texts, held_out, cut)
    leaked = count_leaked([*map(tuple, store.digests.tolist())], indices)
    groups = Groups(store.digests, store.labels)
    if found.given:
        groups.repeated = 0  # it is for the folder to say which split they are in
    return Splits(
        source=TextSource(store, [file.name for file in texts]),
        indices=indices,
        class_names=store.class_names,
        global_batch_size=global_batch_size,
        seed=seed,
        origin=f"{folder}/",
        skipped=skipped,
        other_files=found.others.total(),
        duplicates=leaked,
        notes=(
            *folder_notes(found, found.skipped, held_out, leaked),
            *notes(store, groups, f"{found.root}/", "files"),
        ),
    )


class _Documents:
    """The files of a folder as examples; see `textstore.Reading`."""

    def __init__(self, found: Scan) -> None:
        self.notes: list[str] = []
        self._found = found

    def __iter__(self) -> Iterator[Example | Skipped]:
        cleaner = Cleaner()
        other: dict[str, list[str]] = {}
        for place, file in enumerate(
            tqdm(self._found.files, desc="Reading texts", unit="text", delay=1, disable=not watched())
        ):
            try:
                text, encoding = read_document(self._found.root / file.name)
            except DataError as err:
                yield Skipped(file.name, str(err))
                continue
            if encoding not in ("utf-8", "utf-8-sig"):
                other.setdefault(encoding, []).append(file.name)
            text = cleaner(text)
            if text.strip():
                yield Example(text, self._found.class_names[file.label], place)
            else:
                yield Skipped(file.name, "has no text")
        for encoding, names in other.items():
            label = "cp1252 (Windows, Latin-1)" if encoding == "cp1252" else encoding
            self.notes.append(f"Not in UTF-8, but read as {label}: {len(names)} files ({listed(names, 3)}).")
        self.notes += cleaner.notes()
