"""compare: variants of one model beside each other, measured."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfkit.errors import CheckError, DataError, TfkitError, UsageError
from tfkit.lite import benchmark, evaluate, jobs, outputs, representative
from tfkit.lite.convert import MEASURED, check, finished, missing_data
from tfkit.lite.inspect import inspect
from tfkit.lite.kinds import InputShape
from tfkit.lite.source import Source, saved
from tfkit.lite.variants import FROM_COMPARISON, Table, Variant, marked

DEFAULT = ("float32", "float16", "dynamic", "int8")


def compare(
    model: Any,
    *,
    inputs: Any,
    labels: Any = None,
    class_names: Sequence[str] = (),
    output: str = "auto",
    variants: Sequence[str] = DEFAULT,
    representative_dataset: Any = None,
    input_shape: InputShape = None,
    signature: str | None = None,
    threads: Sequence[int] = (1, 2),
) -> Table:
    """Convert a model to variants and measure each: size, accuracy, agreement, latency, memory.

    Args:
      model: as of `convert`; of one output. Of a model of several make one for each: keras.Model(inputs, one_output).
      inputs: on which the variants are compared with the model, all of them, in any form in which model.predict and
        model.fit take them: an array [n, ...], arrays by name, a list in the order of a Keras model's inputs, a
        tf.data.Dataset of these, with or without labels.
      labels: the true ones, without which only the agreement is known: whole numbers [n], one-hot [n, c], names out of
        `class_names`; 0 and 1 of sigmoids [n, k]; real numbers of values. None takes those beside the inputs.
      class_names: of the labels; their numbers when left out. Of one sigmoid those of no and yes.
      output: what the model gives: "probabilities" or "logits" of classes, "sigmoid" or "sigmoid_logits" of yes or no
        for each number, "values" for a regression. "auto" finds out: by the last layer, the loss, the labels.
      variants: of `tfkit.lite.VARIANTS`.
      representative_dataset: as of `convert`; needed by int8 and int16x8.
      input_shape: as of `convert`.
      signature: as of `convert`.
      threads: for which latencies are measured.

    Returns:
      A table that prints as one; `.models` has the files' contents, `.notes` as what the outputs were judged.

    Raises:
      UsageError, CheckError: as of `convert`, for what holds for all variants; a variant that cannot be made is in
        the table's `failed`. A model that answers otherwise when it is asked again.
      DataError: inputs or labels do not fit the model; the message says which, and why.
    """
    requests = [jobs.Request(name=variant, variant=variant) for variant in variants]
    for request in requests:
        check(request)
    with saved(model, input_shape=input_shape, signature=signature) as source:
        refuse_several_outputs(source)
        given, beside = everything(source, inputs)
        labels = beside if labels is None else labels
        measured = [request for request in requests if request.variant in MEASURED]
        if labels is not None and len(labels) != len(next(iter(given.values()))):
            raise DataError(f"There are {len(labels)} labels for {len(next(iter(given.values())))} inputs.")
        examples = None
        if measured and representative_dataset is None and not source.quantize_aware:
            raise UsageError(missing_data(measured[0].variant))
        if measured and representative_dataset is not None:
            examples = representative.collect(representative_dataset, source.takes)
        expected = original(source, given)
        judged = judge(source, expected, output=output, labels=labels, class_names=class_names)
        made, failed = convert_all(source, requests, examples)
    count = len(expected)
    measurements = measure(
        made,
        {
            name: evaluate.compare_outputs(
                evaluate.predict(content, at(given), count), expected,
                output=judged.output, labels=judged.labels, class_names=judged.class_names,
            )
            for name, content in made.items()
        },
        threads=threads,
    )  # fmt: skip
    return Table(variants=measurements, models=made, failed=failed, examples=count, notes=(judged.sentence,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """As what outputs are judged, see `tfkit.lite.outputs`."""

    output: str
    sentence: str
    labels: np.ndarray | None
    class_names: tuple[str, ...]


def judge(
    source: Source, expected: np.ndarray, *, output: str, labels: Any, class_names: Sequence[str]
) -> Judged:
    """Find out what outputs are, and bring labels into their form.

    Raises:
      UsageError: `output` is contradicted by the outputs.
      DataError: the labels do not fit.
    """
    expected, known = evaluate.with_units(expected), "as was said"
    if output == "auto":
        output, known = outputs.find(
            expected, last=source.last_operation, loss=source.loss, labels=labels, class_names=class_names
        )
    outputs.check(output, expected)
    if labels is not None:
        labels = outputs.as_labels(labels, shape=expected.shape, output=output, class_names=class_names)
    units = expected.shape[-1]
    names = tuple(class_names) or tuple(map(str, range(2 if units == 1 else units)))
    if output != "values" and class_names and len(names) != max(units, 2):
        raise UsageError(f"There are {len(names)} class_names; the model has {units} outputs.")
    return Judged(output=output, sentence=outputs.sentence(output, known), labels=labels, class_names=names)


def everything(source: Source, data: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Return all examples by the name of the input, [n, ...], and the labels beside them, if each batch has some.

    Raises:
      DataError: there are none, they do not fit, or have no end.
    """
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise DataError("The dataset repeats without end: give it before .repeat(), or .take(n) of it.")
    parts, labels = zip(*source.takes.batches(data), strict=True) if data is not None else ((), ())
    if not sum(len(next(iter(part.values()))) for part in parts):
        raise DataError(f"There are no inputs to compare on; the model takes {source.takes.described}.")
    whole = {name: np.concatenate([part[name] for part in parts]) for name in source.inputs}
    for name, values in whole.items():
        if values.dtype.kind in "fc" and not np.isfinite(values).all():
            raise DataError(f"inputs has values of {name!r} that are not finite numbers (NaN).")
    return whole, None if any(one is None for one in labels) else np.concatenate(labels)


