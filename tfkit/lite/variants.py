"""Variants: what is known of each .tflite file that was made of one model, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tfkit.lite.census import NOTES
from tfkit.lite.evaluate import lost

if TYPE_CHECKING:
    import pandas as pd

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
      output: what its outputs are, of `tfkit.lite.outputs.OUTPUTS`.
      accuracy, accuracy_drop, agreement, r2, r2_drop, rmse, error, max_difference, class_drop: see
        `tfkit.lite.evaluate.Comparison`; None (the drop: not a number) where not known, or not of such outputs.
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
