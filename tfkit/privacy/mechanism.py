"""What a user asks of private training, and the plan that follows for a set of data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from tfkit.config import fields
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy import accounting

COUNT_NOISE_SHARE = 0.05
LARGEST_MICROBATCH = 256
SMALLEST_MICROBATCH = 32


@dataclass(frozen=True, kw_only=True)
class DPSGD:
    """Differentially private training by DP-SGD, with whatever optimizer the model is compiled: Adam makes DP-Adam.

    Each example enters each step by chance, its gradient is cut to a length of `l2_norm_clip`, and Gaussian noise
    is added to their sum.

    Attributes:
      target_epsilon: the noise is chosen so that this is not exceeded; either this or noise_multiplier.
      noise_multiplier: standard deviation of the noise in units of the clipping norm. 0 is for comparisons: no
        epsilon holds then.
      delta: probability with which epsilon may fail; None: 1e-5, or 1/(10 n) where that is smaller.
      l2_norm_clip: the clipping norm C; with an adaptive one, the first.
      sampler: `poisson`, or `shuffled` epochs, accounted as what they are: without amplification by sampling.
      accountant: `pld` (tight) or `rdp`.
      microbatch_size: examples that go through the model at a time; None: chosen. It decides memory and speed only.
      adaptive_clip_quantile: share of examples that is to stay unclipped: C follows (Andrew et al. 2021,
        arXiv:1905.03871). The noise on the count that steers it is part of what is accounted.
      deterministic_noise: noise and samples follow from the run's seed: repeatable, and not private.
      diagnostics: log loss, metrics and gradient norms of the training examples without noise: they leak.
      release_noise: noise multiplier of a Gaussian release from the same examples that is used in the training, such as
        `tfkit.privacy.noisy_mean`; it is accounted along. 0: none.

    Example:
      >>> DPSGD(target_epsilon=3, delta=1e-5).plan(examples=1258, expected_batch_size=256, epochs=30).steps
      150
    """

    target_epsilon: fields.Positive | None = None
    noise_multiplier: Annotated[float, fields.Range(ge=0)] | None = None
    delta: Annotated[float, fields.Range(gt=0, lt=1)] | None = None
    l2_norm_clip: fields.Positive = 1.0
    sampler: Literal["poisson", "shuffled"] = "poisson"
    accountant: Literal["pld", "rdp"] = "pld"
    microbatch_size: fields.Count | None = None
    adaptive_clip_quantile: Annotated[float, fields.Range(gt=0, lt=1)] | None = None
    deterministic_noise: bool = False
    diagnostics: bool = False
    release_noise: Annotated[float, fields.Range(ge=0)] = 0.0

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        fields.check(self)
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ConfigError(
                "Either target_epsilon or noise_multiplier decides the noise: give one of them"
                f" (found {self.target_epsilon} and {self.noise_multiplier})."
            )

    def plan(self, *, examples: int, expected_batch_size: int, epochs: int) -> Plan:
        """What training so many epochs on so many examples takes.

        Args:
          examples: in the training split; taken as public.
          expected_batch_size: mean size of the Poisson samples, or size of the shuffled batches.
          epochs: in each of which an example is expected once.

        Raises:
          ConfigError: settings that cannot be, all at once.
          PrivacyError: a delta that protects nobody (with whatever else is wrong); a target that no noise reaches.
        """
        found = [*_size_problems(examples, expected_batch_size, epochs)]
        unsafe = self._unsafe_delta(examples)
        if found or unsafe:
            error = PrivacyError if unsafe else ConfigError
            raise error("Private training cannot be planned:\n  " + "\n  ".join([*found, *unsafe]))
        delta = self.delta if self.delta is not None else min(1e-5, 0.1 / examples)
        per_epoch = examples / expected_batch_size
        steps_per_epoch = math.ceil(per_epoch) if self.sampler == "shuffled" else max(1, round(per_epoch))
        probability = expected_batch_size / examples
        noise = self.noise_multiplier
        if noise is None:
            assert self.target_epsilon is not None
            noise = accounting.calibrate(
                target_epsilon=self.target_epsilon,
                delta=delta,
                sampling_probability=probability,
                steps=steps_per_epoch * epochs,
                sampler=self.sampler,
                accountant=self.accountant,
                release_noise=self.release_noise,
            )
        gradient_noise, count_noise = self._split(noise, expected_batch_size)
        return Plan(
            noise_multiplier=noise,
            gradient_noise_multiplier=gradient_noise,
            count_noise=count_noise,
            l2_norm_clip=self.l2_norm_clip,
            adaptive_clip_quantile=self.adaptive_clip_quantile,
            sampler=self.sampler,
            sampling_probability=probability,
            expected_batch_size=expected_batch_size,
            examples=examples,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
            delta=delta,
            accountant=self.accountant,
            microbatch_size=self.microbatch_size or _microbatch(expected_batch_size),
            deterministic_noise=self.deterministic_noise,
            diagnostics=self.diagnostics,
            target_epsilon=self.target_epsilon,
            release_noise=self.release_noise,
        )

    def _unsafe_delta(self, examples: int) -> list[str]:
        if self.delta is None or examples < 1 or accounting.SMALLEST_DELTA <= self.delta < 1 / examples:
            return []
        safe = f"leave it out, or use --delta {min(1e-5, 0.1 / examples):.0e}."
        if not self.delta >= accounting.SMALLEST_DELTA:
            return [f"delta is {self.delta:g}; it must be at least {accounting.SMALLEST_DELTA:g}: {safe}"]
        return [
            f"delta is {self.delta:g} with {examples} examples, and must be below 1/n = {1 / examples:.2g}: with a"
            f" delta of 1/n one may publish a whole example, drawn at random. Make it much smaller: {safe}"
        ]

    def _split(self, noise: float, expected_batch_size: int) -> tuple[float, float]:
        """Noise for the gradients and for the count, which together are worth `noise` (Andrew et al., theorem 1).

        Theirs is 1/20 of the batch for the count, which leaves little or nothing for the gradients where noise is
        large and the batch small. With no less than `noise` itself the gradients get 1.16 times `noise` at most.
        """
        if self.adaptive_clip_quantile is None or noise == 0:
            return noise, 0.0
        count_noise = max(COUNT_NOISE_SHARE * expected_batch_size, noise)
        return (noise**-2 - (2 * count_noise) ** -2) ** -0.5, count_noise


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What private training does, in numbers.

    Attributes:
      noise_multiplier: the one that is accounted.
      gradient_noise_multiplier: standard deviation of the noise on the sum of gradients, in units of the clipping
        norm: the same, or a little more with adaptive clipping, where the count has its share.
      count_noise: standard deviation of the noise on the count of unclipped examples; 0 without adaptive clipping.
      sampling_probability: with which an example is in a step.
      steps_per_epoch: so many that an example is expected once.
      microbatch_size: examples that go through the model at a time.
      l2_norm_clip: length to which the gradient of each example is cut; with adaptive clipping where it begins.
      adaptive_clip_quantile: share of examples that is to stay unclipped, in (0, 1); None: the clipping norm is fixed.
      clip_learning_rate: of the clipping norm, where it is adaptive.
      sampler: "poisson" or "shuffled".
      expected_batch_size: examples in a step on average, by which the noisy sum is divided.
      examples: in the training split.
      epochs: that were planned, and are accounted.
      delta: probability with which epsilon may fail.
      accountant: "pld" or "rdp".
      deterministic_noise: noise from the seed, for tests: nothing is private then.
      diagnostics: whether numbers without noise are logged, which leak.
      target_epsilon: that was asked for; None where the noise was.
      release_noise: of a Gaussian release from all examples beside the steps; 0: none.
    """

    noise_multiplier: float
    gradient_noise_multiplier: float
    count_noise: float
    l2_norm_clip: float
    adaptive_clip_quantile: float | None
    clip_learning_rate: float = 0.2
    sampler: str
    sampling_probability: float
    expected_batch_size: int
    examples: int
    steps_per_epoch: int
    epochs: int
    delta: float
    accountant: str
    microbatch_size: int
    deterministic_noise: bool
    diagnostics: bool
    target_epsilon: float | None
    release_noise: float = 0.0

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.steps_per_epoch * self.epochs

    def epsilon(self, steps: int, *, accountant: str | None = None) -> float:
        """What so many steps have spent: infinity without noise, 0 without steps."""
        return accounting.epsilon(
            noise_multiplier=self.noise_multiplier,
            sampling_probability=self.sampling_probability,
            steps=steps,
            delta=self.delta,
            sampler=self.sampler,
            accountant=accountant or self.accountant,
            release_noise=self.release_noise,
        )


def _size_problems(examples: int, expected_batch_size: int, epochs: int) -> list[str]:
    found = []
    if not 1 <= expected_batch_size <= examples:
        found.append(
            f"The batch is {expected_batch_size}, the training split has {examples} examples: use a"
            f" global_batch_size of at most {examples}."
        )
    if epochs < 1:
        found.append(f"epochs is {epochs}; training takes at least 1.")
    return found


def _microbatch(expected_batch_size: int) -> int:
    """Examples in one pass: a quarter of the batch, but at least 32 and at most 256, and not above a small batch.

    The last pass of a sample is half padding on average. A quarter makes that an eighth of the work, still so with
    the sample dealt to a few replicas. Below 32 a pass costs about the same whatever is in it; above 256 it gains
    nothing, and takes memory.
    """
    wanted = min(max(expected_batch_size / 4, SMALLEST_MICROBATCH), LARGEST_MICROBATCH, expected_batch_size)
    return math.ceil(wanted / 8) * 8
