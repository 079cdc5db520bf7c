"""The samples are those that the accountant assumes."""

import numpy as np
import pytest
from scipy import stats

from tfkit.data import from_arrays
from tfkit.environment.stack import tf
from tfkit.privacy import DPSGD
from tfkit.privacy.step import normal, sample, sampled_batches

SECRET = bytes(range(16))
EXAMPLES = 200


def plan(batch=50, epochs=1, sampler="poisson"):
    asked = DPSGD(noise_multiplier=1.0, sampler=sampler, delta=1e-4)
    return asked.plan(examples=EXAMPLES, expected_batch_size=batch, epochs=epochs)


def drawn(steps=2000, **settings):
    """Who is in which step: bool [steps, examples]."""
    taken = np.zeros([steps, EXAMPLES], bool)
    for step in range(steps):
        taken[step, sample(EXAMPLES, plan(), epoch=0, step=step, secret=SECRET, **settings)] = True
    return taken


def test_each_example_is_in_each_step_by_chance_and_by_itself():
    taken = drawn()
    probability, spread = 0.25, np.sqrt(0.25 * 0.75 / 2000)
    assert taken.mean() == pytest.approx(probability, abs=4 * spread / np.sqrt(EXAMPLES))
    assert np.abs(taken.mean(0) - probability).max() < 4.5 * spread
    # The sizes of samples are binomial: a fixed size would be another mechanism.
    assert taken.sum(1).var() == pytest.approx(EXAMPLES * 0.25 * 0.75, rel=0.15)
    together = np.corrcoef(taken.T.astype(float)) - np.eye(EXAMPLES)
    assert np.abs(together).max() < 0.13
    over_time = [np.corrcoef(taken[:-1, place], taken[1:, place])[0, 1] for place in range(EXAMPLES)]
    assert np.abs(over_time).max() < 0.13


def test_replicas_own_their_examples_and_together_draw_as_one():
    parts = [drawn(500, replica=replica, count=3) for replica in range(3)]
    for replica, part in enumerate(parts):
        assert set(np.flatnonzero(part.any(0)) % 3) == {replica}
    assert np.sum(parts, axis=0).max() == 1
    assert np.mean(np.sum(parts, axis=0)) == pytest.approx(0.25, abs=0.01)


def test_chance_follows_from_secret_epoch_and_step():
    def at(**changes):
        settings = {"epoch": 1, "step": 2, "secret": SECRET, **changes}
        return tuple(sample(EXAMPLES, plan(), **settings))

    assert at() == at()
    assert len({at(), at(epoch=2), at(step=3), at(secret=SECRET[::-1])}) == 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shuffled_epochs_see_each_example_once(count):
    """Also where the replicas are those of several processes, each of which has a secret of its own."""
    shuffled = plan(batch=30, sampler="shuffled")
    secrets = [bytes([replica, *SECRET]) for replica in range(count)]
    for epoch in range(2):
        settings = {"epoch": epoch, "count": count}
        steps = [
            [
                position
                for replica, secret in enumerate(secrets)
                for position in sample(
                    EXAMPLES, shuffled, step=step, replica=replica, secret=secret, **settings
                )
            ]
            for step in range(shuffled.steps_per_epoch)
        ]
        assert list(map(len, steps)) == [30] * 6 + [20]
        assert sorted(np.concatenate(steps)) == list(range(EXAMPLES))
        assert steps[0] != sorted(steps[0])


@pytest.mark.parametrize("batch", [1, 50])
def test_elements_are_samples_padded_by_zeros_of_weight_zero_with_the_noise_of_their_step(batch):
    images = np.random.default_rng(0).integers(1, 256, [290, 8, 8, 3]).astype(np.uint8)
    splits = from_arrays(images, np.arange(290) % 5, image_size=8)
    training = splits.indices["train"]
    own = DPSGD(noise_multiplier=1.0, delta=1e-4).plan(
        examples=len(training), expected_batch_size=batch, epochs=2
    )
    strategy = tf.distribute.get_strategy()
    settings = {"strategy": strategy, "epochs": (1, 2), "secret": SECRET, "weights": 7}
    elements = list(sampled_batches(splits, own, **settings))
    assert len(elements) == own.steps_per_epoch
    for step, (features, labels, weights, noise) in enumerate(elements):
        np.testing.assert_array_equal(noise, normal(8, epoch=1, step=step, replica=0, secret=SECRET))
        real = weights.numpy() == 1
        expected = training[sample(len(training), own, epoch=1, step=step, secret=SECRET)]
        np.testing.assert_array_equal(labels.numpy()[real], splits.source.labels[expected])
        pixels = features.numpy()
        np.testing.assert_allclose(pixels[real] * 255, splits.source.read(expected), atol=1e-3)
        assert len(features) == len(labels) == -(-len(expected) // 8) * 8
        assert not pixels[~real].any()
        assert set(weights.numpy()) <= {0.0, 1.0}


def at(numbers=2**20, **place):
    return normal(numbers, **{"epoch": 0, "step": 0, "replica": 0, "secret": SECRET, **place})


def test_the_noise_is_normal_in_its_moments_its_whole_and_its_tail():
    noise = np.concatenate([at(step=step) for step in range(2)]).astype(np.float64)
    count = len(noise)
    for power, expected in enumerate((0, 1, 0, 3, 0, 15), 1):
        spread = np.sqrt(stats.norm.moment(2 * power) - expected**2)
        assert abs((noise**power).mean() - expected) < 4.5 * spread / np.sqrt(count), power
    assert stats.kstest(noise, "norm").pvalue > 1e-4
    for bound in (2, 3, 4, 4.5):
        beyond, chance = (np.abs(noise) > bound).sum(), 2 * stats.norm.sf(bound)
        assert stats.binomtest(int(beyond), count, chance).pvalue > 1e-4, bound
    # The two of a pair, and neighbours, know nothing of each other, nor of each other's size.
    for lag in (1, 8192):
        for of in (noise, noise**2):
            assert abs(np.corrcoef(of[lag:], of[:-lag])[0, 1]) < 4.5 / np.sqrt(count)


def test_the_tail_is_as_long_as_the_smallest_uniform_number_allows(monkeypatch):
    class Smallest(np.random.Generator):
        def random(self, out, dtype=np.float64):
            out[:] = 1 - 2.0**-53 if dtype is np.float64 else 0.0

    monkeypatch.setattr(np.random, "Generator", Smallest)
    np.testing.assert_allclose(at(4), [np.sqrt(106 * np.log(2))] * 2 + [0.0] * 2, rtol=1e-6)


def test_noise_follows_from_secret_epoch_step_and_replica_and_is_nowhere_the_same():
    np.testing.assert_array_equal(at(1001), at(1001))
    places = [{}, {"epoch": 1}, {"step": 1}, {"replica": 1}, {"secret": SECRET[::-1]}]
    drawn = np.stack([at(40_001, **place) for place in places])
    assert len(np.unique(drawn.ravel())) > 0.99 * drawn.size
    assert np.abs(np.corrcoef(drawn) - np.eye(len(places))).max() < 4.5 / np.sqrt(40_001)
