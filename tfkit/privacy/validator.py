"""Whether an epsilon would hold for a model: everything that stands against it, at once, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfkit.errors import PrivacyError
from tfkit.privacy.losses import per_example_loss
from tfkit.privacy.mechanism import Plan
from tfkit.privacy.recorder import engines
from tfkit.privacy.safe import batch_normalizations
from tfkit.stack import keras, tf

PROBE = 3  # examples in the batch that the model is tried on
SAME = 1e-4  # relative difference up to which two outputs are one: kernels may sum in another order
SHOWN = 4


def check(
    model: keras.Model,
    *,
    plan: Plan | None = None,
    callbacks: Sequence[Any] = (),
    example_spec: tf.TensorSpec | None = None,
) -> None:
    """Raise if no epsilon would hold for the training of this model; arguments as of `problems`.

    Raises:
      PrivacyError: all that stands against it, each with its fix.
    """
    found = problems(model, plan=plan, callbacks=callbacks, example_spec=example_spec)
    if found:
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(found, 1))
        raise PrivacyError(
            f"No epsilon would hold for {model.name!r}, which has {len(found)} problem(s):\n{listed}"
        )


def problems(
    model: keras.Model,
    *,
    plan: Plan | None = None,
    callbacks: Sequence[Any] = (),
    example_spec: tf.TensorSpec | None = None,
) -> list[str]:
    """What stands against an epsilon for the training of this model.

    Args:
      model: compiled; it is called on a few random examples, and left as it was.
      plan: of the training; None: only the model is looked at.
      callbacks: that the training would get.
      example_spec: of one example, without the batch; None: taken from the model.

    Returns:
      One sentence for each, with what to do about it. Dropout is no problem: its masks know nothing of the data.
    """
    found = [*_settings(model), *_layers(model), *_callbacks(callbacks, plan)]
    # What is known already would only be found once more by trying.
    return found if found else [*_tried(model, example_spec)]


def _settings(model: keras.Model) -> Iterator[str]:
    """Of the compiled model as a whole."""
    if model.optimizer is None:
        yield "It is not compiled. Call model.compile(optimizer, loss) in build_model()."
        return
    try:
        per_example_loss(model)
    except PrivacyError as error:
        yield str(error)
    if isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer):
        yield (
            "Its optimizer scales the loss for float16, which the clipping would not know of."
            " Use the float32 policy and the optimizer inside of the LossScaleOptimizer."
        )
    low = sorted({layer.compute_dtype for layer in model._flatten_layers() if layer.compute_dtype in _LOW})
    if low:
        yield (
            f"Some layers compute in {', '.join(low)}: norms would be rounded, and clipping would not hold."
            ' Make it under keras.mixed_precision.set_global_policy("float32").'
        )
    own_step = type(model).train_step is not keras.Model.train_step
    if own_step:
        yield (
            f"{type(model).__name__} has a train_step of its own, which the private one would replace."
            " Put what it does into call() and the loss."
        )


_LOW = ("float16", "bfloat16")


def _layers(model: keras.Model) -> Iterator[str]:
    """Of single layers, those of one kind together."""
    if not model.trainable_weights:
        yield "It has no trainable weights: there is nothing to train. Set trainable = True on some layer."
    normalizing = [layer.name for layer in batch_normalizations(model) if layer.trainable]
    if normalizing:
        yield (
            f"{_some(normalizing)} (BatchNormalization) computes with all examples of a batch and keeps statistics"
            " of them, without clipping or noise. Freeze it (layer.trainable = False), or use"
            " tfkit.privacy.make_private_safe(model), which puts GroupNormalization in its place."
        )
    flat = list({id(layer): layer for layer in model._flatten_layers()}.values())
    hub = [layer.name for layer in flat if type(layer).__name__ == "KerasLayer" and layer.trainable_weights]
    if hub:
        yield (
            f"{_some(hub)} (hub.KerasLayer) is trainable, and nobody can see what it does with a batch."
            " Set trainable=False and train on its features, or use a bundled backbone (python -m tfkit models)."
        )
    active = [layer.name for layer in flat if getattr(layer, "activity_regularizer", None) is not None]
    if active:
        yield (
            f"{_some(active)} has an activity_regularizer: a loss of the whole batch that is not clipped."
            " Leave it out; regularisers of weights are fine."
        )
    stateful = [layer.name for layer in flat if isinstance(layer, keras.layers.RNN) and layer.stateful]
    if stateful:
        yield f"{_some(stateful)} is stateful: one batch decides about the next. Set stateful=False."
    adaptable = _adaptable()
    lookups = [layer.name for layer in flat if isinstance(layer, adaptable) and layer.is_adapted]
    if lookups:
        yield (
            f"{_some(lookups)} was adapted to data: if to the training examples, its statistics are published without"
            " noise. Give it public constants (Normalization(mean=..., variance=...)), or use LayerNormalization."
        )


def _adaptable() -> Any:
    return (keras.layers.Normalization, keras.layers.Discretization, keras.layers.TextVectorization)


def _callbacks(callbacks: Sequence[Any], plan: Plan | None) -> Iterator[str]:
    """Of callbacks that look at the training examples' own numbers."""
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        name = type(callback).__name__
        if isinstance(monitor, str) and not monitor.startswith("val_"):
            yield (
                f"{name} decides by {monitor!r}, which is measured on the training examples without noise."
                ' Monitor a validation metric ("val_loss").'
            )
        elif isinstance(callback, keras.callbacks.EarlyStopping):
            yield (
                f"{name} would end the training early with weights of an epoch chosen by looking; the account is of all"
                " planned epochs. Leave it out and plan fewer epochs."
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            yield f"{name} would repeat steps that are not accounted. Leave it out: tfkit.fit resumes by itself."


def _tried(model: keras.Model, example_spec: tf.TensorSpec | None) -> Iterator[str]:
    """What only shows when the model runs: examples that meet, weights that move by themselves, losses added."""
    try:
        inputs = _random(model, example_spec)
        before = model.get_weights()
        outputs = model(inputs, training=False)
        other = tf.nest.map_structure(lambda value: tf.concat([value[1:2], value[1:]], 0), inputs)
        changed = model(other, training=False)
        added = len(model.losses) - len(_penalties(model))
        model(inputs, training=True)
        added = max(added, len(model.losses) - len(_penalties(model)))
        after = model.get_weights()
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        yield f"It cannot be tried on random examples ({type(error).__name__}: {first}). Mend that first."
        return
    if isinstance(outputs, dict | list | tuple):
        yield "It has several outputs. Join them into one, with one loss."
    else:
        scale = float(tf.reduce_max(tf.abs(outputs))) + 1e-12
        moved = float(tf.reduce_max(tf.abs(outputs[1:] - changed[1:])))
        if not moved <= SAME * scale:
            yield (
                "What it says of one example changes when another example of the batch does: clipping a gradient would"
                " not bound what one example can do. Look for operations over the first axis (a mean over the batch,"
                " contrastive terms, a transposition) and take them out."
            )
        try:
            losses = per_example_loss(model)(_labels(outputs), outputs)
            if losses.shape != [PROBE]:
                yield f"Its loss gives {losses.shape} numbers for {PROBE} examples; one an example is needed."
        except PrivacyError as error:
            yield str(error)
        except (ValueError, TypeError, tf.errors.OpError):
            return  # labels of another kind than guessed here: the first step will tell
    names = [weight.name for weight in model.weights]
    frozen = {id(weight) for weight in model.trainable_weights}
    own = [
        name
        for name, weight, old, new in zip(names, model.weights, before, after, strict=True)
        if id(weight) not in frozen and not _is_seed(name, old) and not np.array_equal(old, new)
    ]
    model.set_weights(before)
    if own:
        yield (
            f"{_some(own)} changes when the model is called in training: a statistic of the batch without clipping or"
            " noise. Freeze the layer that it belongs to (layer.trainable = False, or training=False in its call)."
        )
    if added > 0:
        yield "It adds losses of its own by add_loss(): of the whole batch, and not clipped. Leave them out."
    try:
        engines(model)
    except PrivacyError as error:
        yield str(error)


def _random(model: keras.Model, example_spec: tf.TensorSpec | None) -> Any:
    generator = np.random.default_rng(0)

    def one(spec: Any) -> tf.Tensor:
        shape = [PROBE, *(size or 4 for size in spec.shape)]
        if spec.dtype.is_floating:
            return tf.constant(generator.random(shape), spec.dtype)
        return tf.constant(generator.integers(0, 2, shape), spec.dtype)

    if example_spec is not None:
        return one(example_spec)
    specs = [tf.TensorSpec(tensor.shape[1:], tensor.dtype) for tensor in model.inputs]
    values = [one(spec) for spec in specs]
    return values[0] if len(values) == 1 else values


def _labels(outputs: tf.Tensor) -> tf.Tensor:
    """Class numbers, as Splits have them."""
    return tf.constant([0] * PROBE, tf.int64)


def _penalties(model: keras.Model) -> list[Any]:
    return [one for layer in model._flatten_layers() for one in getattr(layer, "_callable_losses", ())]


def _is_seed(name: str, value: np.ndarray) -> bool:
    """The state of a random generator moves on, and knows nothing of the data."""
    return value.dtype == np.int64 or "seed" in name or "StateVar" in name


def _some(names: Sequence[str]) -> str:
    rest = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")
