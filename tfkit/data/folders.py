"""Folders of examples: find the classes, the splits and the files, and refuse what is none of these."""

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
from typing import NamedTuple, NoReturn

import numpy as np

from tfkit.data.splits import SPLIT_NAMES, Skipped, listed
from tfkit.errors import DataError

# The names that the documentation gives: no note says how they were read.
_EXACT = {name: name for name in SPLIT_NAMES} | dict.fromkeys(("val", "valid"), "validation")
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
_OUTSIDE = "outside a class folder"
_SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "__pycache__"})


class Kind(NamedTuple):
    """What is looked for, and what it is called in a message."""

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

    @property
    def given(self) -> tuple[str, ...]:
        """Return the held-out splits that the folder has itself."""
        here = {file.split for file in self.files}
        return tuple(split for split in SPLIT_NAMES[1:] if split in here)


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

    def full(self) -> list[_Folder]:
        """Return the subfolders that hold files of the kind, at any depth."""
        return [folder for folder in self.folders if any(folder.all_files())]


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
    result = Scan(Path(root), kind)
    _check_root(result.root, kind)
    top = _read_folder(result.root, result)
    splits = _find_splits(top, result)
    result.skipped += [
        Skipped(_name(path, result.root), _OUTSIDE)
        for folder in (top, *splits.values())
        for path in folder.files
    ]
    parts: dict[str | None, _Folder] = dict(splits.items()) or {None: top}
    files = _take_files(parts, result)
    for split, folder in parts.items():
        _check_classes(folder, files[split], result)
    _check_agreement({folder.path: set(files[split]) for split, folder in parts.items()})
    result.class_names = tuple(sorted(next(iter(files.values()))))
    result.notes += class_name_warnings(result.class_names)
    result.files = [
        file._replace(label=label)
        for classes in files.values()
        for label, name in enumerate(result.class_names)
        for file in classes[name]
    ]
    return result


def _check_root(root: Path, kind: Kind) -> None:
    if root.is_dir():
        return
    if root.exists():
        raise DataError(
            f"{root} is a file. Expected a folder with one subfolder a class: <class>/<{kind.singular}>."
        )
    siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
    near = difflib.get_close_matches(root.name, siblings, n=1)
    hint = f"\n  Did you mean {root.parent / near[0]}?" if near else ""
    raise DataError(f"There is no folder {root} (from {Path.cwd()}).{hint}")


def _read_folder(path: Path, result: Scan, above: tuple[tuple[int, int], ...] = ()) -> _Folder:
    """Read what is below a folder, by name; files of another kind are counted."""
    try:
        identity = _identity(path.stat())
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except PermissionError as err:
        raise DataError(f"{path} cannot be read: permission denied.\n  chmod -R u+rX {path}") from err
    except OSError as err:
        raise DataError(f"{path} cannot be read: {err.strerror}.") from err
    if identity in above:
        raise DataError(
            f"{path} is a link to a folder that it lies in ({path.resolve()}): it has no end.\n"
            f"  Remove the link: rm {path}"
        )
    folder = _Folder(path, [], [])
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _SYSTEM_FOLDERS:
            result.others["hidden"] += 1
        elif Path(entry.path).is_dir():
            folder.folders.append(_read_folder(Path(entry.path), result, (*above, identity)))
        elif (suffix := Path(entry.name).suffix.lower()) in result.kind.suffixes:
            folder.files.append(Path(entry.path))
        else:
            result.others[suffix or "no ending"] += 1
    return folder


