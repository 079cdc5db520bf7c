"""What only shows when a model runs: it is tried on a few random examples, and left as it was."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.errors import PrivacyError
from tfkit.packages import first_line
from tfkit.privacy import trial_values
from tfkit.privacy.clipping import clipped_sum
from tfkit.privacy.losses import PerExampleLoss, weight_penalties
from tfkit.privacy.safe import batch_normalizations
from tfkit.stack import keras, tf

LABELS = np.zeros(trial_values.EXAMPLES, np.int64)  # class numbers, as Splits have them
SAME_GRADIENT = 1e-3  # of the largest number: two ways to sum up the same gradient
SHOWN = 4
_NOT_DISTRIBUTED = tf.distribute.get_strategy()


def tried(
    model: keras.Model,
    *,
    loss: PerExampleLoss | None,
    engine: bool,
    example_spec: tf.TensorSpec | None,
) -> list[str]:
    """What stands against an epsilon when the model runs as in training, each with its fix.

    Layers of BatchNormalization are frozen in this, as the validator asks for: what would be left then is found too.

    Args:
      model: compiled and built; its weights are changed meanwhile.
      loss: of each example; None: known to be wrong.
      engine: whether to try the clipping too; it is known to refuse the model otherwise.
      example_spec: of one example, without the batch; None: taken from the model.
    """
    try:
        with _left_as_it_was(model) as trial:
            return [*trial.problems(loss, engine, trial_values.random(model, example_spec))]
    except Exception as error:
        return [
            f"It cannot be tried on {trial_values.EXAMPLES} random examples"
            f" ({type(error).__name__}: {first_line(error)})."
            " Mend that first."
        ]


def some(names: Sequence[str]) -> str:
    """A list in a sentence, which does not grow with the model."""
    rest = len(names) - SHOWN
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {rest} more" if rest > 0 else "")


@contextlib.contextmanager
def _left_as_it_was(model: keras.Model) -> Iterator[_Trial]:
    """In this block no layer normalises by the batch, and no weights are zeros, behind which nothing would be seen."""
    kept = _of_replicas(model.weights)
    weights = [*kept, *_of_replicas(_states(model))]
    before = [weight.numpy() for weight in weights]
    frozen = batch_normalizations(model)
    try:
        for weight in model.trainable_weights:
            value = weight.numpy()
            if value.size and value.min() == value.max():
                noise = np.random.default_rng(0).normal(size=value.shape, scale=0.1)
                weight.assign(value + noise.astype(value.dtype))
        for layer in frozen:
            layer.trainable = False
        yield _Trial(model, len(kept), weights, [weight.numpy() for weight in weights])
    finally:
        for layer in frozen:
            layer.trainable = True
        _assign(weights, before)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A model, and the state that each of its runs begins with: that of its own weights, so many, and more."""

    model: Any
    own: int
    weights: list[Any]
    values: list[np.ndarray]

    def problems(self, loss: PerExampleLoss | None, engine: bool, inputs: Any) -> Iterator[str]:
        other = tf.nest.map_structure(trial_values.with_another_first, inputs)
        first, state, added = self._forward(inputs)
        second, other_state, _ = self._forward(other)
        chance = not trial_values.same_rows(first, second)
        if chance:
            # Or examples that meet: with the same random numbers it is seen.
            first, second, again = [
                self._run(functools.partial(self.model, values, training=True), seeded=True)
                for values in (inputs, other, inputs)
            ]
            if not trial_values.same(first, again):
                yield (
                    "It draws random numbers that no seed repeats: whether examples meet in it cannot be seen."
                    " Draw them with tf.random or by Keras layers."
                )
                return
            if not trial_values.same_rows(first, second):
                yield (
                    "What it says of one example changes when another example of the batch does: clipping one gradient"
                    " would not bound what one example can do. Look for operations over the first axis (a mean over the"
                    " batch, contrastive terms, a reshape or transposition) and take them out."
                )
                return
        moved = [
            weight.name
            for weight, one, two in zip(self.weights[: self.own], state, other_state, strict=False)
            if not np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
        ]
        if moved:
            yield (
                f"{some(moved)} takes in a statistic of the examples when the model is called in training, without"
                " clipping or noise. Freeze its layer (layer.trainable = False), or call it with training=False."
            )
        if added > 0:
            yield from self._of_added()
        if not tf.is_tensor(first):
            yield "It has several outputs. Join them into one, with one loss."
        elif loss is not None:
            found = [*_of_loss(loss, first, second)]
            yield from found
            if engine and not found:
                yield from self._of_engine(loss, inputs, chance=chance)

    def _of_added(self) -> Iterator[str]:
        layers = {layer.name: layer for layer in self.model._flatten_layers()}
        active = [name for name, layer in layers.items() if getattr(layer, "activity_regularizer", None)]
        by = f"the activity_regularizer of {some(active)}" if active else "add_loss()"
        yield (
            f"It has losses of the examples by {by}, which are not clipped. Put them into the loss; regularisers of"
            " weights are fine."
        )

    def _forward(self, inputs: Any) -> tuple[Any, list[np.ndarray], int]:
        """Outputs, the weights thereafter, and how many losses there are that are not of weights."""
        added = 0

        def run() -> Any:
            nonlocal added
            outputs = self.model(inputs, training=True)
            penalties = [penalty() for penalty in weight_penalties(self.model)]
            added = len(self.model.losses) - sum(penalty is not None for penalty in penalties)
            return outputs

        outputs = self._run(run, restore=False)
        after = [weight.numpy() for weight in self.weights]
        _assign(self.weights, self.values)
        return outputs, after, added

    def _run(self, run: Callable[[], Any], *, seeded: bool = False, restore: bool = True) -> Any:
        """What it gives on the first replica; seeded: with the random numbers that any other function gets here."""
        strategy = self.model.distribute_strategy
        distributed = strategy is not _NOT_DISTRIBUTED

        def graph() -> Any:
            # Of this function only: the seed of the process is the user's.
            tf.compat.v1.set_random_seed(1)
            return strategy.run(run) if distributed else run()

        given = tf.function(graph)() if seeded or distributed else run()
        if restore:
            _assign(self.weights, self.values)
        return tf.nest.map_structure(lambda value: strategy.experimental_local_results(value)[0], given)

    def _of_engine(self, loss: PerExampleLoss, inputs: Any, *, chance: bool) -> Iterator[str]:
        """Whether the sum of unclipped gradients is the gradient of the sum."""
        variables = self.model.trainable_variables

        refused: list[str] = []

        def ours() -> Any:
            try:
                clipped = clipped_sum(
                    self.model, inputs, LABELS, None, per_example_loss=loss, l2_norm_clip=1e30
                )
            except PrivacyError as error:
                refused.append(str(error))  # tf.function makes another message of it
                raise
            return clipped.gradients, clipped.outputs

        def plain() -> Any:
            with tf.GradientTape() as tape:
                outputs = self.model(inputs, training=True)
                total = tf.reduce_sum(loss(LABELS, outputs))
            found = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            return [tf.convert_to_tensor(value) for value in found], outputs

        try:
            # In a graph, as in training, where loops are not unrolled.
            gradients, outputs = self._run(ours, seeded=True)
            expected, same_outputs = self._run(plain, seeded=chance)
        except (PrivacyError, tf.errors.InvalidArgumentError) as error:
            # Of an assertion the message, without the numbers.
            asserted = re.search(r"assertion failed: \[(.+?)\] \[", str(error))
            yield from refused or [asserted[1] if asserted else first_line(error)]
            return
        largest = max(float(tf.reduce_max(tf.abs(value))) for value in expected)
        if not trial_values.same(outputs, same_outputs) or not np.isfinite(largest):
            return
        wrong = [
            variable.name
            for variable, one, two in zip(variables, gradients, expected, strict=True)
            if np.abs(one - two).max() > SAME_GRADIENT * (np.abs(two).max() + 1e-2 * largest)
        ]
        if wrong:
            yield (
                f"The gradients of {some(wrong)} for single examples do not add up to that of the batch: its layer"
                " computes something else for other sizes of a batch, or the weight is used behind the layer's back."
                " Take tf.shape(inputs)[0] out of what is computed; use each weight in the call of its own layer."
            )


