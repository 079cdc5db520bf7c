"""TF Privacy's DPModel as the engine: it clips as ours does, gets our noise, and is refused where it clips wrongly."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import tfkit
from tests.privacy.models import L, attention, functional, shared, words
from tests.privacy.test_clipping import positions_that_cancel
from tests.privacy.test_step import element
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy import DPSGD, check, problems, step
from tfkit.privacy.clipping import clipped_sum, per_example_loss
from tfkit.privacy.dp_model import DPModelSum

DOCS = Path(__file__).parents[2] / "docs/manual/explanation/privacy.md"
ENGINE = {"engine": "tensorflow_privacy"}


def compiled(model, loss="sparse_categorical_crossentropy"):
    model.compile(keras.optimizers.SGD(1.0), loss)
    return model


def dense(*, through=L.Flatten, **settings):
    return functional((6,), L.Dense(5, **settings), through())


def table():
    inputs = keras.Input([7], dtype="int64")
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(L.Embedding(11, 8)(inputs))))


MODELS = {
    "dense": (lambda: dense(activation="tanh"), True),
    "embedding": (table, True),
    "convolution": (lambda: functional((6, 6, 2), L.Conv2D(4, 3, activation="relu")), False),
    "attention": (lambda: attention((4, 6)), False),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_sums_of_both_engines_are_equal(name):
    keras.utils.set_random_seed(1)
    build, in_registry = MODELS[name]
    model, chance = compiled(build(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)), np.random
    whole = model.inputs[0].dtype == tf.int64
    shape, labels = [9, *model.input_shape[1:]], chance.randint(0, 3, 9)
    features = chance.randint(0, 11, shape) if whole else chance.normal(size=shape).astype(np.float32)
    weights = np.array([1, 1, 0.5, 2, 1, 1, 1, 0, 0], np.float32)
    loss = per_example_loss(model)
    settings = {"per_example_loss": loss, "l2_norm_clip": 1.0}
    norms = clipped_sum(model, *map(tf.constant, (features, labels, weights)), **settings).norms.numpy()
    specs = [tf.TensorSpec([None, *value.shape[1:]], value.dtype) for value in (features, labels, weights)]
    for clip in (0.5 * norms[norms > 0].min(), np.median(norms[norms > 0]), 2 * norms.max()):
        settings["l2_norm_clip"] = float(clip)
        theirs = DPModelSum(model, **settings)
        assert theirs._model._enable_fast_peg_computation is in_registry
        sums = tf.function(theirs, input_signature=specs)(features, labels, weights)
        expected = clipped_sum(model, *map(tf.constant, (features, labels, weights)), **settings).gradients
        largest = max(np.abs(value).max() for value in expected)
        for one, two in zip(sums, expected, strict=True):
            np.testing.assert_allclose(one, two, atol=2e-6 * largest)


def test_the_noise_is_ours_and_divided_by_the_expected_batch():
    model = compiled(functional((64, 64, 3), L.Flatten()))
    before = model.get_weights()[0].copy()
    plan = DPSGD(noise_multiplier=2.0, l2_norm_clip=0.5, **ENGINE).plan(
        examples=1000, expected_batch_size=16, epochs=1
    )
    step.attach(model, plan)
    given = tf.zeros([24, 64, 64, 3]), tf.zeros([24], tf.int64), tf.zeros([24])
    model.fit(element(model, *given), verbose=0)
    noise = model.get_weights()[0] - before
    assert noise.std() == pytest.approx(2.0 * 0.5 / 16, rel=0.03)


def test_training_is_that_of_our_engine_and_the_statement_names_it(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, [90, 8, 8], np.uint8), np.arange(90) % 3
    splits = tfkit.from_arrays(images, labels, image_size=8, global_batch_size=16)

    def build_model():
        return compiled(functional((8, 8, 3), L.Flatten(), L.Dense(4, activation="relu")), LOGITS)

    weights = []
    for engine in ("tfkit", "tensorflow_privacy"):
        privacy = DPSGD(noise_multiplier=0.0, l2_norm_clip=0.1, deterministic_noise=True, engine=engine)
        kept = []
        run = tfkit.fit(
            lambda kept=kept: kept.append(build_model()) or kept[0], splits, run_dir=tmp_path / engine, epochs=1,
            verbose=0, strategy="one_device", privacy=privacy,
        )  # fmt: skip
        assert json.loads((run.path / "privacy.json").read_text())["engine"] == engine
        assert "loss" not in run.history.columns
        weights.append(np.concatenate([value.ravel() for value in kept[0].get_weights()]))
    np.testing.assert_allclose(*weights, atol=1e-6)
    assert np.abs(weights[0]).max() > 0


def test_the_program_of_the_docs_trains(tmp_path, monkeypatch, capsys):
    program = re.search(r"^```python\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)[1]
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/manual/explanation/privacy.md", "exec"), {})
    epsilon, accuracy = map(float, capsys.readouterr().out.splitlines()[-1].split())
    assert epsilon == 8.0
    assert accuracy > 0.5


def test_positions_that_cancel_each_other_do_not_make_a_gradient_look_short():
    model, batch, labels = positions_that_cancel()
    theirs = DPModelSum(compiled(model, LOGITS), per_example_loss=per_example_loss(model), l2_norm_clip=1.0)
    for start in range(len(batch)):
        alone = slice(start, start + 1)
        assert tf.linalg.global_norm(theirs(batch[alone], labels[alone], tf.ones(1))) < 1.0001


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
REFUSED = {
    "a layer used twice": (lambda: shared(L.Dense(5, activation="tanh"), (5,)), "used twice"),
    "a mask, which its registry forgets": (lambda: words(L.GlobalAveragePooling1D()), "used twice"),
    "an activation with weights": (lambda: dense(activation=L.PReLU()), "an activation weights"),
    "dropout": (lambda: dense(through=lambda: L.Dropout(0.5)), "draws random numbers"),
    "batch normalisation": (lambda: dense(through=L.BatchNormalization), "BatchNormalization"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_would_clip_wrongly_is_refused(name):
    build, reason = REFUSED[name]
    model = compiled(build(), LOGITS)
    with pytest.raises(PrivacyError, match=reason):  # all that `problems` says
        check(model, **ENGINE)
    if name != "batch normalisation":
        assert problems(model) == []


def test_a_loss_by_name_is_no_problem_and_what_needs_norms_is_refused():
    assert problems(compiled(functional((6,), L.Dense(5))), **ENGINE) == []
    for looking in ({"adaptive_clip_quantile": 0.5}, {"diagnostics": True}):
        with pytest.raises(ConfigError, match=next(iter(looking))):
            DPSGD(target_epsilon=3.0, **looking, **ENGINE)
