"""Which folders are the splits of a data set, as people name them, and what else folders are but classes."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from tfkit.data.cut import listed
from tfkit.data.splits import SPLIT_NAMES
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
