"""One private training step against one without privacy, TF Privacy's and Opacus's, in turn, at batch 256 in float32.

    python benchmarks/private_step.py                                              (15 rounds, some minutes)
    python benchmarks/private_step.py --torch-python TORCH_VENV/bin/python         (with PyTorch and Opacus)
    python benchmarks/private_step.py --rounds 3 --seconds 0.3 --models head       (quick)

Three models: a head 1280-100 on stored features, an MLP 784-512-512-10, and the convolutional net of TF Privacy's
tutorial. Every contestant is a process of its own that stays alive: same threads, same allocator settings, same SGD,
clipping norm 1, noise multiplier 1.1, one batch in memory again and again. In each round each of them, in changing
order, is asked for as many steps as take `--seconds`. TensorFlow's side is the train function that `fit` calls;
PyTorch's is the usual loop. tfkit is measured on that batch, and on Poisson samples of which 256 examples are
expected, as training takes them; the drawing of the noise is part of either. A contestant whose step takes seconds
takes one step in each of the first two rounds.

A ratio is one round's examples/s over those of tf_keras without privacy in that round; the median of the rounds is
printed, with the quartiles. Peak memory is that of the process; in brackets, what its training added to its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.private_step_serve import BATCH, MODELS
from tfkit.environment.process import malloc_environment

FOLDER = Path(__file__).parent
BASELINE = "tf_keras"
TENSORFLOW = (
    BASELINE,
    "tfkit",
    "tfkit, Poisson samples",
    "TF Privacy DPModel",
    "TF Privacy Vectorized",
    "TF Privacy DPKerasSGD",
)
TORCH = ("PyTorch", "Opacus ghost", "Opacus hooks")
PATIENCE = 8  # steps that take longer than so many times --seconds are too slow for every round


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    parser.add_argument("--only", nargs="+", choices=(*TENSORFLOW, *TORCH), metavar="CONTESTANT")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one contestant in one round")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--torch-python", type=Path, help="Python of a venv with torch and opacus")
    parser.add_argument("--output", type=Path, help="write all measurements there, as JSON")
    options = parser.parse_args()
    names = [*TENSORFLOW, *(TORCH if options.torch_python else ())]
    contestants = [name for name in names if name == BASELINE or not options.only or name in options.only]
    results = {}
    for model in options.models:
        rows = contest(model, contestants, options)
        results[model] = summary(rows)
        show(model, results[model], options)
        results[model]["rounds"] = rows
        if options.output:
            setting = {key: value for key, value in vars(options).items() if not isinstance(value, Path)}
            options.output.write_text(json.dumps({"setting": setting, "models": results}, indent=1) + "\n")
    if not options.torch_python:
        print("\nPyTorch and Opacus were left out: --torch-python names a Python that has them.")


class Contestant:
    """A process that takes as many steps as it is told, and says how long they took."""

    def __init__(self, name: str, model: str, options: argparse.Namespace) -> None:
        self.name = name
        python, script = (
            (options.torch_python, "private_step_opacus.py")
            if name in TORCH
            else (sys.executable, "private_step_tf.py")
        )
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [str(python), str(FOLDER / script), name, model, str(options.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=FOLDER.parent,
            env={**os.environ, **malloc_environment(), "OMP_NUM_THREADS": str(options.threads)},
        )
        self._answer()
        once = self.take(1)["wall"]
        self.slow = once > PATIENCE * options.seconds
        self.steps = 1
        if not self.slow:
            sample_steps = max(round(0.3 * options.seconds / once), 1)
            self.steps = max(round(options.seconds * sample_steps / self.take(sample_steps)["wall"]), 1)

    def take(self, steps: int) -> dict[str, float]:
        """Wall and CPU seconds of so many steps."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        return self._answer()

    def end(self) -> None:
        """Close its input, which ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        self._errors.seek(0)
        sys.exit(f"{self.name} ended with {self._process.wait()}:\n{self._errors.read()[-3000:]}")


def contest(model: str, names: list[str], options: argparse.Namespace) -> list[dict[str, Any]]:
    """All contestants in turn, round after round: one row for each time that one was asked."""
    contestants = [Contestant(name, model, options) for name in names]
    rows = []
    for number in range(options.rounds):
        start = number % len(contestants)
        for contestant in contestants[start:] + contestants[:start]:
            if not contestant.slow or number < 2:
                answer = contestant.take(contestant.steps)
                rows.append({"round": number, "contestant": contestant.name, **answer})
    for contestant in contestants:
        contestant.end()
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds, by contestant; ratios are taken within a round."""
    baseline = {row["round"]: row for row in rows if row["contestant"] == BASELINE}

    def cost(row: dict[str, Any], clock: str) -> float:
        return row[clock] / row["steps"]

    results = {}
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own_rows = [row for row in rows if row["contestant"] == name]
        ratios = {
            clock: [cost(baseline[row["round"]], clock) / cost(row, clock) for row in own_rows]
            for clock in ("wall", "cpu")
        }
        results[name] = {
            "examples_per_second": statistics.median(BATCH / cost(row, "wall") for row in own_rows),
            "ratio": statistics.median(ratios["wall"]),
            "ratio_quartiles": quartiles(ratios["wall"]),
            "cpu_ratio": statistics.median(ratios["cpu"]),
            "cpu_ratio_quartiles": quartiles(ratios["cpu"]),
            "cpu_ms_per_step": 1000 * statistics.median(cost(row, "cpu") for row in own_rows),
            "peak_mb": own_rows[-1]["peak_mb"],
            "training_mb": own_rows[-1]["peak_mb"] - own_rows[-1]["imported_mb"],
            "measured": len(own_rows),
        }
    return {"summary": results}


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def show(model: str, result: dict[str, Any], options: argparse.Namespace) -> None:
    """One model's table."""
    results = result["summary"]
    print(f"\n{model}: {options.rounds} rounds of {options.seconds:g} s each, {options.threads} threads\n")
    print(
        "| engine | examples/s | ratio (quartiles) | by CPU time | CPU ms/step | peak MB (training's) | x |"
    )
    print("| --- |" + " ---: |" * 6)
    for name, row in results.items():
        low, high = row["ratio_quartiles"]
        print(
            f"| {name} | {row['examples_per_second']:,.0f} | {row['ratio']:.3g} ({low:.3g}-{high:.3g})"
            f" | {row['cpu_ratio']:.3g} | {row['cpu_ms_per_step']:.3g}"
            f" | {row['peak_mb']:.0f} ({row['training_mb']:.0f})"
            f" | {row['peak_mb'] / results[BASELINE]['peak_mb']:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