def at(given: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], Any]:
    """Return what gives examples by their positions: an array of one input, arrays by name of several."""
    if len(given) == 1:
        return lambda positions: next(iter(given.values()))[positions]
    return lambda positions: {name: values[positions] for name, values in given.items()}


def convert_all(
    source: Source, requests: Sequence[jobs.Request], examples: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files that could be made, by name, and why the others could not."""
    made: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    results = jobs.run(source, requests, examples=examples)
    for request in requests:
        try:
            made[request.name] = finished(results[request.name], request, source)
        except TfkitError as err:
            failed[request.name] = str(err)
    return made, failed


def measure(
    models: Mapping[str, bytes],
    comparisons: Mapping[str, evaluate.Comparison],
    *,
    threads: Sequence[int] = (1, 2),
    notes: Mapping[str, Sequence[str]] | None = None,
    example: np.ndarray | None = None,
) -> tuple[Variant, ...]:
    """All that is known of variants, those marked that no other beats.

    Args:
      models: name to content; a name is TECHNIQUE+QUANTIZATION or QUANTIZATION.
      comparisons: by name, see `tfkit.lite.evaluate`.
      threads: for which latencies are measured.
      notes: by name, what was done to a variant.
      example: on which times are taken, where they depend on it.
    """
    times = benchmark.latency(models, threads=threads, example=example)
    measured = []
    for name, content in models.items():
        census, compared = inspect(content), comparisons[name]
        technique, _, quantization = name.rpartition("+")
        measured.append(
            Variant(
                name=name,
                technique=technique,
                quantization=quantization,
                size_bytes=census.size_bytes,
                gzipped_bytes=len(gzip.compress(content, mtime=0)),
                **{one: getattr(compared, one) for one in FROM_COMPARISON},
                latency_ms={
                    str(count): {"p50": took.p50_ms, "p90": took.p90_ms}
                    for count, took in times[name].items()
                },
                other_cores=max((took.other_cores for took in times[name].values()), default=0.0),
                peak_memory_bytes=benchmark.peak_memory(content, example=example),
                macs=census.macs,
                ops=census.ops,
                sparsity=census.sparsity,
                distinct_weights=census.distinct_weights,
                needs=(*census.flex_ops, *census.custom_ops),
                notes=(*(notes or {}).get(name, ()), *census.notes),
            )
        )
    return marked(measured)


def refuse_several_outputs(source: Source) -> None:
    """Refuse what would need a judgement for each output.

    Raises:
      UsageError: the model has several.
    """
    if len(source.outputs) > 1:
        raise UsageError(
            f"The model has {len(source.outputs)} outputs ({', '.join(source.outputs)}); variants are compared on one."
            "\n  Give a model of each, keras.Model(model.inputs, model.outputs[0]); tfkit.lite.convert converts it as"
            " it is."
        )


def original(source: Source, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what the model itself says, [n, ...].

    Raises:
      UsageError: it says something else when it is asked again.
    """
    from tfkit.stack import tf

    batch, count = max(shape[0] for shape, _ in source.inputs.values()), len(next(iter(inputs.values())))

    def ask(start: int) -> np.ndarray:
        positions = np.minimum(np.arange(start, start + batch), count - 1)
        given = {
            name: tf.constant(inputs[name][positions].astype(object if dtype == "string" else dtype))
            for name, (_, dtype) in source.inputs.items()
        }
        (output,) = source.function(**given).values()
        return np.asarray(output, np.float32)[: count - start]

    said = [ask(start) for start in range(0, count, batch)]
    if not np.all(np.isfinite(np.concatenate(said))):
        raise CheckError("The model gives values that are not finite numbers (NaN) for some of the inputs.")
    if np.abs(ask(0) - said[0]).max() > 1e-3 * (1 + np.abs(said[0]).max()):
        raise UsageError(
            "The model answers otherwise when it is asked again: it keeps state (stateful=True, a counter) or draws"
            " random numbers, and no file of it can be judged on single examples.\n"
            "  Build recurrent layers with stateful=False (the same weights fit), and leave out what is random."
        )
    return np.concatenate(said)
