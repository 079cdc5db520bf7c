"""What is in a folder of images or texts: found before anything expensive, with all that is wrong in one message."""

from __future__ import annotations

import difflib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tfkit.data.cut import listed
from tfkit.data.splitnames import check_classes, doubts, split_folders
from tfkit.data.splits import Skipped
from tfkit.errors import DataError

_OUTSIDE = "outside a class folder"
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "__pycache__"})


class Kind(NamedTuple):
    """What is looked for, and what it is called in a message."""

    one: str
    many: str
    suffixes: frozenset[str]


IMAGES = Kind(
    "image", "images", frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"})
)
TEXTS = Kind("text", "texts", frozenset({".txt", ".text", ".md", ".html", ".htm"}))


def is_image(path: Path) -> bool:
    """Whether a file has the ending of an image and is not hidden."""
    return path.suffix.lower() in IMAGES.suffixes and not path.name.startswith(".")


class FoundFile(NamedTuple):
    """One file with an ending of its kind."""

    name: str
    """Relative to the folder, with /."""

    label: int
    split: str | None
    """None when the folder is not split yet."""

    size: int
    mtime_ns: int


@dataclass
class Scan:
    """What a folder holds."""

    root: Path
    kind: Kind = IMAGES
    class_names: tuple[str, ...] = ()
    files: list[FoundFile] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    """Ending -> how many files were passed over; hidden files are under "hidden"."""
    notes: list[str] = field(default_factory=list)
    """What was taken for granted, and what is doubtful, a sentence each."""


def scan(root: str | Path, kind: Kind = IMAGES) -> Scan:
    """List the files of a kind in `root`/<class>/ or in `root`/<train|validation|val|valid|test>/<class>/.

    Folders of splits may have other names that say it, such as "Training" and "x_test": a note says so. Folders
    below a class belong to it. Links are followed. Hidden files and files with another ending are counted and
    passed over; so are links to a file that is there already, images outside a class folder and empty files,
    which are listed as skipped.

    Raises:
      DataError: there is no such folder, it or a part of it cannot be read, it runs in a circle, it has
        fewer than two classes or a class without images, its splits do not have the same classes, or its
        folders are no classes (splits inside of them, images beside masks).
    """
    result = Scan(root=Path(root), kind=kind)
    _check_root(result.root, kind)
    folders, images = _children(result.root, result)
    result.skipped += [Skipped(path.name, _OUTSIDE) for path in images]
    parts, result.notes = split_folders(
        result.root, folders, lambda folder: _children(folder, Scan(result.root, kind)), kind.many
    )
    walker = _Walker(result)
    found: dict[Path, _Classes] = {}
    for split, folder in parts.items() if parts else [(None, result.root)]:
        if split is not None:
            folders, images = _children(folder, result)
            result.skipped += [Skipped(_shown(path, result.root), _OUTSIDE) for path in images]
        found[folder] = {child.name: list(walker.images(child, split, child.name)) for child in folders}
    walker.check()
    for folder, classes in found.items():
        result.notes += check_classes(folder, _below(folder, classes, result), kind.many)
        _check_classes(folder, classes, result)
    _check_agreement(found)
    result.class_names = tuple(sorted(next(iter(found.values()))))
    result.notes += doubts(result.class_names)
    result.files = [
        file._replace(label=label)
        for classes in found.values()
        for label, name in enumerate(result.class_names)
        for file in classes[name]
    ]
    return result


_Classes = dict[str, list[FoundFile]]


