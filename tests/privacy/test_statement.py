"""privacy.json holds what a reader needs to check it, and the paragraph says it without claiming more."""

import json
import math
import re

import pytest

from tfkit.privacy import DPSGD, compute_epsilon, paragraph
from tfkit.privacy.plan import statement


def state(*, steps=None, **asked):
    """What privacy.json holds, as it is read back."""
    plan = DPSGD(**{"noise_multiplier": 3.0, **asked}).plan(examples=1258, expected_batch_size=256, epochs=10)
    content = statement(plan, steps=plan.steps if steps is None else steps, optimizer="Adam")
    return json.loads(json.dumps(content, allow_nan=False))


def sentences(text):
    return re.split(r"(?<=[.:])\s+(?=[A-Z])", text)


def test_an_accountant_can_work_from_the_file_alone():
    said = state()
    names = ("noise_multiplier", "sampling_probability", "steps", "delta", "sampler")
    again = {name: said[name] for name in names}
    assert said["private"] is True
    assert said["accountant"] == "pld"
    assert said["epsilon"] == compute_epsilon(**again)
    assert said["epsilon_rdp"] == compute_epsilon(**again, accountant="rdp") > said["epsilon"]
    assert (said["examples"], said["expected_batch_size"], said["l2_norm_clip"]) == (1258, 256, 1.0)
    assert "added or removed" in said["neighbouring_relation"]
    other = state(accountant="rdp")
    assert (other["epsilon"], other["epsilon_pld"]) == (said["epsilon_rdp"], said["epsilon"])


def test_a_statement_of_groups_is_of_groups():
    content = state(examples_per_group=2)
    text = paragraph(content)
    names = ("noise_multiplier", "sampling_probability", "steps", "delta", "sampler", "examples_per_group")
    assert (
        content["epsilon"] == compute_epsilon(**{name: content[name] for name in names}) > state()["epsilon"]
    )
    assert "group, 2 at most" in content["neighbouring_relation"]
    assert "given group" in text
    assert "given example" not in text
    assert "epsilon_rdp" not in content
    assert "epsilon is that of one example" not in " ".join(content["not_covered"])


def test_what_is_and_is_not_covered():
    said = state()
    assert "weights" in " ".join(said["covered"])
    gaps = " ".join(said["not_covered"])
    named = (
        "hyper-parameters",
        "test splits",
        "public backbone",
        "number of training",
        "several",
        "floating-point",
        "how long",
    )
    assert all(gap in gaps for gap in named)
    assert "gradient norms" not in gaps
    assert "gradient norms" in " ".join(state(diagnostics=True)["not_covered"])


def test_the_paragraph_can_stand_before_a_review_board():
    said = state(target_epsilon=2.0, noise_multiplier=None)
    text = paragraph(said)
    assert 5 <= len(sentences(text)) <= 8
    assert text.startswith("Training was differentially private with epsilon 1.99")
    odds = math.exp(said["epsilon"])
    promised = {
        r"epsilon ([\d.]+)": said["epsilon"],
        r"([\d.]+)% sure": 100 * odds / (1 + odds),
        r"odds of ([\d.]+)": odds,
    }
    for words, value in promised.items():  # no printed number may be below what holds
        found = re.search(words, text)
        assert found
        assert value <= float(found[1]) <= value + 0.01
    named = ("1,258 examples", "independently", "In each of 50 steps", "Adam", "quantized")
    assert all(words in text for words in (*named, *said["not_covered"]))


def test_shuffled_epochs_and_adaptive_clipping_are_named():
    said = state(sampler="shuffled", adaptive_clip_quantile=0.5)
    assert "zero-out" in said["neighbouring_relation"]
    assert said["gradient_noise_multiplier"] > said["noise_multiplier"]
    text = paragraph(said)
    assert "without amplification" in text
    assert "50% quantile" in text
    assert "99.5% quantile" in paragraph(state(adaptive_clip_quantile=0.995))
    assert "independently" not in text


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"deterministic_noise": True}, "known seed"), ({"noise_multiplier": 0.0}, "no epsilon holds")],
)
def test_what_is_not_private_says_so_first(asked, reason):
    said = state(**asked)
    assert said["private"] is False
    assert (said["epsilon"] is said["epsilon_rdp"] is None) == ("noise_multiplier" in asked)
    text = paragraph(said)
    assert text.startswith("NOT PRIVATE")
    assert reason in text.partition("differentially private")[0]
    assert "Covered: nothing." in text
    assert "Training was differentially private" not in text


@pytest.mark.parametrize("noise", [0.2, 0.05, 1e-5])
def test_next_to_no_noise_still_makes_a_statement(noise):
    said = state(noise_multiplier=noise)
    text = paragraph(said)
    assert "inf" not in text.replace("information", "")
    assert "100.00% sure" in text
