"""The privacy statement of a run: privacy.json, and the same in words for a review board."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkit.privacy.plan import NEIGHBOURS, Plan

UNSAID = ("microbatch_size", "steps_per_epoch", "epochs")  # of a plan: no part of the promise
LARGE = 100  # an epsilon whose odds are beyond words


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
    import yaml

    words = yaml.safe_load(Path(__file__).with_name("statement.yaml").read_text(encoding="utf-8"))
    other = "rdp" if plan.accountant == "pld" else "pld"
    epsilon = _finite(plan.epsilon(steps))
    private = epsilon is not None and plan.noise_multiplier > 0 and not plan.deterministic_noise
    return {
        "private": private,
        "epsilon": epsilon,
        f"epsilon_{other}": _finite(plan.epsilon(steps, accountant=other)),
        **{name: value for name, value in vars(plan).items() if name not in UNSAID},
        "steps": steps,
        "optimizer": optimizer,
        "neighbouring_relation": NEIGHBOURS[plan.sampler],
        "covered": words["covered"] if private else [],
        "not_covered": words["not_covered"] + (words["diagnostics"] if plan.diagnostics else []),
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
    epsilon, certainty, odds = content["epsilon"], 0.5, ""
    if epsilon is not None:
        certainty = 1 / (1 + math.exp(-epsilon))
        odds = f"{math.exp(epsilon):.3g}" if epsilon < LARGE else f"e^{epsilon:.3g}"
    text = templates.get_template("statement.txt.j2").render(content, certainty=certainty, odds=odds)
    return " ".join(text.split())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
