"""Exposure: how far a model of texts tells codes that stood in its training texts from codes that did not.

Source: Carlini et al. 2019, "The Secret Sharer" (arXiv:1802.08232).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from tfkit import hub
from tfkit.data.splits import Splits
from tfkit.environment import files, stack
from tfkit.environment.process import rounded_up

INSERTIONS = (1, 4, 16)
REFERENCES = 1000
CHANCE = 1 / math.log(2)
"""Bits that codes have on average which were never inserted."""

CONFIDENCE = 0.99
_DIGITS = 10


def exposure(
    encoder: hub.Encoder,
    features: Splits,
    *,
    fit: Callable[[Splits], stack.keras.Model],
    canaries: int,
    epsilon: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Train a head on texts and canaries, and see how likely it finds these among codes that it did not see.

    A canary is compared with other codes under its own class: what the head learns of all such sentences, and of the
    classes that the inserted ones have, is then the same for both, and only the digits tell them apart.

    Args:
      encoder: frozen; it computes the features of the canaries alone.
      features: of the run's own texts, see `tfkit.hub.extract`.
      fit: trains a head on such splits; features float32 [b, d] to logits [b, classes].
      canaries: codes for each of 1, 4 and 16 insertions.
      epsilon: that the run claims.
      seed: of digits and classes.

    Returns:
      The exposure of the canaries of each number of insertions, in bits, and a verdict, as in audit.json: with b bits
      a code stands among the 2^-b share of all codes that the model finds likeliest.
    """
    from scipy.special import log_softmax
    from scipy.stats import gamma

    rng = np.random.default_rng(seed)
    texts = codes(canaries * len(INSERTIONS) + REFERENCES, chance=rng)
    times = np.repeat(INSERTIONS, canaries)
    labels = rng.integers(len(features.class_names), size=len(times))
    rows, _ = hub.embed(encoder, texts)
    run_source = features.source
    all_rows = np.concatenate([run_source.read(np.arange(len(run_source.labels))), rows[: len(times)]])
    source: Any = SimpleNamespace(  # a `tfkit.data.Source`, in memory
        labels=np.concatenate([run_source.labels, labels]),
        names=[f"canaries/{index}" for index in range(len(all_rows))],
        shape=run_source.shape,
        fingerprint=files.digest_of(run_source.fingerprint, texts),
        read=all_rows.__getitem__,
    )
    insertion_rows = len(run_source.labels) + np.repeat(np.arange(len(times)), times)
    train = np.concatenate([features.indices["train"], insertion_rows])
    pool = features.replace(source=source, indices={**features.indices, "train": train})
    # The cross-entropy of each row under each class, float64: without ties where it is small.
    losses = -log_softmax(fit(pool).predict(rows, verbose=0).astype(np.float64), axis=1)
    bits = _compute_bits(losses[: len(times)], losses[len(times) :], labels=labels, times=times)
    # What the mean of never inserted codes stays below in 99 of 100 cases.
    by_chance = float(gamma.ppf(CONFIDENCE, canaries, scale=CHANCE / canaries))
    means = {times: float(values.mean()) for times, values in bits.items()}
    max_bits = math.log2(REFERENCES)
    verdict = (
        "Secrets: made-up codes among the texts of a head trained anew have a mean exposure of"
        f" {', '.join(f'{mean:.1f} ({times} times)' for times, mean in means.items())} bits, others {CHANCE:.1f} (below"
        f" {by_chance:.1f} in 99 of 100 means of {canaries}); the most that can be seen is {max_bits:.1f}."
    )
    if traces := [times for times, mean in means.items() if mean > by_chance]:
        verdict += f" What stands in the texts {traces[0]} times leaves a trace in the model."
    if epsilon is not None:
        most = max(INSERTIONS)
        verdict += (
            f" Epsilon {rounded_up(epsilon, 3)} is of one text: one that is there {most} times has {most} times that,"
            f" {rounded_up(most * epsilon, 3)}, and a larger delta."
        )
    insertions = {
        str(times): {
            "mean_bits": means[times],
            "largest_bits": float(values.max()),
            "by_chance_bits": by_chance,
            "codes": len(values),
        }
        for times, values in bits.items()
    }
    return {
        "verdict": verdict,
        "insertions": insertions,
        "possible_bits": max_bits,
        "chance_bits": CHANCE,
        "references": REFERENCES,
        "examples": len(features.indices["train"]),
        "inserted": len(insertion_rows),
    }


def codes(count: int, *, chance: np.random.Generator) -> list[str]:
    """Return different sentences, each with a code of ten random digits."""
    numbers = chance.choice(10**_DIGITS, count, replace=False)
    return [f"My access code is {' '.join(f'{number:0{_DIGITS}d}')}" for number in numbers]


def _compute_bits(
    inserted: np.ndarray, references: np.ndarray, *, labels: np.ndarray, times: np.ndarray
) -> dict[int, np.ndarray]:
    ranks = stack.tf_privacy("privacy_tests.secret_sharer.exposures").compute_exposure_interpolation
    bits: dict[int, list[float]] = {int(count): [] for count in np.unique(times)}
    for label in np.unique(labels):
        groups = {count: inserted[(labels == label) & (times == count), label] for count in bits}
        results = ranks({count: rows for count, rows in groups.items() if len(rows)}, references[:, label])
        for count, values in results.items():
            bits[count].extend(values)
    return {count: np.asarray(values) for count, values in bits.items()}
