"""DPSGD, its plan and its statement: epsilon from noise and back, for the sampler that runs, by dp-accounting."""

from __future__ import annotations

import functools
import logging
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tfkit.environment.process import rounded_up
from tfkit.errors import ConfigError, PrivacyError
from tfkit.settings import fields

if TYPE_CHECKING:
    import dp_accounting

ACCOUNTANTS = ("pld", "rdp")
NEIGHBOURS = {
    "poisson": "two data sets that differ in one example, added or removed",
    "shuffled": "two data sets of equal size, in one of which one example contributes nothing (zero-out)",
}
GROUP_NEIGHBOURS = {
    "poisson": "two data sets that differ in all examples of one group, {} at most, added or removed",
    "shuffled": "two data sets of equal size, in one of which the examples of one group, {} at most, contribute nothing"
    " (zero-out)",
}

SMALLEST_NOISE, LARGEST_NOISE = 0.05, 1e4  # what calibration looks between
SMALLEST_DELTA = 1e-12
GOAL, TOLERANCE = 0.999, 9e-4  # of the target: calibration ends within 0.2 % below it


def compute_epsilon(
    *,
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    sampler: str = "poisson",
    accountant: str = "pld",
    release_noise: float = 0.0,
    expected_trials: int | None = None,
    examples_per_group: int | None = None,
    interval: float | None = None,
) -> float:
    """Return the epsilon that holds at `delta` after some steps of DP-SGD.

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
      expected_trials: mean of the geometric number of such trainings of which the best one alone is released, 2 or
        more; None: one training. `pld` knows no bound for a search: Rényi's accountant is taken.
      examples_per_group: how many examples of one person there are at most, all of whom epsilon then is of together;
        None: it is of one example. For more than 1 `pld` alone knows a bound.
      interval: width of the bins of privacy losses, which round up; None: by the Rényi accountant's epsilon.

    Returns:
      An upper bound; infinity without noise, 0 without steps.

    Raises:
      ConfigError: an argument out of its range, all of them at once.

    Source: Abadi et al. 2016 (arXiv:1607.00133); Mironov et al. 2019 (arXiv:1908.10530) for RDP; Koskela et al.
    2020 (arXiv:1906.03049) and Doroshenko et al. 2022 (arXiv:2207.04380) for PLD; Papernot and Steinke 2022
    (arXiv:2110.03620, theorem 2) for searches; Ganesh 2024 (arXiv:2401.10294) for groups.

    Example:
      >>> case = dict(noise_multiplier=1.1, sampling_probability=256 / 60000, steps=3515, delta=1e-5)
      >>> round(compute_epsilon(**case), 2), round(compute_epsilon(**case, accountant="rdp"), 2)
      (1.13, 1.28)
    """
    size = 1 if examples_per_group is None else examples_per_group
    requirements = {
        f"noise_multiplier {noise_multiplier}, 0 or more": 0 <= noise_multiplier < math.inf,
        f"sampling_probability {sampling_probability}, above 0 and at most 1": 0 < sampling_probability <= 1,
        f"steps {steps}, 0 or more": steps >= 0,
        f"delta {delta}, in [{SMALLEST_DELTA:g}, 1)": SMALLEST_DELTA <= delta < 1,
        f"sampler {sampler!r}, one of {', '.join(NEIGHBOURS)}": sampler in NEIGHBOURS,
        f"accountant {accountant!r}, one of {', '.join(ACCOUNTANTS)}": accountant in ACCOUNTANTS,
        f"expected_trials {expected_trials}, 2 or more": expected_trials is None or expected_trials >= 2,
        f"examples_per_group {size}, 1 or more, and 1 for rdp and a search": size == 1
        or (size > 1 and accountant == "pld" and expected_trials is None),
    }
    if failures := [requirement for requirement, is_met in requirements.items() if not is_met]:
        raise ConfigError("\n  ".join(["No epsilon can be computed; these must be:", *failures]))
    if steps == 0 and not release_noise:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    import dp_accounting as dp

    if sampler == "shuffled":
        # 1/(1/49) is a little above 49: rounded up as it is, an epoch would have 50 steps, and fewer be accounted.
        steps = math.ceil(steps / math.ceil(1 / sampling_probability * (1 - 1e-12)))
        sampling_probability = 1.0
    # A group moves each sum of all examples by so many times as much as an example.
    if sampling_probability == 1 or not steps:
        noise_multiplier, release_noise, size = noise_multiplier / size, release_noise / size, 1
    step: dp_accounting.DpEvent = dp.GaussianDpEvent(noise_multiplier)
    if sampling_probability < 1:
        step = dp.PoissonSampledDpEvent(sampling_probability, step)
    events = [dp.SelfComposedDpEvent(step, steps)] if steps else []
    events += [dp.GaussianDpEvent(release_noise)] if release_noise else []
    event: dp_accounting.DpEvent = dp.ComposedDpEvent(tuple(events))
    if expected_trials is not None:
        event = dp.dp_event.RepeatAndSelectDpEvent(event, mean=expected_trials, shape=1)
    if accountant == "rdp" or expected_trials is not None:
        return _compute_rdp_epsilon(event, delta)
    compute = functools.partial(
        _compute_pld_epsilon, noise_multiplier, sampling_probability, steps, delta, release_noise, size
    )
    try:
        if interval is None:
            # What a group spends is found by wide bins first.
            estimate = _compute_rdp_epsilon(event, delta) if size == 1 else compute(_WIDE_BINS)
            if estimate == math.inf:
                return estimate
            interval = _choose_interval(estimate)
        return compute(interval)
    except OverflowError:  # with next to no noise
        return _compute_rdp_epsilon(event, delta) if size == 1 else math.inf  # which hold too


