"""Folders of examples: find the classes, the splits and the files, and refuse what is none of these."""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfkit.data.splits import (
    SPLIT_NAMES,
    Cutting,
    Skipped,
    Source,
    Splits,
    cut_notes,
    cut_rest,
    leaks,
    listed,
    no_such_path,
)
from tfkit.environment.process import counted
from tfkit.errors import DataError

# The names that the documentation gives: no note says how they were read.
_EXACT = {name: name for name in SPLIT_NAMES} | dict.fromkeys(("val", "valid"), "validation")
_SPLIT_NAME = re.compile(
    r"(?<![a-z])(?:(?P<train>train(?:ing)?)|(?P<validation>val(?:id|idate|idation|idierung)?|dev|eval(?:uation)?)"
    r"|(?P<test>test(?:ing|s)?|hold_?out))(?:s?(?:set|data|daten|images|split))?(?![a-z])",
    re.IGNORECASE,
)
_EXAMPLES = re.compile(r"images?|imgs?|jpegimages|pictures|texts?")
_ANNOTATIONS = re.compile(r"masks?|labels?|annot(ation)?s?|groundtruth|gt|segmentationclass|trimaps")
_OUTSIDE_REASON = "outside a class folder"
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "__pycache__"})


class Kind(NamedTuple):
    """Name what is looked for, and what it is called in a message."""

    singular: str
    plural: str
    suffixes: frozenset[str]


IMAGES = Kind(
    "image", "images", frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"})
)
TEXTS = Kind("text", "texts", frozenset({".txt", ".text", ".md", ".html", ".htm"}))


class FoundFile(NamedTuple):
    """One file with an ending of its kind."""

    name: str
    """Relative to the folder, with /."""

    label: int
    split: str | None
    """None when the folder is not split yet."""

    size: int
    mtime_ns: int
    group: str | None = None
    """What it belongs to with others, such as a patient; None: not known."""


@dataclass
class Scan:
    """List what a folder holds."""

    root: Path
    kind: Kind = IMAGES
    class_names: tuple[str, ...] = ()
    files: list[FoundFile] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    other_counts: Counter[str] = field(default_factory=Counter)
    """Ending -> how many files were passed over; hidden files are under "hidden"."""
    notes: list[str] = field(default_factory=list)
    """Assumptions and doubts, a sentence each."""

    @property
    def splits(self) -> dict[str | None, None]:
        """Return the splits that the data have themselves, in their order; None stands for data that are not split."""
        return dict.fromkeys(file.split for file in self.files)


@dataclass
class _Folder:
    """A folder and all that is below it."""

    path: Path
    folders: list[_Folder]
    files: list[Path]

    def all_files(self) -> Iterator[Path]:
        """Yield its files, then those of its subfolders."""
        yield from self.files
        for folder in self.folders:
            yield from folder.all_files()

    def with_files(self) -> list[_Folder]:
        """Return the subfolders that hold files of the kind, at any depth."""
        return [folder for folder in self.folders if any(folder.all_files())]


def scan(root: str | Path, kind: Kind = IMAGES) -> Scan:
    """List the files of a kind in `root`/<class>/ or in `root`/<train|validation|val|valid|test>/<class>/.

    Folders of splits may have other names that say it, such as "Training" and "x_test": a note says so. Folders
    below a class belong to it. Links are followed. Hidden files and files with another ending are counted and
    passed over; so are images outside a class folder and empty files, which are listed as skipped.

    Raises:
      DataError: there is no such folder, it or a part of it cannot be read, it runs in a circle, it has
        fewer than two classes or a class without images, its splits do not have the same classes, or its
        folders are no classes (splits inside of them, images beside masks).
    """
    result = Scan(Path(root), kind)
    if result.root.exists() and not result.root.is_dir():
        raise DataError(f"{root} is a file, and no folder of classes: <class>/<{kind.singular}>.")
    if not result.root.exists():
        raise no_such_path(result.root, "folder")
    top = _read_folder(result.root, result)
    splits = _find_splits(top, result)
    result.skipped += [
        Skipped(path.relative_to(result.root).as_posix(), _OUTSIDE_REASON)
        for folder in (top, *splits.values())
        for path in folder.files
    ]
    parts: dict[str | None, _Folder] = dict(splits.items()) or {None: top}
    first, *_ = parts.values()
    result.class_names = tuple(child.path.name for child in first.folders)
    for split, folder in parts.items():
        counts = _take_files(folder, split, result)
        _check_classes(folder, counts, result)
        if differences := sorted({*result.class_names} ^ {*counts}):
            raise DataError(
                f"{folder.path}/ has not the same class folders as {first.path}/: only one has {listed(differences)}."
            )
    result.notes += class_name_warnings(result.class_names)
    return result


