"""Compare a model and its .tflite variants: on the same examples, all of them, by size, time and memory."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.compression import representative
from tfkit.compression.convert import ConversionRequest, examples_for, run_conversions
from tfkit.compression.inspect import inspect
from tfkit.compression.sources import InputShape, Source, saved
from tfkit.compression.variants import Quality, Table, Variant, mark_pareto
from tfkit.data.pixels import FULL_RANGE
from tfkit.data.splits import draw
from tfkit.environment import stack
from tfkit.environment.timeline import stage, track
from tfkit.errors import CheckError, DataError, TfkitError, UsageError
from tfkit.litert import ParallelInterpreter, opened
from tfkit.metrics import FEWEST_RESAMPLED, RESAMPLED, difference_interval, within_95
from tfkit.run import Run
from tfkit.training import outputs as kinds
from tfkit.training.outputs import OF_CLASSES, YES_OR_NO, answers

AT_A_TIME = 256
"""Examples that are read and run at a time: memory stays flat whatever their number."""

_MOST_DRAWN = 100_000_000  # numbers of a bootstrap, in all its samples

DEFAULT = ("float32", "float16", "dynamic", "int8")

_INVENTORY_FIELDS = ("size_bytes", "macs", "ops", "sparsity", "distinct_weights")
_CLOSE = 0.1  # of the spread
_SAMPLE = 1000


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Comparison(Quality):
    """Hold the outputs of a variant, compared with those of the original.

    Attributes:
      outputs: float32 [n, ...] of the variant.
      worst: int64 [k], examples that get another answer, those that the original was surest of first; of values those
        with the largest differences.
    """

    outputs: np.ndarray
    worst: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelUnderTest:
    """A model that is converted, and the examples on which its variants are measured.

    Attributes:
      source: the model.
      read: examples by their positions, as the model takes them: [b, ...], images as pixels in 0..255.
      count: how many there are.
      expected: float32 [n, ..., c], what the original gives for them.
      output: what that is, of `tfkit.training.outputs.OUTPUTS`.
      output_note: a sentence on what the outputs are, and how that was found out.
      labels: as `tfkit.training.outputs.as_labels` gives them; None where nobody knows.
      thresholds: of a run of labels, [c].
      reach: of a run of numbers, by how many scales an interval of 90 % goes beyond the mean.
      class_names: c of them; none where nobody knows.
      examples: representative inputs by name, [m, ...] as the model takes them; None where it may have none.
      takes: "images" (pixels in 0..255), "texts" (UTF-8) or "arrays".
      pixel_range: of images, what becomes 0 and 255 of 16-bit values.
      origin: the finished run whose model it is, which may be another than the one that gets the files.
    """

    source: Source
    read: Callable[[np.ndarray], Any]
    count: int
    expected: np.ndarray
    output: str = "probabilities"
    output_note: str = ""
    labels: np.ndarray | None
    thresholds: np.ndarray | None = None
    reach: float | None = None
    class_names: Sequence[str]
    examples: Mapping[str, np.ndarray] | None = None
    takes: str = "arrays"
    pixel_range: tuple[int, int] = FULL_RANGE
    origin: Run | None = None

    @functools.cached_property
    def sample(self) -> Mapping[str, np.ndarray]:
        """Return drawn examples by the name of the input, a thousand at most."""
        examples = self.read(draw(self.count, _SAMPLE))
        return examples if isinstance(examples, Mapping) else dict.fromkeys(self.source.inputs, examples)

    @property
    def typical_input(self) -> np.ndarray | None:
        """Return the input [1, ...] by which times are taken: of texts the one of median length."""
        if self.takes != "texts":
            return None
        texts = sorted(*self.sample.values(), key=len)
        return np.array([texts[len(texts) // 2]], object)


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
      variants: of `tfkit.compression.VARIANTS`.
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
    requests = [ConversionRequest(name=variant, variant=variant) for variant in variants]
    with saved(model, input_shape=input_shape, signature=signature) as source:
        examples = examples_for(requests, source, representative_dataset)
        tested = under_test(source, inputs, labels=labels, class_names=class_names, output=output)
        models, failed = run_conversions(source, requests, examples=examples)
    comparisons, broken = compare_all(tested, models)
    table = measure(tested, models, comparisons, failed=failed | broken, threads=threads)
    doubts = representative.find_doubts(examples or {}, source.takes, compared=tested.sample)
    return dataclasses.replace(table, notes=(*table.notes, *doubts))


def under_test(
    source: Source,
    inputs: Any,
    *,
    labels: Any,
    output: str,
    class_names: Sequence[str] = (),
    examples: Any = None,
) -> ModelUnderTest:
    """Run the model itself on all inputs, on some of them twice, and find out what its outputs are.

    Args:
      source: of one output.
      inputs: see `compare`.
      labels: see `compare`.
      class_names: see `compare`.
      output: see `compare`.
      examples: see `ModelUnderTest`.

    Raises:
      UsageError: the model has several outputs, `output` is contradicted by them, or they are others when asked again.
      DataError: there are no inputs, they or the labels do not fit, or they have no end.
      CheckError: the model gives values that are not finite.
    """
    if len(source.outputs) > 1:
        raise UsageError(
            f"The model has {len(source.outputs)} outputs ({', '.join(source.outputs)}); variants are compared on one."
            "\n  Give a model of each: keras.Model(model.inputs, model.outputs[0])."
        )
    arrays, dataset_labels = all_examples(source, inputs)
    labels = dataset_labels if labels is None else labels
    count = len(next(iter(arrays.values())))
    takes = "texts" if [*source.inputs.values()] == [((1,), "string")] else "arrays"
    if takes == "texts":  # as the splits of a run have them
        ((name, texts),) = arrays.items()
        arrays[name] = np.array([text.encode() if isinstance(text, str) else text for text in texts], object)
    expected = predict_original(source, arrays)
    units, reason = _with_units(expected), "as was said"
    if output == "auto":
        output, reason = kinds.find(
            units, last=source.last_operation, loss=source.loss, labels=labels, class_names=class_names
        )
    kinds.check(output, units)
    if labels is not None:
        labels = kinds.as_labels(labels, shape=units.shape, output=output, class_names=class_names)
    classes = max(units.shape[-1], 2)  # of one sigmoid no and yes
    if output != "values" and class_names and len(class_names) != classes:
        raise UsageError(f"There are {len(class_names)} class_names, and {units.shape[-1]} outputs.")
    class_names = tuple(class_names) or tuple(map(str, range(classes)))

    def read(positions: np.ndarray) -> Any:
        rows = {name: values[positions] for name, values in arrays.items()}
        return rows if len(rows) > 1 else next(iter(rows.values()))

    return ModelUnderTest(
        source=source,
        read=read,
        count=count,
        expected=expected,
        output=output,
        output_note=kinds.sentence(output, reason),
        labels=labels,
        class_names=class_names,
        examples=examples,
        takes=takes,
    )


def all_examples(source: Source, data: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Return all examples by the name of the input, [n, ...], and the labels beside them, if each batch has some.

    Raises:
      DataError: there are none, they do not fit, or have no end.
    """
    if hasattr(data, "cardinality") and int(data.cardinality()) == -1:
        raise DataError("The dataset repeats without end: give it before .repeat(), or .take(n) of it.")
    parts, labels = zip(*source.takes.batches(data), strict=True) if data is not None else ((), ())
    if not sum(len(next(iter(part.values()))) for part in parts):
        raise DataError(f"There are no inputs to compare on; the model takes {source.takes.description}.")
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in source.inputs}
    if any(part is None for part in labels):
        return arrays, None
    # A last batch of one number looks like one example without a batch, and its label gets one axis more.
    return arrays, np.concatenate([part.reshape(-1, *labels[0].shape[1:]) for part in labels])


