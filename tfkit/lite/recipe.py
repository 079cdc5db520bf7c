"""The whole job: from a finished run, or any SavedModel, to measured variants and the chosen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tfkit import process
from tfkit.errors import CheckError
from tfkit.lite import evaluate, jobs, representative, rescue, results
from tfkit.lite.choice import Choice, Gates, choose
from tfkit.lite.compare import convert_all, measure
from tfkit.lite.config import CompressConfig
from tfkit.lite.convert import MEASURED
from tfkit.lite.quantizer import WEIGHTS, weights_only
from tfkit.lite.results import Made
from tfkit.lite.source import saved
from tfkit.lite.subject import Subject

if TYPE_CHECKING:
    from tfkit.run import Run

_LEFT_OUT = (
    "{variants} left out: the ranges of integers are measured on examples, and the training examples are private."
    " Public ones of the same kind, given by --representative-data, do; or take dynamic, which needs none."
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that a technique has trained, to be converted.

    Attributes:
      technique: "prune0.8".
      model: of the subject's inputs.
      quantizations: what to convert it to.
      notes: what training did, measured.
    """

    technique: str
    model: Any
    quantizations: Sequence[str]
    notes: Sequence[str] = ()


def compress(
    run: Run,
    subject: Subject,
    config: CompressConfig,
    *,
    trained: Sequence[Trained] = (),
    private: bool = False,
) -> Choice:
    """Convert, measure, choose, and write it all into a run's folder.

    Args:
      run: gets tflite/, metrics `lite/...`, pictures in TensorBoard.
      subject: the model as it is.
      config: which variants, and the limits.
      trained: what techniques made of it.
      private: whether the training examples of the run must not be looked at again.

    Returns:
      The choice, also where nothing keeps to the limits.

    Raises:
      UsageError, CheckError: as of `tfkit.lite.convert`, where no variant at all can be made.
    """
    made = Made()
    _convert(run, made, subject, "", subject.model, config.variants, config)
    for one in trained:
        _convert(run, made, subject, one.technique, one.model, one.quantizations, config)
        for name in made.models:
            if name.rpartition("+")[0] == one.technique:
                made.notes.setdefault(name, []).extend(one.notes)
    if not made.models:
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in made.failed.items())
        raise CheckError(f"No variant could be made.\n  {listed}")
    gates = Gates(
        max_size_kb=config.max_size_kb,
        max_accuracy_drop=config.max_accuracy_drop,
        max_latency_ms=config.max_latency_ms,
        gzipped=config.gzipped,
    )
    made.models = {
        name: results.described(content, subject, name=name) for name, content in made.models.items()
    }
    process.say(f"Measuring {len(made.models)} variants on {subject.count} examples ...")
    compared = compare(subject, made.models)
    _rescue(run, made, subject, config, compared)
    variants = measure(made.models, compared, notes=made.notes, example=subject.typical)
    choice = choose(variants, gates)
    results.write(
        run, subject, variants, made, compared, choice=choice, gates=gates, show_examples=not private
    )
    return choice


def compare(subject: Subject, models: Mapping[str, bytes]) -> dict[str, evaluate.Comparison]:
    """Each file on all test examples, beside the original."""
    return {
        name: evaluate.compare_outputs(
            evaluate.predict(content, subject.read, subject.count),
            subject.expected,
            output=subject.output,
            labels=subject.labels,
            class_names=subject.class_names,
        )
        for name, content in models.items()
    }


def _convert(
    run: Run,
    made: Made,
    subject: Subject,
    technique: str,
    model: Any,
    quantizations: Sequence[str],
    config: CompressConfig,
) -> None:
    """Add the variants of one model to what was made."""
    prefix = f"{technique}+" if technique else ""
    with saved(model, input_shape=subject.input_shape, signature=subject.signature) as source:
        possible = list(quantizations)
        lacking = [one for one in possible if one in MEASURED] if subject.examples is None else []
        if lacking and not source.quantize_aware:
            run.note(_LEFT_OUT.format(variants=" and ".join(lacking)))
            possible = [one for one in possible if one not in lacking]
        requests = [
            _request(f"{prefix}{one}", one, subject, config) for one in possible if one not in WEIGHTS
        ]
        process.say(f"Converting {technique or 'the model'} to {', '.join(possible)} ...")
        examples = (
            None
            if subject.examples is None
            else representative.collect(subject.examples, source.takes, count=subject.example_count)
        )
        content, failed = convert_all(source, requests, examples)
    made.models |= content
    made.failed |= failed
    float32 = content.get(f"{prefix}float32")
    for one in possible:
        if one in WEIGHTS and subject.takes == "texts":
            made.failed[f"{prefix}{one}"] = (
                "ai-edge-quantizer does not know the operations of tensorflow-text; dynamic has the same weights"
            )
        elif one in WEIGHTS and float32 is not None:
            made.models[f"{prefix}{one}"] = weights_only(float32, bits=WEIGHTS[one])
        elif one in WEIGHTS:
            made.failed[f"{prefix}{one}"] = "it is made of the float32 variant, which is not there"


def _request(name: str, variant: str, subject: Subject, config: CompressConfig) -> jobs.Request:
    """Images go into an int8 file as the bytes that they are, and probabilities come out as bytes."""
    bytes_ = "uint8" if variant == "int8" and subject.takes == "images" else "float32"
    return jobs.Request(
        name=name,
        variant=variant,
        inference_input_type=bytes_,
        inference_output_type=bytes_,
        select_tf_ops=config.select_tf_ops,
    )


def _rescue(
    run: Run, made: Made, subject: Subject, config: CompressConfig, compared: dict[str, evaluate.Comparison]
) -> None:
    """Where int8 loses too much, keep the layers in float at which its error starts."""
    lost = compared["int8"].drop if "int8" in made.models else 0.0
    if lost <= config.max_accuracy_drop or "float32" not in made.models or subject.examples is None:
        return
    if subject.takes == "texts":  # tensors before and after the tokenizer are not of one kind
        return
    process.say(f"int8 loses {lost:.4f}: looking for the layers at which its error starts ...")
    found = rescue.selective_variant(
        subject,
        made.models["float32"],
        made.models["int8"],
        limit=config.max_accuracy_drop,
        request=_request(rescue.NAME, "int8", subject, config),
        signature=subject.signature,
    )
    run.note(
        f"int8 loses {lost:.4f} (limit {config.max_accuracy_drop:g}). {found.drift.sentence} {found.sentence}"
    )
    made.notes.setdefault("int8", []).append(found.drift.sentence)
    if found.content is not None:
        made.models[rescue.NAME] = results.described(found.content, subject, name=rescue.NAME)
        made.notes[rescue.NAME] = [found.sentence]
        compared |= compare(subject, {rescue.NAME: found.content})
    else:
        made.failed[rescue.NAME] = found.sentence
