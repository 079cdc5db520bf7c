"""When int8 loses too much: find the layers at which its error starts, and keep those in float."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.data.drawn import draw
from tfkit.errors import TfkitError
from tfkit.lite import evaluate, jobs, representative
from tfkit.lite.drift import EXAMPLES, Drift, drift, layer_name
from tfkit.lite.inspect import inspect
from tfkit.lite.source import saved
from tfkit.lite.subject import Subject

NAME = "int8-selective"
TRIES = (1, 3, 8, 16)
"""So many guilty operations, with those that read what they make, are kept in float, one try after the other."""


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """What was tried.

    Attributes:
      content: the .tflite, if one keeps to the limit.
      drift: where the error of int8 starts.
      sentence: what came out.
    """

    content: bytes | None
    drift: Drift
    sentence: str


def selective_variant(
    subject: Subject,
    float32: bytes,
    int8: bytes,
    *,
    limit: float,
    request: jobs.Request,
    signature: str | None,
) -> Rescue:
    """An int8 model with a few float operations whose accuracy drop is within the limit.

    Args:
      subject: what is converted.
      float32: its float32 variant.
      int8: its int8 variant, which loses too much.
      limit: of the accuracy drop.
      request: for int8.
      signature: of a SavedModel.
    """
    found = drift(float32, int8, _one_by_one(subject))
    if found.outside:  # the representative data, and no layer
        return Rescue(content=None, drift=found, sentence="Keeping layers in float does not mend that.")
    guilty = found.guilty
    tried = []
    with saved(subject.model, input_shape=subject.input_shape, signature=signature) as source:
        examples = representative.collect(subject.examples, source.takes, count=subject.example_count)
        for count in sorted({min(count, len(guilty)) for count in TRIES} - {0}):
            # What reads a tensor reads it in int8 unless it is kept too.
            kept = [name for step in guilty[:count] for name in (step.tensor, *step.readers)]
            asked = dataclasses.replace(request, keep_float=tuple(dict.fromkeys(kept)))
            made = jobs.run(source, [asked], examples=examples)[asked.name]
            if isinstance(made, TfkitError):
                return Rescue(content=None, drift=found, sentence=f"Keeping layers in float failed: {made}")
            if "float32" not in inspect(made).macs:
                return Rescue(content=None, drift=found, sentence="The converter kept none of them in float.")
            compared = evaluate.compare_outputs(
                evaluate.predict(made, subject.read, subject.count), subject.expected,
                output=subject.output, labels=subject.labels, class_names=subject.class_names,
            )  # fmt: skip
            tried.append(f"{count} in float: {compared.drop:.4f}")
            if compared.drop <= limit:
                layers = ", ".join(dict.fromkeys(map(layer_name, asked.keep_float)))
                loss = f"{compared.drop:.4f}"
                return Rescue(content=made, drift=found, sentence=f"With {layers} in float it loses {loss}.")
    return Rescue(
        content=None,
        drift=found,
        sentence=f"Keeping the guiltiest layers in float did not do ({'; '.join(tried)}).",
    )


def _one_by_one(subject: Subject) -> list[Any]:
    """Some examples with their batch of 1, drawn from all."""
    shown = subject.read(draw(subject.count, EXAMPLES))
    if isinstance(shown, Mapping):
        return [dict(zip(shown, rows, strict=True)) for rows in zip(*map(_rows, shown.values()), strict=True)]
    return _rows(shown)


def _rows(values: np.ndarray) -> list[np.ndarray]:
    return [row[np.newaxis] for row in values.astype(np.float32)]