def _find_splits(top: _Folder, result: Scan) -> dict[str, _Folder]:
    """Return the folders of the splits, in their order; none where the subfolders are classes.

    A name that is nearly that of a split ("Training", "x_test", "20news-bydate-train") counts if the folder holds
    folders and no files, as that of a split does: a class may be called "Testing".
    """
    root, folders = top.path, top.folders
    names = _splits_of([folder.path.name for folder in folders])
    known = [name for name in names if name]
    if len(set(known)) < len(folders):  # some are none, or two are one
        names = [
            name if folder.path.name.lower() in _EXACT or (folder.folders and not folder.files) else None
            for name, folder in zip(names, folders, strict=True)
        ]
    elif known and "train" not in known and (len(known) > 1 or folders[0].folders):
        raise DataError(
            f"{root}/ has only folders named like splits ({_shown(folders)}), and none to train on.\n"
            f"  Expected {root}/train/<class>/; if these are the classes, rename them."
        )
    rest = [folder for name, folder in zip(names, folders, strict=True) if not name]
    if "train" not in names or (rest and len(set(names)) == 2):
        return {}
    parts: dict[str, _Folder] = {}
    for split in SPLIT_NAMES:
        found = [folder for name, folder in zip(names, folders, strict=True) if name == split]
        if len(found) > 1:
            raise DataError(f"{root} has two folders for one split: {_shown(found)}.")
        parts.update(dict.fromkeys([split] if found else [], *found))
    if rest:
        raise DataError(
            f"{root} has {_shown(parts.values())} as a folder that is split already, and beside them {_shown(rest)}.\n"
            "  Move these into the splits (<split>/<class>/<file>), or out of the folder."
        )
    for split, folder in parts.items():
        if folder.files and not folder.folders:
            _refuse_unlabelled(root, split, folder, result.kind.plural)
    near = [
        f"'{folder.path.name}' as the {split} split"
        for split, folder in parts.items()
        if folder.path.name.lower() not in _EXACT
    ]
    result.notes += [f"By their names and what is in them: {' and '.join(near)}."] if near else []
    return parts


def _splits_of(names: Sequence[str]) -> list[str | None]:
    """Return the split that each name means; words that all of them have mean nothing."""
    words = [_words(name) for name in names]
    ignored = _WORDS["noise"] | (set.intersection(*map(set, words)) if len(names) > 1 else set())
    found = []
    for name, own in zip(names, words, strict=True):
        rest = [_COMPOUND.sub("", word) or word for word in own if word not in ignored and not word.isdigit()]
        found.append(_EXACT.get(name.lower()) or _SPLITS.get("".join(rest)))
    return found