def files_below(root: Path, kind: Kind) -> tuple[list[Path], Counter[str]]:
    """Return the files of a kind below a folder at any depth, by name, and how many others there are, by their ending.

    Links are followed; hidden files and folders are passed over.

    Raises:
      DataError: a part of it cannot be read, or it runs in a circle.
    """
    result = Scan(root, kind)
    return [*_read_folder(root, result).all_files()], result.other_counts


def _read_folder(path: Path, result: Scan, above: tuple[tuple[int, int], ...] = ()) -> _Folder:
    """Read what is below a folder, by name; files of another kind are counted."""
    try:
        identity = path.stat().st_dev, path.stat().st_ino
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as err:
        fix = f"\n  chmod -R u+rX {path}" if isinstance(err, PermissionError) else ""
        raise DataError(f"{path} cannot be read: {err.strerror}.{fix}") from err
    if identity in above:
        raise DataError(
            f"{path} is a link to a folder that it lies in ({path.resolve()}).\n  Remove the link: rm {path}"
        )
    folder = _Folder(path, [], [])
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            result.other_counts["hidden"] += 1
        elif Path(entry.path).is_dir():
            folder.folders.append(_read_folder(Path(entry.path), result, (*above, identity)))
        elif (suffix := Path(entry.name).suffix.lower()) in result.kind.suffixes:
            folder.files.append(Path(entry.path))
        else:
            result.other_counts[suffix or "no ending"] += 1
    return folder


def _find_splits(top: _Folder, result: Scan) -> dict[str, _Folder]:
    """Return the folders of the splits, in their order; none where the subfolders are classes.

    A name that is nearly that of a split ("Training", "x_test", "20news-bydate-train") counts if the folder holds
    folders and no files, as that of a split does: a class may be called "Testing".
    """
    folders, splits = top.folders, splits_of(folder.path.name for folder in top.folders)
    all_match = len({*splits} - {None}) == len(folders)
    for place, folder in enumerate(folders):
        if not (all_match or folder.path.name.lower() in _EXACT or (folder.folders and not folder.files)):
            splits[place] = None
    parts = {name: folders[splits.index(name)] for name in SPLIT_NAMES if name in splits}
    if "train" not in parts and not (all_match and any(folder.folders for folder in folders)):
        return {}
    if None in splits and len(parts) == 1:
        return {}
    flat_folders = [folder for folder in parts.values() if folder.files and not folder.folders]
    if "train" not in parts or len(folders) > len(parts) or flat_folders:
        matches = [
            f"{folder.path}/ as {split or 'none'}{' without folders of classes' * (folder in flat_folders)}"
            for folder, split in zip(folders, splits, strict=True)
        ]
        raise DataError(
            f"{top.path}/ has folders named like splits: {listed(matches)}.\n  Expected one of each, and nothing beside"
            f" them: {top.path}/train/<class>/<{result.kind.singular}>; validation/ and test/ may be left out.\n"
            "  Rename folders that are classes, and move out what belongs to no split or has no labels."
        )
    near_names = [
        f"'{folder.path.name}' as the {split} split"
        for split, folder in parts.items()
        if folder.path.name.lower() not in _EXACT
    ]
    result.notes += [f"By their names and what is in them: {' and '.join(near_names)}."] if near_names else []
    return parts