@stage("original", "Running the model itself")
def predict_original(source: Source, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what the model itself gives for all inputs, by their names; some are given twice.

    Raises:
      CheckError: values that are not finite.
      UsageError: it answers otherwise when it is asked again.
    """
    batch, count = max(shape[0] for shape, _ in source.inputs.values()), len(next(iter(inputs.values())))

    def predict(start: int) -> np.ndarray:
        positions = np.minimum(np.arange(start, start + batch), count - 1)
        rows = {
            name: stack.tf.constant(inputs[name][positions].astype(object if dtype == "string" else dtype))
            for name, (_, dtype) in source.inputs.items()
        }
        (output,) = source.function(**rows).values()
        return np.asarray(output, np.float32)[: count - start]

    outputs = np.concatenate(
        [predict(start) for start in track(range(0, count, batch), "Running the model itself", unit="part")]
    )
    if not np.all(np.isfinite(outputs)):
        raise CheckError("The model gives values that are not finite numbers (NaN) for some of the inputs.")
    first_outputs = outputs[:batch]
    if np.abs(predict(0) - first_outputs).max() > 1e-3 * (1 + np.abs(first_outputs).max()):
        raise UsageError(
            "The model answers otherwise when it is asked again: it keeps state (stateful=True, a counter) or draws"
            " random numbers.\n  Build recurrent layers with stateful=False, and leave out what is random."
        )
    return outputs


@stage("compare", "Running the variants")
def compare_all(
    tested: ModelUnderTest, models: Mapping[str, bytes]
) -> tuple[dict[str, Comparison], dict[str, TfkitError]]:
    """Compare each file with the original, on all test examples.

    Returns:
      The comparisons by name, and the errors of files that do not run, or give values which are not finite: the
      largest of scores that are NaN would be the first class, and every limit holds for a mean that is NaN.
    """
    options: dict[str, Any] = {
        name: getattr(tested, name) for name in ("output", "labels", "class_names", "thresholds")
    }
    comparisons: dict[str, Comparison] = {}
    broken: dict[str, TfkitError] = {}
    for name, model in models.items():
        try:
            outputs = predict(model, tested.read, tested.count)
        except TfkitError as err:  # it has operations that LiteRT lacks
            broken[name] = err
            continue
        finite = np.isfinite(outputs).reshape(tested.count, -1).all(axis=1)
        if finite.all():
            comparisons[name] = compare_outputs(outputs, tested.expected, **options)
        else:
            broken[name] = CheckError(
                f"The file gives values that are not finite numbers (NaN) for {np.sum(~finite)} of {tested.count}"
                " examples, and the model itself does not: it has numbers that are too small or too large for this"
                " variant, such as 1e-9 to divide by. Take another variant."
            )
    return comparisons, broken


def predict(model: bytes, read: Callable[[np.ndarray], Any], count: int) -> np.ndarray:
    """Run a .tflite on many examples, one on each core.

    Args:
      model: the content of the file; of one output.
      read: examples by their positions, as real numbers: images as pixels in 0..255; of several inputs by name.
      count: how many there are.

    Returns:
      float32 [count, ...].
    """
    parts = np.split(np.arange(count), range(AT_A_TIME, count, AT_A_TIME))
    with ParallelInterpreter(model) as interpreter:
        return np.concatenate([interpreter(read(part)) for part in parts])


def compare_outputs(
    outputs: np.ndarray,
    expected: np.ndarray,
    *,
    output: str = "probabilities",
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
    thresholds: np.ndarray | None = None,
) -> Comparison:
    """Compare the outputs of a variant with those of the original.

    Args:
      outputs: float32 [n, ..., c].
      expected: of the original, likewise.
      output: what they are, one of `tfkit.training.outputs.OUTPUTS`.
      labels: as `tfkit.training.outputs.as_labels` gives them.
      class_names: c of them, or of one sigmoid those of no and yes.
      thresholds: of labels, [c].
    """
    values, targets = _with_units(outputs), _with_units(expected)
    differences = np.abs(values - targets)
    before, after = (quality(units, output, labels, thresholds) for units in (targets, values))
    measures: dict[str, Any] = {"max_difference": float(differences.max())}
    if output == "values":
        ranking = differences.reshape(len(values), -1).max(axis=1)
        measures["agreement"] = float(np.mean(differences <= _CLOSE * np.sqrt(_get_variances(targets))))
        measures["error"] = float(np.sqrt(np.mean(_get_residuals(values, targets))))
        if labels is not None:
            measures["r2_drop"] = before["r2"] - after["r2"]
            measures["drop_interval"] = _resample_drop("r2", targets, values, output, labels)
    else:
        decisions, references = (answers(units, output, thresholds) for units in (values, targets))
        differs = decisions != references
        edge = YES_OR_NO.get(output, 0.0) if thresholds is None else thresholds
        sureness = targets.max(axis=-1) if output in OF_CLASSES else np.abs(targets - edge)
        ranking = np.where(differs, 1 + sureness - sureness.min(), 0).reshape(len(values), -1).max(axis=1)
        measures["agreement"] = float(1 - differs.mean())
        measures["accuracy_drop"] = before["accuracy"] - after["accuracy"] if after else float(differs.mean())
        if labels is not None and differs.size == len(differs):  # pixels of decision image err together
            hits = ((decision == labels).reshape(-1) for decision in (references, decisions))
            measures["drop_interval"] = difference_interval(*hits)
        if "micro_f1" in after:
            measures["micro_f1_drop"] = before["micro_f1"] - after["micro_f1"]
            measures["drop_interval"] = _resample_drop(
                "micro_f1", targets, values, output, labels, thresholds
            )
        elif _is_multilabel(targets, output):
            measures["micro_f1_drop"] = 1 - _compute_f1(decisions, references) if differs.any() else 0.0
        if labels is not None and len(class_names):
            old, new = (_get_recall(row, labels, len(class_names), output) for row in (references, decisions))
            drops = zip(map(str, class_names), old - new, strict=True)
            measures["class_drop"] = {name: float(drop) for name, drop in drops if np.isfinite(drop)}
    worst = np.argsort(-ranking, kind="stable")[: np.count_nonzero(ranking)]
    return Comparison(outputs=outputs, output=output, worst=worst, **(measures | after))


def quality(
    outputs: np.ndarray, output: str, labels: np.ndarray | None, thresholds: np.ndarray | None = None
) -> dict[str, float]:
    """Return how good outputs are by their labels: `accuracy`, or of values `r2` and `rmse`; nothing without labels.

    Of labels, yes or no for each of several, it has `micro_f1` too.
    """
    if labels is None:
        return {}
    outputs = _with_units(outputs)
    if output != "values":
        predictions = answers(outputs, output, thresholds)
        scores = {"accuracy": float(np.mean(predictions == labels))}
        if thresholds is not None or _is_multilabel(outputs, output):
            scores["micro_f1"] = _compute_f1(predictions, labels)
        return scores
    labels = _with_units(labels)
    outputs = outputs[..., : labels.shape[-1]]  # of the mean; there is no true scale
    return {
        "r2": 1.0 - float(np.mean(_get_residuals(outputs, labels))),
        "rmse": float(np.sqrt(np.mean((outputs - labels) ** 2))),
    }


def _resample_drop(
    score: str, before: np.ndarray, after: np.ndarray, output: str, labels: Any, thresholds: Any = None
) -> tuple[float, float] | None:
    """Return the 95 % interval of the drop of a score, on examples that are drawn with replacement, the same of each.

    None of so many numbers, as of images that a model makes, that it would take minutes.
    """
    rng, drops = np.random.default_rng(0), list[float]()
    draws = min(RESAMPLED, _MOST_DRAWN // before.size)
    for _ in range(draws if draws >= FEWEST_RESAMPLED else 0):
        rows = rng.integers(len(before), size=len(before))
        old, new = (
            quality(units[rows], output, labels[rows], thresholds)[score] for units in (before, after)
        )
        drops.append(old - new)
    return within_95(np.array(drops)) if drops else None


@stage("latency", "Timing the variants, and measuring their memory")
def measure(
    tested: ModelUnderTest,
    models: Mapping[str, bytes],
    comparisons: Mapping[str, Comparison],
    *,
    failed: Mapping[str, Any],
    threads: Sequence[int] = (1, 2),
    notes: Mapping[str, Sequence[str]] | None = None,
) -> Table:
    """Measure variants: sizes, operations, times, memory; and mark those that no other beats.

    Args:
      tested: what they were made of.
      models: name to content; a name is TECHNIQUE+QUANTIZATION or QUANTIZATION.
      comparisons: by name, see `compare_all`; no other models are measured.
      failed: by name, why others could not be made or compared.
      threads: for which latencies are measured.
      notes: by name, what was done to a variant.
    """
    example, models = tested.typical_input, {name: models[name] for name in comparisons}
    latencies, other_cores = latency(models, threads=threads, example=example)
    variants = []
    for name, content in models.items():
        inventory = inspect(content)
        technique, _, quantization = name.rpartition("+")
        row = {attribute: getattr(inventory, attribute) for attribute in _INVENTORY_FIELDS}
        row |= {field.name: getattr(comparisons[name], field.name) for field in dataclasses.fields(Quality)}
        row |= {
            "gzipped_bytes": len(gzip.compress(content, 6, mtime=0)),  # as servers and TFMOT's guides do
            "latency_ms": latencies[name],
            "other_cores": other_cores,
            "peak_memory_bytes": peak_memory(content, example=example),
            "needs": (*inventory.flex_ops, *inventory.custom_ops),
            "notes": (*(notes or {}).get(name, ()), *inventory.notes),
        }
        variants.append(Variant(name=name, technique=technique, quantization=quantization, **row))
    return Table(
        variants=mark_pareto(variants),
        models=models,
        failed={name: str(reason) for name, reason in failed.items()},
        examples=tested.count,
        notes=(tested.output_note,) if tested.output_note else (),
    )


def _with_units(outputs: np.ndarray) -> np.ndarray:
    """Return outputs [n, ..., c] as they are, and [n] as [n, 1]."""
    return outputs[:, np.newaxis] if outputs.ndim == 1 else outputs


def _is_multilabel(outputs: np.ndarray, output: str) -> bool:
    """Return whether outputs are multi-label, yes or no each: as nearly all are no, accuracy says little."""
    return output in YES_OR_NO and outputs.shape[-1] > 1


def _compute_f1(predictions: np.ndarray, truth: np.ndarray) -> float:
    """Return the F1 of 0 and 1 over all pairs of an example and a label; 0 where there is no 1."""
    return float(2 * np.sum(predictions & truth) / max(np.sum(predictions) + np.sum(truth), 1))


def _get_residuals(outputs: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the mean square difference of each unit, as a share of the variance of what is wanted of it: 1 - R2."""
    squares = (outputs.astype(np.float64) - expected) ** 2
    return np.asarray(squares.reshape(-1, expected.shape[-1]).mean(axis=0) / _get_variances(expected))


def _get_variances(expected: np.ndarray) -> np.ndarray:
    """Return the variance of each unit; one that never changes has that of all, and where none does their size.

    scikit-learn's r2_score gives a unit that never changes 0 for the smallest difference.
    """
    flat = expected.reshape(-1, expected.shape[-1]).astype(np.float64)
    variances = flat.var(axis=0)
    fallback = float(variances.mean()) or float(np.mean(flat**2)) or 1.0
    return np.asarray(np.where(variances > 1e-9 * fallback, variances, fallback))


def _get_recall(predictions: np.ndarray, labels: np.ndarray, count: int, output: str) -> np.ndarray:
    """Return the recall of each class, NaN of one without examples; of several sigmoids that of each one's yes."""
    from sklearn.metrics import recall_score

    is_multilabel = output in YES_OR_NO and labels.shape[-1] == count
    rows = [array.reshape(-1, count) if is_multilabel else array.ravel() for array in (labels, predictions)]
    return np.asarray(recall_score(*rows, labels=range(count), average=None, zero_division=np.nan))


WARM_UP = 3
ROUNDS, _SECONDS = 10, 0.3  # how often it is the turn of each variant, and how long they last in all
_MAX_TEXT_LENGTH = 20_000  # characters of an argument of a process

# In a process of its own, whose memory is the model's and hardly anything else's.
_MEMORY = """
import contextlib, re, sys
import numpy as np
from ai_edge_litert.interpreter import InterpreterWithCustomOps

def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])

path, *text = sys.argv[1:]
operations = []
if text:
    from tensorflow_text import tflite_registrar
    operations = tflite_registrar.SELECT_TFTEXT_OPS
    with contextlib.suppress(OSError):  # what importing them took at its peak is no part of what the model takes
        open("/proc/self/clear_refs", "w").write("5")
before = kilobytes("VmRSS")
interpreter = InterpreterWithCustomOps(operations, model_path=path, num_threads=1)
interpreter.allocate_tensors()
for details in interpreter.get_input_details():
    zeros = np.zeros(details["shape"], details["dtype"])
    interpreter.set_tensor(details["index"], np.array(text, object) if text else zeros)
interpreter.invoke()
print(kilobytes("VmHWM") - before)
"""


def latency(
    models: Mapping[str, bytes], *, threads: Sequence[int] = (1, 2), example: np.ndarray | None = None
) -> tuple[dict[str, dict[str, dict[str, float]]], float]:
    """Time variants in turn: what else the machine does hits all of them alike.

    Args:
      models: name to the content of a .tflite file.
      threads: for each number of them an interpreter of its own.
      example: what the models are given, [1, ...], where their time depends on it, as that of texts does; None: zeros.

    Returns:
      For each name and number of threads the milliseconds of one call after warm-up, median and ninth decile:
      {"int8": {"1": {"p50": 5.0, "p90": 5.4}}}; and how many cores other processes kept busy meanwhile.

    Raises:
      CheckError: a model needs operations that LiteRT lacks.
    """
    latencies: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    other_cores = 0.0
    for count in threads:
        engines = {name: _warm_interpreter(model, count, example) for name, model in models.items()}
        turn = _SECONDS / ROUNDS
        calls = {name: max(1, round(turn / max(_time(engine), 1e-6))) for name, engine in engines.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        start, other_start = time.perf_counter(), _read_other_cpu_seconds()
        for _ in range(ROUNDS):
            for name, engine in engines.items():
                times[name] += [_time(engine) for _ in range(calls[name])]
        busy_cores = (_read_other_cpu_seconds() - other_start) / max(time.perf_counter() - start, 1e-9)
        other_cores = max(other_cores, busy_cores)
        for name, durations in times.items():
            p50, p90 = np.percentile(durations, [50, 90]) * 1000
            latencies[name][str(count)] = {"p50": float(p50), "p90": float(p90)}
    return latencies, other_cores


def peak_memory(model: bytes, *, example: np.ndarray | None = None) -> int | None:
    """Measure the bytes that a process needs to load and run a model once on one thread, beyond what it had before.

    Args:
      model: the content of a .tflite file.
      example: one text [1], for a model of texts.

    Returns:
      None where the system does not tell (it is Linux's /proc that does).

    Raises:
      CheckError: the process could not run the model.
    """
    if not Path("/proc/self/status").exists():
        return None
    text = []
    if example is not None:
        text = [example[0].decode("utf-8", errors="replace").replace("\0", " ")[:_MAX_TEXT_LENGTH]]
    with tempfile.TemporaryDirectory(prefix="tfkit-") as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(model)
        command = [sys.executable, "-c", _MEMORY, str(path), *text]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        last_line = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise CheckError(f"The model does not run in a process of its own: {last_line}")
    return int(result.stdout.strip().splitlines()[-1]) * 1024


def _warm_interpreter(model: bytes, threads: int, example: np.ndarray | None) -> Any:
    interpreter = opened(model, threads=threads)
    for details in interpreter.get_input_details():
        zeros = np.zeros(details["shape"], details["dtype"])
        interpreter.set_tensor(details["index"], zeros if example is None else example)
    for _ in range(WARM_UP):
        interpreter.invoke()
    return interpreter


def _time(interpreter: Any) -> float:
    interpreter.reset_all_variables()
    start = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - start


def _read_other_cpu_seconds() -> float:
    """Return the seconds that all cores have worked for others than this process, or were taken by a host."""
    try:
        first_line = Path("/proc/stat").read_text().split("\n", 1)[0]
        user, nice, system, _, _, interrupts, soft, steal = map(int, first_line.split()[1:9])
    except (OSError, ValueError):  # Linux's
        return 0.0
    total = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return total - time.process_time()