def _compute_pld_epsilon(
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    release_noise: float,
    size: int,
    interval: float,
) -> float:
    losses = []
    if steps and sampling_probability == 1:
        losses.append(_make_pld(noise_multiplier / math.sqrt(steps), interval))
    elif steps:
        losses.append(_make_pld(noise_multiplier, interval, sampling_probability, size).self_compose(steps))
    if release_noise:
        losses.append(_make_pld(release_noise / size, interval))
    return float(
        functools.reduce(lambda first, second: first.compose(second), losses).get_epsilon_for_delta(delta)
    )


def calibrate(*, target_epsilon: float, steps: int, accountant: str = "pld", **mechanism: Any) -> float:
    """Return the smallest noise multiplier whose epsilon is not above the target, but at most about 0.2 % below it.

    The Rényi accountant's answer comes first, being cheap and nearly right; the other is looked for around it.

    Args:
      target_epsilon: above 0; `compute_epsilon` of the result never exceeds it.
      steps: that will be taken, 1 or more.
      accountant: `pld` or `rdp`.
      mechanism: the other arguments of `compute_epsilon`: sampling_probability, delta, sampler, release_noise,
        expected_trials.

    Returns:
      Standard deviation of the noise in units of the clipping norm.

    Raises:
      ConfigError: an argument out of its range.
      PrivacyError: no noise gives so small an epsilon; or the target is so large that it protects nobody.
    """
    from scipy.optimize import brentq

    if not 0 < target_epsilon < math.inf or steps < 1:
        raise ConfigError(f"Noise for epsilon {target_epsilon:g} in {steps} steps: both must be above 0.")

    @functools.cache  # the ends of an interval are asked for three times
    def spend(noise: float, name: str) -> float:
        return compute_epsilon(noise_multiplier=noise, steps=steps, accountant=name, **mechanism)

    log_noise, width = 0.0, math.log(1.5)
    size = mechanism.get("examples_per_group") or 1
    if size > 1:  # needs nearly so many times the noise of one example
        of_one = {**mechanism, "examples_per_group": 1, "accountant": "rdp"}
        log_noise = math.log(size * calibrate(target_epsilon=target_epsilon, steps=steps, **of_one))
        width, mechanism["interval"] = 0.1, _choose_interval(target_epsilon)
    for name in dict.fromkeys(("rdp" if size == 1 else accountant, accountant)):

        def compute_excess(log_noise: float, name: str = name) -> float:
            gap = math.log(min(max(spend(math.exp(log_noise), name), 1e-12), 1e12) / (GOAL * target_epsilon))
            return 0.0 if abs(gap) < TOLERANCE else gap  # brentq ends where it finds a zero

        low = high = log_noise
        while compute_excess(high) > 0 and high <= math.log(LARGEST_NOISE):
            low, high, width = high, high + width, 2 * width
        while compute_excess(low) <= 0 and low >= math.log(SMALLEST_NOISE):
            low, high, width = low - width, low, 2 * width
        if compute_excess(high) > 0 or compute_excess(low) <= 0:
            fix = "smaller target_epsilon (1 to 10 is usual), or noise_multiplier"
            if compute_excess(high) > 0:
                fix = "larger target_epsilon, or fewer epochs"
            raise PrivacyError(
                f"target_epsilon {target_epsilon:g} (steps: {steps:,}, delta: {mechanism['delta']:g}) needs a noise"
                f" multiplier outside of {SMALLEST_NOISE:g} to {LARGEST_NOISE:g}. Use a {fix}."
            )
        log_noise, width = brentq(compute_excess, low, high), math.log(1.1)
    noise = math.exp(log_noise)
    while spend(noise, accountant) > target_epsilon:
        noise *= 1 + TOLERANCE
    return noise


