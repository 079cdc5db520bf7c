"""Build the Keras models of transfer learning: a head on features, a whole classifier, a small network from scratch."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tfkit.calibration import temperature_of
from tfkit.data.splits import Splits
from tfkit.environment import stack
from tfkit.environment.timeline import stage
from tfkit.errors import RunError
from tfkit.hub.encoders import Encoder, freeze
from tfkit.metrics import Evaluation, evaluate, evaluation, gives_logits, largest_difference
from tfkit.run import CALIBRATION, SAVED_MODEL, Run
from tfkit.tasks import CLASSES, Classes
from tfkit.text.tokenizers import Tokenizer
from tfkit.training.export import Frozen
from tfkit.training.stage import Trained

FILTERS = (16, 32, 64, 128)
CLASSIFIER = "classifier"
DIMENSION = 64
"""Numbers that the light model learns for a piece of a text."""
DROPOUT = 0.2
HIDDEN_DROPOUT = (0.4, 0.5)
HIDDEN_OF_TEXTS = 1024
"""Vectors of sentences tell classes apart by who their neighbours are: on the validation split of the docstrings a
linear layer reached 0.686, one of 1,024 units before it 0.788 (chosen there, among 512 to 2,048 and dropout of the
features of 0.2 to 0.5), TF-IDF and logistic regression 0.724."""
WARMUP_SHARE = 0.1
TOLERANCE = 1e-3


class Top(NamedTuple):
    """Hold what stands on the features, and what trains it.

    Attributes:
      logits: from features [batch, d] and the number of classes; its last layer is named "classifier".
      optimizer: of the model.
      task: what the labels mean: it decides the loss.
    """

    logits: Callable[[Any, int], Any]
    optimizer: Callable[[Any], Any]
    task: Classes = CLASSES

    def model(self, inputs: Any, features: Any, classes: int) -> stack.keras.Model:
        """Return the compiled model from a Keras input, by its features, to logits."""
        model = stack.keras.Model(inputs, self.logits(features, classes))
        return compile_model(model, self.optimizer(model), task=self.task)


def plain_top(
    learning_rate: Any = 1.0,
    steps: int = 1,
    *,
    dropout: float | None = None,
    warmup: float = WARMUP_SHARE,
    optimizer: str = "adam",
    layer_decay: float = 1.0,
    hidden: int = 0,
    task: Classes = CLASSES,
) -> Top:
    """Return dropout and a dense layer, trained with `learning_rate_schedule`.

    Args:
      learning_rate: the peak, or a schedule of Keras.
      steps: of the whole training.
      dropout: of what the last layer gets; None: 0.2, or 0.5 behind a layer between.
      warmup: share of the steps over which the learning rate rises.
      optimizer: "adam", or "sgd" with a momentum of 0.9.
      layer_decay: below 1 the layers of a transformer learn at rates of their own, each at this share of the one above.
      hidden: units of a layer between, on features brought to one scale, with more dropout; 0: none.
      task: what the labels mean.
    """
    layers = stack.keras.layers

    def logits(features: Any, classes: int) -> Any:
        if hidden:
            even = layers.LayerNormalization(center=False, scale=False, name="even")(features)
            noisy = layers.Dropout(HIDDEN_DROPOUT[0], name="dropout_of_features")(even)
            features = layers.Dense(hidden, activation="relu", dtype="float32", name="hidden")(noisy)
        default = HIDDEN_DROPOUT[1] if hidden else DROPOUT
        noisy = layers.Dropout(default if dropout is None else dropout, name="dropout")(features)
        return task.finish(_add_dense(noisy, task.units(classes)), classes)

    def optimize(model: stack.keras.Model) -> Any:
        rate = learning_rate
        if not isinstance(rate, stack.keras.optimizers.schedules.LearningRateSchedule):
            rate = learning_rate_schedule(rate, steps=steps, warmup=warmup)
        if layer_decay < 1:
            return _make_layerwise_adam(rate, _compute_shares(model, layer_decay))
        if optimizer == "adam":
            return stack.keras.optimizers.Adam(rate)
        return stack.keras.optimizers.SGD(rate, momentum=0.9)

    return Top(logits, optimize, task)


def private_top(
    learning_rate: float = 1.0,
    steps: int = 1,
    *,
    mean: np.ndarray | None = None,
    final_share: float = 0.0,
    task: Classes = CLASSES,
) -> Top:
    """Return a private top: centred features of length one, a dense layer of zeros without bias, momentum.

    An example's gradient is as long as its features: with equal lengths clipping treats all alike, and what all
    features share would use up most of the length.

    Args:
      learning_rate: the peak, see `learning_rate_schedule`.
      steps: of the whole training.
      mean: float32 [d], of features of length one, public or released with noise; None: each example's own numbers
        are centred, which costs no privacy and helps less.
      final_share: of the peak, that is left of the learning rate at the end.
      task: what the labels mean.

    Source: Tramèr and Boneh 2021 (arXiv:2011.11660); De et al. 2022 (arXiv:2204.13650).
    """
    layers = stack.keras.layers

    def logits(features: Any, classes: int) -> Any:
        if mean is None:
            centred = layers.LayerNormalization(center=False, scale=False, name="centred")(features)
        else:
            scaled = layers.UnitNormalization(name="length_one_before")(features)
            centred = layers.Normalization(mean=mean, variance=np.ones_like(mean), name="centred")(scaled)
        even = layers.UnitNormalization(name="length_one")(centred)
        raw = _add_dense(even, task.units(classes), kernel_initializer="zeros", use_bias=False)
        return task.finish(raw, classes)

    def optimize(model: stack.keras.Model) -> Any:
        rate = learning_rate_schedule(learning_rate, steps=steps, final_share=final_share)
        return stack.keras.optimizers.SGD(rate, momentum=0.9)

    return Top(logits, optimize, task)


def head(feature_size: int, classes: int, top: Top) -> stack.keras.Model:
    """Return a top on features alone: float32 [batch, feature_size] to logits float32 [batch, classes], compiled."""
    inputs = stack.keras.Input([feature_size], name="features")
    return top.model(inputs, inputs, classes)


def light(
    tokenizer: Tokenizer, classes: int, top: Top, *, dimension: int = DIMENSION, length: int | None = None
) -> stack.keras.Model:
    """Return the mean of what is learned for each piece of a text, and a top on it, compiled.

    With the 4,000 pieces of `build_vocabulary` and the dimension here its .tflite has 1.8 MB, tokenizer included.

    Args:
      tokenizer: of the texts.
      classes: how many the model tells apart.
      top: what stands on the mean; 3e-3 is a good peak of its learning rate.
      dimension: numbers that are learned for a piece.
      length: to which all texts are filled up; None: to the longest of the batch. Private training needs one.

    Returns:
      UTF-8 strings [b] to logits float32 [b, classes].
    """
    from tfkit.text.layers import MaskedMean, Tokens

    texts = stack.keras.Input([], dtype=stack.tf.string, name="texts")
    tokens = Tokens(tokenizer, length=length)(texts)
    pieces = stack.keras.layers.Embedding(tokenizer.size, dimension, name="embedding")
    features = MaskedMean(name="mean")(pieces(tokens["input_word_ids"]), mask=tokens["input_mask"])
    return top.model(texts, features, classes)


def small_cnn(*, classes: int, spec: stack.tf.TensorSpec, top: Top) -> stack.keras.Model:
    """Return four convolutions, each of which halves the image, and a mean over what is left; 0.1 million weights.

    Without batch normalisation, whose statistics would depend on how a batch is dealt to replicas.

    Returns:
      Compiled: float32 [batch, s, s, 3] in [0, 1] to logits float32 [batch, classes].
    """
    layers = stack.keras.layers
    images = stack.keras.Input(spec.shape, name="images")
    values = layers.Rescaling(2.0, offset=-1.0, name="centred")(images)
    for place, filters in enumerate(FILTERS):
        values = layers.Conv2D(
            filters, 3, strides=2, padding="same", activation="relu", kernel_initializer="he_normal",
            name=f"convolution_{place}",
        )(values)  # fmt: skip
    return top.model(images, layers.GlobalAveragePooling2D(name="mean")(values), classes)


@stage("model", "Building the model")
def whole_model(
    backbone: Encoder,
    *,
    classes: int,
    spec: stack.tf.TensorSpec,
    top: Top,
    trainable: str = "none",
    head: stack.keras.Model | None = None,
    precision: str = "float32",
    base: stack.keras.Model | None = None,
) -> stack.keras.Model:
    """Return encoder and head as one compiled model.

    Batch normalisation stays in inference mode: its statistics are the backbone's, whatever the batch.

    Args:
      backbone: a bundled one becomes a functional model, any other a hub.KerasLayer.
      classes: how many the model tells apart.
      spec: of one example: of an image float32 [s, s, 3] in [0, 1], of a text a string.
      top: what stands on it, and what trains this stage.
      trainable: `none` (the head alone), `top` (the later half of a functional backbone too) or `all`.
      head: a trained model to start from: of `head`, or of this function for the same backbone.
      precision: Keras's dtype policy for what a functional backbone computes: `mixed_float16` is faster on a
        GPU. Weights and logits are float32 in any case.
      base: the flat backbone itself, where there is one already: of `hub.Extraction`.

    Returns:
      A batch of examples to logits float32 [batch, classes].

    Raises:
      HubError: the backbone was to be trained and has nothing that can be.
    """
    # A hub.KerasLayer computes in what it was exported in.
    with _policy(precision if backbone.stages else "float32"):
        inputs, features = backbone.graph(spec, trainable=trainable, base=base)
    model = stack.keras.Model(inputs, top.logits(features, classes))
    if head is not None:  # its weights are the last ones, or all
        trained = head.get_weights()
        model.set_weights([*model.get_weights()[: -len(trained)], *trained])
    with _policy(precision):  # float16 gradients need an optimizer that scales the loss
        return compile_model(model, top.optimizer(model), task=top.task)


def learning_rate_schedule(
    peak: float, *, steps: int, warmup: float = WARMUP_SHARE, final_share: float = 0.0
) -> Any:
    """Return a learning rate: linear warm-up over a share of the steps, a tenth as a rule, then a cosine down to zero,
    or to a share of the peak: with 1 it stays there.

    Source: Loshchilov and Hutter 2017 (arXiv:1608.03983); Goyal et al. 2017 (arXiv:1706.02677) for the warm-up.
    """
    return _schedule(peak, *_split_steps(steps, warmup), final_share)


def open_schedule(peak: float) -> Any:
    """Return a `learning_rate_schedule` whose steps are variables: `set_steps` says how many when they are known."""
    return _schedule(peak, *(stack.tf.Variable(1, trainable=False, dtype=stack.tf.int64) for _ in range(2)))


def set_steps(schedule: Any, steps: int, *, warmup: float = WARMUP_SHARE) -> None:
    """Spread an `open_schedule` over so many steps, also when what it trains is traced already."""
    variables = schedule.warmup_steps, schedule.decay_steps
    for variable, value in zip(variables, _split_steps(steps, warmup), strict=True):
        variable.assign(value)


def _schedule(peak: float, warmup_steps: Any, decay_steps: Any, final_share: float = 0.0) -> Any:
    return stack.keras.optimizers.schedules.CosineDecay(
        peak / 10, decay_steps=decay_steps, alpha=final_share, warmup_target=peak, warmup_steps=warmup_steps
    )


def _split_steps(steps: int, warmup: float) -> tuple[int, int]:
    warmup_steps = int(warmup * steps)
    return warmup_steps, max(steps - warmup_steps, 1)


def _make_layerwise_adam(learning_rate: Any, shares: Mapping[str, float]) -> Any:
    """Return stock Adam, of whose step each variable takes its share: name to [0, 1], 1 for those not named.

    Source: Howard and Ruder 2018 (arXiv:1801.06146), "discriminative fine-tuning".
    """

    class LayerwiseAdam(stack.keras.optimizers.Adam):
        """Adam that goes back by what is not the variable's share of a step."""

        def update_step(self, gradient: Any, variable: Any) -> None:
            value = stack.tf.identity(variable)
            super().update_step(gradient, variable)
            if (share := shares.get(variable.name, 1.0)) < 1:
                variable.assign(value + share * (variable - value))

    return LayerwiseAdam(learning_rate)


