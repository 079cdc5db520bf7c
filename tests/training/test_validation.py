"""A model of one's own: whatever stock `fit` trains is trained and judged rightly, or refused before the first step."""

from __future__ import annotations

import runpy

import keras as keras_3
import numpy as np
import pytest

import tfkit
from tfkit import data
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, DataError, UsageError
from tfkit.run import Run
from tfkit.training import fit
from tfkit.training.stage import Stage
from tfkit.training.validation import digest_of_model

L = keras.layers
CROSS_ENTROPY = "sparse_categorical_crossentropy"


@pytest.fixture(scope="module")
def splits():
    """Two classes that differ by a bright square."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 2
    images = rng.integers(0, 90, (90, 8, 8), np.uint8)
    images[labels == 1, 2:6, 2:6] += 90
    return data.from_arrays(images, labels, class_names=["no", "yes"], image_size=8, global_batch_size=16)


def build(*layers, loss=CROSS_ENTROPY, shape=(8, 8, 3), optimizer="adam", **compiled):
    inputs = [] if shape is None else [keras.Input(shape)]
    model = keras.Sequential([*inputs, L.Flatten(), *(layers or [L.Dense(2, "softmax")])])
    model.compile(optimizer, loss, **compiled)
    return model


def functional(make, **compiled):
    inputs = keras.Input([8, 8, 3])
    model = keras.Model(inputs, make(inputs))
    model.compile("adam", CROSS_ENTROPY, **compiled)
    return model


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.flatten, self.dense = L.Flatten(), L.Dense(2, "softmax")

    def call(self, inputs, training=None):
        return {"classes": self.dense(self.flatten(inputs))}


def subclassed():
    model = Subclassed()
    model.compile("adam", CROSS_ENTROPY)
    return model


class OwnSteps(keras.Model):
    def _loss(self, batch):
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(batch[1], self(batch[0])))

    def train_step(self, batch):
        with tf.GradientTape() as tape:
            loss = self._loss(batch)
        self.optimizer.minimize(loss, self.trainable_variables, tape=tape)
        return {"loss": loss}

    def test_step(self, batch):
        return {"loss": self._loss(batch)}


def own_steps(kind=OwnSteps, **compiled):
    inputs = keras.Input([8, 8, 3])
    model = kind(inputs, L.Dense(2, "softmax")(L.Flatten()(inputs)))
    model.compile("adam", **compiled)
    return model


def mixed_precision():
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        return build()
    finally:
        keras.mixed_precision.set_global_policy("float32")


TRAINED = {
    "one sigmoid": lambda: build(
        L.Dense(1, "sigmoid"), loss="binary_crossentropy", metrics=["accuracy", keras.metrics.AUC()]
    ),
    "one logit": lambda: build(L.Dense(1), loss=keras.losses.BinaryCrossentropy(from_logits=True)),
    "further axes": lambda: build(L.Dense(2, "softmax"), L.Reshape([1, 2])),
    "subclassed, a dict": subclassed,
    "no Input": lambda: build(shape=None),
    "steps of its own": own_steps,
    "mixed precision": mixed_precision,
    "loss of Keras 3": lambda: build(L.Dense(2), loss=keras_3.losses.SparseCategoricalCrossentropy(True)),
    "batch normalisation, eagerly": lambda: build(
        L.BatchNormalization(), L.Dense(2, "softmax"), run_eagerly=True
    ),
    "several steps at a time": lambda: build(steps_per_execution=3, weighted_metrics=["accuracy"]),
}


@pytest.mark.parametrize("name", TRAINED)
def test_it_is_trained_evaluated_and_exported(name, splits, tmp_path):
    kept = []

    def build_model():
        kept.append(TRAINED[name]())
        return kept[-1]

    run = tfkit.fit(build_model, splits, run_dir=tmp_path, epochs=2, verbose=0, strategy="one_device")
    assert len(run.history) == 2
    indices = splits.indices["test"]
    (said,) = tf.nest.flatten(kept[0].predict(splits.test, verbose=0))
    said = said.reshape(len(indices), -1)
    logits = name in ("one logit", "loss of Keras 3")
    classes = said.argmax(1) if said.shape[1] == 2 else said[:, 0] > (0.0 if logits else 0.5)
    assert run.metrics["test/accuracy"] == np.mean(classes == splits.source.labels[indices])
    exported = run.model(tf.constant(splits.source.read(indices))).numpy()
    assert exported.shape == (len(indices), 2)
    np.testing.assert_allclose(exported.sum(axis=1), 1, atol=1e-5)
    assert (exported.argmax(1) == classes).all()
    assert run.metrics["export/agreement"] == 1.0


def test_what_looks_words_up_is_exported_with_its_table(tmp_path):
    rows = [
        f"{'good fine' if n % 2 else 'bad awful'} thing {n},{'pos' if n % 2 else 'neg'}" for n in range(60)
    ]
    (tmp_path / "texts.csv").write_text("text,label\n" + "\n".join(rows))

    def build_model():
        words = L.TextVectorization(vocabulary=["good", "bad", "thing"], output_sequence_length=4)
        above = [L.Embedding(6, 4), L.GlobalAveragePooling1D(), L.Dense(1, "sigmoid")]
        model = keras.Sequential([words, *above])
        model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
        return model

    splits = tfkit.load_texts(tmp_path / "texts.csv")
    run = tfkit.fit(build_model, splits, run_dir=tmp_path / "run", epochs=8, verbose=0, strategy="one_device")
    said = run.model(tf.constant(["good", "bad"])).numpy()
    assert said.argmax(1).tolist() == [run.labels.index("pos"), run.labels.index("neg")]


def two_inputs():
    inputs = [keras.Input([8, 8, 3], name="left"), keras.Input([8, 8, 3], name="right")]
    model = keras.Model(inputs, L.Dense(2, "softmax")(L.Flatten()(L.Add()(inputs))))
    model.compile("adam", CROSS_ENTROPY)
    return model


def of_inputs(*layers, **given):
    model = keras.Sequential([keras.Input(**given), *layers, L.Flatten(), L.Dense(2, "softmax")])
    model.compile("adam", CROSS_ENTROPY)
    return model


def calls_python(values):
    return tf.ensure_shape(tf.numpy_function(lambda x: 2 * x, [values], tf.float32), values.shape)


def after(function):
    return build(L.Lambda(function), L.Dense(2, "softmax"))


def with_a_strangers_variable():
    scale = tf.Variable(2.0, name="scale")
    return after(lambda v: v * scale)


class WithoutLoss(OwnSteps):
    def test_step(self, batch):
        return {"other": tf.constant(1.0)}


def of_keras_3():
    return keras_3.Sequential([keras_3.Input([8, 8, 3]), keras_3.layers.Dense(2, "softmax")])


def two_heads(x):
    flat = L.Flatten()(x)
    return [L.Dense(2, "softmax", name="left")(flat), L.Dense(2, "softmax", name="right")(flat)]


class Scores(keras.metrics.Metric):
    def __init__(self, name):
        super().__init__(name=name)
        self.seen = self.add_weight("seen", shape=[3])

    def update_state(self, labels, outputs, sample_weight=None):
        self.seen.assign(outputs[0, 0] + tf.zeros([3]))

    def reset_state(self):
        self.seen.assign(tf.zeros([3]))

    def result(self):
        return tf.convert_to_tensor(self.seen)


REFUSED = {
    "two outputs": (lambda: functional(two_heads), "gives left, right"),
    "two inputs": (two_inputs, "left float32.*, right float32"),
    "three units": (lambda: build(L.Dense(3, "softmax")), "2 units"),
    "no pooling": (lambda: functional(lambda x: L.Dense(2, "softmax")(x)), "GlobalAveragePooling2D"),
    "a metric of rows": (lambda: build(metrics=["accuracy", keras.metrics.AUC()]), "Leave out metrics"),
    "a metric of many numbers": (lambda: build(metrics=[Scores(name="scores")]), "scores has many numbers"),
    "one channel": (lambda: build(shape=(8, 8, 1)), r"takes \(8, 8, 1\)[\s\S]*keras.Input\(\[8, 8, 3\]\)"),
    "bytes": (
        lambda: of_inputs(L.Rescaling(1 / 255), shape=[8, 8, 3], dtype="uint8"),
        r"uint8[\s\S]*another dtype",
    ),
    "a fixed batch": (
        lambda: of_inputs(batch_shape=[16, 8, 8, 3]),
        r"\(16, 8, 8, 3\)[\s\S]*without batch size",
    ),
    "a mean over the batch": (lambda: after(lambda v: v - tf.reduce_mean(v, 0)), "over the first axis"),
    "noise in use": (lambda: after(lambda v: tf.nn.dropout(v, 0.5)), "random numbers"),
    "Python": (lambda: after(calls_python), "numpy_function"),
    "a stranger's variable": (with_a_strangers_variable, "scale:0"),
    "numbers that are none": (lambda: after(lambda v: v * np.nan), "not finite"),
    "no loss of validation": (lambda: own_steps(WithoutLoss, loss=CROSS_ENTROPY), "by 'loss'"),
    "not compiled": (lambda: keras.Sequential([L.Flatten(), L.Dense(2)]), "model.compile"),
    "of Keras 3": (of_keras_3, "Keras 3.*\n.*tfkit.environment.stack import keras"),
    "an optimizer of Keras 3": (lambda: build(optimizer=keras_3.optimizers.Adam()), "stack import keras"),
    "averaged weights": (
        lambda: build(optimizer=keras.optimizers.Adam(use_ema=True)),
        "not averaged[\\s\\S]*ema_overwrite_frequency",
    ),
    "nothing": (lambda: None, r"nothing \(None\)"),
    "a number": (lambda: 5, "an int"),
    "with arguments": (lambda units: build(), "functools.partial"),
}


def assert_refused(build_model, splits, run_dir, said, **settings):
    asked = {"epochs": 1, "verbose": 0, "strategy": "one_device", **settings}
    with pytest.raises(UsageError, match=said):
        tfkit.fit(build_model, splits, run_dir=run_dir, **asked)
    assert not (run_dir / "history.csv").exists()
    assert not list(run_dir.glob("backup/*/*"))


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_before_the_first_step(name, splits, tmp_path):
    build_model, said = REFUSED[name]
    assert_refused(build_model, splits, tmp_path, said)


CELL = """
from tfkit.environment.stack import keras, tf