@functools.lru_cache(maxsize=4096)
def _compute_rdp_epsilon(event: dp_accounting.DpEvent, delta: float) -> float:
    from dp_accounting import rdp

    # Some of the many orders do not converge, and warn: the accountant takes the others.
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return float(rdp.RdpAccountant().compose(event).get_epsilon(delta))
    except OverflowError:  # with next to no noise
        return math.inf
    finally:
        logger.setLevel(level)


@functools.lru_cache(maxsize=8)
def _make_pld(
    noise_multiplier: float, interval: float, sampling_probability: float = 1.0, size: int = 1
) -> Any:
    """Return the privacy loss distribution of one step: it takes longest, and each epoch of a training asks for it.

    Each of the `size` examples of a person is in the step by chance, so that the sum moves by a binomial number of
    clipping norms at most: a mixture of Gaussians.
    """
    from dp_accounting.pld import privacy_loss_distribution as pld

    if size > 1:
        from scipy.stats import binom

        counts = np.arange(size + 1)
        chances = binom.pmf(counts, size, sampling_probability)
        return pld.from_mixture_gaussian_mechanism(
            noise_multiplier, counts[chances > 0].tolist(), chances[chances > 0].tolist(),
            value_discretization_interval=interval,
        )  # fmt: skip
    settings = {"value_discretization_interval": interval, "sampling_prob": sampling_probability}
    return pld.from_gaussian_mechanism(noise_multiplier, **settings)


def _choose_interval(epsilon: float) -> float:
    """Return the width of bins of the privacy loss for an epsilon known roughly; at about 1 dp-accounting's default.

    Bins round towards a larger epsilon, so that any width is sound. One for all would be slow where epsilon is large
    and loose where it is small. It never shrinks while epsilon grows, so that more steps never spend less.
    """
    if epsilon <= 0 or 1 <= epsilon <= 2:
        return 1e-4
    return 1e-4 * 2.0 ** max(math.ceil(math.log2(epsilon)), -7)


