"""Texts of a table or of a folder as Splits: read once into a store, labels as classes, one text in one split only."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfkit.data.folders import TEXTS, Scan, class_name_warnings, scan, skipped_notes, splits_of_folder
from tfkit.data.groups import Groups, as_digests, cut_groups, group_notes, text_digest
from tfkit.data.labels import LabelCleaner, Task, check_classes, in_order, make_targets, settle_task
from tfkit.data.splits import Cutting, Skipped, Splits, cut_notes, cut_rest, leaks, listed
from tfkit.data.store import Store, Writer, prepare
from tfkit.data.tables import (
    FLAGS,
    Row,
    Table,
    as_split,
    choose_columns,
    open_table,
    read_rows,
    with_joined_columns,
)
from tfkit.data.text_decoding import UNREAD, Cleaner, known_as, read_document, short
from tfkit.environment import files
from tfkit.environment.files import digest_of
from tfkit.environment.timeline import track
from tfkit.errors import DataError
from tfkit.tasks import as_number

RECIPE, _FORMAT_VERSION = 3, 8
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
    group: str = ""
    split: str | None = None


Reading = Callable[[list[str]], Iterator[Example | Skipped]]
"""Goes through the examples in their order; appends what there is to say to the list."""


class TextSource:
    """Strings, read from their store when they are needed; see `tfkit.data.Source`.

    Attributes:
      entry: class_names, languages, notes, and what was skipped.
      columns: of a table, which were taken: text_column, label_column, language_column.
      lengths: int32 [n], in characters.
      languages: of each text, where a column says.
      digests: uint64 [n, 2], of the text, composed and with its white space folded.
      places: int64 [n]: its line in a table, or the number of its file.
      groups: uint64 [n, 2], digests of what the column says that texts belong to; None without one.
      splits: the split of each text that a column says; None without one.
    """

    def __init__(
        self, store: Store, columns: Mapping[str, str | None], selection: np.ndarray | slice = slice(None)
    ) -> None:
        """Take the texts of a store at these places."""
        self.entry, self.columns, self._rows = store.entry, columns, np.arange(len(store))[selection]
        rows = {name: values[selection] for name, values in store.rows.items() if len(values) == len(store)}
        self.labels, self.lengths = rows["labels"], rows["lengths"].astype(np.int32)
        self.digests, self.places = rows["texts"], rows["places"]
        self.class_names = tuple(self.entry["class_names"])
        self.skipped = tuple(Skipped(*skipped) for skipped in self.entry["skipped"])
        self.names: Sequence[str] = ()  # whoever knows where the texts are from says it
        self.shape: tuple[int, ...] = ()
        self.fingerprint = digest_of(self.entry["fingerprint"], "texts", RECIPE)
        self.languages: tuple[str, ...] | None = None
        if columns.get("language_column"):
            self.languages = tuple(self.entry["languages"][code] for code in rows["language"])
        self.groups = rows["groups"] if columns.get("group_column") else None
        self.splits: list[str | None] = [self.entry["splits"][code] for code in rows["split"]]
        self._store = store

    def only(self, mask: np.ndarray) -> TextSource:
        """Return the source of some of these texts, bool [n]; of a table."""
        part = TextSource(self._store, self.columns, self._rows[mask])
        part.fingerprint = digest_of(self.fingerprint, part._rows.tobytes())
        return part

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Return bytes [b], UTF-8."""
        return np.fromiter((self._store.read(self._rows[index]) for index in indices), object, len(indices))

    def raw(self, index: int) -> str:
        """Return one text."""
        return self._store.read(self._rows[index]).decode()


