"""The validator names what breaks an epsilon, all of it at once and each once; nothing is left of the trial."""

import contextlib

import numpy as np
import pytest

from tests.privacy.models import Centred, Owning, subclassed
from tfkit.environment.foreign import random_generators
from tfkit.environment.stack import keras, tf, tf_hub, tf_privacy
from tfkit.errors import PrivacyError
from tfkit.privacy import check, make_private_safe, problems

L = keras.layers
CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class MovingMean(L.Layer):
    """Keeps a statistic, which it does not use in training."""

    def build(self, shape):
        self.mean = self.add_weight(name="mean", shape=shape[-1:], trainable=False)

    def call(self, inputs, training=False):
        if training:
            self.mean.assign(0.9 * self.mean + 0.1 * tf.reduce_mean(inputs, 0))
        return inputs


class Counter(L.Layer):
    """Keeps a number that knows nothing of the examples."""

    def build(self, shape):
        self.calls = self.add_weight(name="calls", shape=[], trainable=False)

    def call(self, inputs):
        self.calls.assign_add(1.0)
        return inputs


class Adds(L.Layer):
    def call(self, inputs):
        self.add_loss(tf.reduce_mean(inputs**2))
        return inputs


def share(inputs):
    return inputs / tf.cast(tf.shape(inputs)[0], tf.float32)


class Share(L.Layer):
    """Divides by the size of the batch, so that an example alone is another thing."""

    def build(self, shape):
        self.factor = self.add_weight(name="factor", shape=shape[-1:], initializer="ones")

    def call(self, inputs):
        return share(inputs * self.factor)


class OfBatch(L.Layer):
    """Minds the others of the batch while it is trained: their number, or, by chance, what they are."""

    def __init__(self, *, mixes=False):
        super().__init__()
        self.mixes = mixes

    def call(self, inputs, training=False):
        if not training:
            return inputs
        return inputs + tf.random.shuffle(inputs) if self.mixes else share(inputs)


@tf.custom_gradient
def with_small_gradients(inputs):
    return tf.identity(inputs), lambda gradients: tf.clip_by_norm(gradients, 0.01)


class Loop(L.Layer):
    """Has no weights, and a loop that AutoGraph must convert."""

    def call(self, inputs):
        for _ in tf.range(2):
            inputs = inputs * 1.1
        return inputs


class Unseeded(L.Layer):
    def call(self, inputs):
        chance = tf.py_function(np.random.default_rng().random, [], tf.float32)
        return tf.ensure_shape(inputs * chance, inputs.shape)


def model(*layers, shape=(6,), loss=CROSS_ENTROPY, dtype="float32"):
    """With a head of zeros, behind which nothing could be seen."""
    inputs = keras.Input(shape, dtype=dtype)
    value = inputs
    for layer in layers:
        value = layer(value)
    made = keras.Model(inputs, L.Dense(3, kernel_initializer="zeros")(L.Flatten()(value)))
    made.compile("sgd", loss)
    return made


def frozen(made):
    for layer in made.layers:
        layer.trainable = isinstance(layer, L.Dense)
    return made


FINE = {
    "mlp": lambda: model(L.Dense(4, "relu", kernel_regularizer="l2")),
    "dropout and noise": lambda: model(L.Dense(4), L.Dropout(0.5), L.GaussianNoise(0.1)),
    "random pixels": lambda: model(L.RandomTranslation(0.2, 0.2), L.RandomZoom(0.2), shape=(5, 5, 3)),
    "frozen batch normalisation": lambda: frozen(model(L.Dense(4), L.BatchNormalization())),
    "made safe": lambda: make_private_safe(model(L.Conv2D(8, 3), L.BatchNormalization(), shape=(5, 5, 3))),
    "attention": lambda: model(L.Conv1D(4, 3), L.LayerNormalization(), L.LSTM(3), shape=(5, 3)),
    "a number of its own": lambda: model(Counter(), L.Dense(4)),
    "given statistics": lambda: model(L.Normalization(mean=0.5, variance=0.1), L.Dense(4)),
    "words": lambda: model(L.Embedding(5, 4, mask_zero=True), L.GRU(3), shape=(7,), dtype="int64"),
    "subclassed": lambda: compiled(subclassed(Owning)),
    "a loop": lambda: model(L.Dense(4), Loop()),
    "given words": lambda: model(
        L.StringLookup(vocabulary=["a word"]), L.Embedding(3, 4), shape=(2,), dtype="string"
    ),
}