_WIDE_BINS = 0.01
_MECHANISM = ("accountant", "sampler", "release_noise", "expected_trials", "examples_per_group")
COUNT_NOISE_SHARE = 0.05


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
      microbatch_size: examples that go through the model at a time; None: as a rule the whole sample, fewer of a
        model whose layers give much. It decides memory and speed only.
      adaptive_clip_quantile: share of examples that is to stay unclipped: C follows (Andrew et al. 2021,
        arXiv:1905.03871). The noise on the count that steers it is part of what is accounted.
      deterministic_noise: noise and samples follow from the run's seed: repeatable, and not private.
      diagnostics: log loss, metrics and gradient norms of the training examples without noise: they leak.
      release_noise: noise multiplier of a Gaussian release from the same examples that is used in the training, such as
        `tfkit.privacy.noisy_mean`; it is accounted along. 0: none.
      expected_trials: this is one of so many trainings on average (their number is geometric, and kept secret), of
        which the best one alone is released; epsilon is that of the search, by `rdp`. None: one training.
      examples_per_group: epsilon is of all examples of a group together, such as a patient, of which no more than so
        many are trained on; the splits must know the groups (`group_column`). None: epsilon is of one example.
      engine: who clips: `tfkit`, or `tensorflow_privacy` for its DPModel, on models that it clips rightly; sampler,
        noise and account are the same.

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
    expected_trials: Annotated[int, fields.Range(ge=2)] | None = None
    examples_per_group: fields.Count | None = None
    engine: Literal["tfkit", "tensorflow_privacy"] = "tfkit"

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        fields.check(self)
        if (self.target_epsilon is None) == (self.noise_multiplier is None):
            raise ConfigError(
                "Either target_epsilon or noise_multiplier decides the noise: give one of them"
                f" (found {self.target_epsilon} and {self.noise_multiplier})."
            )
        if self.engine == "tensorflow_privacy" and (self.adaptive_clip_quantile or self.diagnostics):
            raise ConfigError(
                "adaptive_clip_quantile and diagnostics need the norms of single gradients, which the engine"
                ' "tensorflow_privacy" keeps to itself. Leave them out, or take engine "tfkit".'
            )
        if self.expected_trials is not None:
            object.__setattr__(self, "accountant", "rdp")
        if (self.examples_per_group or 1) > 1 and self.accountant == "rdp":
            raise ConfigError(
                f"examples_per_group {self.examples_per_group} needs the accountant pld, since rdp, which a search"
                " takes, knows no bound for a group.\n  Take examples_per_group=1, or one training by pld."
            )

    def plan(self, *, examples: int, expected_batch_size: int, epochs: int) -> Plan:
        """Return what training so many epochs on so many examples takes.

        Args:
          examples: in the training split; taken as public.
          expected_batch_size: mean size of the Poisson samples, or size of the shuffled batches.
          epochs: in each of which an example is expected once.

        Raises:
          ConfigError: more examples in a batch than there are, or no epoch.
          PrivacyError: a delta that protects nobody; a target that no noise reaches.
        """
        if not 1 <= expected_batch_size <= examples or epochs < 1:
            raise ConfigError(
                f"The batch is {expected_batch_size}, the training split has {examples} examples, epochs is {epochs}:"
                f" use a global_batch_size of at most {examples}, and at least 1 epoch."
            )
        limit = 1 / examples
        if self.delta is not None and not SMALLEST_DELTA <= self.delta < limit:
            raise PrivacyError(
                f"delta is {self.delta:g}; it must be at least {SMALLEST_DELTA:g}, and below 1/n = {limit:.2g}, with"
                f" which one may publish a whole example. Leave it out, or use --delta {min(1e-5, 0.1 * limit):.0e}."
            )
        delta = self.delta or min(1e-5, 0.1 * limit)
        per_epoch, probability = examples / expected_batch_size, expected_batch_size / examples
        steps_per_epoch = math.ceil(per_epoch) if self.sampler == "shuffled" else round(per_epoch)
        noise = self.noise_multiplier
        if self.target_epsilon is not None:
            mechanism = {name: getattr(self, name) for name in _MECHANISM}
            mechanism |= {"delta": delta, "sampling_probability": probability}
            noise = calibrate(target_epsilon=self.target_epsilon, steps=steps_per_epoch * epochs, **mechanism)
        assert noise is not None, "__post_init__ sees to it"
        gradient_noise, count_noise = self._split(noise, expected_batch_size)
        return Plan(
            **{**vars(self), "noise_multiplier": noise, "delta": delta},
            gradient_noise_multiplier=gradient_noise,
            count_noise=count_noise,
            sampling_probability=probability,
            expected_batch_size=expected_batch_size,
            examples=examples,
            steps_per_epoch=steps_per_epoch,
            epochs=epochs,
        )

    def _split(self, noise: float, expected_batch_size: int) -> tuple[float, float]:
        """Return the noise for gradients and for the count, together worth `noise` (Andrew et al., theorem 1).

        Theirs is 1/20 of the batch for the count, which leaves little or nothing for the gradients where noise is
        large and the batch small. With no less than `noise` itself the gradients get 1.16 times `noise` at most.
        """
        if self.adaptive_clip_quantile is None or noise == 0:
            return noise, 0.0
        count_noise = max(COUNT_NOISE_SHARE * expected_batch_size, noise)
        return (noise**-2 - (2 * count_noise) ** -2) ** -0.5, count_noise