def read_texts(
    key: str,
    read: Reading,
    *,
    size: int,
    class_names: tuple[str, ...] = (),
    columns: Mapping[str, str | None] | None = None,
    root: Path = Path(),
) -> TextSource:
    """Return the texts of the store under `key`; it is written when it is absent or damaged.

    Args:
      key: digest of all that the texts depend on.
      read: yields the examples.
      size: bytes that the texts will take at most, by the size of their file.
      class_names: where they are known beforehand.
      columns: see `TextSource`.
      root: of files, which their names are relative to.

    Raises:
      DataError: the disk of the cache has no room.
    """

    def write(writer: Writer, _: Store | None) -> None:
        if not writer.has_room:
            raise DataError(
                f"The disk of {files.cache_root()} has no room for a copy of the texts ({size / 1e9:.1f} GB).\n"
                f"  Give another folder: export {files.CACHE_VARIABLE}=/some/folder"
            )
        _write_texts(writer, read, class_names, root)

    return TextSource(prepare("texts", digest_of(key, _FORMAT_VERSION), write, size=size), columns or {})


def _write_texts(writer: Writer, read: Reading, class_names: tuple[str, ...], root: Path) -> None:
    columns = {name: array("q") for name in ("labels", "lengths", "language", "split", "places")}
    texts, groups, notes = bytearray(), bytearray(), list[str]()
    skipped, reasons = list[Skipped](), Counter[str]()
    codes, languages = {name: code for code, name in enumerate(class_names)}, dict[str, int]()
    splits = dict[str | None, int]()
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
        texts += text_digest(example.text)
        columns["labels"].append(codes.setdefault(example.label, len(codes)))
        columns["lengths"].append(len(example.text))
        columns["language"].append(languages.setdefault(example.language, len(languages)))
        columns["split"].append(splits.setdefault(example.split, len(splits)))
        columns["places"].append(example.place)
        groups += text_digest(example.group) if example.group else b""
    order = list(class_names) or [""] * ("" in codes) + in_order({*codes} - {""})
    rank = np.empty(max(1, len(order)), np.int64)
    rank[[codes[name] for name in order]] = np.arange(len(order))
    rows = {name: np.asarray(column, np.int64) for name, column in columns.items()}
    rows |= {"labels": rank[rows["labels"]], "texts": as_digests(bytes(texts))}
    rows |= {"groups": as_digests(bytes(groups))} if groups else {}
    entry = {
        "class_names": order, "languages": list(languages), "splits": list(splits), "skipped": skipped,
        "reasons": reasons, "fingerprint": contents.hexdigest()[:32], "notes": notes,
        "unread": [str(root / file.path) for file in skipped if file.reason.startswith(UNREAD)],
    }  # fmt: skip
    writer.finish(entry, **rows)


def _note_repeats(source: TextSource, groups: Groups, noun: str) -> Iterator[str]:
    """Yield what a user should know of the texts of a table or folder, one sentence each."""
    yield from source.entry["notes"]
    if groups.repeated:
        yield f"{groups.repeated} {noun} have a text that is there more than once: each text is in one split."
    if groups.contradicting:
        yield f"{groups.contradicting} {noun} have a text that is there with another label too: one must be wrong."


_MANY_LABELS = 1000
_TEXTS = "different texts"