def _words(name: str) -> list[str]:
    """Return the words of a name, without case and accents: "x_TrainSet1" is x, train, set, 1."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return [word.lower() for word in re.findall(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+|\d+", plain)]


def _refuse_unlabelled(root: Path, split: str, folder: _Folder, plural: str) -> NoReturn:
    path, name, ending = folder.path, folder.files[0].name, folder.files[0].suffix
    text = f"{path}/ holds {len(folder.files)} {plural} ({name}, ...) without folders of classes:"
    if split != "train":
        raise DataError(
            f"{text} without labels it cannot serve as the {split} split.\n"
            f"  mv {shlex.quote(str(path))} {shlex.quote(f'{root}-unlabelled')}   then a part of train/ is held out"
            " in its place."
        )
    raise DataError(
        f"{text} nothing says which class each has.\n"
        f"  Expected {path}/<class>/{name}. Where the names begin with the class, as in cat.1{ending}:\n"
        f"  cd {shlex.quote(str(path))} &&"
        f' for f in *{ending}; do c="${{f%%[._0-9-]*}}"; mkdir -p "$c" && mv "$f" "$c/"; done\n'
        "  Where a table has the labels, move each file by it; where these folders are the classes, rename them."
    )


def _take_files(
    parts: Mapping[str | None, _Folder], result: Scan
) -> dict[str | None, dict[str, list[FoundFile]]]:
    """Return the files of each class of each split; none is taken twice, whatever links lead to it."""
    seen: dict[tuple[int, int], tuple[str, str | None, str]] = {}
    contradictions: list[str] = []

    def take(path: Path, split: str | None, class_name: str) -> Iterator[FoundFile]:
        name = _name(path, result.root)
        reason = None
        try:
            status = path.stat()
        except OSError as err:
            result.skipped.append(Skipped(name, f"a link that leads nowhere ({err.strerror})"))
            return
        first, *place = seen.setdefault(_identity(status), (name, split, class_name))
        if first != name:
            if place != [split, class_name]:
                contradictions.append(f"{name} is {first}")
                return
            reason = f"the same file as {first}"
        elif not stat.S_ISREG(status.st_mode):
            reason = "not a regular file"
        elif not name.isprintable():
            name, reason = ascii(name)[1:-1], "its name cannot be printed"
        elif not status.st_size:
            reason = "empty file"
        if reason:
            result.skipped.append(Skipped(name, reason))
        else:
            yield FoundFile(name, -1, split, status.st_size, status.st_mtime_ns)

    files: dict[str | None, dict[str, list[FoundFile]]] = {}
    for split, folder in parts.items():
        for child in folder.folders:
            if not (name := child.path.name).isprintable():
                raise DataError(
                    f"The name of the class folder {name!a} holds characters that cannot be printed.\n"
                    "  Rename it: class names are written to labels.txt, one a line."
                )
            files.setdefault(split, {})[name] = [
                file for path in child.all_files() for file in take(path, split, name)
            ]
    if contradictions:
        raise DataError(
            f"{result.root} has one file in two classes or splits {len(contradictions)} times:\n"
            f"  {listed(contradictions)}.\n"
            "  Its class, or whether it is tested on, is not known. Remove one of each two links."
        )
    return {split: files.get(split, {}) for split in parts}


def _check_classes(folder: _Folder, classes: Mapping[str, list[FoundFile]], result: Scan) -> None:
    """Refuse folders that are no classes, too few or empty; note what may be none."""
    path, kind = folder.path, result.kind
    plain = {"".join(_words(name)): name for name in classes}
    examples, annotations = _WORDS["examples"] & set(plain), _WORDS["annotations"] & set(plain)
    if examples and annotations:
        raise DataError(
            f"{path}/ has {plain[min(examples)]}/ and {plain[min(annotations)]}/: {kind.plural} and annotations, not"
            f" classes.\n  tfkit trains classifiers of one class a file ({path}/<class>/<file>), not segmentation or"
            " detection."
        )
    inner = [
        set() if child.files else {below.path.name for below in child.full()} for child in folder.folders
    ]
    if len(inner) > 1 and all(len(below) > 1 for below in inner):
        if all(_are_splits(below) for below in inner):
            name, (one, other, *_) = folder.folders[0].path.name, sorted(inner[0])
            raise DataError(
                f"{path}/ has its splits inside the classes ({name}/{one}/, {name}/{other}/, ...);"
                f" expected them outside: {one}/{name}/.\n"
                f'  cd {shlex.quote(str(path))} && for d in */*/; do mkdir -p "../sorted/$(basename "$d")" &&'
                ' cp -r "$d" "../sorted/$(basename "$d")/$(dirname "$d")"; done'
            )
        if len(common := set.intersection(*inner)) > 1:
            result.notes.append(
                f"Each of the classes {listed(sorted(classes))} holds the folders {listed(sorted(common))}: if these"
                " are the classes, and the others splits, name them train, validation and test."
            )
    empty = [f"'{name}'" for name, files in classes.items() if not files]
    rest = f" Folders without {kind.plural}: {listed(empty)}." if empty else ""
    if outside := [name for name, reason in result.skipped if reason == _OUTSIDE]:
        rest += f" {kind.plural.capitalize()} outside a class folder: {len(outside)} ({listed(outside, 2)})."
    if result.others:
        rest += f" Other files: {_counts(result)}; {kind.plural} end in {', '.join(sorted(kind.suffixes))}."
    if len(classes) - len(empty) < 2:
        only = "".join(
            f"one class folder ('{name}') with {len(files)} {kind.plural}"
            for name, files in classes.items()
            if files
        )
        raise DataError(
            f"{path}/ has {only or f'no class folder with {kind.plural}'}; a classifier needs two or more.\n"
            f"  Expected {path}/<class>/<{kind.singular}>.{_nested(folder, result.root)}{rest}"
        )
    if empty:
        raise DataError(
            f"{path}/ has {len(empty)} of {len(classes)} class folders without {kind.plural}.\n"
            f"  Add {kind.plural} to them, or remove them.{rest}"
        )


def _are_splits(names: set[str]) -> bool:
    found = _splits_of(sorted(names))
    return "train" in found and None not in found and len(set(found)) == len(found)


def _nested(folder: _Folder, root: Path) -> str:
    """Return where the classes are, if deeper than expected: an archive was unpacked into a folder of its name."""
    deepest = folder
    while not deepest.files and len(deepest.full()) == 1:
        (deepest,) = deepest.full()
    below = deepest.full()
    if deepest is folder or len(below) < 2:
        return ""
    if folder.path == root:
        return f" {deepest.path}/ holds the folders {_shown(below)}: give that one instead."
    return f" Move the folders of {deepest.path}/ ({_shown(below)}) up into {folder.path}/."


def _check_agreement(found: Mapping[Path, set[str]]) -> None:
    train, *others = found
    different = []
    for folder in others:
        if missing := sorted(found[train] - found[folder]):
            different.append(f"{folder}/ lacks {listed(missing)}")
        if unknown := sorted(found[folder] - found[train]):
            different.append(f"{folder}/ has {listed(unknown)}, which {train}/ lacks")
    if different:
        raise DataError("Every split must have the same class folders:\n  " + "\n  ".join(different))


def class_name_warnings(class_names: Sequence[str]) -> list[str]:
    """Return what is doubtful about the names of classes themselves, for the notes."""
    found = []
    groups: dict[str, list[str]] = {}
    for name in class_names:
        plain = re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
        groups.setdefault(plain, []).append(name)
    if same := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
        found.append(f"Some classes have all but the same name: {listed(same)}.")
    if all(name.isdecimal() for name in class_names):
        pairs = enumerate(zip(class_names, sorted(class_names, key=int), strict=True))
        moved = [f"label {label} is '{name}'" for label, (name, by_value) in pairs if name != by_value]
        if moved:
            found.append(
                "The classes are numbers, and labels are in the order of their names:"
                f" {moved[0]} (see labels.txt)."
            )
    return found


def _counts(result: Scan) -> str:
    return listed([f"{ending} {count}" for ending, count in result.others.most_common()])


def _shown(folders: Iterable[_Folder]) -> str:
    return listed([f"{folder.path.name}/" for folder in folders])


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


Cut = Callable[[np.ndarray, Mapping[str, float], str], dict[str, np.ndarray]]
"""(indices of examples, held-out fractions, where they are, for a message) -> split to positions within them."""


def cut_folder(
    found: Scan, files: Sequence[FoundFile], held_out: Mapping[str, float], cut: Cut
) -> dict[str, np.ndarray]:
    """Cut the files that can be used: splits of the folder stay, and those that it lacks are held out from train."""
    given = np.asarray([file.split for file in files], dtype=object)
    indices: dict[str, np.ndarray] = {}
    for split in dict.fromkeys(file.split for file in found.files):
        members = np.flatnonzero(given == split)
        here = held_out if split in (None, "train") else {}
        parts = cut(members, here, f"{found.root}/{split or ''}: ")
        indices[split or "train"] = members[parts.pop("train")]
        indices.update({name: members[part] for name, part in parts.items()})
    return {split: indices[split] for split in SPLIT_NAMES}


def count_leaked(digests: Sequence[object], indices: Mapping[str, np.ndarray]) -> int:
    """Return how many validation and test examples have the content of an example in an earlier split."""
    seen: set[object] = set()
    leaked = 0
    for split in SPLIT_NAMES:
        here = [digests[index] for index in indices[split]]
        leaked += sum(digest in seen for digest in here)
        seen.update(here)
    return leaked


def folder_notes(
    found: Scan, skipped: Sequence[Skipped], held_out: Mapping[str, float], leaked: int
) -> Iterator[str]:
    """Yield what a user should know of a folder that became splits, one sentence each."""
    plural = found.kind.plural
    yield from found.notes
    if skipped:
        yield f"{found.root}/ has {skipped_text(skipped, plural)}."
    if found.others:
        yield f"Passed over, because hidden or no {plural}: {found.others.total()} ({_counts(found)})."
    if found.given:
        for split, fraction in held_out.items():
            yield f"There is no {split} folder: {fraction:.0%} of train/ is held out for it."
    if leaked:
        yield (
            f"{leaked} validation or test {plural} have the content of one in an earlier split: they are easy, and"
            " flatter the result."
        )


def skipped_text(skipped: Sequence[Skipped], plural: str) -> str:
    """Return how many files cannot be used, and why of the first ones."""
    return f"{len(skipped)} {plural} that cannot be used: {listed([f'{path} ({why})' for path, why in skipped], 3)}"
