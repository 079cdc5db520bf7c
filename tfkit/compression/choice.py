"""The choice: which variant goes to the device, or by how much the nearest one misses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tfkit.compression.compare import KILO, Variant, busy
from tfkit.settings import fields

LIKE_SIZE = 0.1
"""Files whose sizes differ by less count as equally small: the more accurate one is then the better."""

_LEAST_DROP = 0.005  # the unit of a drop where the limit is below it


@dataclass(frozen=True, kw_only=True)
class Gates:
    """What a variant must keep to.

    Attributes:
      max_size_kb: of the file, in units of 1000 bytes.
      max_accuracy_drop: accuracy of the original less the variant's; without labels the share of other answers; of
        values R2 of the original less the variant's, without labels 1 - R2 against the original.
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
        fields.check(self, label=lambda name: f"--{name.replace('_', '-')}")

    def misses(self, variant: Variant) -> list[tuple[str, float]]:
        """What the variant does not keep to: a phrase, and by which share of the limit it is beyond."""
        return [(phrase, beyond) for phrase, beyond in self._measured(variant) if beyond > 0]

    def size(self, variant: Variant) -> int:
        """The size that counts, in bytes."""
        return variant.gzipped_bytes if self.gzipped else variant.size_bytes

    def _measured(self, variant: Variant) -> Iterator[tuple[str, float]]:
        if self.max_size_kb is not None:
            size = self.size(variant) / KILO
            kind = " gzipped" if self.gzipped else ""
            yield f"{size:,.0f} kB{kind} (limit {self.max_size_kb:,.0f})", size / self.max_size_kb - 1
        if self.max_accuracy_drop is not None:
            drop, limit = variant.drop, self.max_accuracy_drop
            yield (
                f"{variant.drop_name} {drop:.4f} (limit {limit:g})",
                (drop - limit - 1e-9) / max(limit, _LEAST_DROP),
            )
        if self.max_latency_ms is not None:
            if variant.latency is None:
                yield "no latency was measured", float("inf")
            else:
                beyond = variant.latency / self.max_latency_ms - 1
                yield f"{variant.latency:.2f} ms (limit {self.max_latency_ms:g})", beyond


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The variant that was chosen, if any, and why, in a sentence."""

    chosen: Variant | None
    """None where no variant keeps to the gates."""
    verdict: str
    """The choice in a sentence, with size, accuracy and time."""


def choose(variants: Sequence[Variant], gates: Gates) -> Choice:
    """The smallest variant that keeps to the gates; of those about as small the most accurate, then the fastest.

    Args:
      variants: at least one.
      gates: see `Gates`.

    Returns:
      The chosen variant, or None where none keeps to the gates, and the verdict in words.
    """
    fitting = [variant for variant in variants if not gates.misses(variant)]
    if not fitting:
        nearest = min(variants, key=lambda variant: max(beyond for _, beyond in gates.misses(variant)))
        phrases = ", ".join(phrase for phrase, _ in gates.misses(nearest))
        return Choice(
            chosen=None,
            verdict=f"None of {len(variants)} variants keeps to the limits. The nearest is {nearest.name}: {phrases}.",
        )
    smallest = min(gates.size(variant) for variant in fitting)
    small = [variant for variant in fitting if gates.size(variant) <= smallest * (1 + LIKE_SIZE)]
    best = min(small, key=lambda variant: (variant.drop, variant.latency or 0.0, gates.size(variant)))
    why = _why(best, small, fitting, len(variants), gates)
    return Choice(chosen=best, verdict=f"{best.name} is chosen: {why}, {_praise(best, gates)}.")


def _why(
    best: Variant, small: Sequence[Variant], fitting: Sequence[Variant], count: int, gates: Gates
) -> str:
    """By which rule it was chosen."""
    if len(fitting) == 1:
        return f"the only one of {count} within the limits"
    among = f"{len(fitting)} within the limits" + ("" if len(fitting) == count else f" (of {count})")
    smallest = min(small, key=gates.size)
    if gates.size(best) == gates.size(smallest):
        return f"the smallest of {among}"
    better = "closest to the original" if best.accuracy is None and best.r2 is None else "most accurate"
    if best.drop == smallest.drop:
        better = f"fastest of the {better}"
    return (
        f"of the files at most 10 % larger than the smallest of {among}, {smallest.name} with"
        f" {gates.size(smallest) / KILO:,.0f} kB, the {better}"
    )


def _praise(variant: Variant, gates: Gates) -> str:
    size = f"{gates.size(variant) / KILO:,.0f} kB{' gzipped' if gates.gzipped else ''}"
    speed = "" if variant.latency is None else f", {variant.latency:.2f} ms on one thread"
    taken = busy([variant])
    return f"{size}, {variant.quality}{speed}{f' ({taken})' if taken and speed else ''}"
