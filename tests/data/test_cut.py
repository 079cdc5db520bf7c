"""Splits are stratified, seeded, and stay put when a folder grows."""

import numpy as np
import pytest

from tfkit.data.splits import cut_by_class
from tfkit.errors import ConfigError, DataError

HELD_OUT = {"validation": 0.15, "test": 0.15}


def split_of(names, seed=0, held_out=HELD_OUT):
    parts = cut_by_class(names, np.zeros(len(names), int), class_names=["a"], held_out=held_out, seed=seed)
    return {names[index]: split for split, indices in parts.items() for index in indices}


@pytest.mark.parametrize("seed", range(3))
def test_adding_a_file_moves_at_most_one_other(seed):
    names = [f"a/{number}.png" for number in range(3000)]
    moved_in_all = 0
    for count in [*range(12, 150), *range(2900, 2910)]:
        before, after = split_of(names[:count], seed), split_of(names[: count + 1], seed)
        moved = sum(after[name] != split for name, split in before.items())
        assert moved <= 1
        moved_in_all += moved
    assert moved_in_all < 110


def test_another_class_does_not_move_anything():
    small = [f"a/{n}" for n in range(30)]
    both = [*small, *(f"b/{n}" for n in range(50))]
    labels = np.asarray([0] * 30 + [1] * 50)
    parts = cut_by_class(both, labels, class_names=["a", "b"], held_out=HELD_OUT, seed=0)
    of = {both[index]: split for split, indices in parts.items() for index in indices}
    assert {name: of[name] for name in small} == split_of(small)


@pytest.mark.parametrize("count", [3, 4, 5, 6, 7, 10, 20, 100, 1000])
def test_every_split_has_its_share_of_every_class(count):
    for seed in range(20):
        splits = list(split_of([f"x{n}" for n in range(count)], seed).values())
        sizes = {split: splits.count(split) for split in ("train", "validation", "test")}
        assert min(sizes.values()) >= 1
        assert sum(sizes.values()) == count
        if count >= 20:
            assert sizes["train"] == pytest.approx(0.7 * count, abs=1.01)
            assert sizes["test"] == pytest.approx(0.15 * count, abs=4 * 0.15 * count**0.5)


def test_the_seed_decides_and_nothing_else():
    names = [f"a/{number}.png" for number in range(200)]
    assert split_of(names) == split_of(list(reversed(names)))
    assert split_of(names, seed=1) != split_of(names)


def test_one_held_out_split_and_none():
    names = [f"x{n}" for n in range(100)]
    assert list(split_of(names, held_out={"test": 0.2}).values()).count("test") == 20
    assert set(split_of(names, held_out={}).values()) == {"train"}


def test_a_name_is_the_same_composed_or_not():
    assert list(split_of([f"é{n}" for n in range(50)]).values()) == list(
        split_of([f"e\u0301{n}" for n in range(50)]).values()
    )


def test_too_few_examples_are_named_with_their_classes():
    with pytest.raises(DataError, match=r"1 of 2 classes have fewer than 3 examples: 'dog' \(2\)"):
        cut_by_class(
            list("abcdef"),
            np.asarray([0, 0, 0, 0, 1, 1]),
            class_names=["cat", "dog"],
            held_out=HELD_OUT,
            seed=0,
        )


@pytest.mark.parametrize("fractions", [(0, 0.15), (0.5, 0.5), (-0.1, 0.1), (0.1, 1.5)])
def test_fractions_that_leave_a_split_empty_are_refused(fractions):
    with pytest.raises(ConfigError, match="cannot be cut"):
        split_of(list("abcdef"), held_out=dict(zip(("validation", "test"), fractions, strict=True)))
