"""The Keras models of transfer learning: a head on features, a whole classifier, a small network from scratch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.data.splits import Splits
from tfkit.errors import CheckError, RunError
from tfkit.hub.encoders import Encoder, freeze
from tfkit.metrics import Evaluation, evaluation, to_probabilities
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.environment.stack import keras, tf

FILTERS = (16, 32, 64, 128)
CLASSIFIER = "classifier"
DROPOUT = 0.2
HIDDEN_DROPOUT = (0.4, 0.5)
HIDDEN_OF_TEXTS = 1024
"""Vectors of sentences tell classes apart by who their neighbours are: on the validation split of the docstrings a
linear layer reached 0.686, one of 1,024 units before it 0.788 (chosen there, among 512 to 2,048 and dropout of the
features of 0.2 to 0.5), TF-IDF and logistic regression 0.724."""
WARMUP_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Top:
    """What stands on the features, and what trains it.

    Attributes:
      logits: from features [batch, d] and the number of classes; its last layer is named "classifier".
      optimizer: from the peak of the learning rate, the number of steps and the model.
    """

    logits: Callable[[Any, int], Any]
    optimizer: Callable[[float, int, Any], Any]


def head(
    feature_size: int, classes: int, *, learning_rate: float, steps: int, top: Top | None = None
) -> keras.Model:
    """A top on features, compiled.

    Args:
      feature_size: length of a feature vector.
      classes: how many the model tells apart.
      learning_rate: the peak, see `schedule`.
      steps: of the whole training.
      top: `plain_top()` when left out.

    Returns:
      float32 [batch, feature_size] to logits float32 [batch, classes].
    """
    from tfkit.environment.stack import keras

    inputs = keras.Input([feature_size], name="features")
    top = top or plain_top()
    model = keras.Model(inputs, top.logits(inputs, classes))
    return compiled(model, top.optimizer(learning_rate, steps, model))


def plain_top(
    dropout: float = DROPOUT,
    *,
    warmup: float = WARMUP_SHARE,
    optimizer: str = "adam",
    layer_decay: float = 1.0,
    hidden: int = 0,
) -> Top:
    """Dropout and a dense layer, trained with `schedule` by `adam`, or by `sgd` with a momentum of 0.9.

    With `hidden` units there is a layer of them between, on features brought to one scale, with more dropout.
    With a `layer_decay` below 1 the layers of a transformer learn at rates of their own, see `LayerwiseAdam`.
    """
    from tfkit.environment.stack import keras

    layers = keras.layers

    def logits(features: Any, classes: int) -> Any:
        if hidden:
            even = layers.LayerNormalization(center=False, scale=False, name="even")(features)
            noisy = layers.Dropout(HIDDEN_DROPOUT[0], name="dropout_of_features")(even)
            features = layers.Dense(hidden, activation="relu", dtype="float32", name="hidden")(noisy)
        return _dense(
            layers.Dropout(HIDDEN_DROPOUT[1] if hidden else dropout, name="dropout")(features), classes
        )

    def optimize(peak: float, steps: int, model: keras.Model) -> Any:
        rate = learning_rate_schedule(peak, steps=steps, warmup=warmup)
        if layer_decay < 1:
            from tfkit.transfer import layerwise

            return layerwise.LayerwiseAdam(rate, shares=layerwise.shares(model, layer_decay))
        if optimizer == "adam":
            return keras.optimizers.Adam(rate)
        return keras.optimizers.SGD(rate, momentum=0.9)

    return Top(logits=logits, optimizer=optimize)


def private_top(mean: np.ndarray | None = None) -> Top:
    """For private training: centred features of length one, a dense layer of zeros without bias, momentum.

    An example's gradient is as long as its features: with equal lengths clipping treats all alike, and what all
    features share would use up most of the length.

    Args:
      mean: float32 [d], of features of length one, public or released with noise; None: each example's own numbers
        are centred, which costs no privacy and helps less.

    Source: Tramèr and Boneh 2021 (arXiv:2011.11660); De et al. 2022 (arXiv:2204.13650).
    """
    from tfkit.environment.stack import keras

    layers = keras.layers

    def logits(features: Any, classes: int) -> Any:
        if mean is None:
            centred = layers.LayerNormalization(center=False, scale=False, name="centred")(features)
        else:
            scaled = layers.UnitNormalization(name="length_one_before")(features)
            centred = layers.Normalization(mean=mean, variance=np.ones_like(mean), name="centred")(scaled)
        even = layers.UnitNormalization(name="length_one")(centred)
        return _dense(even, classes, kernel_initializer="zeros", use_bias=False)

    return Top(
        logits=logits,
        optimizer=lambda peak, steps, model: keras.optimizers.SGD(
            learning_rate_schedule(peak, steps=steps), momentum=0.9
        ),
    )


def whole_model(
    backbone: Encoder,
    classes: int,
    *,
    spec: tf.TensorSpec,
    learning_rate: float,
    steps: int,
    trainable: str,
    head: keras.Model | None = None,
    top: Top | None = None,
    precision: str = "float32",
) -> keras.Model:
    """Encoder and head as one compiled model.

    Batch normalisation stays in inference mode: its statistics are the backbone's, whatever the batch.

    Args:
      backbone: a bundled one becomes a functional model, any other a hub.KerasLayer.
      classes: how many the model tells apart.
      spec: of one example: of an image float32 [s, s, 3] in [0, 1], of a text a string.
      learning_rate: the peak, see `schedule`.
      steps: of this stage of the training.
      trainable: `none` (the head alone), `top` (the later half of a functional backbone too) or `all`.
      head: a trained model to start from: of `head`, or of `whole` for the same backbone.
      top: as in `head`.
      precision: Keras's dtype policy for what a functional backbone computes: `mixed_float16` is faster on a
        GPU. Weights and logits are float32 in any case.

    Returns:
      A batch of examples to logits float32 [batch, classes].

    Raises:
      CheckError: the backbone was to be trained and has nothing that can be.
    """
    from tfkit.environment.stack import keras

    # A hub.KerasLayer computes in what it was exported in.
    with _policy(precision if backbone.stages else "float32"):
        inputs, features = backbone.graph(spec, trainable=trainable)
    top = top or plain_top()
    model = keras.Model(inputs, top.logits(features, classes))
    of_top = keras.Model(features, model.output).trainable_variables
    if trainable != "none" and len(model.trainable_variables) <= len(of_top):
        raise CheckError(
            f"{backbone.handle} has no trainable weights: fine-tuning would train the head alone."
        )
    if head is not None:
        if len(head.weights) == len(model.weights):
            model.set_weights(head.get_weights())
        else:
            for layer in head.layers:
                if layer.weights:
                    model.get_layer(layer.name).set_weights(layer.get_weights())
    with _policy(precision):  # float16 gradients need an optimizer that scales the loss
        return compiled(model, top.optimizer(learning_rate, steps, model))


def learning_rate_schedule(peak: float, *, steps: int, warmup: float = WARMUP_SHARE) -> Any:
    """Learning rate: linear warm-up over a share of the steps, a tenth of them as a rule, then a cosine down to zero.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983); Goyal et al. 2017 (arXiv:1706.02677) for the warm-up.
    """
    from tfkit.environment.stack import keras

    rising = int(warmup * steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / 10 if rising else peak,
        decay_steps=max(steps - rising, 1),
        warmup_target=peak if rising else None,
        warmup_steps=rising,
    )


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    """What Keras makes in the block computes in this precision."""
    from tfkit.environment.stack import keras

    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def _dense(features: Any, classes: int, **settings: Any) -> Any:
    from tfkit.environment.stack import keras

    # float32 whatever the policy: a softmax of float16 logits loses small probabilities.
    return keras.layers.Dense(classes, dtype="float32", name=CLASSIFIER, **settings)(features)


def compiled(model: keras.Model, optimizer: Any) -> keras.Model:
    """The same model, compiled for logits and integer labels."""
    from tfkit.environment.stack import keras

    if keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained model and what it says of the test split.

    Attributes:
      model: images float32 [batch, s, s, 3] in [0, 1], or texts [batch], to logits [batch, classes].
      evaluation: on the test split.
      test_features: float32 [n, d], what its last layer sees of the test split, in the split's order.
    """

    model: keras.Model
    evaluation: Evaluation
    test_features: np.ndarray