@dataclass(frozen=True, kw_only=True)
class Plan(DPSGD):
    """The numbers of a private training: the settings with nothing left open.

    Attributes:
      noise_multiplier: the one that is accounted.
      gradient_noise_multiplier: standard deviation of the noise on the sum of gradients, in units of the clipping
        norm: the same, or a little more with adaptive clipping, where the count has its share.
      count_noise: standard deviation of the noise on the count of unclipped examples; 0 without adaptive clipping.
      sampling_probability: with which an example is in a step.
      expected_batch_size: examples in a step on average, by which the noisy sum is divided.
      examples: in the training split.
      steps_per_epoch: so many that an example is expected once.
      epochs: that were planned, and are accounted.
      target_epsilon: as of `DPSGD`, and so are the others; None where the noise was given.
      delta: probability with which epsilon may fail.
      microbatch_size: examples that go through the model at a time; None: the step decides, who knows the model.
      l2_norm_clip: length to which the gradient of each example is cut; with adaptive clipping where it begins.
      adaptive_clip_quantile: share of examples that is to stay unclipped, in (0, 1); None: the clipping norm is fixed.
      sampler: "poisson" or "shuffled".
      accountant: "pld" or "rdp".
      deterministic_noise: noise from the seed, for tests: nothing is private then.
      diagnostics: whether numbers without noise are logged, which leak.
      release_noise: of a Gaussian release from all examples beside the steps; 0: none.
      expected_trials: mean number of trainings of which this was the best; None: one by itself.
      examples_per_group: most examples of a group, of which epsilon is together; None: it is of one example.
      engine: "tfkit" or "tensorflow_privacy", whose DPModel clips.
    """

    noise_multiplier: float
    delta: float
    gradient_noise_multiplier: float
    count_noise: float
    sampling_probability: float
    expected_batch_size: int
    examples: int
    steps_per_epoch: int
    epochs: int

    def __post_init__(self) -> None:
        """Take the settings, which `DPSGD` has checked, with the target and the noise that reaches it."""

    @property
    def steps(self) -> int:
        """Return the steps of the whole training."""
        return self.steps_per_epoch * self.epochs

    @property
    def score_noise(self) -> float | None:
        """Return the standard deviation of the noise on the score of a trial in a search; None where there is none.

        The score is how many validation examples are classified right, which one of them changes by 1 at most. Who is
        among the validation examples enters a trial by its score alone, and so a search over such scores has for them
        the epsilon that it has for the training examples, who enter by the training.
        """
        return None if self.expected_trials is None else self.noise_of_release(self.epsilon(self.steps))

    def noise_of_release(self, epsilon: float) -> float:
        """Return the noise multiplier of one Gaussian release from all examples that by itself spends `epsilon`."""
        names = ("delta", "expected_trials", "examples_per_group")
        mechanism = {name: getattr(self, name) for name in names}
        return calibrate(target_epsilon=epsilon, steps=1, sampling_probability=1.0, **mechanism)

    def epsilon(self, steps: int, *, accountant: str | None = None, interval: float | None = None) -> float:
        """Return what so many steps have spent: infinity without noise, 0 without steps; see `compute_epsilon`."""
        names = ("noise_multiplier", "sampling_probability", "delta", *_MECHANISM)
        mechanism = {name: getattr(self, name) for name in names} | {
            "accountant": accountant or self.accountant
        }
        return compute_epsilon(**mechanism, steps=steps, interval=interval)

    @functools.cached_property
    def interval(self) -> float:
        """Return the bins of the whole training: in them the epsilon of each epoch takes a third of the time."""
        accountant = self.accountant if (self.examples_per_group or 1) > 1 else "rdp"
        return _choose_interval(min(self.epsilon(self.steps, accountant=accountant), LARGEST_NOISE))


def noisy_mean(rows: np.ndarray, *, noise_multiplier: float, seed: int | None = None) -> np.ndarray:
    """Return the mean of vectors of length one, with the noise of a Gaussian mechanism.

    Each row is brought to length one, so that adding or removing one moves the sum by 1 at most. One that is not finite
    counts as zeros: it would be seen in every number of the mean.

    Args:
      rows: float [n, d], one an example; n is taken as public.
      noise_multiplier: standard deviation of the noise on each number of the sum.
      seed: None draws from the operating system's entropy; a number is repeatable and not private.

    Returns:
      float32 [d].

    Source: Dwork and Roth 2014, appendix A, for the mechanism.
    """
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        unit_rows = rows / np.maximum(lengths, 1e-12)
    unit_rows[~np.isfinite(lengths[:, 0])] = 0
    total = unit_rows.sum(axis=0, dtype=np.float64)
    rng = np.random.default_rng(secrets.randbits(256) if seed is None else seed)
    return np.asarray((total + noise_multiplier * rng.standard_normal(len(total))) / len(rows), np.float32)


