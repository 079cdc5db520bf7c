"""compare: variants of one model beside each other, measured."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfkit.errors import DataError, TfkitError, UsageError
from tfkit.lite import benchmark, evaluate, jobs, representative
from tfkit.lite.convert import MEASURED, check, finished, missing_data
from tfkit.lite.inspect import inspect
from tfkit.lite.source import Source, saved
from tfkit.lite.variants import Table, Variant, marked

DEFAULT = ("float32", "float16", "dynamic", "int8")


def compare(
    model: Any,
    *,
    inputs: np.ndarray,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    variants: Sequence[str] = DEFAULT,
    representative_dataset: Any = None,
    input_shape: Sequence[int | None] | None = None,
    signature: str | None = None,
    threads: Sequence[int] = (1, 2),
) -> Table:
    """Convert a model to variants and measure each: size, accuracy, agreement, latency, memory.

    Args:
      model: as of `convert`; of one input and one output.
      inputs: [n, ...] as the model takes them, on which the variants are compared with it.
      labels: int64 [n], the true classes; without them only the agreement is known.
      class_names: of the labels; their numbers when left out.
      variants: of `tfkit.lite.VARIANTS`.
      representative_dataset: as of `convert`; needed by int8 and int16x8.
      input_shape: as of `convert`.
      signature: as of `convert`.
      threads: for which latencies are measured.

    Returns:
      A table that prints as one; `.models` has the files' contents.

    Raises:
      UsageError, CheckError: as of `convert`, for what holds for all variants; a variant that cannot be made is in
        the table's `failed`.
    """
    requests = [jobs.Request(name=variant, variant=variant) for variant in variants]
    for request in requests:
        check(request)
    with saved(model, input_shape=input_shape, signature=signature) as source:
        inputs = _checked(source, np.asarray(inputs), labels)
        measured = [request for request in requests if request.variant in MEASURED]
        examples = None
        if measured and representative_dataset is None and not source.quantize_aware:
            raise UsageError(missing_data(measured[0].variant))
        if measured and representative_dataset is not None:
            examples = representative.collect(representative_dataset, source.inputs)
        made, failed = convert_all(source, requests, examples)
        expected = original(source, inputs)
    names = [f"input/{position}" for position in range(len(inputs))]
    classes = list(class_names) or [
        str(number) for number in range(expected.reshape(len(inputs), -1).shape[1])
    ]
    measurements = measure(
        made,
        {
            name: evaluate.compare_outputs(
                evaluate.predict(content, lambda positions: inputs[positions], len(inputs)),
                expected,
                labels=None if labels is None else np.asarray(labels),
                class_names=classes,
                names=names,
            )
            for name, content in made.items()
        },
        threads=threads,
    )
    return Table(variants=measurements, models=made, failed=failed, examples=len(inputs))


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
                accuracy=compared.accuracy,
                accuracy_drop=compared.accuracy_drop,
                agreement=compared.agreement,
                max_difference=compared.max_difference,
                class_drop=compared.class_drop,
                latency_ms={
                    str(count): {"p50": took.p50_ms, "p90": took.p90_ms}
                    for count, took in times[name].items()
                },
                peak_memory_bytes=benchmark.peak_memory(content, example=example),
                macs=census.macs,
                ops=census.ops,
                sparsity=census.sparsity,
                distinct_weights=census.distinct_weights,
                needs=(*census.flex_ops, *census.custom_ops),
                notes=tuple((notes or {}).get(name, ())),
            )
        )
    return marked(measured)


def _checked(source: Source, inputs: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    if len(source.inputs) > 1 or len(source.outputs) > 1:
        raise UsageError(
            f"The model has {len(source.inputs)} inputs and {len(source.outputs)} outputs; variants of one input and"
            " one output are compared. tfkit.lite.convert converts it."
        )
    ((shape, _),) = source.inputs.values()
    if inputs.shape[1:] != shape[1:] or not len(inputs):
        raise DataError(
            f"inputs is {list(inputs.shape)}; the model takes {['n', *shape[1:]]}.".replace("'", "")
        )
    if labels is not None and len(labels) != len(inputs):
        raise DataError(f"There are {len(labels)} labels for {len(inputs)} inputs.")
    return inputs


def original(source: Source, inputs: np.ndarray) -> np.ndarray:
    """What the model itself says, [n, ...]."""
    from tfkit.stack import tf

    ((name, (shape, dtype)),) = source.inputs.items()
    said = []
    for start in range(0, len(inputs), shape[0]):
        batch = inputs[start : start + shape[0]]
        missing = shape[0] - len(batch)
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)]) if missing else batch
        (output,) = source.function(**{name: tf.constant(padded.astype(dtype))}).values()
        said.append(np.asarray(output, np.float32)[: len(batch)])
    return np.concatenate(said)
