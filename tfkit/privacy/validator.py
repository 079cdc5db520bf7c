"""Whether an epsilon would hold for a model: everything that stands against it, at once, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfkit.errors import PrivacyError
from tfkit.packages import first_line
from tfkit.privacy import probe, trial_values
from tfkit.privacy.losses import PerExampleLoss, per_example_loss
from tfkit.privacy.mechanism import Plan
from tfkit.privacy.probe import some
from tfkit.privacy.safe import batch_normalizations
from tfkit.stack import keras, tf

PUBLIC = ("epsilon", "l2_norm_clip", "learning_rate", "lr")
"""Numbers of an epoch that tell nothing of the training examples, or no more than is accounted."""


def check(
    model: keras.Model,
    *,
    plan: Plan | None = None,
    callbacks: Sequence[Any] = (),
    example_spec: tf.TensorSpec | None = None,
) -> None:
    """Raise if no epsilon would hold for the training of this model; arguments as of `problems`.

    Args:
      model: as of `problems`.
      plan: as of `problems`.
      callbacks: as of `problems`.
      example_spec: as of `problems`.

    Raises:
      PrivacyError: all that stands against it, each with its fix.
    """
    found = problems(model, plan=plan, callbacks=callbacks, example_spec=example_spec)
    if found:
        many = "a problem" if len(found) == 1 else f"{len(found)} problems"
        listed = "\n".join(
            f"  {number}. {problem.replace(chr(10), '')}" for number, problem in enumerate(found, 1)
        )
        raise PrivacyError(f"No epsilon would hold for {model.name!r}, which has {many}:\n{listed}")


def problems(
    model: keras.Model,
    *,
    plan: Plan | None = None,
    callbacks: Sequence[Any] = (),
    example_spec: tf.TensorSpec | None = None,
) -> list[str]:
    """What stands against an epsilon for the training of this model.

    Dropout is no problem: its masks know nothing of the data. Frozen layers are none, whatever they are. A frozen
    layer, or weights to begin with, that were made from the training examples without privacy cannot be recognised.

    Args:
      model: compiled; it is called on three random examples, and left as it was.
      plan: of the training; None: only the model is looked at.
      callbacks: that the training would get.
      example_spec: of one example, without the batch; None: taken from the model.

    Returns:
      A sentence or two for each, with what to do about it.
    """
    unbuilt = _build(model, example_spec)
    if unbuilt:
        return [unbuilt, *_compiled(model), *_callbacks(callbacks)]
    found = [*_compiled(model), *_whole(model), *_layers(model), *_callbacks(callbacks)]
    if plan is not None and plan.diagnostics:
        found += _metrics(model)
    loss, wrong = _loss(model)
    refused = [*_refused(model)]
    engine = bool(model.trainable_weights) and not refused
    tried = probe.tried(model, loss=loss, engine=engine, example_spec=example_spec)
    return [*found, *refused, *wrong, *tried]


def _build(model: keras.Model, example_spec: tf.TensorSpec | None) -> str | None:
    """Give the model its weights, if it has none yet; what hinders that."""
    if example_spec is None:
        if getattr(model, "inputs", None):
            return None
        return (
            "It cannot be tried: nobody knows the shape of an example. Begin it with keras.Input(shape), or say"
            " example_spec=tf.TensorSpec(shape)."
        )
    try:
        if not model.built:
            model(tf.zeros([trial_values.EXAMPLES, *example_spec.shape], example_spec.dtype))
    except Exception as error:
        return f"It does not take examples of shape {example_spec.shape} ({first_line(error)})."
    return None


def _loss(model: keras.Model) -> tuple[PerExampleLoss | None, list[str]]:
    """The loss of each example, or what is wrong with it."""
    if model.optimizer is None:
        return None, []
    try:
        return per_example_loss(model), []
    except PrivacyError as error:
        return None, [str(error)]


def _compiled(model: keras.Model) -> Iterator[str]:
    """Of what compile() was given."""
    optimizer = model.optimizer
    if optimizer is None:
        yield "It is not compiled. Call model.compile(optimizer, loss)."
    elif isinstance(optimizer, keras.mixed_precision.LossScaleOptimizer):
        yield (
            "Its optimizer scales the loss for float16, which the clipping would not know of. Use the float32 policy,"
            " and the optimizer inside of the LossScaleOptimizer."
        )
    elif any("tensorflow_privacy" in kind.__module__ for kind in type(optimizer).__mro__):
        yield (
            f"Its optimizer is {type(optimizer).__name__} of TensorFlow Privacy, but clipping and noise come from"
            f" tfkit here. Use the ordinary one, such as keras.optimizers.Adam: that makes DP-Adam."
        )
    # A variable of the strategy's, or a number.
    steps = getattr(model, "_steps_per_execution", None)
    several = 1 if steps is None else int(tf.convert_to_tensor(steps))
    if several != 1:
        yield (
            f"steps_per_execution is {several}: Keras then wants numbers of each step; a private one has none."
            " Leave it out of compile()."
        )
    own = [
        name
        for name in ("train_step", "compute_loss", "make_train_function")
        if getattr(type(model), name) is not getattr(keras.Model, name)
    ]
    if own:
        yield (
            f"{type(model).__name__} has its own {' and '.join(own)}, which private training does not call. Put what it"
            " does into call() and into the loss."
        )


def _whole(model: keras.Model) -> Iterator[str]:
    """Of all weights together."""
    if not model.trainable_weights:
        yield "It has no trainable weights: there is nothing to train. Set trainable = True on some layer."


def _layers(model: keras.Model) -> Iterator[str]:
    """Of single layers, those of one kind together."""
    layers = _flat(model)
    normalizing = [layer.name for layer in batch_normalizations(model)]
    if normalizing:
        yield (
            f"{some(normalizing)} (BatchNormalization) computes with all examples of a batch and keeps moving"
            " statistics of them, without clipping or noise. Freeze it (layer.trainable = False), or use"
            " tfkit.privacy.make_private_safe(model), which puts GroupNormalization in its place."
        )
    adapted = [layer.name for layer in layers if getattr(layer, "is_adapted", False)]
    if adapted:
        yield (
            f"{some(adapted)} was adapted to data: if those were the training examples, their statistics are published"
            " without noise. Give it public numbers or words (Normalization(mean=..., variance=...),"
            " TextVectorization(vocabulary=...)), or use LayerNormalization."
        )


def _refused(model: keras.Model) -> Iterator[str]:
    """Of layers whose gradients the engine cannot clip; it would name only the first."""
    layers = _flat(model)
    stateful = [layer.name for layer in layers if isinstance(layer, keras.layers.RNN) and layer.stateful]
    if stateful:
        yield f"{some(stateful)} is stateful: the examples of one batch meet those of the next. Set stateful=False."
    hub = [layer.name for layer in layers if type(layer).__name__ == "KerasLayer" and layer.trainable_weights]
    if hub:
        yield (
            f"{some(hub)} (hub.KerasLayer) is trainable, and nobody can see what it does with a batch."
            " Set trainable=False and train on its features, or use a bundled backbone (python -m tfkit models)."
        )
    learning = [layer for layer in layers if layer._trainable_weights and layer.trainable]
    precisions = {layer.compute_dtype for layer in learning} | {
        weight.dtype.base_dtype.name for layer in learning for weight in layer._trainable_weights
    }
    if precisions - {"float32"}:
        yield (
            f"Layers that are trained compute in {', '.join(sorted(precisions - {'float32'}))}; norms and noise are"
            ' made for float32. Make the model under keras.mixed_precision.set_global_policy("float32").'
        )


def _callbacks(callbacks: Sequence[Any]) -> Iterator[str]:
    """Of callbacks that look at the training examples' own numbers."""
    for callback in callbacks:
        name = type(callback).__name__
        monitor = getattr(callback, "monitor", None)
        of_training = isinstance(monitor, str) and not monitor.startswith("val_") and monitor not in PUBLIC
        # A checkpoint of every epoch only has a monitor.
        if of_training and getattr(callback, "save_best_only", True):
            yield (
                f"{name} decides by {monitor!r}, which is measured on the training examples without noise."
                ' Monitor a number of the validation split ("val_loss").'
            )
        elif isinstance(callback, keras.callbacks.EarlyStopping):
            yield (
                f"{name} would choose how long to train by looking at results, which the epsilon does not cover."
                " Leave it out and plan fewer epochs."
            )
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            yield f"{name} would repeat steps that are not accounted. Leave it out: tfkit.fit resumes by itself."


def _metrics(model: keras.Model) -> Iterator[str]:
    """Of metrics that are logged when diagnostics are asked for: one number each, not one an example."""
    compiled = getattr(model, "compiled_metrics", None)
    users = [] if compiled is None else [compiled._user_metrics, compiled._user_weighted_metrics]
    for metric in tf.nest.flatten(users):
        if isinstance(metric, keras.metrics.Metric) and metric.result().shape.rank != 0:
            yield (
                f"The metric {metric.name!r} has many numbers, which diagnostics would write for the training examples."
                " Leave it out, or reduce it to one number."
            )


def _flat(model: keras.Model) -> list[Any]:
    """The model and all layers in it, each once."""
    return list({id(layer): layer for layer in model._flatten_layers()}.values())