def _compute_shares(model: stack.keras.Model, decay: float) -> dict[str, float]:
    """Return for each variable of a transformer its share of the rate: `decay` to the power of the layers above it.

    Its layers are named layer0_..., layer1_...; what stands before them counts as below the first, what stands behind
    the last has the whole rate.
    """
    depths, depth = {}, -1
    for layer in model.layers:
        match = re.match(r"layer(\d+)_", layer.name)
        depth = max(depth, int(match[1])) if match else depth
        depths.update({variable.name: depth for variable in layer.trainable_variables})
    return {name: decay ** (depth - level) for name, level in depths.items() if level != depth}


@contextlib.contextmanager
def _policy(name: str) -> Iterator[None]:
    """Let what Keras makes in the block compute in this precision."""
    policy = stack.keras.mixed_precision.global_policy()
    stack.keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        stack.keras.mixed_precision.set_global_policy(policy)


def _add_dense(features: Any, classes: int, **settings: Any) -> Any:
    # float32 whatever the policy: a softmax of float16 logits loses small probabilities.
    return stack.keras.layers.Dense(classes, dtype="float32", name=CLASSIFIER, **settings)(features)


def compile_model(model: stack.keras.Model, optimizer: Any, *, task: Classes = CLASSES) -> stack.keras.Model:
    """Compile a model for logits and the labels of a task."""
    if stack.keras.mixed_precision.global_policy().name == "mixed_float16":
        optimizer = stack.keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(optimizer=optimizer, loss=task.loss(), metrics=task.keras_metrics())
    return model


