"""compare: variants of one model beside each other, measured.

evaluate: a .tflite on all test examples, beside the model that it was made of.

Variants: what is known of each .tflite file that was made of one model, as a table and as JSON.

benchmark: how long variants take on this machine, in turn, and how much memory.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.compression.convert import check_request, check_result, examples_for
from tfkit.compression.converter_process import ConversionRequest, run_conversions
from tfkit.compression.inspect import NOTES, inspect
from tfkit.compression.sources import InputShape, Source, saved
from tfkit.errors import CheckError, DataError, TfkitError, UsageError
from tfkit.litert.interpreter import ParallelInterpreter, opened
from tfkit.training import outputs
from tfkit.training.outputs import OF_CLASSES, YES_OR_NO, answers

if TYPE_CHECKING:
    import pandas as pd

_CLOSE = 0.1  # of the spread
AT_A_TIME = 256
"""Examples that are read and run at a time: memory stays flat whatever their number."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What a variant says beside what the original says.

    Attributes:
      outputs: float32 [n, ...] of the variant.
      output: what they are, one of `tfkit.training.outputs.OUTPUTS`.
      accuracy: of the variant's classes, or yes and no; None of values, and without labels.
      accuracy_drop: accuracy of the original less that; without labels the share of other answers, which no drop can
        exceed; not a number of values.
      agreement: share of answers (classes, yes and no) that are the original's; of values, of those within a tenth of
        the spread.
      r2: of values, with labels: share of the labels' variance that the variant explains, the mean over the outputs.
      r2_drop: R2 of the original less that.
      rmse: of values, with labels: root mean square of the differences from them.
      error: of values: root mean square difference from the original, as a share of the spread (standard deviation)
        of each of its outputs; 1 - error^2 is R2 against the original.
      max_difference: the largest one of an output.
      class_drop: by class, recall of the original less the variant's.
      worst: int64 [k], examples that get another answer, those that the original was surest of first; of values those
        with the largest differences.
    """

    outputs: np.ndarray
    output: str
    accuracy: float | None = None
    accuracy_drop: float = float("nan")
    agreement: float
    r2: float | None = None
    r2_drop: float | None = None
    rmse: float | None = None
    error: float | None = None
    max_difference: float
    class_drop: dict[str, float] = field(default_factory=dict)
    worst: np.ndarray

    @property
    def drop(self) -> float:
        """Return what limits apply to, see `lost`."""
        return lost(self)


def lost(measured: Any) -> float:
    """Return what limits apply to: the drop of accuracy or R2; without labels the share of other answers, or 1 - R2."""
    if measured.output == "values":
        return float(measured.error**2 if measured.r2_drop is None else measured.r2_drop)
    return float(measured.accuracy_drop)


def predict(
    model: bytes, read: Callable[[np.ndarray], np.ndarray], count: int, *, cores: int | None = None
) -> np.ndarray:
    """A .tflite on many examples, one on each core.

    Args:
      model: the content of the file; one input, one output.
      read: examples by their positions, as real numbers: images as pixels in 0..255.
      count: how many there are.
      cores: how many to keep busy; None takes all.

    Returns:
      float32 [count, ...].
    """
    with ParallelInterpreter(model, cores=cores) as interpreter:
        return np.concatenate(
            [
                interpreter(read(np.arange(start, min(start + AT_A_TIME, count))))
                for start in range(0, count, AT_A_TIME)
            ]
        )


def compare_outputs(
    outputs: np.ndarray,
    expected: np.ndarray,
    *,
    output: str = "probabilities",
    labels: np.ndarray | None = None,
    class_names: Sequence[str] = (),
) -> Comparison:
    """Set what a variant says beside what the original said.

    Args:
      outputs: float32 [n, ..., c].
      expected: of the original, likewise.
      output: what they are, one of `tfkit.training.outputs.OUTPUTS`.
      labels: as `tfkit.training.outputs.as_labels` gives them.
      class_names: c of them, or of one sigmoid those of no and yes.
    """
    found, wanted = with_units(outputs), with_units(expected)
    differences = np.abs(found - wanted)
    common: dict[str, Any] = {
        "outputs": outputs,
        "output": output,
        "max_difference": float(differences.max()),
    }
    before = quality(wanted, output, labels)
    after: dict[str, Any] = dict(quality(found, output, labels))
    if output == "values":
        largest = differences.reshape(len(found), -1).max(axis=1)
        worst = np.argsort(-largest, kind="stable")[: np.count_nonzero(largest)]
        drop = before["r2"] - after["r2"] if labels is not None else None
        error = float(np.sqrt(np.mean(_residual(found, wanted))))
        close = float(np.mean(differences <= _CLOSE * np.sqrt(_spread(wanted))))
        return Comparison(agreement=close, error=error, worst=worst, r2_drop=drop, **after, **common)
    said, original = answers(found, output), answers(wanted, output)
    sureness = wanted.max(axis=-1) if output in OF_CLASSES else np.abs(wanted - YES_OR_NO[output])
    other = (said != original).reshape(len(said), -1)
    places = np.flatnonzero(other.any(axis=1))
    surest = np.where(other, sureness.reshape(other.shape), -np.inf).max(axis=1)
    disagreement = float(other.mean())
    return Comparison(
        agreement=1.0 - disagreement,
        worst=places[np.argsort(-surest[places], kind="stable")],
        accuracy_drop=before["accuracy"] - after["accuracy"] if labels is not None else disagreement,
        class_drop={} if labels is None else _class_drop(said, original, labels, class_names),
        **after,
        **common,
    )


def quality(outputs: np.ndarray, output: str, labels: np.ndarray | None) -> dict[str, float]:
    """Return how good outputs are by their labels: `accuracy`, or of values `r2` and `rmse`; nothing without labels."""
    if labels is None:
        return {}
    outputs = with_units(outputs)
    if output != "values":
        return {"accuracy": float(np.mean(answers(outputs, output) == labels))}
    return {
        "r2": 1.0 - float(np.mean(_residual(outputs, labels))),
        "rmse": float(np.sqrt(np.mean((outputs - labels) ** 2))),
    }


def with_units(outputs: np.ndarray) -> np.ndarray:
    """Return outputs [n, ..., c] as they are, and [n] as [n, 1]."""
    return outputs[:, np.newaxis] if outputs.ndim == 1 else outputs


def _residual(found: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Mean square difference of each unit, as a share of the variance of what is wanted of it: 1 - R2."""
    squares = (found.astype(np.float64) - wanted) ** 2
    return np.asarray(squares.reshape(-1, wanted.shape[-1]).mean(axis=0) / _spread(wanted))