def splits_of(names: Iterable[str]) -> list[str | None]:
    """Return the split that each name means."""
    matches = ((name.lower(), _SPLIT_NAME.search(name)) for name in names)
    return [_EXACT.get(name) or (match.lastgroup if match else None) for name, match in matches]


def _take_files(folder: _Folder, split: str | None, result: Scan) -> dict[str, int]:
    """Take the files of each class of a split; return how many it has."""
    counts = {}
    for label, child in enumerate(folder.folders):
        if not child.path.name.isprintable():
            raise DataError(
                f"The name of the class folder {child.path.name!a} holds characters that cannot be printed.\n"
                "  Rename it: class names are written to labels.txt, one a line."
            )
        start = len(result.files)
        for path in child.all_files():
            name = path.relative_to(result.root).as_posix()
            try:
                status, reason = path.stat(), ""
                if not stat.S_ISREG(status.st_mode) or not status.st_size:
                    reason = "empty file" if stat.S_ISREG(status.st_mode) else "not a regular file"
            except OSError as err:
                reason = f"a link that leads nowhere ({err.strerror})"
            if not name.isprintable():
                name, reason = ascii(name)[1:-1], "its name cannot be printed"
            if reason:
                result.skipped.append(Skipped(name, reason))
            else:
                result.files.append(FoundFile(name, label, split, status.st_size, status.st_mtime_ns))
        counts[child.path.name] = len(result.files) - start
    return counts


def _check_classes(folder: _Folder, classes: Mapping[str, int], result: Scan) -> None:
    """Refuse folders that are no classes, too few or empty; note what may be none."""
    path, kind = folder.path, result.kind
    letters_of = {name: re.sub(r"[\W_]", "", name).lower() for name in sorted(classes)}
    examples = [f"{name}/" for name, letters in letters_of.items() if _EXAMPLES.fullmatch(letters)]
    annotations = [f"{name}/" for name, letters in letters_of.items() if _ANNOTATIONS.fullmatch(letters)]
    if examples and annotations:
        raise DataError(
            f"{path}/ has {examples[0]} and {annotations[0]}: {kind.plural} and annotations, not classes.\n"
            f"  tfkit trains classifiers of one class a file ({path}/<class>/<file>), not segmentation or detection."
        )
    inner_names = [
        set() if child.files else {sub.path.name for sub in child.with_files()} for child in folder.folders
    ]
    if len(inner_names) > 1 and all(len(below) > 1 for below in inner_names):
        if all({"train"} < {*splits_of(below)} <= {*SPLIT_NAMES} for below in inner_names):
            name, split = folder.folders[0].path.name, min(inner_names[0])
            raise DataError(
                f"{path}/ has its splits inside the classes ({name}/{split}/, ...): move them outside: {split}/{name}/."
            )
        if len(shared_names := set.intersection(*inner_names)) > 1:
            result.notes.append(
                f"Each of the classes {listed(sorted(classes))} holds the folders {listed(sorted(shared_names))}: if"
                " these are the classes, and the others splits, name them train, validation and test."
            )
    empty = [f"'{name}'" for name, count in classes.items() if not count]
    full = [f"'{name}' ({count})" for name, count in classes.items() if count]
    if len(full) > 1 and not empty:
        return
    hints = [f"{child.path}/" for parent in folder.folders for child in parent.with_files()] * (len(full) < 2)
    outside_names = [name for name, reason in result.skipped if reason == _OUTSIDE_REASON]
    facts = {
        "Folders of classes": full,
        f"Folders without {kind.plural}": empty,
        f"Folders that hold {kind.plural}, deeper (give the one above the classes)": hints,
        f"{kind.plural.capitalize()} outside a class folder ({len(outside_names)})": outside_names,
        f"Files that are no {kind.plural} ({', '.join(sorted(kind.suffixes))})": _list_endings(result),
    }
    raise DataError(
        f"{path}/ has {len(full)} class folders with {kind.plural}, and {len(empty)} without; a classifier needs two or"
        f" more, and none without.\n  Expected {path}/<class>/<{kind.singular}>: add some, or remove the empty ones."
        + "".join(f"\n  {title}: {listed(items)}." for title, items in facts.items() if items)
    )


