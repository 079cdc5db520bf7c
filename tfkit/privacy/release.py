"""Statistics of the training examples, released once with noise that is accounted."""

from __future__ import annotations

import math
import secrets

import numpy as np


def noisy_mean(rows: np.ndarray, *, noise_multiplier: float, seed: int | None = None) -> np.ndarray:
    """The mean of vectors of length one, with the noise of a Gaussian mechanism.

    Each row is brought to length one, so that adding or removing one moves the sum by 1 at most.

    Args:
      rows: float [n, d], one an example; n is taken as public.
      noise_multiplier: standard deviation of the noise on each number of the sum.
      seed: None draws from the operating system's entropy; a number is repeatable and not private.

    Returns:
      float32 [d].

    Source: Dwork and Roth 2014, appendix A, for the mechanism.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    total = (rows / np.maximum(lengths, 1e-12)).sum(axis=0, dtype=np.float64)
    chance = np.random.default_rng(secrets.randbits(256) if seed is None else seed)
    return np.asarray((total + noise_multiplier * chance.standard_normal(len(total))) / len(rows), np.float32)


def noise_for_share(whole: float, share: float) -> float:
    """The noise multiplier of a release that spends a share of what one release of `whole` would spend.

    What Gaussian mechanisms spend adds up in 1 / noise^2 (Dong et al. 2022, arXiv:1905.02383).

    Args:
      whole: noise multiplier of a release that spends all.
      share: above 0 and up to 1.

    Returns:
      `whole` / sqrt(`share`), in units of the clipping norm.
    """
    return whole / math.sqrt(share)