def _spread(wanted: np.ndarray) -> np.ndarray:
    """Variance of each unit; one that never changes has that of all, and where none does their size."""
    flat = wanted.reshape(-1, wanted.shape[-1]).astype(np.float64)
    variances = flat.var(axis=0)
    usual = float(variances.mean()) or float(np.mean(flat**2)) or 1.0
    return np.asarray(np.where(variances > 1e-9 * usual, variances, usual))


def _class_drop(
    said: np.ndarray, original: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, float]:
    """Recall of the original less the variant's; where each unit has its own yes and no, that of the yes."""
    if labels.shape[-1:] == (1,) and len(class_names) == 2:  # one sigmoid
        parts = [(name, labels == place) for place, name in enumerate(class_names)]
    elif said.ndim > 1 and labels.shape[-1] == len(class_names) and said.max(initial=0) <= 1:
        parts = [
            (name, (labels == 1) & (np.arange(labels.shape[-1]) == place))
            for place, name in enumerate(class_names)
        ]
    else:
        parts = [(name, labels == place) for place, name in enumerate(class_names)]
    return {
        str(name): float(np.mean((original == labels)[where]) - np.mean((said == labels)[where]))
        for name, where in parts
        if where.any()
    }


KILO = 1000  # bytes in the kB of all sizes here
BUSY = 0.3  # cores that others take: beyond that, times on two cores were seen to grow
FROM_COMPARISON = (
    *("output", "accuracy", "accuracy_drop", "agreement", "r2", "r2_drop", "rmse", "error"),
    *("max_difference", "class_drop"),
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One .tflite file, measured.

    Attributes:
      name: "int8", "prune0.8+int8", ...
      technique: what training did to it: "prune0.8", "cluster16+qat", or nothing.
      quantization: what conversion did to it: "float32", "int8", ...
      size_bytes: of the file.
      gzipped_bytes: of the file as a download has it.
      output: what its outputs are, of `tfkit.training.outputs.OUTPUTS`.
      accuracy, accuracy_drop, agreement, r2, r2_drop, rmse, error, max_difference, class_drop: see
        `tfkit.compression.compare.Comparison`; None (the drop: not a number) where not known, or not of such outputs.
      latency_ms: by number of threads: {"1": {"p50": 5.0, "p90": 5.4}, ...}, one example at a time.
      other_cores: how many cores other processes kept busy while times were taken; above `BUSY` they are too long.
      peak_memory_bytes: of a process that runs it, beyond what the process had before.
      macs: share of the multiply-accumulate operations by type.
      ops: number of operations by type and name.
      sparsity: share of zeros among the weights of kernels.
      distinct_weights: the largest number of distinct values in one kernel (per channel of the file's numbers).
      needs: Flex and custom operations that the device must bring.
      notes: what was done to it and found, a sentence each.
      pareto: whether no other is at least as small, as fast and as accurate, and better in one of these.
    """

    name: str
    technique: str = ""
    quantization: str
    size_bytes: int
    gzipped_bytes: int
    output: str = "probabilities"
    accuracy: float | None = None
    accuracy_drop: float = float("nan")
    agreement: float
    r2: float | None = None
    r2_drop: float | None = None
    rmse: float | None = None
    error: float | None = None
    max_difference: float
    class_drop: Mapping[str, float] = field(default_factory=dict)
    latency_ms: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    other_cores: float = 0.0
    peak_memory_bytes: int | None = None
    macs: Mapping[str, float] = field(default_factory=dict)
    ops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sparsity: float = 0.0
    distinct_weights: int | None = None
    needs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pareto: bool = False

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.tflite"

    @property
    def latency(self) -> float | None:
        """Milliseconds for one example on one thread, the median."""
        return self.latency_ms.get("1", {}).get("p50")

    @property
    def drop(self) -> float:
        """Return what is lost of `drop_name`: what limits apply to."""
        return lost(self)

    @property
    def drop_name(self) -> str:
        """Return what a limit is of."""
        if self.output == "values":
            return "1 - R2 against the original" if self.r2_drop is None else "R2 drop"
        return "disagreement" if self.accuracy is None else "accuracy drop"

    @property
    def quality(self) -> str:
        """Return how good it is, in words."""
        if self.output == "values":
            error = f"error {self.error:.4f} of the original's spread"
            return error if self.r2 is None else f"R2 {self.r2:.4f} ({0.0 - self.drop:+.4f}), {error}"
        if self.accuracy is None:
            return f"agreement {self.agreement:.4f} with the original"
        return f"accuracy {self.accuracy:.4f} ({0.0 - self.drop:+.4f})"

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{name: None if value != value else value for name, value in dataclasses.asdict(self).items()},
            "file": self.file,
            "needs": list(self.needs),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """Variants of one model beside each other; prints as a table, also in a notebook.

    Attributes:
      variants: as they were asked for.
      models: the content of each .tflite file, by name.
      failed: name of a variant that could not be made, and why.
      examples: on how many all were measured.
      notes: as what the outputs were judged.
    """

    variants: tuple[Variant, ...]
    models: Mapping[str, bytes]
    failed: Mapping[str, str]
    examples: int
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Table:
        """Out of what variants.json holds; the files are beside it."""
        known = {one.name for one in dataclasses.fields(Variant)}
        return cls(
            variants=tuple(
                Variant(**{name: value for name, value in one.items() if name in known})
                for one in content["variants"]
            ),
            models={},
            failed={one["name"]: one["reason"] for one in content["failed"]},
            examples=content["examples"],
            notes=tuple(content.get("notes", ())),
        )

    def __getitem__(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def frame(self) -> pd.DataFrame:
        """One row a variant: sizes in kB (1000 bytes), latencies in milliseconds."""
        import pandas as pd

        return pd.DataFrame([_row(variant) for variant in self.variants]).set_index("variant")

    def __str__(self) -> str:
        """The table, and what failed."""
        if not self.variants:
            return "\n".join(self._failures())
        shown = self.frame.copy()
        for column, digits in _DIGITS.items():
            if column in shown:
                shown[column] = [_number(value, digits) for value in shown[column]]
        shown.index = [f"{name}{' *' if self[name].pareto else ''}" for name in shown.index]
        lines = [
            shown.to_string(justify="right"),
            "* no other is smaller, faster and more accurate",
            *self.notes,
        ]
        if found := busy(self.variants):
            lines.append(f"Times are too long: {found}.")
        states = {note: [one.name for one in self.variants if note in one.notes] for note in NOTES.values()}
        lines += [f"{', '.join(names)}: {note}" for note, names in states.items() if names]
        return "\n".join([*lines, *self._failures()])

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(float_format=lambda value: f"{value:.4g}"))

    def _failures(self) -> list[str]:
        return [f"{name}: {reason}" for name, reason in self.failed.items()]


_DIGITS: dict[str, int | None] = {
    "size kB": 0,
    "gzip kB": 0,
    "accuracy": 4,
    "drop": 4,
    "agreement": 4,
    "R2": 4,
    "R2 drop": 4,
    "RMSE": None,
    "error": 4,
    "ms": None,
    "ms p90": None,
    "ms 2 threads": None,
    "memory MB": 1,
    "int8 MACs": 3,
    "sparsity": 2,
}


def _row(variant: Variant) -> dict[str, Any]:
    row: dict[str, Any] = {
        "variant": variant.name,
        "size kB": variant.size_bytes / KILO,
        "gzip kB": variant.gzipped_bytes / KILO,
    }
    if variant.accuracy is not None:
        row["accuracy"] = variant.accuracy
        row["drop"] = variant.accuracy_drop
    if variant.r2 is not None:
        row |= {"R2": variant.r2, "R2 drop": variant.r2_drop, "RMSE": variant.rmse}
    if variant.output == "values":
        row["error"] = variant.error
    else:
        row["agreement"] = variant.agreement
    if variant.latency_ms:
        one = variant.latency_ms.get("1", {})
        row |= {"ms": one.get("p50"), "ms p90": one.get("p90")}
        row["ms 2 threads"] = variant.latency_ms.get("2", {}).get("p50")
    if variant.peak_memory_bytes is not None:
        row["memory MB"] = variant.peak_memory_bytes / KILO**2
    row["int8 MACs"] = sum(share for dtype, share in variant.macs.items() if dtype.startswith("int8"))
    row["sparsity"] = variant.sparsity
    return row


def _number(value: Any, digits: int | None) -> str:
    if value is None or value != value:
        return ""
    return f"{value:,.3g}" if digits is None else f"{value:,.{digits}f}"


def busy(variants: Sequence[Variant]) -> str:
    """Say that the machine was busy while times were taken; nothing where it was not."""
    most = max((variant.other_cores for variant in variants), default=0.0)
    return (
        f"other processes kept {most:.1f} of {os.cpu_count()} cores busy as they were taken"
        if most > BUSY
        else ""
    )


def marked(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The same variants, those marked that no other beats in size, latency and accuracy."""

    def costs(variant: Variant) -> tuple[float, ...]:
        return (variant.size_bytes, variant.latency or 0.0, variant.drop)

    def beats(one: Variant, other: Variant) -> bool:
        pairs = list(zip(costs(one), costs(other), strict=True))
        return all(mine <= its for mine, its in pairs) and any(mine < its for mine, its in pairs)

    return tuple(
        dataclasses.replace(variant, pareto=not any(beats(other, variant) for other in variants))
        for variant in variants
    )


WARM_UP = 3
ROUNDS = 10
_LONGEST = 20_000  # characters of an argument of a process

# In a process of its own, whose memory is the model's and hardly anything else's.
_MEMORY = """
import json, re, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, InterpreterWithCustomOps

def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])

path, *text = sys.argv[1:]
operations = []
if text:
    from tensorflow_text import tflite_registrar
    operations = tflite_registrar.SELECT_TFTEXT_OPS
    try:  # what importing them took at its peak is no part of what the model takes
        open("/proc/self/clear_refs", "w").write("5")
    except OSError:
        pass
before = kilobytes("VmRSS")
make = InterpreterWithCustomOps if text else Interpreter
interpreter = make(model_path=path, num_threads=1, **({"custom_op_registerers": operations} if text else {}))
interpreter.allocate_tensors()
for details in interpreter.get_input_details():
    zeros = np.zeros(details["shape"], details["dtype"])
    interpreter.set_tensor(details["index"], np.array(text, object) if text else zeros)
interpreter.invoke()
print(json.dumps(kilobytes("VmHWM") - before))
"""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one example takes.

    Attributes:
      p50_ms: median.
      p90_ms: nine of ten take at most so long.
      calls: how many were timed.
      other_cores: how many cores other processes kept busy meanwhile.
    """

    p50_ms: float
    p90_ms: float
    calls: int
    other_cores: float = 0.0


def latency(
    models: Mapping[str, bytes],
    *,
    threads: Sequence[int] = (1, 2),
    seconds: float = 0.6,
    rounds: int = ROUNDS,
    example: np.ndarray | None = None,
) -> dict[str, dict[int, Latency]]:
    """Time variants in turn: what else the machine does hits all of them alike.

    Args:
      models: name to the content of a .tflite file.
      threads: for each number of them an interpreter of its own.
      seconds: about how long each variant is timed for each number of threads, in all.
      rounds: how often it is each one's turn.
      example: what the models are given, [1, ...], where their time depends on it, as that of texts does; None: zeros.

    Returns:
      For each name and number of threads the time of one call after warm-up.

    Raises:
      CheckError: a model needs operations that LiteRT lacks.
    """
    found: dict[str, dict[int, Latency]] = {name: {} for name in models}
    for count in threads:
        ready = {name: _ready(model, count, example) for name, model in models.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        calls = {name: _calls(interpreter, seconds / rounds) for name, interpreter in ready.items()}
        others = _others()
        for _ in range(rounds):
            for name, interpreter in ready.items():
                times[name] += [_time(interpreter) for _ in range(calls[name])]
        other_cores = _cores_between(others, _others())
        for name, took in times.items():
            p50, p90 = np.percentile(took, [50, 90]) * 1000
            found[name][count] = Latency(
                p50_ms=float(p50), p90_ms=float(p90), calls=len(took), other_cores=other_cores
            )
    return found


def peak_memory(model: bytes, *, example: np.ndarray | None = None) -> int | None:
    """Bytes that a process needs to load and run a model once on one thread, beyond what it had before.

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
    with tempfile.TemporaryDirectory(prefix="tfkit-") as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(model)
        text = [] if example is None else [_argument(example[0])]
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(path), *text], capture_output=True, text=True, check=False
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CheckError(f"The model does not run in a process of its own: {last}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])) * 1024


def _argument(text: bytes) -> str:
    """A text as a process can be given it."""
    return text.decode("utf-8", errors="replace").replace("\0", " ")[:_LONGEST]


def _ready(model: bytes, threads: int, example: np.ndarray | None) -> object:
    interpreter = opened(model, threads=threads)
    for details in interpreter.get_input_details():
        zeros = np.zeros(details["shape"], details["dtype"])
        interpreter.set_tensor(details["index"], zeros if example is None else example)
    for _ in range(WARM_UP):
        interpreter.invoke()
    return interpreter


def _calls(interpreter: object, seconds: float) -> int:
    return max(1, round(seconds / max(_time(interpreter), 1e-6)))


def _others() -> tuple[float, float]:
    """The time, and the seconds that all cores have worked for others than this process, or were taken by a host."""
    try:
        user, nice, system, _, _, interrupts, soft, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
    except (OSError, ValueError):  # Linux's
        return time.perf_counter(), 0.0
    worked = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), worked - time.process_time()


def _cores_between(before: tuple[float, float], after: tuple[float, float]) -> float:
    return max(0.0, (after[1] - before[1]) / max(after[0] - before[0], 1e-9))


def _time(interpreter: object) -> float:
    interpreter.reset_all_variables()  # type: ignore[attr-defined]
    began = time.perf_counter()
    interpreter.invoke()  # type: ignore[attr-defined]
    return time.perf_counter() - began


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
    for request in requests:
        check_request(request)
    with saved(model, input_shape=input_shape, signature=signature) as source:
        refuse_several_outputs(source)
        given, beside = everything(source, inputs)
        labels = beside if labels is None else labels
        if labels is not None and len(labels) != len(next(iter(given.values()))):
            raise DataError(f"There are {len(labels)} labels for {len(next(iter(given.values())))} inputs.")
        examples = examples_for(requests, source, representative_dataset)
        expected = original(source, given)
        judged = judge(source, expected, output=output, labels=labels, class_names=class_names)
        made, failed = convert_all(source, requests, examples)
    count = len(expected)
    measurements = measure(
        made,
        {
            name: compare_outputs(
                predict(content, at(given), count), expected,
                output=judged.output, labels=judged.labels, class_names=judged.class_names,
            )
            for name, content in made.items()
        },
        threads=threads,
    )  # fmt: skip
    return Table(variants=measurements, models=made, failed=failed, examples=count, notes=(judged.sentence,))


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """As what outputs are judged, see `tfkit.training.outputs`."""

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
    expected, known = with_units(expected), "as was said"
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
    source: Source, requests: Sequence[ConversionRequest], examples: Mapping[str, np.ndarray] | None
) -> tuple[dict[str, bytes], dict[str, str]]:
    """The files that could be made, by name, and why the others could not."""
    made: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    results = run_conversions(source, requests, examples=examples)
    for request in requests:
        try:
            made[request.name] = check_result(results[request.name], request)
        except TfkitError as err:
            failed[request.name] = str(err)
    return made, failed


def measure(
    models: Mapping[str, bytes],
    comparisons: Mapping[str, Comparison],
    *,
    threads: Sequence[int] = (1, 2),
    notes: Mapping[str, Sequence[str]] | None = None,
    example: np.ndarray | None = None,
) -> tuple[Variant, ...]:
    """All that is known of variants, those marked that no other beats.

    Args:
      models: name to content; a name is TECHNIQUE+QUANTIZATION or QUANTIZATION.
      comparisons: by name, see `tfkit.compression.compare`.
      threads: for which latencies are measured.
      notes: by name, what was done to a variant.
      example: on which times are taken, where they depend on it.
    """
    times = latency(models, threads=threads, example=example)
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
                peak_memory_bytes=peak_memory(content, example=example),
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
            "\n  Give a model of each, keras.Model(model.inputs, model.outputs[0]); tfkit.convert converts it as"
            " it is."
        )


def original(source: Source, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what the model itself says, [n, ...].

    Raises:
      UsageError: it says something else when it is asked again.
    """
    from tfkit.environment.stack import tf

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
