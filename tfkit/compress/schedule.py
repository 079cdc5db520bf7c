"""The pruning schedule: derived from the steps that will be trained, and tried before they are."""

from __future__ import annotations

from dataclasses import dataclass

from tfkit.errors import ConfigError

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


def plan(
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
      >>> plan(580, final_sparsity=0.8)
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
