"""Pieces of batches: all examples once, whatever the replicas; the same order, from whatever step."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tfkit.data import from_arrays
from tfkit.data.splits import Share


def splits(batch):
    images = np.arange(90 * 64, dtype=np.uint32).reshape(90, 8, 8).astype(np.uint8)
    return from_arrays(images, np.arange(90) % 3, image_size=8, global_batch_size=batch)


def first_pixels(dataset, count):
    return [element[0].numpy() for element in itertools.islice(dataset, count)]


@pytest.mark.parametrize(("replicas", "workers"), [(2, 1), (4, 2), (8, 8)])
@pytest.mark.parametrize("batch", [16, 21])
def test_the_pieces_of_a_step_are_the_batch(replicas, workers, batch):
    data = splits(batch)
    steps = 2 * data.steps_per_epoch
    whole = first_pixels(data.epochs(0, 2), steps)
    own = replicas // workers
    shares = [Share(first=own * worker, own=own, of=replicas) for worker in range(workers)]
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


def test_a_step_can_be_begun_at(tmp_path):
    data = splits(16)
    for share in (None, Share(first=1, own=1, of=2)):
        whole = first_pixels(data.epochs(0, 2, share=share), 8)
        rest = first_pixels(data.epochs(0, 2, share=share, skip=3), 5)
        for ours, theirs in zip(rest, whole[3:], strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_every_validation_example_is_in_one_piece():
    data = splits(16)
    count = len(data.indices["validation"])
    steps = data.evaluation_steps("validation")
    found = 0
    for replica in range(8):
        share = Share(first=replica, own=1, of=8)
        for piece in itertools.islice(data.in_order("validation", share=share), steps):
            found += len(piece[1]) if len(piece) == 2 else int(piece[2].numpy().sum())
    assert found == count


def test_class_weights_come_with_the_examples():
    data = splits(16)
    weights = {0: 1.0, 1: 2.0, 2: 4.0}
    for _, labels, found in data.epochs(0, 1, class_weight=weights):
        np.testing.assert_array_equal(found, [weights[label] for label in labels.numpy()])