@pytest.mark.parametrize("name", FINE)
def test_what_keeps_the_examples_apart_passes_and_is_left_as_it_was(name):
    made = FINE[name]()
    layers = [layer for layer in made.submodules if hasattr(layer, "trainable")]
    before, flags = made.get_weights(), [layer.trainable for layer in layers]
    assert problems(made, example_spec=tf.TensorSpec([5]) if name == "subclassed" else None) == []
    for old, new in zip(before, made.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [layer.trainable for layer in layers] == flags


def adapted():
    layer = L.Normalization()
    layer.adapt(np.random.default_rng(0).normal(size=[20, 6]))
    return model(layer, L.Dense(4))


def copied(made):
    copy = keras.models.clone_model(made)
    copy.set_weights(made.get_weights())
    return compiled(copy)


def adapted_bins():
    layer = L.Discretization(num_bins=3)
    layer.adapt(np.random.default_rng(0).normal(size=[20, 6]))
    return model(layer, L.Embedding(3, 4))


def adapted_words():
    layer = L.StringLookup()
    layer.adapt(["a word", "a patient"])
    return model(layer, L.Embedding(3, 4), shape=(2,), dtype="string")


class OwnStep(keras.Model):
    def train_step(self, data):
        return super().train_step(data)


def own_step():
    inputs = keras.Input([6])
    return compiled(OwnStep(inputs, L.Dense(3)(inputs)))


def compiled(made, optimizer="sgd"):
    made.compile(optimizer, CROSS_ENTROPY)
    return made


def stateful():
    inputs = keras.Input(batch_shape=(3, 4, 2))
    return compiled(keras.Model(inputs, L.Dense(3)(L.GRU(3, stateful=True, name="rnn")(inputs))))


def tensorflow_privacy():
    optimizers = tf_privacy("optimizers.dp_optimizer_keras")
    return compiled(model(L.Dense(4)), optimizers.DPKerasSGDOptimizer(l2_norm_clip=1.0, noise_multiplier=1.0))


def loss_scaled():
    return compiled(model(L.Dense(4)), keras.mixed_precision.LossScaleOptimizer(keras.optimizers.SGD()))


def all_frozen():
    made = model(L.Dense(4))
    made.trainable = False
    return made


def not_compiled():
    return keras.Sequential([keras.Input([6]), L.Dense(3)])


def several():
    inputs = keras.Input([6])
    made = keras.Model(inputs, [L.Dense(3)(inputs), L.Dense(2)(inputs)])
    made.compile("sgd", CROSS_ENTROPY)
    return made


def paired(labels, outputs):
    return outputs[:, 0] - tf.reduce_mean(outputs[:, 0])


def balanced(labels, outputs):
    """Weighs each example by how many of its class are in the batch."""
    flat = tf.cast(tf.reshape(labels, [-1]), tf.int32)
    count = tf.gather(tf.math.bincount(flat, minlength=3), flat)
    return CROSS_ENTROPY.call(labels, outputs) / tf.cast(count, tf.float32)


def shared(labels, outputs):
    return CROSS_ENTROPY.call(labels, outputs) / tf.cast(tf.shape(outputs)[0], tf.float32)


WRONG = {
    "nested norm": (
        lambda: model(keras.Sequential([L.BatchNormalization(name="deep")])),
        "'deep' .*make_private_safe",
    ),
    "stateful": (stateful, "'rnn' is stateful"),
    "adapted": (adapted, "was adapted"),
    "adapted and copied": (lambda: copied(adapted()), "was adapted"),
    "adapted bins and copied": (lambda: copied(adapted_bins()), "was adapted"),
    "adapted words and copied": (lambda: copied(adapted_words()), "was adapted"),
    "half precision": (lambda: model(L.Dense(4, dtype="mixed_float16")), "float16"),
    "double precision": (lambda: model(L.Dense(4, dtype="float64")), "float64"),
    "scaled loss": (loss_scaled, "LossScaleOptimizer.*ordinary one"),
    "tensorflow-privacy": (tensorflow_privacy, "ordinary one"),
    "train_step": (own_step, "OwnStep has its own train_step"),
    "frozen": (all_frozen, "no trainable weights"),
    "not compiled": (not_compiled, "not compiled"),
    "unbuilt": (lambda: compiled(keras.Sequential([L.Dense(3)])), "shape of an example"),
    "one number": (lambda: model(loss=lambda y, p: tf.reduce_mean(p)), r"shape \(\)"),
    "mean over the batch": (lambda: model(L.Dense(4), Centred()), "another example of the batch"),
    "mean and dropout": (lambda: model(L.Dropout(0.5), Centred()), "another example of the batch"),
    "turned": (lambda: model(L.Lambda(lambda x: tf.reverse(x, [0]))), "another example of the batch"),
    "statistic": (lambda: model(MovingMean(), L.Dense(4)), "mean:0' takes in a statistic"),
    "no seed": (lambda: model(Unseeded(), L.Dense(4)), "no seed repeats"),
    "add_loss": (lambda: model(Adds(), L.Dense(4)), r"add_loss\(\)"),
    "activity": (
        lambda: model(L.Dense(4, activity_regularizer="l2", name="active")),
        "activity_regularizer of 'active'",
    ),
    "size of the batch": (lambda: model(Share(), L.Dense(4)), "number of examples in the batch"),
    "size of the batch, without weights": (lambda: model(L.Lambda(share)), "number of examples in the batch"),
    "size and random pixels": (
        lambda: model(L.RandomTranslation(0.2, 0.2), L.Lambda(share), shape=(5, 5, 3)),
        "number of examples in the batch",
    ),
    "size in training, and dropout": (
        lambda: model(L.Dense(4), L.Dropout(0.5), OfBatch()),
        "number of examples in the batch",
    ),
    "mixed by chance": (
        lambda: model(L.Dense(4), L.Dropout(0.5), OfBatch(mixes=True)),
        "another example of the batch",
    ),
    "gradient of the batch": (lambda: model(L.Dense(4), L.Lambda(with_small_gradients)), "custom_gradient"),
    "inner dropout": (lambda: model(L.LSTM(3, dropout=0.5, name="rnn"), shape=(4, 3)), "'rnn' .*random"),
    "several outputs": (several, "several outputs"),
    "loss of the batch": (lambda: model(loss=paired), "loss of one example changes"),
    "classes of the batch": (lambda: model(loss=balanced), "counts of its classes"),
    "mean of the batch": (lambda: model(loss=shared), "the number of its examples"),
    "one-hot": (lambda: model(loss="categorical_crossentropy"), "class numbers"),
    "broken": (lambda: model(L.Lambda(lambda x: tf.reshape(x, [4, 6]))), "cannot be tried"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_breaks_an_epsilon_is_named_once(name):
    build, said = WRONG[name]
    with pytest.raises(PrivacyError, match=f"has a problem:\n  1. (.|\n)*{said}"):
        check(build())


def test_a_trainable_hub_layer_is_named_once(tmp_path):
    keras.Sequential([keras.Input([6]), L.Dense(4)]).save(tmp_path / "hub", save_format="tf")
    (found,) = problems(model(tf_hub.KerasLayer(str(tmp_path / "hub"), trainable=True)))
    assert "hub.KerasLayer" in found


def test_all_problems_come_at_once():
    made = model(L.Dense(4), L.BatchNormalization(), Centred(), loss=[])
    stop = keras.callbacks.EarlyStopping(monitor="loss")
    found = "\n".join(problems(made, callbacks=[stop]))
    for one in ("BatchNormalization", "another example of the batch", "loss None", "EarlyStopping"):
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


def test_the_shape_of_an_example_builds_a_model_without_one():
    made = compiled(keras.Sequential([L.Dense(3)]))
    assert problems(made, example_spec=tf.TensorSpec([6])) == []
    assert made.input_shape == (3, 6) or made.built
    wrong = compiled(keras.Sequential([L.Conv2D(3, 2)]))
    assert "does not take examples of shape (6,)" in problems(wrong, example_spec=tf.TensorSpec([6]))[0]


@contextlib.contextmanager
def generators(enabled):
    """Random layers with generators, as tfkit.fit has them, so that a resumed run draws what another does."""
    experimental = keras.backend.experimental
    was = experimental.is_tf_random_generator_enabled()
    if enabled:
        experimental.enable_tf_random_generator()
    try:
        yield
    finally:
        if not was:
            experimental.disable_tf_random_generator()


def test_random_layers_with_generators_are_repeatable_and_left_as_they_were():
    with generators(True):
        made = model(L.Dense(4), L.Dropout(0.5))
        (state,) = [one.state for one in random_generators(made).values()]
        before = state.numpy()
        assert problems(made) == []
        np.testing.assert_array_equal(state, before)
        assert "another example" in problems(model(L.Dropout(0.5), Centred()))[0]


@pytest.mark.parametrize("enabled", [False, True])
def test_models_of_a_strategy_are_tried_in_its_replicas(enabled):
    """Their weights cannot be differentiated at from outside."""
    with generators(enabled):
        with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
            made = model(L.Dense(4), L.Dropout(0.5), L.Reshape([2, 2]), L.LSTM(3), L.LayerNormalization())
            mixing = model(L.Dropout(0.5), Centred())
            before = made.get_weights()
            assert problems(made) == []
            assert [found[:30] for found in problems(mixing)] == ["What it says of one example ch"]
        for old, new in zip(before, made.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
        assert problems(made) == []