class Classifier(NamedTuple):
    """A trained model and what it says of the test split.

    Attributes:
      model: images float32 [batch, s, s, 3] in [0, 1], or texts [batch], to logits [batch, classes].
      evaluation: on the test split.
      test_features: float32 [n, d], what its last layer sees of the test split, in the split's order.
      validate: returns the evaluation on the validation split.
      frozen: of a head on stored features: what stood still.
    """

    model: stack.keras.Model
    evaluation: Evaluation
    test_features: np.ndarray
    validate: Callable[[], Evaluation]
    frozen: Frozen | None = None


@stage("measure", "Measuring on the test split")
def measure(model: stack.keras.Model, splits: Splits) -> Classifier:
    """Put the test split through the model once, for its probabilities, and what the last layer saw."""
    last = model.get_layer(CLASSIFIER)
    both = stack.keras.Model(model.input, [last.input, model.output])
    features, outputs = both.predict(splits.test, verbose=0)
    measured = evaluation(np.asarray(splits.task.probabilities(outputs, logits=gives_logits(model))), splits)
    validate = functools.partial(evaluate, model, splits, split="validation")
    return Classifier(model, measured, np.asarray(features, np.float32), validate)


def measure_head(model: stack.keras.Model, trained: Trained, features: Splits) -> Classifier:
    """Return the whole model of a head that was trained on stored features, measured on these."""
    test_features = features.source.read(features.indices["test"])
    validate = functools.partial(evaluate, trained.model, features, split="validation")
    first = trained.model.layers[1].name  # behind the input
    frozen = Frozen(model.get_layer(first).input, test_features)
    return Classifier(model, evaluate(trained.model, features), test_features, validate, frozen)