def observe(model: keras.Model, splits: Splits) -> Classifier:
    """The test split through the model once: its probabilities, and what the last layer saw."""
    from tfkit.environment.stack import keras

    last = model.get_layer(CLASSIFIER)
    both = keras.Model(model.input, [last.input, last.output])
    features, logits = both.predict(splits.test, verbose=0)
    return Classifier(
        model=model,
        evaluation=evaluation(np.asarray(to_probabilities(logits, logits=True)), splits),
        test_features=np.asarray(features, np.float32),
    )


def small_cnn(
    *, classes: int, spec: tf.TensorSpec, learning_rate: float, steps: int, top: Top
) -> keras.Model:
    """Four convolutions, each of which halves the image, and a mean over what is left; 0.1 million weights.

    Without batch normalisation, whose statistics would depend on how a batch is dealt to replicas.

    Returns:
      Compiled: float32 [batch, s, s, 3] in [0, 1] to logits float32 [batch, classes].
    """
    from tfkit.environment.stack import keras

    layers = keras.layers
    images = keras.Input(spec.shape, name="images")
    values = layers.Rescaling(2.0, offset=-1.0, name="centred")(images)
    for place, filters in enumerate(FILTERS):
        values = layers.Conv2D(
            filters, 3, strides=2, padding="same", activation="relu", kernel_initializer="he_normal",
            name=f"convolution_{place}",
        )(values)  # fmt: skip
    features = layers.GlobalAveragePooling2D(name="mean")(values)
    model = keras.Model(images, top.logits(features, classes))
    return compiled(model, top.optimizer(learning_rate, steps, model))


def rebuild(run: Run, backbone: Encoder | None, splits: Splits) -> keras.Model:
    """The trained model of a run of images.

    Args:
      run: finished.
      backbone: that it is on; None: the small network that `train_distributed` trains from scratch.
      splits: that it was trained on.

    Returns:
      Uncompiled, float32 [batch, s, s, 3] in [0, 1] to logits [batch, classes]; flat where the backbone is bundled. All
      layers are trainable but batch normalisation, which stays in inference mode.

    Raises:
      RunError: what was exported is not this model.
    """
    # It is not trained as it is here.
    settings: dict[str, Any] = {"spec": splits.spec, "learning_rate": 1.0, "steps": 1}
    classes = len(splits.class_names)
    model = (
        small_cnn(classes=classes, top=plain_top(), **settings)
        if backbone is None
        else whole_model(backbone, classes, trainable="none", **settings)
    )
    stored: list[Any] = list(run.model.variables_of_model)
    shapes = [tuple(variable.shape) for variable in stored]
    if shapes != [tuple(variable.shape) for variable in model.variables]:
        raise RunError(
            f"{run.path} exported {len(shapes)} variables, which are not those of a classifier on"
            f" {backbone.handle if backbone else 'no backbone'}."
            "\n  It was made by another tfkit, or changed. Make the run anew."
        )
    model.set_weights([variable.numpy() for variable in stored])
    freeze(model, "all")
    return model
