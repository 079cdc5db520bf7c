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

FINE, COARSE = 1e-4, 1e-3  # steps of the privacy loss; both round towards a larger epsilon
LARGEST_NOISE = 1e6
NEAR_ENOUGH = 1e-3


@functools.lru_cache(maxsize=1024)
def epsilon(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    sampler: str = "poisson",
    accountant: str = "pld",
    interval: float = FINE,
) -> float:
    """The epsilon that holds at `delta` after some steps of DP-SGD.

    Args:
      noise_multiplier: standard deviation of the noise in units of the clipping norm.
      sampling_probability: with which an example is in a step; of `shuffled` epochs, the share of the examples
        in a batch.
      steps: that were taken.
      delta: probability with which the bound may fail.
      sampler: `poisson`, each example in each step by chance; or `shuffled`, each once an epoch, which gets no
        amplification by sampling: an epoch is one Gaussian mechanism.
      accountant: `pld` (privacy loss distributions, the tighter one) or `rdp` (Rényi divergences).
      interval: of `pld`, step of the privacy loss; a larger one takes less time and gives a larger epsilon.

    Returns:
      An upper bound; infinity without noise, 0 without steps.

    Source: Abadi et al. 2016 (arXiv:1607.00133); Mironov et al. 2019 (arXiv:1908.10530) for RDP; Koskela et al.
    2020 (arXiv:1906.03049) and Doroshenko et al. 2022 (arXiv:2207.04380) for PLD.

    Example:
      >>> case = dict(noise_multiplier=1.1, sampling_probability=256 / 60000, steps=3515, delta=1e-5)
      >>> round(epsilon(**case), 2), round(epsilon(**case, accountant="rdp"), 2)
      (1.13, 1.28)
    """
    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    event = _event(noise_multiplier, sampling_probability, steps, sampler)
    return _epsilon(event, delta, accountant, interval)


def calibrate(
    *,
    target_epsilon: float,
    delta: float,
    sampling_probability: float,
    steps: int,
    sampler: str = "poisson",
    accountant: str = "pld",
) -> float:
    """The smallest noise multiplier, within 0.1 %, whose epsilon is not above the target.

    The Rényi accountant's answer comes first, being cheap and never too small; the other is looked for below it.

    Raises:
      PrivacyError: no noise gives so small an epsilon.
    """
    from scipy.optimize import brentq

    def excess(noise: float, by: str) -> float:
        event = _event(noise, sampling_probability, steps, sampler)
        spent = _epsilon(event, delta, by, COARSE)
        return math.log(max(spent, 1e-12)) - math.log(target_epsilon) if math.isfinite(spent) else 1e3

    by = "rdp" if accountant == "rdp" else "pld"
    low, high = _bracket(functools.partial(excess, by="rdp"), target_epsilon)
    if by == "pld":
        low, high = _bracket(functools.partial(excess, by="pld"), target_epsilon, guess=high)
    noise = brentq(
        lambda value: excess(math.exp(value), by), math.log(low), math.log(high), xtol=NEAR_ENOUGH / 4
    )
    multiplier = math.exp(noise)
    spent = functools.partial(
        epsilon, sampling_probability=sampling_probability, steps=steps, delta=delta, sampler=sampler,
        accountant=accountant,
    )  # fmt: skip
    while any(spent(noise_multiplier=multiplier, interval=step) > target_epsilon for step in (COARSE, FINE)):
        multiplier *= 1 + NEAR_ENOUGH / 2
    return multiplier


def _bracket(
    excess: Callable[[float], float], target_epsilon: float, guess: float = 1.0
) -> tuple[float, float]:
    """Two noises, one with too large an epsilon, one without."""
    low = high = guess
    if excess(guess) > 0:
        while excess(high) > 0:
            low, high = high, high * 2
            if high > LARGEST_NOISE:
                raise PrivacyError(
                    f"No noise makes epsilon {target_epsilon:g} at this delta. Ask for a larger epsilon,"
                    " fewer epochs, or a larger delta."
                )
        return low, high
    while excess(low) <= 0:
        low, high = low / 1.5, low
        if low < 1e-3:
            raise PrivacyError(f"Epsilon {target_epsilon:g} needs no noise worth the name: ask for less.")
    return low, high


def _event(noise: float, probability: float, steps: int, sampler: str) -> dp_accounting.DpEvent:
    import dp_accounting as dp

    gaussian = dp.GaussianDpEvent(noise)
    if sampler == "shuffled":
        return dp.SelfComposedDpEvent(gaussian, math.ceil(steps / math.ceil(1 / probability)))
    if sampler != "poisson":
        raise ConfigError(f"There is no sampler {sampler!r}; use one of: {', '.join(SAMPLERS)}.")
    if probability < 1:
        return dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(probability, gaussian), steps)
    return dp.SelfComposedDpEvent(gaussian, steps)


def _epsilon(event: dp_accounting.DpEvent, delta: float, accountant: str, interval: float) -> float:
    from dp_accounting import pld, rdp

    if accountant == "pld":
        ledger = pld.PLDAccountant(value_discretization_interval=interval)
    elif accountant == "rdp":
        ledger = rdp.RdpAccountant()
    else:
        raise ConfigError(f"There is no accountant {accountant!r}; use one of: {', '.join(ACCOUNTANTS)}.")
    with _quiet():
        return float(ledger.compose(event).get_epsilon(delta))


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