def rebuild(run: Run, backbone: Encoder | None, splits: Splits) -> stack.keras.Model:
    """Return the trained model of a run of images.

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
    settings: dict[str, Any] = {"classes": len(splits.class_names), "spec": splits.spec}
    settings["top"] = plain_top(hidden=run.config.get("hidden") or 0, task=splits.task)
    model = small_cnn(**settings) if backbone is None else whole_model(backbone, **settings)
    exported = run.model
    weights = [variable.numpy() for variable in exported.variables_of_model]
    if [array.shape for array in weights] != [array.shape for array in model.get_weights()]:
        raise RunError(
            f"{run.path} exported {len(weights)} variables, which are not those of a classifier on"
            f" {backbone.handle if backbone else 'no backbone'}."
            "\n  It was made by another tfkit, or changed. Make the run anew."
        )
    model.set_weights(weights)
    grey = stack.tf.fill([1, *splits.spec.shape], 0.5)
    options: Any = {"logits": gives_logits(model), "temperature": temperature_of(run)}
    probabilities = splits.task.probabilities(model(grey), **options)
    if largest_difference(np.asarray(probabilities), np.asarray(exported.classify(grey))) > TOLERANCE:
        raise RunError(
            f"{run.path / SAVED_MODEL} gives other probabilities than its variables do at the temperature of"
            f" {CALIBRATION}.\n  One of the two was changed after the run. Make the run anew."
        )
    freeze(model, "all")
    return model