def load_table(
    path: Path, cutting: Cutting, flags: Mapping[str, str | None], *, task: Task, class_order: Sequence[str]
) -> Splits:
    """Load a table; see `load_texts` and `choose_columns`."""
    table = with_joined_columns(open_table(path), flags.get("label_column"))
    fields, notes = choose_columns(table, flags)
    status = table.path.stat()
    source = read_texts(
        digest_of(str(table.path.resolve()), status.st_size, status.st_mtime_ns, table.columns, fields, task),
        lambda notes: _read_table(table, fields, notes, task),
        size=2 * max(status.st_size, table.size),  # what is not in UTF-8 may grow by half
        columns=dict.fromkeys(FLAGS) | {flag: table.columns[column] for flag, column in fields.items()},
    )
    label_column = fields["label_column"]
    where, reasons, skipped = (
        _name_column(table, label_column),
        Counter(source.entry["reasons"]),
        source.skipped,
    )
    names, counts = source.class_names, np.bincount(source.labels, minlength=len(source.class_names)).tolist()
    labels = {name: count for name, count in zip(names, counts, strict=True) if name}
    task, task_notes = settle_task(task, labels, where=where, is_joined=table.is_joined)
    if task != "labels" and names[:1] == ("",):
        is_blank = source.labels == 0
        places = itertools.islice(source.places[is_blank], max(0, SKIPPED_LISTED - len(skipped)))
        skipped = (*skipped, *(Skipped(f"{table.path.name}:{line}", "has no label") for line in places))
        reasons["has no label"] += int(is_blank.sum())
        source, names = source.only(~is_blank), names[1:]
        source.labels = source.labels - 1
    source.names = [f"{table.path.name}:{line}" for line in source.places.tolist()]
    skip_notes = skipped_notes(f"{path}", skipped, "rows", reasons, strict=cutting.strict)
    context = "".join(f"\n  {note}" for note in (*table.notes, *source.entry["notes"], *skip_notes))
    if bad_names := [ascii(short(name)) for name in names if not name.isprintable()]:
        raise DataError(
            f"{where} has values with characters that cannot be printed: {listed(bad_names)}.\n"
            f"  Class names are written to labels.txt, one a line.{context}"
        )
    target = make_targets(
        names, source.labels, task=task, where=where, class_order=class_order, name=table.columns[label_column],
        context=context,
    )  # fmt: skip
    source.labels = target.labels
    _, meanings = np.unique(target.labels, axis=0, return_inverse=True)  # "a|b" is "b|a"
    groups = Groups(source.digests, meanings.ravel())
    if task == "value":  # people may differ by a little
        groups.contradicting = 0
    strata, parts = target.strata()

    def cut(members: np.ndarray, **kwargs: Any) -> dict[str, np.ndarray]:
        if source.groups is not None:
            return cut_groups(source.groups[members], strata[members], class_names=parts, **kwargs)
        return Groups(source.digests[members], strata[members]).cut(parts, noun=_TEXTS, **kwargs)

    has = dict.fromkeys(source.splits)
    hint = "".join(f"\n  {note}" for note in skip_notes)
    indices = cut_rest(source.splits, cutting, cut, has=has, where=f"{path}", hint=hint)
    target.check_cut(indices, where=where)
    duplicates, own_notes = 0, cut_notes(cutting, has.keys())
    if source.groups is not None or has.keys() != {None}:  # which say what is in a split with what
        groups.repeated = 0
        duplicates, leak_notes = leaks(indices, source.digests[:, 0].tolist(), "texts")
        own_notes += leak_notes
    if source.groups is not None:
        group_column = f"The column '{short(table.columns[fields['group_column']])}' of {path}"
        own_notes += group_notes(indices, source.groups, where=group_column)
    return cutting.splits(
        source, indices, class_names=target.class_names, task=target.task, origin=str(path), skipped=skipped,
        duplicates=duplicates,
        notes=(
            *table.notes, *notes, *task_notes, *skip_notes, *_note_repeats(source, groups, "rows"), *own_notes,
            *class_name_warnings(target.class_names),
        ),
    )  # fmt: skip


