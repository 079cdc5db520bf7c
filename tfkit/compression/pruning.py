"""Magnitude pruning by tfmot, with a schedule that is checked and a result that is measured.

Source: Zhu and Gupta 2017 (arXiv:1710.01878); 2:4: Mishra et al. 2021 (arXiv:2104.08378).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from tfkit.compression.techniques import Technique, changed, clone, copy_layer, kernels, short_name, sparsity
from tfkit.environment import foreign, stack
from tfkit.errors import CheckError, ConfigError
from tfkit.settings import fields

BEGIN, END = 0.1, 0.7
"""Shares of the steps between which sparsity grows; what is left afterwards trains what remains."""

UPDATES = 50
"""About so many times are the masks made anew."""

TOLERANCE = 0.01
"""By so much may sparsity stay below what was asked for."""


def plan_schedule(
    steps: int,
    *,
    final_sparsity: float,
    initial_sparsity: float = 0.0,
    kind: Literal["polynomial", "constant"] = "polynomial",
    begin_step: int | None = None,
    end_step: int | None = None,
    frequency: int | None = None,
) -> Any:
    """Return a schedule of tfmot for so many steps, in which the final sparsity is reached and trained with.

    Args:
      steps: that will be trained.
      final_sparsity: that is wanted.
      initial_sparsity: at begin_step, of the polynomial kind.
      kind: "polynomial" or "constant".
      begin_step: a tenth of the steps when left out.
      end_step: seven tenths when left out.
      frequency: so that there are some 50 updates when left out.

    Raises:
      ConfigError: it would not prune, or not as far: what it would do, and values that would.
    """
    if steps < 2:
        raise ConfigError(f"Pruning needs 2 training steps or more; there are {steps}. Train longer.")
    begin = round(BEGIN * steps) if begin_step is None else begin_step
    end = max(begin + 1, round(END * steps)) if end_step is None else end_step
    every = max(1, round((end - begin) / UPDATES)) if frequency is None else frequency
    if end_step is None and every >= 1:  # the last mask is to be made at the very end
        end = max(begin + 1, begin + (end - begin) // every * every)
    schedule, reached = None, 0.0
    if 0 <= begin < end and every >= 1:
        make, sparsities = stack.tfmot.sparsity.keras.PolynomialDecay, [initial_sparsity, final_sparsity]
        if kind == "constant":
            make, sparsities = stack.tfmot.sparsity.keras.ConstantSparsity, [final_sparsity]
        schedule = make(*sparsities, begin_step=begin, end_step=end, frequency=every)
        if last := last_update(steps, begin_step=begin, end_step=end, frequency=every):
            reached = float(schedule(np.int64(last))[1])
    if schedule is None or reached < final_sparsity - TOLERANCE:
        raise ConfigError(
            f"This pruning schedule (begin_step={begin}, end_step={end}, frequency={every}) would not reach"
            f" {final_sparsity:g} in {steps} steps: sparsity would stay at {reached:.2f}, silently.\n"
            f"  For {steps} steps, begin_step={round(BEGIN * steps)}, end_step={max(1, round(END * steps))} and"
            f" frequency={max(1, round((END - BEGIN) * steps / UPDATES))} do; left out, they are chosen so."
        )
    return schedule


def last_update(steps: int, *, begin_step: int, end_step: int, frequency: int) -> int:
    """Return the last step at which tfmot makes masks; 0 where it never does.

    It counts steps from 1, and does at those from begin_step to end_step that lie a multiple of the frequency after
    begin_step.
    """
    final = min(end_step, steps)
    last = begin_step + (final - begin_step) // frequency * frequency
    return last if final >= begin_step else 0


@dataclass(frozen=True, kw_only=True)
class Prune(Technique):
    """Make the smallest weights of every kernel zero, while training the others.

    Args:
      final_sparsity: share of zeros in each kernel at the end; of 2:4 it is 0.5.
      schedule: "polynomial": sparsity grows step by step; "constant": it is there at begin_step.
      begin_step: step of the first mask. Left out, this and the next two follow from the steps that are trained.
      end_step: step of the last mask.
      frequency: steps from one mask to the next.
      initial_sparsity: at begin_step, of the polynomial schedule.
      structure: "unstructured"; "block": neighbours in a dense kernel together; "2:4": two of each four.
      block_size: of "block", rows and columns.

    Raises:
      ConfigError: a value that cannot be.

    Example:
      >>> Prune(final_sparsity=0.75).name
      'prune0.75'
    """

    final_sparsity: Annotated[float, fields.Range(gt=0, lt=1)] = 0.8
    schedule: Literal["polynomial", "constant"] = "polynomial"
    begin_step: fields.Whole | None = None
    end_step: fields.Count | None = None
    frequency: fields.Count | None = None
    initial_sparsity: fields.Share = 0.0
    structure: Literal["unstructured", "block", "2:4"] = "unstructured"
    block_size: tuple[fields.Count, fields.Count] = (1, 4)

    def __post_init__(self) -> None:
        """Check the values."""
        super().__post_init__()
        if self.initial_sparsity >= self.final_sparsity:
            raise ConfigError(
                f"Sparsity cannot grow from {self.initial_sparsity} to {self.final_sparsity}: shares are expected, the"
                " latter larger and below 1."
            )

    @property
    def sparsity(self) -> float:
        """Return the share of zeros that is wanted of each kernel."""
        return 0.5 if self.structure == "2:4" else self.final_sparsity

    @property
    def name(self) -> str:
        """Return a short name with what was asked for."""
        block = "block" if self.structure == "block" else ""
        return "prune2of4" if self.structure == "2:4" else f"prune{block}{self.final_sparsity:g}"

    def wrap(self, model: stack.keras.Model, *, steps: int) -> stack.keras.Model:
        """Return a clone whose kernels are pruned as it trains, see `Technique`.

        Raises:
          ConfigError: the schedule would not reach the final sparsity in so many steps.
          UsageError: see `treatments`.
        """
        treated, in_fours = self.treated(model), self.structure == "2:4"
        schedule = plan_schedule(
            fields.fit(steps, fields.Count, name="steps"),
            final_sparsity=self.sparsity,
            initial_sparsity=0.0 if in_fours else self.initial_sparsity,
            kind="constant" if in_fours else self.schedule,
            begin_step=self.begin_step,
            end_step=self.end_step,
            frequency=self.frequency,
        )
        wrapper = stack.tfmot.sparsity.keras.prune_low_magnitude

        def change(layer: Any) -> Any:
            own = copy_layer(layer)
            return wrapper(own, schedule, **self._structure()) if layer.name in treated else own

        return clone(model, change)

    def callbacks(self) -> list[stack.keras.callbacks.Callback]:
        """Count the steps, and apply the masks at the end of each epoch."""
        return [stack.tfmot.sparsity.keras.UpdatePruningStep()]

    def strip(self, wrapped: stack.keras.Model) -> stack.keras.Model:
        """Return the pruned model without masks."""
        return stack.tfmot.sparsity.keras.strip_pruning(wrapped)

    def measure(self, before: stack.keras.Model, after: stack.keras.Model) -> dict[str, float]:
        """Measure the sparsity of all kernels, and the share of them that training changed.

        Raises:
          CheckError: a kernel has fewer zeros than were asked for.
        """
        values, treated = kernels(after), self.treated(before)
        shares = {name: 1 - np.count_nonzero(value) / value.size for name, value in values.items()}
        short = [
            f"{name} {share:.2f}"
            for name, share in shares.items()
            if name.split("/")[0] in treated
            and not name.endswith("depthwise_kernel")
            and share < self.sparsity - max(TOLERANCE, 2 / values[name].size)
        ]
        if short:
            raise CheckError(
                f"{self.name}: {len(short)} kernels have fewer zeros than {self.sparsity:g}: {', '.join(short[:5])}.\n"
                "  The schedule did not come to its end: train for as many steps as `wrap` was told."
            )
        return {"sparsity": sparsity(values), "kernels_changed": changed(kernels(before), values)}

    def prune_variables(self, variables: Sequence[Any]) -> float:
        """Make zeros in trained kernels, in place, without any example: what private training may be followed by.

        Args:
          variables: of any model: those of 2 and 4 axes whose name ends in "kernel" are pruned, and no others.

        Returns:
          The sparsity of these.

        Raises:
          CheckError: there are none.
        """
        pruned = [
            one
            for one in variables
            if short_name(one).endswith("kernel") and short_name(one) != "depthwise_kernel"
            if len(one.shape) in (2, 4) and not self._misfit(one)
        ]
        if not pruned:
            raise CheckError("There are no kernels to prune among these variables.")
        once = stack.tfmot.sparsity.keras.ConstantSparsity(
            self.final_sparsity, begin_step=1, end_step=1, frequency=1
        )
        pruning = stack.tfmot_module("core.sparsity.keras.pruning_impl").Pruning(
            training_step_fn=lambda: stack.tf.constant(1, stack.tf.int64),
            pruning_vars=[
                (
                    kernel,
                    stack.tf.Variable(stack.tf.ones_like(kernel)),
                    stack.tf.Variable(0.0, dtype=kernel.dtype),
                )
                for kernel in pruned
            ],
            pruning_schedule=once,
            block_pooling_type="AVG",
            **self._structure(),
        )
        pruning.conditional_mask_update()
        pruning.weight_mask_op()
        return sparsity({kernel.name: kernel.numpy() for kernel in pruned})

    def _structure(self) -> dict[str, Any]:
        return {
            "block_size": list(self.block_size) if self.structure == "block" else [1, 1],
            "sparsity_m_by_n": (2, 4) if self.structure == "2:4" else None,
        }

    def _misfit(self, weight: Any) -> str:
        if self.structure == "block" and len(weight.shape) != 2:
            return "blocks need a kernel of two axes"
        if self.structure == "2:4" and (len(weight.shape) not in (2, 4) or weight.shape[-2] % 4):
            return "2:4 needs inputs in fours"
        return ""

    def _decide(self, layer: Any) -> tuple[bool, str]:
        if not layer.weights:
            return False, ""
        names = foreign.prunable_weights(layer)
        if names is None and not hasattr(layer, "get_prunable_weights"):
            return False, f"tfmot cannot prune a {type(layer).__name__}"
        if names == []:
            return False, "small, and sensitive" if "Conv" in type(layer).__name__ else ""
        misfits = [self._misfit(weight) for weight in layer.weights if short_name(weight) in (names or ())]
        misfit = next(filter(None, misfits), "")
        return not misfit, misfit or f"{self.sparsity:g} of its kernel becomes zero"