def noise_for_share(whole: float, share: float) -> float:
    """Return the noise multiplier of a release that spends a share of what one release of `whole` would spend.

    What Gaussian mechanisms spend adds up in 1 / noise^2 (Dong et al. 2022, arXiv:1905.02383).

    Args:
      whole: noise multiplier of a release that spends all.
      share: above 0 and up to 1.

    Returns:
      `whole` / sqrt(`share`), in units of the clipping norm.
    """
    return whole / math.sqrt(share)


SCHEDULE = ("microbatch_size", "steps_per_epoch", "epochs", "interval")  # of a plan: no part of the promise
LARGE_EPSILON = 100  # an epsilon whose odds are beyond words


def statement(plan: Plan, *, steps: int, optimizer: str) -> dict[str, Any]:
    """Return what holds for a training, as plain values for privacy.json.

    Args:
      plan: what was done.
      steps: that were ever taken, in this process and in those before it.
      optimizer: the name of its class.

    Returns:
      epsilon, delta, noise_multiplier, l2_norm_clip, sampler, sampling_probability, expected_batch_size, examples,
      steps, accountant, neighbouring_relation, covered, not_covered, and more; of a search also expected_trials and
      score_noise. epsilon is None where none holds,
      and covered is empty where `private` is False.
    """
    import yaml

    words = yaml.safe_load(Path(__file__).with_name("statement.yaml").read_text(encoding="utf-8"))
    other_accountant = "rdp" if plan.accountant == "pld" else "pld"
    epsilon = _to_finite(plan.epsilon(steps))
    is_private = epsilon is not None and plan.noise_multiplier > 0 and not plan.deterministic_noise
    wording, omitted_fields = words["searched"], [*SCHEDULE]
    extras = {"score_noise": plan.score_noise} if is_private else {}
    if plan.expected_trials is None:
        wording, omitted_fields = words["by_itself"], [*SCHEDULE, "expected_trials"]
        if (plan.examples_per_group or 1) == 1:
            epsilon_by_other = _to_finite(plan.epsilon(steps, accountant=other_accountant))
            extras = {f"epsilon_{other_accountant}": epsilon_by_other}
    unit = words["example" if plan.examples_per_group is None else "group"]
    relation = NEIGHBOURS[plan.sampler]
    if plan.examples_per_group is not None:
        relation = GROUP_NEIGHBOURS[plan.sampler].format(plan.examples_per_group)
    return {
        "private": is_private,
        "epsilon": epsilon,
        **extras,
        **{name: value for name, value in vars(plan).items() if name not in omitted_fields},
        "steps": steps,
        "optimizer": optimizer,
        "neighbouring_relation": relation,
        "covered": words["covered"] + wording["covered"] if is_private else [],
        "not_covered": unit["not_covered"]
        + words["not_covered"]
        + wording["not_covered"]
        + (words["diagnostics"] if plan.diagnostics else []),
    }


def paragraph(content: Mapping[str, Any]) -> str:
    """Return the statement in words.

    Args:
      content: what `statement` returned, or privacy.json holds.

    Returns:
      Sentences for a review board: what is promised, by which method, and what is not covered.
    """
    import jinja2

    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined
    )
    templates.filters["rounded_up"] = rounded_up
    epsilon, certainty, odds = content["epsilon"], 0.5, ""
    if epsilon is not None:
        certainty = math.ceil(1e4 / (1 + math.exp(-epsilon))) / 1e4
        odds = rounded_up(math.exp(epsilon), 3) if epsilon < LARGE_EPSILON else f"e^{rounded_up(epsilon, 3)}"
    text = templates.get_template("statement.txt.j2").render(content, certainty=certainty, odds=odds)
    return " ".join(text.split())


def _to_finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
