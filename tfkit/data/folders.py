"""What is in a folder of images or texts: found before anything expensive, with all that is wrong in one message.

Which folders are the splits of a data set, as people name them, and what else folders are but classes.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tfkit.data.splits import SPLIT_NAMES, Skipped, listed
from tfkit.errors import DataError

# What is said nowhere: they are what the documentation names.
EXACT = {
    "train": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "test": "test",
}
_WORDS = {
    what: frozenset(words.split())
    for what, words in {
        "train": "train training trains entrainement apprentissage entrenamiento treino lern",
        "validation": "validation validate validating val valid dev development eval evaluation validierung validacion",
        "test": "test testing tests holdout heldout prueba pruebas essai teste",
        "noise": "x set sets data dataset daten split folder images image imgs img bilder photos texts text docs",
        "examples": "images image imgs img jpegimages pictures texts text",
        "annotations": "masks mask labels label annotations annotation annots groundtruth gt segmentationclass trimaps",
    }.items()
}
_SPLITS = {word: split for split in SPLIT_NAMES for word in _WORDS[split]}
_COMPOUND = re.compile(r"s?(set|data|daten|bilder|images|texts|split)$")

Look = Callable[[Path], tuple[Sequence[Path], Sequence[Path]]]
"""A folder to its subfolders, and its files of the kind that is looked for."""


def split_folders(
    root: Path, folders: Sequence[Path], look: Look, many: str
) -> tuple[dict[str, Path], list[str]]:
    """Tell the splits of a folder that is split already.

    A name that is nearly that of a split ("Training", "x_test", "20news-bydate-train") counts if the folder holds
    folders of classes, as that of a split does: a class may be called "Testing".

    Args:
      root: the folder.
      folders: its subfolders.
      look: finds what is in one of them.
      many: what the files are, "images".

    Returns:
      Split to its folder, in the order of SPLIT_NAMES, empty if the subfolders are classes; and what was taken for
      granted, for the notes.

    Raises:
      DataError: the folders are splits, but not of labelled files, without train, two of one, or beside others.
    """
    names = dict(zip(folders, _splits_of([folder.name for folder in folders]), strict=True))
    found = [split for split in names.values() if split]
    if len(found) < len(folders) or len(set(found)) < len(found):  # some are none, or two are one
        names = {
            folder: split
            for folder, split in names.items()
            if split and (folder.name.lower() in EXACT or (look(folder)[0] and not look(folder)[1]))
        }
    elif found and "train" not in found and (len(found) > 1 or look(folders[0])[0]):
        raise DataError(
            f"{root}/ has only folders named like splits ({_shown(folders)}), and none to train on.\n"
            f"  Expected {root}/train/<class>/; if these are the classes, rename them."
        )
    rest = [folder for folder in folders if not names.get(folder)]
    parts: dict[str, Path] = {}
    for folder, split in names.items():
        if split and "train" in names.values() and split in parts:
            raise DataError(
                f"{root} has two folders for one split: '{parts[split].name}' and '{folder.name}'."
            )
        if split:
            parts[split] = folder
    if "train" not in parts or (rest and len(parts) == 1):
        return {}, []
    if rest:
        raise DataError(
            f"{root} has {_shown(parts.values())} as a folder that is split already,"
            f" and beside them {_shown(rest)}.\n"
            "  Move these into the splits (<split>/<class>/<file>), or out of the folder."
        )
    parts = {split: parts[split] for split in SPLIT_NAMES if split in parts}
    for split, folder in parts.items():
        _check_labelled(root, split, folder, look, many)
    near = {split: folder.name for split, folder in parts.items() if folder.name.lower() not in EXACT}
    read = " and ".join(f"'{name}' as the {split} split" for split, name in near.items())
    notes = [f"By their names and what is in them: {read}."] if near else []
    return parts, notes


def check_classes(folder: Path, inner: Mapping[str, set[str]], many: str) -> list[str]:
    """Refuse folders that are no classes, and doubt those that may be none.

    Args:
      folder: the folder of the classes.
      inner: class to the folders right below it; "" stands for files.
      many: what the files are, "images".

    Returns:
      The doubts, for the notes.

    Raises:
      DataError: the classes hold the splits, or are pictures and what is drawn on them.
    """
    plain = {"".join(_words(name)): name for name in inner}
    examples, notes = _WORDS["examples"] & set(plain), _WORDS["annotations"] & set(plain)
    if examples and notes:
        raise DataError(
            f"{folder}/ has {plain[min(examples)]}/ and {plain[min(notes)]}/: {many} and annotations, not classes.\n"
            f"  tfkit trains classifiers of one class a file ({folder}/<class>/<file>), not segmentation or detection."
        )
    if len(inner) < 2 or any("" in below or len(below) < 2 for below in inner.values()):
        return []
    if all(_are_splits(below) for below in inner.values()):
        one, below = next((name, sorted(below)) for name, below in inner.items())
        raise DataError(
            f"{folder}/ has its splits inside the classes ({one}/{below[0]}/, {one}/{below[1]}/, ...);"
            f" expected them outside: {below[0]}/{one}/.\n"
            f'  cd {shlex.quote(str(folder))} && for d in */*/; do mkdir -p "../sorted/$(basename "$d")" &&'
            ' cp -r "$d" "../sorted/$(basename "$d")/$(dirname "$d")"; done'
        )
    common = set.intersection(*inner.values())
    if len(common) < 2:
        return []
    return [
        f"Each of the classes {listed(sorted(inner))} holds the folders {listed(sorted(common))}: if these are the"
        " classes, and the others splits, name them train, validation and test."
    ]


def doubts(class_names: Sequence[str]) -> list[str]:
    """Return what is doubtful about the names of classes themselves, for the notes."""
    found = []
    groups: dict[str, list[str]] = {}
    for name in class_names:
        folded = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
        groups.setdefault(folded, []).append(name)
    if same := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
        found.append(f"Some classes have all but the same name: {listed(same)}.")
    if all(name.isdecimal() for name in class_names):
        by_value = sorted(class_names, key=int)
        moved = next((label for label, name in enumerate(class_names) if name != by_value[label]), None)
        if moved is not None:
            found.append(
                "The classes are numbers, and labels are in the order of their names:"
                f" label {moved} is '{class_names[moved]}' (see labels.txt)."
            )
    return found


def _check_labelled(root: Path, split: str, folder: Path, look: Look, many: str) -> None:
    below, files = look(folder)
    if below or not files:
        return
    text = f"{folder}/ holds {len(files)} {many} ({files[0].name}, ...) without folders of classes:"
    if split == "train":
        ending = files[0].suffix
        raise DataError(
            f"{text} nothing says which class each has.\n"
            f"  Expected {folder}/<class>/{files[0].name}. Where the names begin with the class, as in cat.1{ending}:\n"
            f"  cd {shlex.quote(str(folder))} &&"
            f' for f in *{ending}; do c="${{f%%[._0-9-]*}}"; mkdir -p "$c" && mv "$f" "$c/"; done\n'
            "  Where a table has the labels, move each file by it; where these folders are the classes, rename them."
        )
    raise DataError(
        f"{text} without labels it cannot serve as the {split} split.\n"
        f"  mv {shlex.quote(str(folder))} {shlex.quote(f'{root}-unlabelled')}   then a part of train/ is held out in"
        " its place."
    )


def _splits_of(names: Sequence[str]) -> list[str | None]:
    """The split that each name means; words that all of them have mean nothing."""
    words = [_words(name) for name in names]
    common = set.intersection(*map(set, words)) if len(names) > 1 else set()
    found = []
    for name, own in zip(names, words, strict=True):
        told = [
            _COMPOUND.sub("", word) or word
            for word in own
            if word not in common | _WORDS["noise"] and not word.isdigit()
        ]
        found.append(EXACT.get(name.lower()) or _SPLITS.get("".join(told)))
    return found


def _are_splits(names: set[str]) -> bool:
    found = _splits_of(sorted(names))
    return "train" in found and None not in found and len(set(found)) == len(found)


def _words(name: str) -> list[str]:
    """The words of a name, without case and accents: "x_TrainSet1" is x, train, set, 1."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+", plain)]


def _shown(folders: Iterable[Path]) -> str:
    return listed([folder.name + "/" for folder in folders])


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
            result.skipped += [Skipped(_shown_files(path, result.root), _OUTSIDE) for path in images]
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
        name = _shown_files(path, self._result.root)
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


def _shown_files(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
