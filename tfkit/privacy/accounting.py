"""Epsilon from noise and back, for the sampler that really runs; the mathematics is dp-accounting's."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from typing import TYPE_CHECKING

from tfkit.errors import ConfigError, PrivacyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dp_accounting

ACCOUNTANTS = ("pld", "rdp")
SAMPLERS = ("poisson", "shuffled")
NEIGHBOURS = {
    "poisson": "two data sets that differ in one example, added or removed",
    "shuffled": "two data sets of equal size, in one of which one example contributes nothing (zero-out)",
}

SMALLEST_NOISE, LARGEST_NOISE = 0.05, 1e4  # what calibration looks between
SMALLEST_DELTA = 1e-12
AIM, NEAR_ENOUGH = 0.999, 9e-4  # of the target: calibration ends within 0.2 % below it


def epsilon(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    sampler: str = "poisson",
    accountant: str = "pld",
    release_noise: float = 0.0,
) -> float:
    """The epsilon that holds at `delta` after some steps of DP-SGD.

    Args:
      noise_multiplier: standard deviation of the noise in units of the clipping norm, 0 or more.
      sampling_probability: with which an example is in a step, in (0, 1]; of `shuffled` epochs, the share of the
        examples in a batch.
      steps: that were taken, 0 or more.
      delta: probability with which the bound may fail, in [1e-12, 1).
      sampler: `poisson`, each example in each step by chance; or `shuffled`, each once an epoch, which gets no
        amplification by sampling: an epoch is one Gaussian mechanism.
      accountant: `pld` (privacy loss distributions, the tighter one) or `rdp` (Rényi divergences).
      release_noise: noise multiplier of one Gaussian release from all examples that comes on top; 0: none.

    Returns:
      An upper bound; infinity without noise, 0 without steps.

    Raises:
      ConfigError: an argument out of its range, all of them at once.

    Source: Abadi et al. 2016 (arXiv:1607.00133); Mironov et al. 2019 (arXiv:1908.10530) for RDP; Koskela et al.
    2020 (arXiv:1906.03049) and Doroshenko et al. 2022 (arXiv:2207.04380) for PLD.

    Example:
      >>> case = dict(noise_multiplier=1.1, sampling_probability=256 / 60000, steps=3515, delta=1e-5)
      >>> round(epsilon(**case), 2), round(epsilon(**case, accountant="rdp"), 2)
      (1.13, 1.28)
    """
    _check(
        noise_multiplier=noise_multiplier,
        sampling_probability=sampling_probability,
        steps=steps,
        delta=delta,
        sampler=sampler,
        accountant=accountant,
    )
    if steps == 0 and not release_noise:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    return _spent(noise_multiplier, sampling_probability, steps, delta, sampler, accountant, release_noise)


def calibrate(
    *,
    target_epsilon: float,
    delta: float,
    sampling_probability: float,
    steps: int,
    sampler: str = "poisson",
    accountant: str = "pld",
    release_noise: float = 0.0,
) -> float:
    """The smallest noise multiplier whose epsilon is not above the target, but at most about 0.2 % below it.

    The Rényi accountant's answer comes first, being cheap and nearly right; the other is looked for around it.

    Args:
      target_epsilon: above 0; `epsilon` of the result never exceeds it.
      delta: as for `epsilon`, and so are the others.
      sampling_probability: with which an example is in a step.
      steps: that will be taken, 1 or more.
      sampler: `poisson` or `shuffled`.
      accountant: `pld` or `rdp`.
      release_noise: as for `epsilon`.

    Returns:
      Standard deviation of the noise in units of the clipping norm.

    Raises:
      ConfigError: an argument out of its range.
      PrivacyError: no noise gives so small an epsilon; or the target is so large that it protects nobody.
    """
    from scipy.optimize import brentq

    _check(
        noise_multiplier=1.0,
        sampling_probability=sampling_probability,
        steps=steps,
        delta=delta,
        sampler=sampler,
        accountant=accountant,
    )
    if not 0 < target_epsilon < math.inf or steps < 1:
        raise ConfigError(f"Noise for epsilon {target_epsilon:g} in {steps} steps: both must be above 0.")

    def excess(log_noise: float, by: str) -> float:
        spent = _spent(math.exp(log_noise), sampling_probability, steps, delta, sampler, by, release_noise)
        off = math.log(min(max(spent, 1e-12), 1e12) / (AIM * target_epsilon))
        return 0.0 if abs(off) < NEAR_ENOUGH else off  # brentq ends where it finds a zero

    log_noise, widen = 0.0, math.log(1.5)
    for by in dict.fromkeys(("rdp", accountant)):
        search = functools.partial(excess, by=by)
        try:
            bracket = _bracket(search, guess=log_noise, widen=widen)
        except PrivacyError as err:
            raise PrivacyError(
                f"target_epsilon {target_epsilon:g} (steps: {steps:,}, delta: {delta:g}): {err}"
            ) from None
        log_noise, widen = brentq(search, *bracket), math.log(1.1)
    noise = math.exp(log_noise)
    while (
        _spent(noise, sampling_probability, steps, delta, sampler, accountant, release_noise) > target_epsilon
    ):
        noise *= 1 + NEAR_ENOUGH
    return noise


def _check(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    sampler: str,
    accountant: str,
) -> None:
    found = []
    if not 0 <= noise_multiplier < math.inf:
        found.append(f"noise_multiplier is {noise_multiplier}; it must be 0 or more.")
    if not 0 < sampling_probability <= 1:
        found.append(f"sampling_probability is {sampling_probability}; it must be above 0, and at most 1.")
    if steps < 0:
        found.append(f"steps is {steps}; it must be 0 or more.")
    if not SMALLEST_DELTA <= delta < 1:
        found.append(
            f"delta is {delta}; it must be below 1, and at least {SMALLEST_DELTA:g}, what double precision resolves."
        )
    if sampler not in SAMPLERS:
        found.append(f"sampler is {sampler!r}; use one of: {', '.join(SAMPLERS)}.")
    if accountant not in ACCOUNTANTS:
        found.append(f"accountant is {accountant!r}; use one of: {', '.join(ACCOUNTANTS)}.")
    if found:
        raise ConfigError("No epsilon can be computed:\n  " + "\n  ".join(found))


def _bracket(excess: Callable[[float], float], *, guess: float, widen: float) -> tuple[float, float]:
    """Two logarithms of noise, the first with too large an epsilon, the second without."""
    low = high = guess
    while excess(high) > 0:
        if high > math.log(LARGEST_NOISE):
            raise PrivacyError(
                f"out of reach, even a noise multiplier of {LARGEST_NOISE:g} spends more.\n  Use a larger"
                " target_epsilon, or fewer epochs."
            )
        low, high, widen = high, high + widen, 2 * widen
    while excess(low) <= 0:
        if low < math.log(SMALLEST_NOISE):
            raise PrivacyError(
                f"only a noise multiplier below {SMALLEST_NOISE:g} spends so much, which protects nobody.\n"
                "  Use a smaller target_epsilon (1 to 10 is usual), or noise_multiplier itself."
            )
        low, high, widen = low - widen, low, 2 * widen
    return low, high


@functools.lru_cache(maxsize=4096)
def _spent(
    noise: float, probability: float, steps: int, delta: float, sampler: str, accountant: str, release: float
) -> float:
    from dp_accounting import pld, rdp

    event = _event(noise, probability, steps, sampler, release)
    with _quiet():
        if accountant == "rdp":
            with contextlib.suppress(OverflowError):
                return float(rdp.RdpAccountant().compose(event).get_epsilon(delta))
            return math.inf
        rough = _spent(noise, probability, steps, delta, sampler, "rdp", release)
        if rough == math.inf:
            return math.inf
        with contextlib.suppress(OverflowError):  # with next to no noise; the rough bound holds too
            ledger = pld.PLDAccountant(value_discretization_interval=_interval(rough))
            return float(ledger.compose(event).get_epsilon(delta))
        return rough


def _interval(rough: float) -> float:
    """Width of the bins of the privacy loss, for an epsilon known roughly; at about 1 it is dp-accounting's default.

    Bins round towards a larger epsilon, so that any width is sound. One for all would be slow where epsilon is large
    and loose where it is small. It never shrinks while epsilon grows, so that more steps never spend less.
    """
    if rough <= 0 or 1 <= rough <= 2:
        return 1e-4
    return 1e-4 * 2.0 ** max(math.ceil(math.log2(rough)), -7)


def _event(
    noise: float, probability: float, steps: int, sampler: str, release: float
) -> dp_accounting.DpEvent:
    import dp_accounting as dp

    step: dp_accounting.DpEvent = dp.GaussianDpEvent(noise)
    if sampler == "shuffled":
        # 1/(1/49) is a little above 49: rounded up as it is, an epoch would have 50 steps, and fewer be accounted.
        per_epoch = math.ceil(1 / probability * (1 - 1e-12))
        steps = math.ceil(steps / per_epoch)
    elif probability < 1:
        step = dp.PoissonSampledDpEvent(probability, step)
    events = [dp.SelfComposedDpEvent(step, steps)] if steps else []
    return dp.ComposedDpEvent([*events, *([dp.GaussianDpEvent(release)] if release else [])])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Some of the many orders of Rényi's accountant do not converge; it says so for each, and takes the others."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
