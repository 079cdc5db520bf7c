"""The validator names what breaks an epsilon, all of it at once, and lets pass what does not."""

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf, tf_hub, tf_privacy
from tfkit.errors import PrivacyError
from tfkit.privacy import DPSGD, check, problems

L = keras.layers
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class BatchMean(L.Layer):
    def call(self, inputs):
        return inputs - tf.reduce_mean(inputs, 0)


def model(*layers, shape=(6,), loss=CROSS_ENTROPY, dtype="float32"):
    """With a head of zeros, behind which nothing could be seen."""
    inputs = keras.Input(shape, dtype=dtype)
    value = inputs
    for layer in layers:
        value = layer(value)
    made = keras.Model(inputs, L.Dense(3, kernel_initializer="zeros")(L.Flatten()(value)))
    made.compile("sgd", loss)
    return made


def adapted():
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=[20, 6]))
    return model(layer, L.Dense(4))


def hub_layer(tmp_path):
    inner = keras.Sequential([keras.Input([6]), L.Dense(4)])
    inner.save(tmp_path / "hub", save_format="tf")
    return model(tf_hub.KerasLayer(str(tmp_path / "hub"), trainable=True))


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def own_step():
    inputs = keras.Input([6])
    made = OwnStep(inputs, L.Dense(3)(inputs))
    made.compile("sgd", CROSS_ENTROPY)
    return made


def compiled_with(optimizer):
    made = model(L.Dense(4))
    made.compile(optimizer, CROSS_ENTROPY)
    return made


def tensorflow_privacy():
    optimizers = tf_privacy("optimizers.dp_optimizer_keras")
    return compiled_with(optimizers.DPKerasSGDOptimizer(l2_norm_clip=1.0, noise_multiplier=1.0))


def loss_scaled():
    return compiled_with(keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD()))


def all_frozen():
    made = model(L.Dense(4))
    made.trainable = False
    return made


def not_compiled():
    return keras.Sequential([keras.Input([6]), L.Dense(3)])


WRONG = {
    "batch normalisation": (
        lambda: model(L.Dense(4), L.BatchNormalization(name="bn")),
        "'bn' .*make_private_safe",
    ),
    "nested": (
        lambda: model(keras.Sequential([L.BatchNormalization(name="deep")])),
        "'deep' .*make_private_safe",
    ),
    "stateful": (lambda: stateful(), "'rnn' is stateful"),
    "adapted": (adapted, "was adapted"),
    "half precision": (lambda: model(L.Dense(4, dtype="mixed_float16")), "float16"),
    "double precision": (lambda: model(L.Dense(4, dtype="float64")), "float64"),
    "scaled loss": (loss_scaled, "LossScaleOptimizer"),
    "tensorflow-privacy": (tensorflow_privacy, "ordinary one"),
    "train_step": (own_step, "OwnStep has its own train_step"),
    "frozen": (all_frozen, "no trainable weights"),
    "not compiled": (not_compiled, "not compiled"),
    "unbuilt": (lambda: compiled(keras.Sequential([L.Dense(3)])), "shape of an example"),
    "one number": (lambda: model(loss=lambda y, p: tf.reduce_mean(p)), "gives one number"),
}


def compiled(made):
    made.compile("sgd", CROSS_ENTROPY)
    return made


def stateful():
    inputs = keras.Input(batch_shape=(3, 4, 2))
    return compiled(keras.Model(inputs, L.Dense(3)(L.GRU(3, stateful=True, name="rnn")(inputs))))


@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_an_epsilon_is_named_once(name):
    build, said = WRONG[name]
    with pytest.raises(PrivacyError, match=f"has a problem:\n  1. (.|\n)*{said}"):
        check(build())


def test_a_trainable_hub_layer_is_named_once(tmp_path):
    found = problems(hub_layer(tmp_path))
    assert len(found) == 1
    assert "hub.KerasLayer" in found[0]


def test_all_problems_come_at_once():
    made = model(L.Dense(4), L.BatchNormalization(), BatchMean(), loss=[])
    stop = keras.callbacks.EarlyStopping(monitor="loss")
    found = "\n".join(problems(made, callbacks=[stop]))
    for one in ("BatchNormalization", "another example of the batch", "no loss", "EarlyStopping"):
        assert one in found


def test_callbacks_that_look_at_training_examples_are_refused():
    made = model(L.Dense(4))
    allowed = [
        keras.callbacks.ModelCheckpoint("weights", monitor="loss"),
        keras.callbacks.ModelCheckpoint("weights", save_best_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor="val_loss"),
        keras.callbacks.TensorBoard("logs"),
        keras.callbacks.LambdaCallback(),
    ]
    assert problems(made, callbacks=allowed) == []
    refused = [
        keras.callbacks.ModelCheckpoint("weights", monitor="loss", save_best_only=True),
        keras.callbacks.ReduceLROnPlateau(monitor="accuracy"),
        keras.callbacks.EarlyStopping(),
        keras.callbacks.BackupAndRestore("backup"),
    ]
    for callback, said in zip(problems(made, callbacks=refused), refused, strict=True):
        assert callback.startswith(type(said).__name__)


def test_with_diagnostics_a_metric_is_one_number():
    class Scores(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="scores")
            self.seen = self.add_weight("seen", shape=[3])

        def update_state(self, labels, outputs, sample_weight=None):
            self.seen.assign(outputs[:, 0])

        def result(self):
            return tf.convert_to_tensor(self.seen)

    made = model(L.Dense(4))
    made.compile("sgd", CROSS_ENTROPY, metrics=["accuracy", Scores()])
    plans = [
        DPSGD(noise_multiplier=1.0, diagnostics=shown).plan(examples=100, expected_batch_size=10, epochs=1)
        for shown in (False, True)
    ]
    assert problems(made, plan=plans[0]) == []
    assert ["'scores'" in found for found in problems(made, plan=plans[1])] == [True]


def test_the_shape_of_an_example_builds_a_model_without_one():
    made = compiled(keras.Sequential([L.Dense(3)]))
    assert problems(made, example_spec=tf.TensorSpec([6])) == []
    assert made.input_shape == (3, 6) or made.built
    wrong = compiled(keras.Sequential([L.Conv2D(3, 2)]))
    assert "does not take examples of shape (6,)" in problems(wrong, example_spec=tf.TensorSpec([6]))[0]