def class_name_warnings(class_names: Sequence[str]) -> list[str]:
    """Return what is doubtful about the names of classes themselves, for the notes."""
    warnings = []
    groups: dict[str, list[str]] = {}
    for name in class_names:
        key = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
        groups.setdefault(key, []).append(name)
    if similar_names := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
        warnings.append(f"Some classes have all but the same name: {listed(similar_names)}.")
    if all(map(str.isdecimal, class_names)) and [*class_names] != sorted(class_names, key=int):
        warnings.append(f"The classes are numbers, in the order of their names: {listed(class_names, 3)}.")
    return warnings


def _list_endings(result: Scan) -> list[str]:
    return [f"{ending} {count}" for ending, count in result.other_counts.most_common()]


def splits_of_folder(
    tree: Scan,
    source: Source,
    files: Sequence[FoundFile],
    cutting: Cutting,
    cut: Callable[..., dict[str, np.ndarray]],
    *,
    digests: Sequence[object],
    unreadable: Sequence[Skipped],
    reasons: Mapping[str, int] | None = None,
    notes: Sequence[str],
    **extra: Any,
) -> Splits:
    """Return the Splits of a folder.

    Args:
      tree: the folder.
      source: of its examples.
      files: of the examples.
      cutting: how they are cut.
      cut: see `cut_rest`.
      digests: of the contents of the examples, by which those of two splits are told.
      unreadable: files that are no examples.
      reasons: of all of these, where they are too many to be listed.
      notes: what else a user should know.
      extra: other fields of the Splits.

    Raises:
      DataError: some cannot be used, and `cutting` is strict; a class has too few.
    """
    skipped, plural = (*tree.skipped, *unreadable), tree.kind.plural
    counts = Counter(skip.reason for skip in (tree.skipped if reasons else skipped)) + Counter(reasons)
    skip_notes = skipped_notes(f"{tree.root}/", skipped, plural, counts, strict=cutting.strict)
    indices = cut_rest(
        [file.split for file in files], cutting, cut, has=tree.splits, where=f"{tree.root}/",
        hint="".join(f"\n  {note}" for note in skip_notes),
    )  # fmt: skip
    duplicates, leak_notes = leaks(indices, digests, plural)
    tree_notes = [*tree.notes, *skip_notes]
    if tree.other_counts:
        tree_notes.append(
            f"Passed over, because hidden or no {plural}: {tree.other_counts.total()} ({listed(_list_endings(tree))})."
        )
    tree_notes += cut_notes(cutting, tree.splits.keys())
    return cutting.splits(
        source, indices, class_names=tree.class_names, origin=f"{tree.root}/", skipped=skipped,
        other_files=tree.other_counts.total(), duplicates=duplicates, notes=(*tree_notes, *leak_notes, *notes), **extra,
    )  # fmt: skip


_MAX_REASONS = 6
"""So many are listed, the most frequent ones."""


def skipped_notes(
    where: str, skipped: Sequence[Skipped], plural: str, counts: Mapping[str, int], *, strict: bool
) -> list[str]:
    """Return a sentence on how many examples cannot be used, and for each reason the first ones; none where all can.

    Args:
      where: the file or folder.
      skipped: the examples, or the first of them.
      plural: what they are: "rows", "images".
      counts: of each reason, also of those that `skipped` has not.
      strict: whether there may be any.

    Raises:
      DataError: there are some, and `strict`.
    """
    if not skipped:
        return []
    reasons, parts = Counter(counts), []
    for reason, count in reasons.most_common(_MAX_REASONS):
        places = [path for path, why in skipped if why == reason][:3]
        parts.append(f"{reason}: {count} ({', '.join(places)}{', ...' * (count > len(places))})")
    if other_count := reasons.total() - sum(count for _, count in reasons.most_common(_MAX_REASONS)):
        parts.append(f"other reasons: {other_count}")
    note = f"{where}: {counted(reasons.total(), plural[:-1])} cannot be used: {'; '.join(parts)}."
    if strict:
        raise DataError(f"{note}\n  Without strict they are skipped.")
    return [note]