class _Walker:
    """Walks below class folders; remembers every file, so that none is taken twice."""

    def __init__(self, result: Scan) -> None:
        self._result = result
        self._seen: dict[tuple[int, int], tuple[str, str | None, str]] = {}
        self._contradictions: list[str] = []

    def images(self, folder: Path, split: str | None, class_name: str) -> Iterator[FoundFile]:
        if not class_name.isprintable():
            raise DataError(
                f"The name of the class folder {class_name!a} holds characters that cannot be printed.\n"
                "  Rename it: class names are written to labels.txt, one a line."
            )
        yield from self._walk(folder, split, class_name, above=(_identity(self._result.root.stat()),))

    def _walk(
        self, folder: Path, split: str | None, class_name: str, above: tuple[tuple[int, int], ...]
    ) -> Iterator[FoundFile]:
        identity = _identity(folder.stat())
        if identity in above:
            raise DataError(
                f"{folder} is a link to a folder that it lies in ({folder.resolve()}): it has no end.\n"
                f"  Remove the link: rm {folder}"
            )
        folders, images = _children(folder, self._result)
        for path in images:
            yield from self._take(path, split, class_name)
        for child in folders:
            yield from self._walk(child, split, class_name, (*above, identity))

    def _take(self, path: Path, split: str | None, class_name: str) -> Iterator[FoundFile]:
        name = _shown(path, self._result.root)
        try:
            status = path.stat()
        except OSError as err:
            self._result.skipped.append(Skipped(name, f"a link that leads nowhere ({err.strerror})"))
            return
        first = self._seen.setdefault(_identity(status), (name, split, class_name))
        if first != (name, split, class_name):
            if first[1:] == (split, class_name):
                self._result.skipped.append(Skipped(name, f"the same file as {first[0]}"))
            else:
                self._contradictions.append(f"{name} is {first[0]}")
        elif not stat.S_ISREG(status.st_mode):
            self._result.skipped.append(Skipped(name, "not a regular file"))
        elif not name.isprintable():
            self._result.skipped.append(Skipped(ascii(name)[1:-1], "its name cannot be printed"))
        elif not status.st_size:
            self._result.skipped.append(Skipped(name, "empty file"))
        else:
            yield FoundFile(name, -1, split, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Refuse files that are, by links, in two classes or in two splits."""
        if self._contradictions:
            raise DataError(
                f"{self._result.root} has one file in two classes or splits {len(self._contradictions)} times:\n"
                f"  {listed(self._contradictions)}.\n"
                "  Its class, or whether it is tested on, is not known. Remove one of each two links."
            )


def _children(folder: Path, result: Scan) -> tuple[list[Path], list[Path]]:
    """The subfolders and the images of a folder, by name; the rest is counted."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError as err:
        raise DataError(f"{folder} cannot be read: permission denied.\n  chmod -R u+rX {folder}") from err
    except OSError as err:
        raise DataError(f"{folder} cannot be read: {err.strerror}.") from err
    folders, images = [], []
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            result.others["hidden"] += 1
        elif _is_folder(entry):
            folders.append(Path(entry.path))
        elif (suffix := Path(entry.name).suffix.lower()) in result.kind.suffixes:
            images.append(Path(entry.path))
        else:
            result.others[suffix or "no ending"] += 1
    return folders, images


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return stat.S_ISDIR(entry.stat().st_mode)
    except OSError:
        return False


def _check_root(root: Path, kind: Kind) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(
            f"{root} is a file. Expected a folder with one subfolder a class: <class>/<{kind.one}>."
        )
    siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
    near = difflib.get_close_matches(root.name, siblings, n=1)
    raise DataError(
        f"There is no folder {root} (from {Path.cwd()})."
        + (f"\n  Did you mean {root.parent / near[0]}?" if near else "")
    )


def _below(folder: Path, classes: _Classes, result: Scan) -> dict[str, set[str]]:
    """The names of the folders right below each class; "" where it has files."""
    depth = len(folder.relative_to(result.root).parts) + 1
    return {
        name: {
            parts[depth] if len(parts) > depth + 1 else ""
            for parts in (file.name.split("/") for file in files)
        }
        for name, files in classes.items()
    }


def _check_classes(folder: Path, classes: _Classes, result: Scan) -> None:
    full = {name: len(files) for name, files in classes.items() if files}
    empty = [f"'{name}'" for name, files in classes.items() if not files]
    if len(full) < 2:
        only = "".join(
            f"one class folder ('{name}') with {count} {result.kind.many}" for name, count in full.items()
        )
        raise DataError(
            f"{folder}/ has {only or f'no class folder with {result.kind.many}'}; a classifier needs two or more.\n"
            f"  Expected {folder}/<class>/<{result.kind.one}>."
            f"{_nested(folder, full, classes, result)}{_rest(result, empty)}"
        )
    if empty:
        raise DataError(
            f"{folder}/ has {len(empty)} of {len(classes)} class folders without {result.kind.many}.\n"
            f"  Add {result.kind.many} to them, or remove them.{_rest(result, empty)}"
        )


def _nested(folder: Path, full: Mapping[str, int], classes: _Classes, result: Scan) -> str:
    """Where the classes are, when they lie deeper than expected: an archive that was unpacked into its own name."""
    places = {tuple(Path(file.name).parts[:-1]) for name in full for file in classes[name]}
    if not places:
        return ""
    deepest = Path(os.path.commonpath([Path(*parts) for parts in places]))
    below = sorted({parts[len(deepest.parts)] for parts in places if len(parts) > len(deepest.parts)})
    if len(below) < 2:
        return ""
    if folder == result.root:
        return f" {result.root / deepest}/ holds the folders {listed(below)}: give that one instead."
    return f" Move the folders of {result.root / deepest}/ ({listed(below)}) up into {folder}/."


def _check_agreement(found: Mapping[Path, _Classes]) -> None:
    train, *others = found
    expected = set(found[train])
    different = []
    for folder in others:
        if missing := sorted(expected - set(found[folder])):
            different.append(f"{folder}/ lacks {listed(missing)}")
        if unknown := sorted(set(found[folder]) - expected):
            different.append(f"{folder}/ has {listed(unknown)}, which {train}/ lacks")
    if different:
        raise DataError("Every split must have the same class folders:\n  " + "\n  ".join(different))


def _rest(result: Scan, empty: list[str]) -> str:
    """What else is there, for a message: usually the reason."""
    text = f" Folders without {result.kind.many}: {listed(empty)}." if empty else ""
    outside = [path for path, reason in result.skipped if reason == _OUTSIDE]
    if outside:
        text += (
            f" {result.kind.many.capitalize()} outside a class folder: {len(outside)} ({listed(outside, 2)})."
        )
    if result.others:
        counts = [f"{ending} {count}" for ending, count in result.others.most_common()]
        text += f" Other files: {listed(counts)}; {result.kind.many} end in {', '.join(sorted(result.kind.suffixes))}."
    return text


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
