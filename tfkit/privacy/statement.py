"""The privacy statement of a run: privacy.json, and the same in words for a review board."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tfkit.privacy.plan import NEIGHBOURS, Plan

COVERED = (
    "the weights of the model after every step, and whatever is computed from them alone: predictions on other data,"
    " a quantized, pruned or converted copy",
)
NOT_COVERED = (
    "people of whom there are several examples: epsilon is that of one example, and up to k times as large, at a"
    " larger delta, for k of them together",
    "the search for hyper-parameters: what other runs on the same examples have spent comes on top",
    "the examples of the validation and test splits, and what is measured on them: the metrics, what the model says of"
    " each test example, numbered, and its class. Where these splits are drawn from one set with the training"
    " examples, their classes are about as frequent as those of training",
    "what an audit measures on the training examples without noise, which is kept rounded to hundredths",
    "the choice of the public backbone, and the data that it was trained on",
    "the number of training examples, the names of the classes, and the settings with the path of the data and the size"
    " of images, which are taken as public: who knows all examples but one sees from an exact number whether that one"
    " was there",
    "copies of the data that are not in this folder: prepared data, stored features and the record of the run in the"
    " cache, the images or texts themselves",
    "attacks on floating-point arithmetic (Mironov 2012), since the noise is float32 from TensorFlow's Philox"
    " generator, keyed by the operating system's entropy",
)
OF_PLAN = (
    "delta", "accountant", "target_epsilon", "noise_multiplier", "gradient_noise_multiplier", "count_noise",
    "release_noise", "l2_norm_clip", "adaptive_clip_quantile", "sampler", "sampling_probability", "expected_batch_size",
    "examples", "deterministic_noise", "diagnostics",
)  # fmt: skip
LARGE = 100  # an epsilon whose odds are beyond words
DIAGNOSTICS = "the training metrics and gradient norms in the logs: they were asked for and carry no noise"


def statement(plan: Plan, *, steps: int, optimizer: str) -> dict[str, Any]:
    """Return what holds for a training, as plain values for privacy.json.

    Args:
      plan: what was done.
      steps: that were ever taken, in this process and in those before it.
      optimizer: the name of its class.

    Returns:
      epsilon, delta, noise_multiplier, l2_norm_clip, sampler, sampling_probability, expected_batch_size, examples,
      steps, accountant, neighbouring_relation, covered, not_covered, and more. epsilon is None where none holds,
      and covered is empty where `private` is False.
    """
    other = "rdp" if plan.accountant == "pld" else "pld"
    epsilon = _finite(plan.epsilon(steps))
    private = epsilon is not None and plan.noise_multiplier > 0 and not plan.deterministic_noise
    return {
        "private": private,
        "epsilon": epsilon,
        f"epsilon_{other}": _finite(plan.epsilon(steps, accountant=other)),
        **{name: getattr(plan, name) for name in OF_PLAN},
        "steps": steps,
        "optimizer": optimizer,
        "neighbouring_relation": NEIGHBOURS[plan.sampler],
        "covered": list(COVERED) if private else [],
        "not_covered": [*NOT_COVERED, *([DIAGNOSTICS] if plan.diagnostics else [])],
    }


def paragraph(content: Mapping[str, Any]) -> str:
    """Return the statement in words.

    Args:
      content: what `statement` returned, or privacy.json holds.

    Returns:
      Sentences for a review board: what is promised, by which method, and what is not covered.
    """
    sentences = [*_promise(content), *_how(content)]
    sentences.append("Covered: " + ("; ".join(content["covered"]) or "nothing") + ".")
    sentences.append("Not covered: " + "; ".join(content["not_covered"]) + ".")
    return " ".join(sentences)


def _promise(content: Mapping[str, Any]) -> list[str]:
    epsilon = content["epsilon"]
    if epsilon is None:
        return [
            "NOT PRIVATE: training added no noise, or too little"
            f" ({content['noise_multiplier']:.3g} times the clipping norm), so that no epsilon holds."
        ]
    begin = "Training was"
    if content["deterministic_noise"]:
        begin = (
            "NOT PRIVATE: the noise followed from a known seed, and who knows it can take it away again. With a secret"
            " one, training would have been"
        )
    certainty = 1 / (1 + math.exp(-epsilon))
    odds = f"{math.exp(epsilon):.3g}" if epsilon < LARGE else f"e^{epsilon:.3g}"
    return [
        f"{begin} differentially private with epsilon {epsilon:.4g} at delta {content['delta']:.3g}, for"
        f" {content['neighbouring_relation']}.",
        f"Someone who knows all about the training but whether one given example was in it, and holds it for a toss-up,"
        f" can become {certainty:.2%} sure of it from the weights at most (odds of {odds} to 1), but for a"
        f" probability of about {content['delta']:.3g}.",
    ]


def _how(content: Mapping[str, Any]) -> list[str]:
    sampling = (
        f"the {content['examples']:,} examples were shuffled in each epoch and seen once, in batches of"
        f" {content['expected_batch_size']}, which is accounted without amplification by sampling"
    )
    if content["sampler"] == "poisson":
        sampling = (
            f"each of {content['examples']:,} examples was drawn with probability"
            f" {content['sampling_probability']:.4g}, independently"
        )
    clip, quantile = f"{content['l2_norm_clip']:.4g}", content["adaptive_clip_quantile"]
    if quantile is not None:
        clip += f" at first and then to the {quantile:.0%} quantile, followed privately"
    sentences = [
        f"In each of {content['steps']:,} steps {sampling}; the gradient of each was cut to a length of {clip};"
        f" Gaussian noise of {content['gradient_noise_multiplier']:.4g} times that length was added to the sum, and"
        f" {content['optimizer']} took the step.",
        f"The accountant is {_ACCOUNTANTS[content['accountant']]}; every step ever taken is counted, also those of"
        " processes that were killed.",
    ]
    if content["release_noise"]:
        sentences.insert(
            0,
            "Before training, the mean of the examples' features, each of length one, was released once with Gaussian"
            f" noise of {content['release_noise']:.4g} times such a length on their sum; epsilon holds for this too.",
        )
    return sentences


_ACCOUNTANTS = {"pld": "dp-accounting's privacy loss distribution", "rdp": "dp-accounting's Rényi divergence"}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
