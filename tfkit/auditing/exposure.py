"""Exposure: how far a model of texts tells codes that stood in its training texts from codes that did not.

Source: Carlini et al. 2019, "The Secret Sharer" (arXiv:1802.08232).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import hub
from tfkit.environment import files, stack

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.environment.stack import keras
    from tfkit.hub import Encoder

INSERTIONS = (1, 4, 16)
REFERENCES = 1000
CHANCE = 1 / math.log(2)
"""Bits that codes have on average which were never inserted."""

CONFIDENCE = 0.99
_DIGITS = 10


@dataclass(frozen=True, kw_only=True, eq=False)
class Exposure:
    """What the losses of made-up codes tell about whether they were trained on.

    Attributes:
      bits: for each number of insertions the exposure of each code, float64 [n]: with b bits a code stands among the
        2^-b share of all codes that the model finds likeliest.
      references: codes that were not inserted and that each is compared with.
      examples: texts of the run's own that the head was trained on beside the inserted ones.
      epsilon: that the run claims for one text; None where it claims none.
    """

    bits: Mapping[int, np.ndarray]
    references: int
    examples: int
    epsilon: float | None = None

    @property
    def possible(self) -> float:
        """The largest exposure that so many references can show, in bits."""
        return math.log2(self.references)

    def by_chance(self, insertions: int) -> float:
        """Return what the mean exposure of never inserted codes stays below in 99 of 100 cases, in bits."""
        from scipy.stats import gamma

        count = len(self.bits[insertions])
        return float(gamma.ppf(CONFIDENCE, count, scale=CHANCE / count))

    @property
    def verdict(self) -> str:
        """In words, and no more than was found."""
        means = ", ".join(f"{bits.mean():.1f} ({times} times)" for times, bits in self.bits.items())
        once, *_, often = self.bits
        text = (
            f"Secrets: a head trained anew with made-up codes among its texts gives them a mean exposure of {means}"
            f" bits. Codes that it never saw have {CHANCE:.1f} (means of {len(self.bits[once])} stay below"
            f" {self.by_chance(once):.1f} in 99 of 100 cases); the most that can be seen is {self.possible:.1f}."
        )
        learnt = [times for times, bits in self.bits.items() if bits.mean() > self.by_chance(times)]
        if learnt:
            text += f" What stands in the texts {learnt[0]} times leaves a trace in the model."
        if self.epsilon is not None and often > 1:
            text += (
                f" Epsilon {self.epsilon:.3g} is for one text: one that is there {often} times has {often} times that,"
                f" {often * self.epsilon:.3g}, and a larger delta."
            )
        return text

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as in audit.json."""
        return {
            "verdict": self.verdict,
            "insertions": {
                str(times): {
                    "mean_bits": float(bits.mean()),
                    "largest_bits": float(bits.max()),
                    "by_chance_bits": self.by_chance(times),
                    "codes": len(bits),
                }
                for times, bits in self.bits.items()
            },
            "possible_bits": self.possible,
            "chance_bits": CHANCE,
            "references": self.references,
            "examples": self.examples,
            "inserted": sum(times * len(bits) for times, bits in self.bits.items()),
        }


def exposure(
    encoder: Encoder,
    features: Splits,
    *,
    fit: Callable[[Splits], keras.Model],
    canaries: int,
    epsilon: float | None = None,
    seed: int = 0,
) -> Exposure:
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
      How many bits each canary is found by, for each number of insertions.
    """
    chance = np.random.default_rng(seed)
    texts = codes(canaries * len(INSERTIONS) + REFERENCES, chance=chance)
    times = np.repeat(INSERTIONS, canaries)
    labels = chance.integers(len(features.class_names), size=len(times))
    everywhere = dict.fromkeys(features.indices, np.arange(len(texts)))
    alone = _Examples(np.array([text.encode() for text in texts], object), np.zeros(len(texts), np.int64))
    rows = hub.extract(
        encoder, features.replace(source=alone, indices=everywhere, skipped=())
    ).splits.source.read(np.arange(len(texts)))
    own = features.source
    both = _Examples(
        np.concatenate([own.read(np.arange(len(own.labels))), rows[: len(times)]]),
        np.concatenate([own.labels, labels]),
    )
    inserted = len(own.labels) + np.repeat(np.arange(len(times)), times)
    train = np.concatenate([features.indices["train"], inserted])
    pool = features.replace(source=both, indices={**features.indices, "train": train})
    losses = _losses(fit(pool), rows)
    return Exposure(
        bits=_bits(losses[: len(times)], losses[len(times) :], labels=labels, times=times),
        references=REFERENCES,
        examples=len(features.indices["train"]),
        epsilon=epsilon,
    )


def codes(count: int, *, chance: np.random.Generator) -> list[str]:
    """Return different sentences, each with a code of ten random digits."""
    numbers = chance.choice(10**_DIGITS, count, replace=False)
    return [f"My access code is {' '.join(f'{number:0{_DIGITS}d}')}" for number in numbers]


def _losses(model: keras.Model, rows: np.ndarray) -> np.ndarray:
    """Return the cross-entropy of each row under each class: float64 [n, classes], without ties where it is small."""
    from scipy.special import log_softmax

    return np.asarray(-log_softmax(model.predict(rows, verbose=0).astype(np.float64), axis=1))


def _bits(
    inserted: np.ndarray, references: np.ndarray, *, labels: np.ndarray, times: np.ndarray
) -> dict[int, np.ndarray]:
    ranks = stack.tf_privacy("privacy_tests.secret_sharer.exposures").compute_exposure_interpolation
    bits: dict[int, list[float]] = {int(one): [] for one in np.unique(times)}
    for label in np.unique(labels):
        of_class = {one: inserted[(labels == label) & (times == one), label] for one in bits}
        found = ranks({one: losses for one, losses in of_class.items() if len(losses)}, references[:, label])
        for one, values in found.items():
            bits[one].extend(values)
    return {one: np.asarray(values) for one, values in bits.items()}


class _Examples:
    """Texts, or features of some, in memory; see `tfkit.data.Source`."""

    languages = None

    def __init__(self, rows: np.ndarray, labels: np.ndarray) -> None:
        self._rows, self.labels = rows, labels
        self.names = [f"canaries/{place}" for place in range(len(rows))]
        self.shape: tuple[int, ...] = rows.shape[1:]
        self.lengths = np.asarray([len(row) for row in rows], np.int32)
        self.fingerprint = files.digest_of("canaries", rows.tolist(), labels.tolist())

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self._rows[indices]

    def raw(self, index: int) -> Any:
        row = self._rows[index]
        return row.decode() if isinstance(row, bytes) else row
