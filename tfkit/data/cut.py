"""Which examples train, validate and test: stratified, seeded, and stable when a folder grows."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from tfkit.errors import ConfigError, DataError


def cut_by_class(
    names: Sequence[str],
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    held_out: Mapping[str, float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Cut every class into "train" and the held-out splits.

    One bit of luck per example, drawn from a hash of (seed, name), says which held-out split it is
    a candidate for; a second hash orders the candidates of a class, and the first of them are held out.
    Since each cut has an order of its own, an example that is added moves at most one other across it,
    and none across another cut. (Three splits cut from one order cannot promise that: a file that lands
    in one split while another one grows by one pushes a file out here and pulls a file in there.)
    The number held out over all is exact to one per split and class; between validation and test it
    varies by about 0.15 * sqrt(n) of n images.

    Args:
      names: unique name of each example.
      labels: int64 [n].
      class_names: one for each label, for messages.
      held_out: split -> its fraction, such as {"validation": 0.15, "test": 0.15}.
      seed: another seed is another cut.

    Returns:
      split -> int64 indices, ordered by hash; every class has at least one in each split.

    Raises:
      ConfigError: the fractions leave too little, or nothing, for a split.
      DataError: a class has fewer examples than there are splits.
    """
    check_fractions(held_out)
    check_enough(labels, class_names=class_names, splits=("train", *held_out))
    order, lot = _hashes(names, seed)
    split_of = np.full(len(names), "train", dtype=object)
    for label in range(len(class_names)):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(order[members])]
        for split, chosen in _hold_out(members, lot[members], held_out).items():
            split_of[chosen] = split
    by_hash = np.argsort(order)
    return {split: by_hash[split_of[by_hash] == split] for split in ("train", *held_out)}


def check_fractions(held_out: Mapping[str, float]) -> None:
    """Refuse fractions that leave a split without examples."""
    if any(not 0 < fraction < 1 for fraction in held_out.values()) or sum(held_out.values()) > 0.7:
        asked = ", ".join(f"{split}_fraction={fraction:g}" for split, fraction in held_out.items())
        raise ConfigError(
            f"{asked} cannot be cut: each must be above 0, and together at most 0.7,\n"
            "  so that every class has examples to train on."
        )


def check_enough(
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    splits: Sequence[str],
    where: str = "",
    hint: str = "",
    noun: str = "examples",
) -> None:
    """Refuse classes that have not one example for each of the splits, all such classes at once."""
    counts = np.bincount(labels, minlength=len(class_names))
    short = zip(class_names, counts, strict=True)
    small = [f"'{name}' ({count})" for name, count in short if count < len(splits)]
    if small:
        raise DataError(
            f"{where}{len(small)} of {len(class_names)} classes have fewer than {len(splits)} {noun}:"
            f" {listed(small)}.\n"
            f"  Each needs one for {' and one for '.join(splits)} at least. Add {noun}, or leave the class out.{hint}"
        )


def listed(items: Sequence[object], limit: int = 5) -> str:
    """The first few items and how many more there are, for a message."""
    shown = ", ".join(map(str, items[:limit]))
    return shown if len(items) <= limit else f"{shown}, ... ({len(items) - limit} more)"


def _hashes(names: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two independent uint64 [n] for each name."""
    # Composed, since one file system writes "é" as one character and another as two.
    texts = [unicodedata.normalize("NFC", f"{seed}/{name}").encode() for name in names]
    drawn = [hashlib.blake2b(text, digest_size=16).digest() for text in texts]
    numbers = np.frombuffer(b"".join(drawn), dtype="<u8").reshape(-1, 2)
    return numbers[:, 0], numbers[:, 1]


def _hold_out(members: np.ndarray, lot: np.ndarray, held_out: Mapping[str, float]) -> dict[str, np.ndarray]:
    """The members (in order) that each held-out split takes."""
    if not held_out:
        return {}
    share = sum(held_out.values())
    edges = np.cumsum([0.0, *held_out.values()]) / share
    part = np.searchsorted(edges[1:-1], lot / 2.0**64, side="right")
    taken = {}
    for number, split in enumerate(held_out):
        candidates = members[part == number]
        count = max(1, int(len(candidates) * share + 0.5))
        # With one or no candidate (a class of a handful) the last of all members serves instead of nobody.
        taken[split] = candidates[: min(count, max(1, len(candidates) - 1))]
        if not len(candidates):
            taken[split] = members[-1:]
    return taken
