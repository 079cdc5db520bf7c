"""Magnitude pruning by tfmot, with a schedule that is checked and a result that is measured.

Source: Zhu and Gupta 2017 (arXiv:1710.01878); 2:4: Mishra et al. 2021 (arXiv:2104.08378).

The pruning schedule: derived from the steps that will be trained, and tried before they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tfkit.compression import techniques
from tfkit.compression.techniques import Treatment, changed, kernels
from tfkit.errors import CheckError, ConfigError
from tfkit.settings import fields

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

BEGIN, END = 0.1, 0.7
"""Shares of the steps between which sparsity grows; what is left afterwards trains what remains."""

UPDATES = 50
"""About so many times are the masks made anew."""

TOLERANCE = 0.01
"""By so much may sparsity stay below what was asked for."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When masks are made: at begin_step, then every `frequency` steps, up to end_step."""

    begin_step: int
    end_step: int
    frequency: int


def plan_schedule(
    steps: int,
    *,
    final_sparsity: float,
    kind: str = "polynomial",
    begin_step: int | None = None,
    end_step: int | None = None,
    frequency: int | None = None,
) -> Plan:
    """A schedule for so many steps, in which the final sparsity is reached and trained with.

    Args:
      steps: that will be trained.
      final_sparsity: that is wanted.
      kind: "polynomial" or "constant".
      begin_step: a tenth of the steps when left out.
      end_step: seven tenths when left out.
      frequency: so that there are some 50 updates when left out.

    Raises:
      ConfigError: it would not prune, or not as far: what it would do, and values that would.

    Example:
      >>> plan_schedule(580, final_sparsity=0.8)
      Plan(begin_step=58, end_step=401, frequency=7)
    """
    if steps < 2:
        raise ConfigError(f"Pruning needs 2 training steps or more; there are {steps}. Train longer.")
    begin = round(BEGIN * steps) if begin_step is None else begin_step
    end = max(begin + 1, round(END * steps)) if end_step is None else end_step
    every = max(1, round((end - begin) / UPDATES)) if frequency is None else frequency
    if end_step is None and every >= 1:  # the last mask is to be made at the very end
        end = max(begin + 1, begin + (end - begin) // every * every)
    last = last_update(steps, begin_step=begin, end_step=end, frequency=every)
    good = (
        f"  For {steps} steps, begin_step={round(BEGIN * steps)}, end_step={max(1, round(END * steps))} and"
        f" frequency={max(1, round((END - BEGIN) * steps / UPDATES))} do; left out, they are chosen so."
    )
    if every < 1 or begin < 0 or end <= begin:
        raise ConfigError(
            f"A pruning schedule from step {begin} to {end}, every {every} steps, cannot be.\n{good}"
        )
    reached = 0.0
    if last is not None:
        reached = (
            final_sparsity if kind == "constant" else final_sparsity * _grown((last - begin) / (end - begin))
        )
    if reached < final_sparsity - TOLERANCE:
        raise ConfigError(
            f"This pruning schedule (begin_step={begin}, end_step={end}, frequency={every}) would not reach"
            f" {final_sparsity:g} in {steps} steps: sparsity would stay at {reached:.2f}, silently.\n{good}"
        )
    return Plan(begin_step=begin, end_step=end, frequency=every)


def _grown(progress: float) -> float:
    """Share of the final sparsity that tfmot's polynomial has at this share of its way."""
    return float(1 - (1 - min(progress, 1.0)) ** 3)


def last_update(steps: int, *, begin_step: int, end_step: int, frequency: int) -> int | None:
    """The last step at which tfmot makes masks; None where it never does.

    It counts steps from 1, and does at those from begin_step to end_step that lie a multiple of the frequency after
    begin_step.
    """
    final = min(end_step, steps)
    if final < max(begin_step, 1) or frequency < 1:
        return None
    last = begin_step + (final - begin_step) // frequency * frequency
    return last if last >= 1 else None


_SMALL = 200  # weights: in a kernel with fewer a single one is more than the tolerance
_ROW = 4


@dataclass(frozen=True, kw_only=True)
class Prune:
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
        fields.check(self)
        if self.initial_sparsity >= self.final_sparsity:
            raise ConfigError(
                f"Sparsity cannot grow from {self.initial_sparsity} to {self.final_sparsity}: shares are expected, the"
                " latter larger and below 1."
            )

    @property
    def sparsity(self) -> float:
        """What is wanted of each kernel."""
        return 0.5 if self.structure == "2:4" else self.final_sparsity

    @property
    def name(self) -> str:
        """Short, with what was asked for."""
        kind = {"unstructured": "", "block": "block", "2:4": "2of4"}[self.structure]
        return f"prune{kind}{'' if self.structure == '2:4' else f'{self.final_sparsity:g}'}"

    def treatments(self, model: keras.Model) -> list[Treatment]:
        """What will happen to every layer.

        Raises:
          UsageError: the model is not flat, or no layer can be pruned.
        """
        return techniques.treatments(model, self._decide, technique=self.name)

    def wrap(self, model: keras.Model, *, steps: int) -> keras.Model:
        """A clone whose kernels are pruned as it trains, see `tfkit.compression.Stage`.

        Raises:
          ConfigError: the schedule would not reach the final sparsity in so many steps.
          UsageError: see `treatments`.
        """
        from tfkit.environment.stack import tfmot

        treated = {one.layer for one in self.treatments(model) if one.treated}
        settings = self._settings(self._schedule(fields.fit(steps, fields.Count, name="steps")))

        def clone(layer: Any) -> Any:
            own = layer.__class__.from_config(layer.get_config())
            if layer.name not in treated:
                return own
            return tfmot.sparsity.keras.prune_low_magnitude(own, **settings)

        return techniques.clone(model, clone)

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """Count the steps, and apply the masks at the end of each epoch."""
        from tfkit.environment.stack import tfmot

        return [tfmot.sparsity.keras.UpdatePruningStep()]

    def strip(self, wrapped: keras.Model) -> keras.Model:
        """The pruned model without masks."""
        from tfkit.environment.stack import tfmot

        return tfmot.sparsity.keras.strip_pruning(wrapped)

    def measure(self, before: keras.Model, after: keras.Model) -> dict[str, float]:
        """Sparsity of all kernels, and the share of them that training changed.

        Raises:
          CheckError: a kernel has fewer zeros than were asked for.
        """
        found = kernels(after)
        treated = {one.layer for one in self.treatments(before) if one.treated}
        short = {
            name: share
            for name, value in found.items()
            if name.split("/")[0] in treated and not name.endswith("depthwise_kernel")
            for share in [float(np.mean(value == 0))]
            if share < self.sparsity - max(TOLERANCE, 2 / value.size)
        }
        if short:
            listed = ", ".join(f"{name} {share:.2f}" for name, share in list(short.items())[:5])
            raise CheckError(
                f"{self.name}: {len(short)} kernels have fewer zeros than {self.sparsity:g}: {listed}.\n"
                "  The schedule did not come to its end: train for as many steps as `wrap` was told."
            )
        return {
            "sparsity": techniques.sparsity(found),
            "kernels_changed": changed(kernels(before), found),
        }

    def prune_variables(self, variables: Sequence[Any]) -> float:
        """Make zeros in trained kernels, in place, without any example: what private training may be followed by.

        Args:
          variables: of any model: those of 2 and 4 axes whose name ends in "kernel" are pruned, and no others.

        Returns:
          The sparsity of these.

        Raises:
          CheckError: there are none.
        """
        from tfkit.environment.stack import tf, tfmot_module

        implementation = tfmot_module("core.sparsity.keras.pruning_impl").Pruning
        kernels = [variable for variable in variables if self._is_prunable(variable)]
        if not kernels:
            raise CheckError("There are no kernels to prune among these variables.")
        pruning = implementation(
            training_step_fn=lambda: tf.constant(1, tf.int64),
            pruning_vars=[
                (kernel, tf.Variable(tf.ones_like(kernel)), tf.Variable(0.0, dtype=kernel.dtype))
                for kernel in kernels
            ],
            **self._settings(tf_schedule("constant", self.final_sparsity, 0.0, Plan(
                begin_step=1, end_step=1, frequency=1
            ))),
            block_pooling_type="AVG",
        )  # fmt: skip
        pruning.conditional_mask_update()
        pruning.weight_mask_op()
        return techniques.sparsity({kernel.name: kernel.numpy() for kernel in kernels})

    def _is_prunable(self, variable: Any) -> bool:
        axes, name = len(variable.shape), variable.name.split("/")[-1].split(":")[0]
        if not name.endswith("kernel") or name == "depthwise_kernel" or axes not in (2, 4):
            return False
        return self._misfit(tuple(variable.shape)) == ""

    def _misfit(self, shape: tuple[int, ...]) -> str:
        if self.structure == "block" and len(shape) != 2:
            return "blocks need a kernel of two axes"
        if self.structure == "2:4" and (len(shape) not in (2, 4) or shape[-2] % _ROW):
            return "2:4 needs inputs in fours"
        return ""

    def _decide(self, layer: Any) -> tuple[bool, str]:
        from tfkit.environment.stack import tfmot_module

        registry = tfmot_module("core.sparsity.keras.prune_registry").PruneRegistry
        if not layer.weights:
            return False, ""
        if not registry.supports(layer) and not hasattr(layer, "get_prunable_weights"):
            return False, f"tfmot cannot prune a {type(layer).__name__}"
        names = registry._weight_names(layer) if registry.supports(layer) else ["its own"]
        if not names:
            return False, "small, and sensitive" if "Conv" in type(layer).__name__ else ""
        prunable = [weight for weight in layer.weights if weight.name.split("/")[-1].split(":")[0] in names]
        misfits = [misfit for weight in prunable if (misfit := self._misfit(tuple(weight.shape)))]
        return (False, misfits[0]) if misfits else (True, f"{self.sparsity:g} of its kernel becomes zero")

    def _schedule(self, steps: int) -> Any:
        plan = plan_schedule(
            steps,
            final_sparsity=self.sparsity,
            kind="constant" if self.structure == "2:4" else self.schedule,
            begin_step=self.begin_step,
            end_step=self.end_step,
            frequency=self.frequency,
        )
        return tf_schedule(self.schedule, self.final_sparsity, self.initial_sparsity, plan)

    def _settings(self, pruning_schedule: Any) -> dict[str, Any]:
        """Of tfmot's wrapper."""
        return {
            "pruning_schedule": pruning_schedule,
            "block_size": list(self.block_size) if self.structure == "block" else [1, 1],
            "sparsity_m_by_n": (2, 4) if self.structure == "2:4" else None,
        }


def tf_schedule(kind: str, final: float, initial: float, plan: Plan) -> Any:
    """A schedule of tfmot."""
    from tfkit.environment.stack import tfmot

    schedules = tfmot.sparsity.keras
    when = {"begin_step": plan.begin_step, "end_step": plan.end_step, "frequency": plan.frequency}
    if kind == "constant":
        return schedules.ConstantSparsity(final, **when)
    return schedules.PolynomialDecay(initial_sparsity=initial, final_sparsity=final, **when)
