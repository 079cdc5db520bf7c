"""The paper model at the end of benchmarks/scaling.py: what 8, 64 and 512 workers would reach on a real network."""

from __future__ import annotations

from typing import Any

WORKERS = (8, 64, 512)
GIGABITS = (1, 10, 100)
BACKWARD = 2 / 3  # of a step: two products of the same size for each one of the forward pass


def ring_ms(workers: int, size: float, gigabits: float, latency_us: float) -> float:
    """Milliseconds of a ring all-reduce: 2(n-1) messages in a row, each with a n-th of the bytes.

    Args:
      workers: n.
      size: bytes of the gradients.
      gigabits: a second, of a worker's link in one direction.
      latency_us: microseconds that a message takes beyond its bytes.

    Source: Patarasuk and Yuan 2009, "Bandwidth optimal all-reduce algorithms for clusters of workstations".
    """
    messages = 2 * (workers - 1)
    return messages / workers * size / (gigabits * 1e9 / 8) * 1e3 + messages * latency_us / 1e3


def efficiency(compute_ms: float, communication_ms: float, *, overlap: bool) -> float:
    """Of a step that computes and communicates; with overlap, what fits into the backward pass is free."""
    exposed_ms = max(communication_ms - BACKWARD * compute_ms, 0.0) if overlap else communication_ms
    return compute_ms / (compute_ms + exposed_ms)


def show_model(one_ms: float, size: int, latencies_us: dict[str, float]) -> list[dict[str, Any]]:
    """Print the table; returns its rows.

    Args:
      one_ms: measured step of one worker.
      size: bytes of the gradients.
      latencies_us: of a message, microseconds, by where the number comes from.
    """
    print(
        f"\nA MODEL, not a measurement: efficiency of a ring all-reduce of {size / 1e6:.2f} MB a step, beside"
        f" {one_ms:.1f} ms of compute.\nFirst number: nothing overlaps; second: all of it may hide in the backward"
        f" pass, {BACKWARD:.0%} of the step.\n"
    )
    print("| workers | latency | " + " | ".join(f"{gigabits} Gbit/s" for gigabits in GIGABITS) + " |")
    print("| ---: | ---: |" + " ---: |" * len(GIGABITS))
    rows = []
    for workers in WORKERS:
        for label, latency in latencies_us.items():
            cells = []
            for gigabits in GIGABITS:
                ms = ring_ms(workers, size, gigabits, latency)
                row = {"workers": workers, "gigabits": gigabits, "latency_us": latency, "ring_ms": ms}
                row["no_overlap"] = efficiency(one_ms, ms, overlap=False)
                row["full_overlap"] = efficiency(one_ms, ms, overlap=True)
                rows.append(row)
                cells.append(f"{row['no_overlap']:.2f} / {row['full_overlap']:.2f}")
            print(f"| {workers} | {latency:,.0f} us, {label} | " + " | ".join(cells) + " |")
    return rows