def _of_loss(loss: PerExampleLoss, outputs: Any, others: Any) -> Iterator[str]:
    """Whether the loss takes class numbers, and gives each example its own."""
    try:
        values, other_values = (loss(LABELS, each) for each in (outputs, others))
    except PrivacyError as error:
        yield str(error)
    except (ValueError, TypeError, tf.errors.OpError) as error:
        yield (
            f"Its loss does not take class numbers int64 [batch] beside outputs {outputs.shape}"
            f' ({first_line(error)}). Use one that does, such as "sparse_categorical_crossentropy".'
        )
    else:
        if not trial_values.same_rows(values, other_values):
            yield (
                "The loss of one example changes when another example of the batch does: clipping one gradient would"
                " not bound what one example can do. Take means over the batch, and pairs of examples, out of the loss."
            )


def _assign(weights: Sequence[Any], values: Sequence[np.ndarray]) -> None:
    for weight, value in zip(weights, values, strict=True):
        if not np.array_equal(weight.numpy(), value, equal_nan=value.dtype.kind == "f"):
            weight.assign(value)


def _of_replicas(weights: Sequence[Any]) -> list[Any]:
    """Each replica's own: the states of its generators are not those of the others."""
    return [one for weight in weights for one in getattr(weight, "values", [weight])]


def _states(model: keras.Model) -> list[Any]:
    """What else a run changes: the generators of dropout and its kin, and the states of stateful layers."""
    found = []
    for module in model.submodules:
        generator = getattr(getattr(module, "_random_generator", None), "_generator", None)
        found += [] if generator is None else [generator.state]
        if isinstance(module, keras.layers.RNN) and module.stateful:
            found += tf.nest.flatten(module.states)
    return [state for state in found if state is not None]
