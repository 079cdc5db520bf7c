"""The variants of one model beside each other: what is known of each file, the table of them, and the choice."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfkit.compression.inspect import NOTES
from tfkit.settings import fields

if TYPE_CHECKING:
    import pandas as pd

KILO = 1000  # bytes in the kB of all sizes here
BUSY = 0.3  # cores that others take: beyond that, times on two cores were seen to grow

LIKE_SIZE = 0.1
"""Files whose sizes differ by less count as equally small: the more accurate one is then the better."""

_LEAST_DROP = 0.005  # the unit of a drop where the limit is below it


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class Quality:
    """Measure how good the outputs of a variant are, by themselves and beside those of the original.

    Attributes:
      output: what they are, one of `tfkit.training.outputs.OUTPUTS`.
      accuracy: of the variant's classes, or yes and no; None of values, and without labels.
      accuracy_drop: accuracy of the original less that; without labels the share of other answers, which no drop can
        exceed; not a number of values.
      drop_interval: where true labels are known: the paired 95 % interval of `drop`; None of classes for each
        pixel, and of over a million numbers.
      agreement: share of answers (classes, yes and no) that are the original's; of values, of those within a tenth of
        the spread.
      r2: of values, with labels: share of the labels' variance that the variant explains, the mean over the outputs.
      r2_drop: R2 of the original less that.
      rmse: of values, with labels: root mean square of the differences from them.
      error: of values: root mean square difference from the original, as a share of the spread (standard deviation)
        of each of its outputs; 1 - error^2 is R2 against the original.
      micro_f1: of several labels, yes or no each: F1 over all pairs of an example and a label.
      micro_f1_drop: that of the original less that; without true labels 1 less the F1 against the original's answers.
        Limits apply to it: where nearly all answers are no, all that were yes can be lost in 1 % of them.
      max_difference: the largest one of an output.
      class_drop: by class, recall of the original less the variant's.
    """

    output: str = "probabilities"
    accuracy: float | None = None
    accuracy_drop: float = float("nan")
    drop_interval: tuple[float, float] | None = None
    agreement: float
    r2: float | None = None
    r2_drop: float | None = None
    rmse: float | None = None
    error: float | None = None
    micro_f1: float | None = None
    micro_f1_drop: float | None = None
    max_difference: float
    class_drop: Mapping[str, float] = field(default_factory=dict)

    @property
    def drop(self) -> float:
        """Return what limits apply to: the drop of accuracy, F1 or R2, without labels from 1 against the original."""
        if self.output != "values":
            return float(self.accuracy_drop if self.micro_f1_drop is None else self.micro_f1_drop)
        return float((self.error or 0.0) ** 2 if self.r2_drop is None else self.r2_drop)

    @property
    def drop_name(self) -> str:
        """Return what a limit is of."""
        if self.output == "values":
            return "1 - R2 against the original" if self.r2_drop is None else "R2 drop"
        if self.accuracy is None:
            return "disagreement" if self.micro_f1_drop is None else "1 - micro F1 against the original"
        return "accuracy drop" if self.micro_f1 is None else "micro F1 drop"

    @property
    def quality(self) -> str:
        """Return how good it is, in words."""
        gain = f"{0.0 - self.drop:+.4f}"
        if self.drop_interval is not None:
            gain += ", 95 % interval {1:+.4f} to {0:+.4f}".format(*(-end for end in self.drop_interval))
        if self.output == "values":
            error = f"error {self.error:.4f} of the original's spread"
            return error if self.r2 is None else f"R2 {self.r2:.4f} ({gain}), {error}"
        if self.accuracy is None:
            return f"agreement {self.agreement:.4f} with the original"
        score = f"accuracy {self.accuracy:.4f}" if self.micro_f1 is None else f"micro F1 {self.micro_f1:.4f}"
        return f"{score} ({gain})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.quality})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Variant(Quality):
    """One .tflite file, measured.

    Attributes:
      name: "int8", "prune0.8+int8", ...
      technique: what training did to it: "prune0.8", "cluster16+qat", or nothing.
      quantization: what conversion did to it: "float32", "int8", ...
      size_bytes: of the file.
      gzipped_bytes: of the file as a download has it.
      latency_ms: by number of threads: {"1": {"p50": 5.0, "p90": 5.4}, ...}, one example at a time.
      other_cores: how many cores other processes kept busy while times were taken; above `BUSY` they are too long.
      peak_memory_bytes: of a process that runs it, beyond what the process had before.
      macs: share of the multiply-accumulate operations by type.
      ops: number of operations by type and name.
      sparsity: share of zeros among the weights of kernels.
      distinct_weights: the largest number of distinct values in one kernel (per channel of the file's numbers).
      needs: Flex and custom operations that the device must bring.
      notes: what was done to it and measured, a sentence each.
      pareto: whether no other is at least as small, as fast and as accurate, and better in one of these.
    """

    name: str
    technique: str = ""
    quantization: str
    size_bytes: int
    gzipped_bytes: int
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
        """Return the name of its file."""
        return f"{self.name}.tflite"

    @property
    def latency(self) -> float | None:
        """Return the milliseconds for one example on one thread, the median."""
        return self.latency_ms.get("1", {}).get("p50")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = {name: None if value != value else value for name, value in dataclasses.asdict(self).items()}
        return {"name": self.name, "file": self.file, **values}

    def __repr__(self) -> str:
        return f"Variant({self.name}: {self.size_bytes / KILO:,.0f} kB, {self.quality})"


@dataclass(frozen=True, kw_only=True, repr=False)
class Table:
    """Variants of one model beside each other; prints as a table, also in a notebook.

    Attributes:
      variants: in the order in which they were asked for.
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
        """Return the table of what variants.json holds; the files are beside it."""
        field_names = {attribute.name for attribute in dataclasses.fields(Variant)}
        rows = [{name: row[name] for name in field_names & row.keys()} for row in content["variants"]]
        return cls(
            variants=tuple(Variant(**row) for row in rows),
            models={},
            failed={row["name"]: row["reason"] for row in content["failed"]},
            examples=content["examples"],
            notes=tuple(content.get("notes", ())),
        )

    def __getitem__(self, name: str) -> Variant:
        """Return the variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    @property
    def frame(self) -> pd.DataFrame:
        """Return one row a variant: sizes in kB (1000 bytes), latencies in milliseconds."""
        import pandas as pd

        rows = [{name: value(row) for name, (value, _) in _COLUMNS.items()} for row in self.variants]
        index = pd.Index([row.name for row in self.variants], name="variant")
        return pd.DataFrame(rows, index=index).dropna(axis="columns", how="all")

    def __str__(self) -> str:
        """Return the table, and what failed."""
        lines = []
        if self.variants:
            frame = self.frame.set_axis([f"{row.name}{' *' if row.pareto else ''}" for row in self.variants])
            formats = {name: f"{{:{_COLUMNS[name][1]}}}".format for name in map(str, frame)}
            table = frame.to_string(formatters=formats, na_rep="")
            lines = [table, "* no other is smaller, faster and more accurate", *self.notes]
        if load := describe_load(self.variants):
            lines.append(f"Times are too long: {load}.")
        for note in NOTES.values():
            if names := [row.name for row in self.variants if note in row.notes]:
                lines.append(f"{', '.join(names)}: {note}")
        return "\n".join([*lines, *(f"{name}: {reason}" for name, reason in self.failed.items())])

    def __repr__(self) -> str:
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        names = ", ".join(row.name for row in self.variants) or "no variant"
        return f"Table({names}; measured on {self.examples} examples{failed}; print it for all of it)"

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(float_format=lambda value: f"{value:.4g}"))


_COLUMNS: dict[str, tuple[Callable[[Variant], float | None], str]] = {
    "size kB": (lambda row: row.size_bytes / KILO, ",.0f"),
    "gzip kB": (lambda row: row.gzipped_bytes / KILO, ",.0f"),
    "micro F1": (lambda row: row.micro_f1, ".4f"),
    "F1 drop": (lambda row: row.micro_f1_drop, ".4f"),
    "accuracy": (lambda row: row.accuracy, ".4f"),
    "drop": (lambda row: None if row.accuracy is None else row.accuracy_drop, ".4f"),
    "R2": (lambda row: row.r2, ".4f"),
    "R2 drop": (lambda row: row.r2_drop, ".4f"),
    "RMSE": (lambda row: row.rmse, ",.3g"),
    "error": (lambda row: row.error, ".4f"),
    "agreement": (lambda row: None if row.output == "values" else row.agreement, ".4f"),
    "max diff": (lambda row: row.max_difference, ",.2g"),
    "ms": (lambda row: row.latency, ",.3g"),
    "ms p90": (lambda row: row.latency_ms.get("1", {}).get("p90"), ",.3g"),
    "ms 2 threads": (lambda row: row.latency_ms.get("2", {}).get("p50"), ",.3g"),
    "memory MB": (lambda row: row.peak_memory_bytes and row.peak_memory_bytes / KILO**2, ",.1f"),
    "int8 MACs": (lambda row: sum(share for kind, share in row.macs.items() if kind[:4] == "int8"), ".3f"),
    "sparsity": (lambda row: row.sparsity, ".2f"),
}
"""Columns of a table: what of a variant, and how it is printed."""


def describe_load(variants: Sequence[Variant]) -> str:
    """Say that the machine was busy while times were taken; nothing where it was not."""
    busy_cores = max((variant.other_cores for variant in variants), default=0.0)
    if busy_cores <= BUSY:
        return ""
    return f"other processes kept {busy_cores:.1f} of {os.cpu_count()} cores busy as they were taken"


def mark_pareto(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Return the same variants, those marked that no other beats in size, latency and accuracy."""
    costs = np.array([(row.size_bytes, row.latency or 0.0, row.drop) for row in variants]).reshape(-1, 3)
    no_better: np.ndarray = np.greater_equal(costs[:, np.newaxis], costs).all(axis=2)  # [own, other]
    worse = (no_better & ~no_better.T).any(axis=1)
    return tuple(dataclasses.replace(row, pareto=not lost) for row, lost in zip(variants, worse, strict=True))


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Hold the limits that a variant must keep to.

    Attributes:
      max_size_kb: of the file, in units of 1000 bytes.
      max_accuracy_drop: accuracy of the original less the variant's (of several labels, yes or no each, micro F1);
        without labels the share of other answers (1 - micro F1 against the original); of values R2 of the original less
        the variant's, without labels 1 - R2 against the original.
      max_latency_ms: median for one example on one thread of this machine.
      gzipped: whether the size is that of the file gzipped, as it is downloaded.

    Raises:
      ConfigError: a limit that nothing can keep to.
    """

    max_size_kb: fields.Positive | None = None
    max_accuracy_drop: fields.Share | None = None
    max_latency_ms: fields.Positive | None = None
    gzipped: bool = False

    def __post_init__(self) -> None:
        """Check the limits."""
        fields.check(self, label=fields.flag)

    def misses(self, variant: Variant) -> list[tuple[str, float]]:
        """Return what the variant does not keep to: a phrase, and by which share of the limit it is beyond."""
        margins = []
        if (limit := self.max_size_kb) is not None:
            excess = self.size_bytes(variant) / KILO / limit - 1
            margins.append((f"{self.size(variant)} (limit {limit:,.0f})", excess))
        if (limit := self.max_accuracy_drop) is not None:
            excess = (variant.drop - limit - 1e-9) / max(limit, _LEAST_DROP)
            margins.append((f"{variant.drop_name} {variant.drop:.4f} (limit {limit:g})", excess))
        if (limit := self.max_latency_ms) is not None:
            latency = float("inf") if variant.latency is None else variant.latency
            margins.append((f"{latency:.3g} ms (limit {limit:g})", latency / limit - 1))
        return [(phrase, excess) for phrase, excess in margins if excess > 0]

    def size_bytes(self, variant: Variant) -> int:
        """Return the size that counts."""
        return variant.gzipped_bytes if self.gzipped else variant.size_bytes

    def size(self, variant: Variant) -> str:
        """Return the size that counts, in words."""
        return f"{self.size_bytes(variant) / KILO:,.0f} kB{' gzipped' if self.gzipped else ''}"


class Choice(NamedTuple):
    """The variant that was chosen, if any, and why.

    Attributes:
      chosen: None where no variant keeps to the gates.
      verdict: the choice in a sentence, with size, accuracy and time.
    """

    chosen: Variant | None
    verdict: str


def choose(variants: Sequence[Variant], gates: Gates) -> Choice:
    """Choose the smallest variant that keeps to the gates; of those about as small the most accurate, then the fastest.

    Args:
      variants: at least one.
      gates: see `Gates`.

    Returns:
      The chosen variant, or None where none keeps to the gates, and the verdict in words.
    """
    options = sorted((row for row in variants if not gates.misses(row)), key=gates.size_bytes)
    if not options:
        nearest = min(variants, key=lambda variant: max(excess for _, excess in gates.misses(variant)))
        phrases = ", ".join(phrase for phrase, _ in gates.misses(nearest))
        text = f"None of {len(variants)} variants keeps to the limits."
        return Choice(None, f"{text} The nearest is {nearest.name}: {phrases}.")
    smallest = options[0]
    peers = [row for row in options if gates.size_bytes(row) <= gates.size_bytes(smallest) * (1 + LIKE_SIZE)]
    best = min(peers, key=lambda row: (row.drop, row.latency or 0.0, gates.size_bytes(row)))
    reason = f"the smallest of {len(options)} within the limits (of {len(variants)})"
    if best is not smallest:
        reason = f"at most 10 % larger than {reason}, {smallest.name} with {gates.size(smallest)}, and better"
    speed = "" if best.latency is None else f", {best.latency:.3g} ms on one thread"
    speed += f" ({describe_load([best])})" if speed and describe_load([best]) else ""
    verdict = f"{best.name} is chosen: {reason}, {gates.size(best)}, {best.quality}{speed}."
    limit, (_, max_drop) = gates.max_accuracy_drop, best.drop_interval or (0.0, 0.0)
    if limit is not None and max_drop > limit:
        verdict += f" A drop of {max_drop:.4f}, over the limit of {limit:g}, is not ruled out: more examples"
        verdict += " would tell."
    return Choice(best, verdict)
