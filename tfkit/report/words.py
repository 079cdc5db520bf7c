"""Numbers as a person reads them, and a run in a few sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tfkit.report.facts import Facts

NOT_PRIVATE = (
    "Trained without differential privacy: the model may give away whether a given example was among those it was"
    " trained on."
)


def number(value: Any) -> Any:
    """Numbers with separators and four digits; all else as it is.

    >>> number(4694024), number(0.123456), number("as it is")
    ('4,694,024', '0.1235', 'as it is')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def share(value: float | None) -> str:
    """A part of one in percent.

    >>> share(0.98265), share(None)
    ('98.3 %', '–')
    """
    return "–" if value is None else f"{100 * value:.1f} %"


def kilobytes(size: int) -> str:
    """Bytes in units of 1,000, as the table of variants prints them.

    >>> kilobytes(3968552)
    '3,969'
    """
    return f"{size / 1000:,.0f}"


def summary(facts: Facts) -> dict[str, str]:
    """The run in a few sentences: what was trained on what, how good it is, how private, and what was chosen.

    Returns:
      Heading to sentences; strangers' words are in them as they are.
    """
    told = {
        "What it is": _what(facts),
        "How good": _how_good(facts),
        "Privacy": _how_private(facts),
        "Audit": facts.audit.get("verdict", ""),
        "On a device": facts.lite.get("verdict", ""),
    }
    return {heading: sentence for heading, sentence in told.items() if sentence}


def _what(facts: Facts) -> str:
    origin, handle = facts.data.get("origin"), facts.model.get("handle")
    known = facts.measured.class_names if facts.measured else range(facts.data.get("classes", 0))
    kind = {"images": "A classifier of images", "texts": "A classifier of texts"}.get(
        facts.things, "A classifier"
    )
    if "documents" in facts.data:
        kind = f"A search index of {number(facts.data['documents'])} documents"
    elif known:
        kind += f" with {number(len(known))} classes"
    elif not origin:
        return ""
    based = f", based on {handle}" if "digest" in facts.model else f", {handle}" if handle else ""
    made = f", made of {origin}" if "documents" in facts.data else f", trained on {origin}" if origin else ""
    sizes = ", ".join(f"{number(size)} {split}" for split, size in facts.split_sizes.items())
    total = f" ({number(sum(facts.split_sizes.values()))} {facts.things}: {sizes})" if sizes else ""
    return f"{kind}{based}{made}{total}."


def _how_good(facts: Facts) -> str:
    measured = facts.measured
    if measured is None:
        return ""
    low, high = measured.accuracy_interval
    told = (
        f"{share(measured.accuracy)} of {number(len(measured.labels))} test {facts.things} are classified right;"
        f" on new {facts.things} of the same kind expect {share(low)} to {share(high)} (95 % interval)."
    )
    recall = measured.recall
    if np.nanmin(recall) < 1 and len(recall) > 1:
        worst = int(np.nanargmin(recall))
        told += f" Found least: {measured.class_names[worst]}, {share(float(recall[worst]))} of its"
        told += f" {number(int(measured.counts[worst]))}."
    return told


def _how_private(facts: Facts) -> str:
    privacy = facts.privacy
    if not privacy:
        if "documents" in facts.data:
            return "The index holds what the documents say: whoever may not read them must not have it."
        return NOT_PRIVATE if facts.measured or facts.model else ""
    epsilon = privacy.get("epsilon")
    if not privacy.get("private") or epsilon is None:
        return "NOT PRIVATE: training was to be differentially private, and is not; the statement says why."
    return (
        f"Training was differentially private with epsilon {epsilon:.4g} at delta {privacy['delta']:.3g}, for"
        f" {privacy['neighbouring_relation']}."
    )