class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1 / (1.0 + tf.cast(step, tf.float32))

def build(units):
    layers = [keras.Input([8, 8, 3]), keras.layers.Flatten(), keras.layers.Dense(units, lambda x: tf.nn.relu(x))]
    model = keras.Sequential([*layers, keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.{0}, "sparse_categorical_crossentropy")
    return model
"""


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("optimizer", ["SGD(Falling())", "Adam(0.1)", "legacy.SGD(Falling())"])
def test_a_model_that_is_made_again_is_the_same(optimizer, tmp_path):
    """In another cell of a notebook, where there is a GPU, with a schedule that cannot tell its settings."""
    digests = []
    for cell, units in (("1.py", 3), ("2.py", 3), ("3.py", 4)):
        (tmp_path / cell).write_text(CELL.replace("{0}", optimizer))
        model = runpy.run_path(str(tmp_path / cell))["build"](units)
        if hasattr(model.optimizer, "jit_compile"):
            model.optimizer.jit_compile = cell == "2.py"
        digests.append(digest_of_model(model))
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("given", [None, 5, "build_model", keras_3.Sequential([])])
def test_build_model_is_a_function(given, splits, tmp_path):
    assert_refused(given, splits, tmp_path, "build_model is .* must be a function")


def test_a_model_is_no_function_that_makes_one(splits, tmp_path):
    assert_refused(build(), splits, tmp_path, "build_model is a Sequential")


@pytest.mark.parametrize("callback", [keras.callbacks.EarlyStopping, keras_3.callbacks.History(), print])
def test_callbacks_are_of_tf_keras(callback, splits, tmp_path):
    assert_refused(build, splits, tmp_path, "callbacks holds", callbacks=[callback])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("epochs", value) for value in (0, "x", 2.5, True)],
        *[("seed", value) for value in (-1, 2**32, "x")],
        *[("patience", value) for value in (0, 1.5)],
        *[("verbose", value) for value in (3, "yes")],
        *[("class_weights", "x"), ("strategy", "nowhere"), ("augment", "light"), ("privacy", 3.0)],
        *[("cadence", 5), ("resume", "no"), ("output", "softmax")],
    ],
)
def test_arguments_are_refused_at_once(name, value, splits, tmp_path):
    with pytest.raises(ConfigError, match=name):
        tfkit.fit(build, splits, run_dir=tmp_path / "run", **{"epochs": 1, name: value})
    assert not (tmp_path / "run").exists()


def test_data_that_are_no_splits_are_refused(splits, tmp_path):
    with pytest.raises(DataError, match=r"from_arrays"):
        tfkit.fit(build, splits.train, run_dir=tmp_path, epochs=1)


def test_the_weights_of_the_last_epoch_remain_whatever_validation_says(splits, tmp_path):
    stage = Stage(epochs=2, keep="last", start_val_loss=0.0, verbose=0)
    with Run.create(tmp_path, config={}) as run:
        trained = fit.train(build, splits, stage, run=run, strategy="one_device")
    loss = trained.model.evaluate(splits.validation, verbose=0)
    assert loss == pytest.approx(trained.rows[-1]["val_loss"], rel=1e-5)


def test_trying_changes_nothing_and_what_it_traced_is_used(splits, tmp_path):
    def build_model():
        return build(L.BatchNormalization(), L.Dropout(0.3), L.Dense(2, "softmax"), metrics=["accuracy"])

    trained = []
    for outputs in (None, "auto"):
        with Run.create(tmp_path / str(outputs), config={}) as run:
            stage = Stage(epochs=2, seed=3, verbose=0)
            trained.append(
                fit.train(build_model, splits, stage, run=run, strategy="one_device", output=outputs)
            )
    for one, other in zip(trained[0].model.get_weights(), trained[1].model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        assert [row[name] for row in trained[0].rows] == [row[name] for row in trained[1].rows]
    assert trained[1].model.test_function.experimental_get_tracing_count() == 1