def _read_table(
    table: Table, fields: Mapping[str, int], notes: list[str], task: Task
) -> Iterator[Example | Skipped]:
    name, first = table.path.name, table.columns[fields["label_column"]]
    cleaner, as_label = Cleaner(), LabelCleaner()
    counts: Counter[str] = Counter()
    misfits = fits = 0
    for row in track(read_rows(table, tuple(fields.values()), notes), "Reading texts", unit="text"):
        if not isinstance(row, Row):
            misfits += " fields instead of " in row.reason
            yield row
            continue
        fits += 1
        place = f"{name}:{row.line}"
        cells = {flag: value or "" for flag, value in zip(fields, row.cells, strict=True)}
        cell, group = cells["label_column"], cells.get("group_column", "").strip()
        text, label = cleaner(cells["text_column"]), as_label(cell)
        if label:
            counts[label] += 1
        # Before the memory is full of them.
        may_be_many = task in ("labels", "value") or (task == "auto" and as_number(label or "") is not None)
        if len(counts) > _MANY_LABELS and len(counts) > fits / 2 and not may_be_many:
            check_classes(counts, where=_name_column(table, fields["label_column"]))
        if not text.strip():
            yield Skipped(place, "has no text")
        elif label is None:
            yield Skipped(place, f"has no label ({short(cell)!r})")
        elif "group_column" in fields and not group:
            yield Skipped(place, "has no group")
        else:
            split = cells.get("split_column")
            if split is not None:
                split = as_split(split, column=table.columns[fields["split_column"]], path=table.path)
            yield Example(text, label, row.line, cells.get("language_column", "").strip(), group, split)
    if misfits > fits:
        raise DataError(
            f"{table.path}: {misfits} of {misfits + fits} rows have another number of fields than the first line.\n"
            "  What holds the delimiter, a quote or a line break needs quotes; pandas.DataFrame.to_csv writes them."
        )
    if first in counts and not first.startswith("column "):
        notes.append(
            f"{name}: Its first line is taken for names, but {short(first)!r} is the label of {counts[first]} rows:"
            " if it is a row, write a line of names above it."
        )
    notes += [*as_label.notes(), *cleaner.notes()]


def _name_column(table: Table, label: int) -> str:
    return f"The label column '{short(table.columns[label])}' of {table.path}"


def load_documents(folder: Path, cutting: Cutting) -> Splits:
    """Load `folder`/<class>/<text> or `folder`/<split>/<class>/<text>; see `load_texts`."""
    tree = scan(folder, TEXTS)
    stamps = [(file.name, file.size, file.mtime_ns) for file in tree.files]
    source = read_texts(
        digest_of("documents", str(folder.resolve()), stamps),
        lambda notes: _read_folder(tree, notes),
        size=2 * sum(file.size for file in tree.files),
        class_names=tree.class_names,
        root=folder.resolve(),
    )
    texts = [tree.files[place] for place in source.places]
    source.names = [file.name for file in texts]
    groups = Groups(source.digests, source.labels)
    if tree.splits.keys() != {None}:
        groups.repeated = 0  # it is for the folder to say which split they are in

    def cut(members: np.ndarray, **kwargs: Any) -> dict[str, np.ndarray]:
        groups = Groups(source.digests[members], source.labels[members])
        return groups.cut(source.class_names, noun=_TEXTS, **kwargs)

    return splits_of_folder(
        tree, source, texts, cutting, cut, digests=[*map(tuple, source.digests.tolist())],
        unreadable=source.skipped, reasons=source.entry["reasons"], notes=[*_note_repeats(source, groups, "files")],
    )  # fmt: skip


def _read_folder(tree: Scan, notes: list[str]) -> Iterator[Example | Skipped]:
    cleaner = Cleaner()
    names: dict[str, list[str]] = {}  # of the files in each encoding but UTF-8
    for place, file in enumerate(track(tree.files, "Reading texts", unit="text")):
        try:
            text, encoding = read_document(tree.root / file.name)
        except DataError as err:
            yield Skipped(file.name, str(err))
            continue
        if encoding not in ("utf-8", "utf-8-sig"):
            names.setdefault(encoding, []).append(file.name)
        if (text := cleaner(text)).strip():
            yield Example(text, tree.class_names[file.label], place)
        else:
            yield Skipped(file.name, "has no text")
    for encoding, of in names.items():
        notes.append(f"Not in UTF-8, but read as {known_as(encoding)}: {len(of)} files ({listed(of, 3)}).")
    notes += cleaner.notes()
