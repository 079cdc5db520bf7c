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
    seen = max(communication_ms - BACKWARD * compute_ms, 0.0) if overlap else communication_ms
    return compute_ms / (compute_ms + seen)


def show_model(one_ms: float, two_ms: float, size: int, latency_us: float) -> list[dict[str, Any]]:
    """Print the table; returns its rows.

    Args:
      one_ms: measured step of one worker.
      two_ms: measured step of two workers on this machine.
      size: bytes of the gradients.
      latency_us: assumed, of a message.
    """
    measured_us = max(two_ms - one_ms, 0.0) / 2 * 1e3  # two workers: two messages in a row
    print(
        f"\nA MODEL, not a measurement: efficiency of a ring all-reduce of {size / 1e6:.2f} MB a step, beside"
        f" {one_ms:.1f} ms of compute.\nFirst number: nothing overlaps; second: all of it may hide in the backward"
        f" pass. Latency of a message: {latency_us:g} us assumed,\nor {measured_us:,.0f} us, all that the second worker"
        " cost here, shared by its two messages (TensorFlow's gRPC on one core).\n"
    )
    latencies = {f"{latency_us:g} us": latency_us, f"{measured_us:,.0f} us": measured_us}
    print("| workers | latency | " + " | ".join(f"{gigabits} Gbit/s" for gigabits in GIGABITS) + " |")
    print("| ---: | ---: |" + " ---: |" * len(GIGABITS))
    rows = []
    for workers in WORKERS:
        for label, latency in latencies.items():
            cells = []
            for gigabits in GIGABITS:
                ms = ring_ms(workers, size, gigabits, latency)
                row = {"workers": workers, "gigabits": gigabits, "latency_us": latency, "ring_ms": ms}
                row["no_overlap"] = efficiency(one_ms, ms, overlap=False)
                row["full_overlap"] = efficiency(one_ms, ms, overlap=True)
                rows.append(row)
                cells.append(f"{row['no_overlap']:.2f} / {row['full_overlap']:.2f}")
            print(f"| {workers} | {label} | " + " | ".join(cells) + " |")
    return rows
