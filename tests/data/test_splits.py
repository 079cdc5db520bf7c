"""Splits are stratified, seeded stock datasets whose order depends on the seed and the epoch alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfkit.data import Augmentation, from_arrays
from tfkit.data.splits import Share, cut_by_class, draw
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def splits():
    """Every image is filled with its own number."""
    images = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((6, 6), np.uint8)
    return from_arrays(images, np.arange(100) % 4, image_size=8, global_batch_size=16)


def numbers(dataset):
    return [np.rint(features[:, 0, 0, 0] * 255).astype(int) for features, _ in dataset.as_numpy_iterator()]


def test_datasets_are_batched_float_images_with_their_labels(splits):
    assert splits.train.element_spec == (
        tf.TensorSpec([None, 8, 8, 3], tf.float32),
        tf.TensorSpec([None], tf.int64),
    )
    assert splits.spec == tf.TensorSpec([8, 8, 3], tf.float32)
    for split in ("train", "validation", "test"):
        found = numbers(getattr(splits, split))
        labels = np.concatenate([labels for _, labels in getattr(splits, split).as_numpy_iterator()])
        assert [len(batch) for batch in found[:-1]] == [16] * (len(found) - 1)
        assert sorted(np.concatenate(found)) == sorted(splits.indices[split])
        assert (labels == np.concatenate(found) % 4).all()
    assert (np.concatenate(numbers(splits.test)) == splits.indices["test"]).all()
    train = splits.counts["train"]
    assert train == {str(c): sum(i % 4 == c for i in splits.indices["train"]) for c in range(4)}


def test_the_repr_says_what_a_person_would_ask(splits):
    text = repr(splits)
    assert text.count("\n") < 3
    for fact in ("images in memory", "4 classes", "train 68", "[8, 8, 3]", "16"):
        assert fact in text


def test_each_epoch_has_every_example_once_in_an_order_of_its_own(splits):
    steps = splits.steps_per_epoch
    epochs = [np.concatenate(numbers(splits.epochs(e, e + 1))) for e in range(5)]
    for epoch in epochs:
        assert sorted(epoch) == sorted(splits.indices["train"])
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert tuple(np.concatenate(numbers(splits.replace(seed=1).epochs(0, 1)))) != tuple(epochs[0])
    assert len(numbers(splits.train)) == steps


def test_augmented_epochs_repeat_bit_for_bit(splits):
    augment = Augmentation.preset("standard")
    steps = splits.steps_per_epoch
    whole = [x for x, _ in splits.epochs(0, 2, augment=augment).as_numpy_iterator()]
    again = [x for x, _ in splits.epochs(1, 2, augment=augment).as_numpy_iterator()]
    for one, other in zip(whole[steps:], again, strict=True):
        np.testing.assert_array_equal(one, other)
    plain = [x for x, _ in splits.epochs(0, 1).as_numpy_iterator()]
    assert not np.array_equal(plain[0], whole[0])


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


@pytest.mark.parametrize("fraction", [0.25, 0.3, 0.35])
def test_few_examples_are_in_every_split_whatever_the_fractions(fraction):
    how = {"held_out": {"validation": fraction, "test": fraction}}
    for count, seed in itertools.product((3, 4, 5, 6), range(40)):
        assert len({*split_of([f"x{n}" for n in range(count)], seed, **how).values()}) == 3


def test_the_seed_decides_and_nothing_else():
    names = [f"a/{number}.png" for number in range(200)]
    assert split_of(names) == split_of(list(reversed(names)))
    assert split_of(names, seed=1) != split_of(names)


def test_one_held_out_split_and_none():
    names = [f"x{n}" for n in range(100)]
    assert list(split_of(names, held_out={"test": 0.2}).values()).count("test") == 20
    assert set(split_of(names, held_out={}).values()) == {"train"}


def test_a_name_is_the_same_composed_or_not():
    composed, apart = (split_of([f"{letter}{n}" for n in range(50)]) for letter in ("é", "e\u0301"))
    assert [*composed.values()] == [*apart.values()]


def test_too_few_examples_are_named_with_their_classes():
    labels, how = np.asarray([0, 0, 0, 0, 1, 1]), {"held_out": HELD_OUT, "seed": 0}
    with pytest.raises(DataError, match=r"1 of 2 classes have fewer than 3 examples: 'dog' \(2\)"):
        cut_by_class(list("abcdef"), labels, class_names=["cat", "dog"], **how)


@pytest.mark.parametrize("fractions", [(0, 0.15), (0.5, 0.5), (-0.1, 0.1), (0.1, 1.5)])
def test_fractions_that_leave_a_split_empty_are_refused(fractions):
    with pytest.raises(ConfigError, match="cannot be cut"):
        split_of(list("abcdef"), held_out=dict(zip(("validation", "test"), fractions, strict=True)))


def test_a_sample_is_of_all_and_the_same_again():
    chosen = draw(10_000, 200)
    assert len(np.unique(chosen)) == 200
    assert abs(chosen.mean() - 5000) < 1000
    np.testing.assert_array_equal(chosen, draw(10_000, 200))
    assert (chosen != draw(10_000, 200, seed=1)).any()
    np.testing.assert_array_equal(draw(3, 200), [0, 1, 2])


def test_each_class_has_as_many_as_can_be():
    classes = np.array(["usual"] * 900 + ["other"] * 90 + ["rare"] * 10)
    names, counts = np.unique(classes[draw(1000, 100, classes=classes)], return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"usual": 45, "other": 45, "rare": 10}


def in_batches_of(batch):
    images = np.arange(90 * 64, dtype=np.uint32).reshape(90, 8, 8).astype(np.uint8)
    return from_arrays(images, np.arange(90) % 3, image_size=8, global_batch_size=batch)


def first_pixels(dataset, count):
    return [element[0].numpy() for element in itertools.islice(dataset, count)]


@pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (4, 2), (8, 8)])
@pytest.mark.parametrize("batch", [16, 21])
def test_the_pieces_of_a_step_are_the_batch(replicas, workers, batch):
    data = in_batches_of(batch)
    steps = 2 * data.steps_per_epoch
    whole = first_pixels(data.epochs(0, 2), steps)
    own = replicas // workers
    shares = [Share(first=own * worker, count=own, total=replicas) for worker in range(workers)]
    pieces = [
        list(itertools.islice(data.epochs(0, 2, share=share, class_weight=None), steps * own))
        for share in shares
    ]
    for step in range(steps):
        of_step = [piece for worker in pieces for piece in worker[step * own : (step + 1) * own]]
        real = [piece for piece in of_step if len(piece) == 2 or piece[2].numpy().any()]
        together = np.concatenate([piece[0].numpy() for piece in real])
        np.testing.assert_array_equal(together, whole[step])
        sizes = [len(piece[1]) for piece in of_step]
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= 1


@pytest.mark.parametrize("share", [None, Share(first=1, count=1, total=2)])
@pytest.mark.parametrize(("epoch", "step"), [(0, 3), (1, 0), (1, 2)])
def test_a_resumed_run_sees_what_an_uninterrupted_one_would(share, epoch, step):
    data = in_batches_of(16)
    begin = epoch * data.steps_per_epoch + step
    whole = first_pixels(data.epochs(0, 3, share=share), 3 * data.steps_per_epoch)
    rest = first_pixels(data.epochs(epoch, 3, share=share, skip=step), len(whole) - begin)
    for ours, theirs in zip(rest, whole[begin:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_validation_example_is_in_one_piece():
    data = in_batches_of(16)
    count = len(data.indices["validation"])
    steps = data.evaluation_steps("validation")
    found = 0
    for replica in range(8):
        share = Share(first=replica, count=1, total=8)
        for piece in itertools.islice(data.in_order("validation", share=share), steps):
            found += len(piece[1]) if len(piece) == 2 else int(piece[2].numpy().sum())
    assert found == count


def test_class_weights_come_with_the_examples():
    data = in_batches_of(16)
    weights = {0: 1.0, 1: 2.0, 2: 4.0}
    for _, labels, found in data.epochs(0, 1, class_weight=weights):
        np.testing.assert_array_equal(found, [weights[label] for label in labels.numpy()])
