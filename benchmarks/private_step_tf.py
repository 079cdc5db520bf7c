"""The TensorFlow contestants of benchmarks/private_step.py: python benchmarks/private_step_tf.py ENGINE MODEL THREADS.

Each is a compiled tf_keras model whose own train function, the one `fit` calls, is called on an iterator over one
stored batch, repeated: neither reading data nor callbacks are measured, and every contestant has the same of the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from private_step_serve import BATCH, L2_NORM_CLIP, LEARNING_RATE, MODELS, NOISE_MULTIPLIER, batch, serve

from tfkit.data.splits import finish
from tfkit.environment.stack import keras, tf, tf_privacy

EXAMPLES = 60_000
DP_SGD = {"l2_norm_clip": L2_NORM_CLIP, "noise_multiplier": NOISE_MULTIPLIER}


def layers(name: str) -> list[Any]:
    """The layers of a model, by its name."""
    _, classes = MODELS[name]
    dense, conv, pool = keras.layers.Dense, keras.layers.Conv2D, keras.layers.MaxPool2D
    if name == "head":
        return [dense(classes)]
    if name == "mlp":
        return [dense(512, activation="relu"), dense(512, activation="relu"), dense(classes)]
    # The model of TensorFlow Privacy's tutorial.
    return [
        conv(16, 8, strides=2, padding="same", activation="relu"),
        pool(2, 1),
        conv(32, 4, strides=2, padding="valid", activation="relu"),
        pool(2, 1),
        keras.layers.Flatten(),
        dense(32, activation="relu"),
        dense(classes),
    ]


def functional(name: str, kind: Any = None, **settings: Any) -> Any:
    inputs = keras.Input(MODELS[name][0])
    outputs = inputs
    for layer in layers(name):
        outputs = layer(outputs)
    return (kind or keras.Model)(inputs=inputs, outputs=outputs, **settings)


def compiled(model: Any, optimizer: Any = None, reduction: str = "auto") -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
    model.compile(optimizer or keras.optimizers.SGD(LEARNING_RATE), loss)
    return model


def stock(name: str) -> tuple[Any, Any]:
    """Without privacy."""
    return compiled(functional(name)), batch(name)


def private(name: str, sizes: Sequence[int] = (BATCH,)) -> tuple[Any, Any]:
    """This package's, each step with noise of its own, on samples of the given sizes in turn."""
    from tfkit.privacy import DPSGD
    from tfkit.privacy.step import ROWS, attach, normal

    model = compiled(functional(name))
    plan = DPSGD(**DP_SGD, delta=1e-5).plan(examples=EXAMPLES, expected_batch_size=BATCH, epochs=15)
    attach(model, plan)
    numbers = sum(variable.shape.num_elements() for variable in model.trainable_variables) + 1
    features, labels = (np.concatenate([part, part]) for part in batch(name))

    def noise(step: Any) -> Any:
        return normal(numbers, epoch=0, step=int(step), replica=0, secret=bytes(32))

    def element(step: Any, size: Any) -> Any:
        padded = -(-size // ROWS) * ROWS
        vector = tf.ensure_shape(tf.numpy_function(noise, [step], tf.float32, stateful=False), [numbers])
        weights = tf.cast(tf.range(padded) < size, tf.float32)
        return tf.constant(features)[:padded], tf.constant(labels)[:padded], weights, vector

    sizes_in_turn = tf.data.Dataset.from_tensor_slices(tf.constant(sizes)).repeat()
    samples = tf.data.Dataset.zip((tf.data.Dataset.counter(), sizes_in_turn)).map(element, 2)
    return model, finish(samples)


def private_samples(name: str) -> tuple[Any, Any]:
    """As training takes them: Poisson samples of 60,000 examples, 256 of them expected."""
    return private(name, np.random.default_rng(0).binomial(EXAMPLES, BATCH / EXAMPLES, 500))


def tf_privacy_model(name: str) -> tuple[Any, Any]:
    """TF Privacy's Keras model: by its layer registry where that has all layers, else vectorised under XLA."""
    kind = tf_privacy("keras_models.dp_keras_model").DPModel
    if name == "cnn":
        return compiled(functional(name, kind, **DP_SGD, use_xla=True)), batch(name)
    registry = tf_privacy("fast_gradient_clipping.layer_registry").make_default_layer_registry()
    model = functional(name, kind, **DP_SGD, use_xla=False, layer_registry=registry)
    assert model._enable_fast_peg_computation
    return compiled(model), batch(name)


def tf_privacy_vectorized(name: str) -> tuple[Any, Any]:
    """TF Privacy's vectorised optimizer; it takes losses of single examples."""
    module = tf_privacy("optimizers.dp_optimizer_keras_vectorized")
    optimizer = module.VectorizedDPKerasSGDOptimizer(
        **DP_SGD, learning_rate=LEARNING_RATE, num_microbatches=BATCH
    )
    return compiled(functional(name), optimizer, "none"), batch(name)


def tf_privacy_optimizer(name: str) -> tuple[Any, Any]:
    """TF Privacy's optimizer of its tutorial."""
    module = tf_privacy("optimizers.dp_optimizer_keras")
    optimizer = module.DPKerasSGDOptimizer(**DP_SGD, learning_rate=LEARNING_RATE, num_microbatches=BATCH)
    return compiled(functional(name), optimizer, "none"), batch(name)


ENGINES: dict[str, Callable[[str], tuple[Any, Any]]] = {
    "tf_keras": stock,
    "tfkit": private,
    "tfkit, Poisson samples": private_samples,
    "TF Privacy DPModel": tf_privacy_model,
    "TF Privacy Vectorized": tf_privacy_vectorized,
    "TF Privacy DPKerasSGD": tf_privacy_optimizer,
}


def main() -> None:
    engine, name, threads = sys.argv[1:]
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    tf.config.threading.set_inter_op_parallelism_threads(int(threads))

    def build() -> Callable[[], None]:
        model, element = ENGINES[engine](name)
        stored = isinstance(element, tuple)
        iterator = iter(tf.data.Dataset.from_tensors(element).repeat() if stored else element)
        function = model.make_train_function()
        return lambda: function(iterator)

    serve(build)


if __name__ == "__main__":
    main()
