"""A folder of documents as Splits of texts: one subfolder a class, one file a text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from tfkit import files
from tfkit.data import encodings, textstore
from tfkit.data.cleaning import Cleaner
from tfkit.data.cut import check_fractions, listed
from tfkit.data.scan import TEXTS, FoundFile, Scan, scan
from tfkit.data.splits import SPLIT_NAMES, Skipped, Splits
from tfkit.data.textnotes import notes, skipped_text
from tfkit.data.textsource import Groups, TextSource, cut_texts
from tfkit.data.textstore import Example, TextStore
from tfkit.errors import DataError
from tfkit.process import watched


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
    given = [split for split in SPLIT_NAMES[1:] if any(file.split == split for file in found.files)]
    held_out = {split: fraction for split, fraction in held_out.items() if split not in given}
    check_fractions(held_out)
    stamps = [(file.name, file.size, file.mtime_ns) for file in found.files]
    store = textstore.get(
        files.digest("documents", str(folder.resolve()), stamps, textstore.RECIPE),
        lambda: _Documents(found),
        size=2 * sum(file.size for file in found.files),
        class_names=found.class_names,
    )
    skipped = (*found.skipped, *store.skipped)
    skipped_here = skipped_text(store, "files")
    if strict and skipped:
        shown = listed([f"{path} ({reason})" for path, reason in skipped], 3)
        raise DataError(
            f"{folder}/ has {len(skipped)} files that cannot be used: {shown}.\n  Without strict they are skipped."
        )
    indices: dict[str, np.ndarray] = {}
    for split, members in _by_split(found, store).items():
        parts = cut_texts(
            Groups(store.digests[members], store.labels[members]),
            store.class_names,
            held_out=held_out if split in (None, "train") else {},
            seed=seed,
            where=f"{folder}/{split or ''}: ",
            hint=f"\n  It has {skipped_here}." if skipped_here else "",
        )
        rest = parts.pop("train")
        indices[split or "train"] = members[rest]
        indices.update({name: members[part] for name, part in parts.items()})
    indices = {split: indices[split] for split in SPLIT_NAMES}
    leaked = _leaked(store, indices)
    return Splits(
        source=TextSource(store, [found.files[place].name for place in store.places]),
        indices=indices,
        class_names=store.class_names,
        global_batch_size=global_batch_size,
        seed=seed,
        origin=f"{folder}/",
        skipped=skipped,
        other_files=found.others.total(),
        duplicates=leaked,
        notes=tuple(_notes(found, store, given, held_out, leaked)),
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
                content = (self._found.root / file.name).read_bytes()
            except OSError as err:
                yield Skipped(file.name, f"cannot be read ({err.strerror})")
                continue
            if kind := encodings.binary_kind(content[: 1 << 20]):
                yield Skipped(file.name, f"is no text, but {kind}")
                continue
            text, encoding = encodings.decode(content)
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


def _by_split(found: Scan, store: TextStore) -> dict[str | None, np.ndarray]:
    """The rows of each split that the folder has; all under None when it has none."""
    files_: Sequence[FoundFile] = [found.files[place] for place in store.places]
    names = {file.split for file in found.files}
    return {
        split: np.asarray([row for row, file in enumerate(files_) if file.split == split], np.int64)
        for split in (None, *SPLIT_NAMES)
        if split in names
    }


def _leaked(store: TextStore, indices: Mapping[str, np.ndarray]) -> int:
    """Validation and test texts that are in an earlier split too."""
    seen: set[tuple[int, int]] = set()
    leaked = 0
    for split in SPLIT_NAMES:
        here = [(int(first), int(second)) for first, second in store.digests[indices[split]]]
        leaked += sum(one in seen for one in here)
        seen.update(here)
    return leaked


def _notes(
    found: Scan, store: TextStore, given: Sequence[str], held_out: Mapping[str, float], leaked: int
) -> Iterator[str]:
    yield from found.notes
    if found.skipped:
        shown = listed([f"{path} ({reason})" for path, reason in found.skipped], 3)
        yield f"Passed over in {found.root}/: {len(found.skipped)} ({shown})."
    if found.others:
        others = listed([f"{ending} {count}" for ending, count in found.others.most_common()])
        yield f"Passed over, because hidden or no texts: {found.others.total()} ({others})."
    if given:
        for split, fraction in held_out.items():
            yield f"There is no {split} folder: {fraction:.0%} of train/ is held out for it."
    if leaked:
        yield f"{leaked} validation or test texts are in an earlier split too: they are easy, and flatter the result."
    groups = Groups(store.digests, store.labels)
    if given:
        groups.repeated = 0  # it is for the folder to say which split they are in
    yield from notes(store, groups, f"{found.root}/", "files")
