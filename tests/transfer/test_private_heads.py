"""The private head: its learning rate, and that benchmarks/private_heads.py trains it as the recipe does."""

import numpy as np
import pytest

from benchmarks.private_heads import SHARE, Problem, covariance, descend
from recipes import train_private
from tfkit import hub
from tfkit.distribution import strategies
from tfkit.environment.stack import keras
from tfkit.privacy import noise_for_share
from tfkit.run import Run
from tfkit.transfer.models import CLASSIFIER
from tfkit.transfer.private import final_share, plan_training, train_private_head
from tfkit.transfer.train import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A head on 300 digits, with clipping and without noise, and what it was trained on."""
    folder = tmp_path_factory.mktemp("heads")
    config = train_private.Config(
        dataset="digits", model_handle="efficientnet-lite0", image_size=32, noise_multiplier=0.0, epochs=20,
        run_dir=folder,
    )  # fmt: skip
    encoder, splits = load(config)
    few = splits.replace(indices={**splits.indices, "train": splits.indices["train"][:300]})
    features = hub.extract(encoder, few).splits
    with Run.create(folder / "run", config={}) as run:
        strategy = strategies.strategy("one_device")
        head = train_private_head(run, encoder, features, config, strategy=strategy, verbose=0)[0].model
    last = keras.Model(head.input, head.get_layer(CLASSIFIER).input)
    train = features.indices["train"]
    rows = last.predict(features.source.read(train), verbose=0)
    _, _, rate, plan = plan_training(config, features, encoder)
    return head.get_layer(CLASSIFIER).get_weights()[0], (rows, features.source.labels[train], plan, rate)


def test_the_benchmark_trains_as_the_recipe_does(trained):
    weights, (rows, labels, plan, rate) = trained
    again = descend(rows[:, None], labels, plan, rate, np.random.default_rng(0), final_share=1.0)
    np.testing.assert_allclose(again, weights, atol=1e-3 * np.abs(weights).max())
    decayed = descend(rows[:, None], labels, plan, rate, np.random.default_rng(0), final_share=0.0)
    assert np.abs(decayed - weights).max() > 0.05 * np.abs(weights).max()


def test_the_gradients_of_views_are_averaged_before_they_are_cut(trained):
    """Of equal views that is the gradient of one; of opposite ones, whose mean is nothing, there is no step."""
    weights, (rows, labels, plan, rate) = trained
    views = np.repeat(rows[:, None], 3, axis=1)
    again = descend(views, labels, plan, rate, np.random.default_rng(0), final_share=1.0)
    np.testing.assert_allclose(again, weights, atol=1e-3 * np.abs(weights).max())
    opposite = np.stack([rows, -rows], axis=1)
    none = descend(opposite, labels, plan, rate, np.random.default_rng(0), final_share=1.0)
    assert np.abs(none).max() < 1e-3 * np.abs(weights).max()


def test_the_noise_on_a_covariance_is_that_of_its_sensitivity(trained):
    """The upper triangle, off-diagonal numbers times sqrt(2), is a vector of which an example moves a length of 1."""
    _, (rows, labels, plan, rate) = trained
    rows = rows[:, :200]
    problem = Problem(rows, rows, None, labels, labels, plan, plan, once=1e4, rate=rate, final_share=1.0)
    values, vectors, reach = covariance(problem, np.random.default_rng(0))
    deviation = noise_for_share(1e4, SHARE)
    assert reach == pytest.approx(deviation * 20)
    assert values.max() == pytest.approx(reach, rel=0.1), "beside so much noise the rows are nothing"
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(200), atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "handle", "expected"),
    [
        ({"model_handle": "efficientnet-lite0"}, "efficientnet-lite0", 1.0),
        ({"model_handle": "efficientnet-lite0", "task": "labels"}, "efficientnet-lite0", 0.0),
        ({"model_handle": "scattering"}, "scattering", 0.0),
        ({"dataset": "sentiment"}, "minilm-l6-v2", 0.0),
    ],
)
def test_the_rate_stays_where_that_was_measured_to_be_better(settings, handle, expected):
    assert final_share(hub.load_model(handle), train_private.Config(**settings)) == expected
