"""Two worker processes on a core each, and one on one core: how much of the second core arrives.

    python benchmarks/scaling.py                                     (20 rounds, some minutes)
    python benchmarks/scaling.py --image-size 64 --batch 128         (a heavier step: less of it is talk)
    python benchmarks/scaling.py --rounds 3 --steps 5                (quick)

Weak scaling: the batch of a worker is the same, so the efficiency is the time of one worker's step over that of two
workers' step, 1 at best. The contestants are processes inside `fit` that stay alive and take turns, some steps each;
neither tracing nor teardown is measured. Stock TensorFlow is MultiWorkerMirroredStrategy with TF_CONFIG written by hand
and everything else as it comes; it is pinned like tfkit's, which also gives it one thread per pool. The ratio is taken
within a round and the median of the rounds is printed, for time and for CPU time of a worker: the one holds waiting
for the other worker, the other does not. A turn in which other programs took a core away is taken again, up to three
times, and left out of the medians where enough others are left; the table says how many stayed.

The other contestants show what the rest is made of: two processes that do not talk (what sharing a machine costs, and,
from the times of their single steps, what it costs to wait for the slower one), and tfkit's workers with the metrics
summed in every step, as Keras does. Everything runs in a network of its own (`unshare -n`), because TensorFlow's
port is open to every interface.

On 32x32 images with 64 examples, a step of 39 ms, tfkit's two workers reach 0.88 and not 0.90: the all-reduce of the
gradients takes 4.3 ms, nearly all of it CPU time, and no setting of gRPC, of its threads or of the packs of gradients
was found to change that. With twice the examples, or larger images, it is above 0.90.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.scaling_model import show_model
from tfkit.distribution.worker_process import threads_environment
from tfkit.environment.process import malloc_environment

FOLDER = Path(__file__).parent
INSIDE = "TFKIT_BENCHMARK_NETWORK"
QUIET = 0.05  # of the cores that are measured: what others may take from them in a turn that counts
PATIENCE = 1.5  # seconds to wait for a quiet moment
ONE_WORKER, TWO_WORKERS, APART = "tfkit, one worker", "tfkit, two workers", "two that do not talk"
EVERY_STEP = "tfkit, metrics every step"
STOCK_ONE, STOCK_TWO = "stock, one worker", "stock, two workers"
METRIC_COLLECTIVES = (
    6  # of Keras in a step, for a loss and an accuracy: two variables each, and the sum of each
)
# Number of processes, and what the worker is told.
SIDES: dict[str, tuple[int, dict[str, Any]]] = {
    ONE_WORKER: (1, {"stock": False}),
    TWO_WORKERS: (2, {"stock": False}),
    STOCK_ONE: (1, {"stock": True}),
    STOCK_TWO: (2, {"stock": True}),
    APART: (2, {"stock": False}),
    EVERY_STEP: (2, {"stock": False, "metrics_every_step": True}),
}
BASELINE = {STOCK_ONE: STOCK_ONE, STOCK_TWO: STOCK_ONE}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10.0, help="after which no further round starts")
    parser.add_argument("--steps", type=int, default=10, help="of one contestant in one round")
    parser.add_argument("--batch", type=int, default=64, help="examples of a worker in a step")
    parser.add_argument("--image-size", type=int, default=32, help="side in pixels")
    parser.add_argument("--only", nargs="+", choices=SIDES, default=[*SIDES], metavar="CONTESTANT")
    parser.add_argument("--latency-us", type=float, default=50.0, help="of a message, for the model")
    parser.add_argument("--output", type=Path, help="write all measurements there, as JSON")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("Two workers on a core each need two cores; this process may run on one.")
    if INSIDE not in os.environ:
        alone = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
        script = 'ip link set lo up && exec "$@"'
        os.environ[INSIDE] = "1"
        os.execvp(alone[0], [*alone, "sh", "-c", script, "sh", sys.executable, *sys.argv])

    sides = [Side(name, number, cores, options) for number, name in enumerate(SIDES) if name in options.only]
    try:
        parameters = {side.answers()[0]["parameters"] for side in sides}.pop()
        for side in sides:
            side.take(5)  # the first steps trace, allocate, and connect
        until = time.monotonic() + 60 * options.minutes
        for number in range(options.rounds):
            if time.monotonic() > until:
                break
            start = number % len(sides)
            for side in sides[start:] + sides[:start]:
                side.turn(options.steps)
    finally:
        for side in sides:
            side.end()

    results = {side.name: summary(side, sides) for side in sides}
    setting = {key: value for key, value in vars(options).items() if key not in ("output", "only")}
    result = {"setting": {**setting, "parameters": parameters}, "summary": results}
    show(results, options, parameters)
    if {ONE_WORKER, TWO_WORKERS} <= results.keys():
        result["profile"] = profile(results, {side.name: side for side in sides})
        latencies = {"assumed": options.latency_us}
        if EVERY_STEP in results:
            # Two workers: an all-reduce is two messages in a row.
            one_message = (results[EVERY_STEP]["ms"] - results[TWO_WORKERS]["ms"]) / METRIC_COLLECTIVES / 2
            latencies["measured here, one number"] = max(1000 * one_message, 0.0)
        result["model"] = show_model(results[ONE_WORKER]["ms"], 4 * parameters, latencies)
    if options.output:
        turns = {side.name: side.turns for side in sides}
        options.output.write_text(json.dumps({**result, "turns": turns}, indent=1) + "\n")


class Side:
    """One or two processes that take as many steps as they are told."""

    def __init__(self, name: str, number: int, cores: list[int], options: argparse.Namespace) -> None:
        self.name = name
        self.turns: list[dict[str, Any]] = []
        count, job = SIDES[name]
        addresses = [f"127.0.0.1:{21000 + 10 * number + index}" for index in range(count)]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "MALLOC_"))}
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._processes = []
        for index in range(count):
            variables = {"PYTHONPATH": str(FOLDER.parent), "TF_CPP_MIN_LOG_LEVEL": "2"}
            if not job["stock"]:
                variables |= {**malloc_environment(), **threads_environment(1)}
            if count > 1 and name != APART:
                task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
                variables["TF_CONFIG"] = json.dumps(task)
            work = {**job, "core": cores[index], "batch": options.batch, "image_size": options.image_size}
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, str(FOLDER / "scaling_worker.py"), json.dumps(work)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    text=True,
                    env={**clean, **variables},
                )
            )

    def answers(self) -> list[dict[str, Any]]:
        """One line of each process."""
        return [self._answer(process) for process in self._processes]

    def take(self, steps: int) -> dict[str, Any]:
        """So many steps of all processes at once: milliseconds a step, CPU milliseconds a step and worker."""
        start = busy()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{steps}\n")
            process.stdin.flush()
        rows = self.answers()
        seconds = max(row["times"][-1] for row in rows) - min(row["times"][0] for row in rows)
        own_seconds = sum(row["user"] + row["system"] for row in rows)
        turn = {key: 1000 * statistics.mean(row[key] for row in rows) / steps for key in ("user", "system")}
        return {
            **turn,
            "ms": 1000 * seconds / steps,
            "cpu_ms": turn["user"] + turn["system"],
            "sleeps": statistics.mean(row["sleeps"] for row in rows) / steps,
            "others": max(busy() - start - own_seconds, 0.0) / (seconds * os.cpu_count()),
            "step_ms": [
                [1000 * (end - begin) for begin, end in zip(row["times"], row["times"][1:], strict=False)]
                for row in rows
            ],
        }

    def turn(self, steps: int) -> None:
        """A turn that counts: taken again where others were busy on the same cores."""
        attempts = []
        for _ in range(3):
            wait_for_quiet()
            attempts.append(self.take(steps))
            if attempts[-1]["others"] < QUIET:
                break
        self.turns.append(min(attempts, key=lambda turn: turn["others"]))

    def end(self) -> None:
        """End the processes; none has anything to lose."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        self._errors.close()

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line.startswith("{"):
                return json.loads(line)
        self._errors.seek(0)
        sys.exit(f"{self.name} ended with {process.wait()}:\n{self._errors.read()[-3000:]}")


def busy() -> float:
    """CPU seconds since the machine started in which some program ran."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, interrupts, soft, steal = fields[:8]
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet() -> None:
    """Until others leave the cores alone for a moment, or patience ends."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        start = busy()
        time.sleep(0.1)
        if busy() - start <= 0.01 * os.cpu_count():
            return


def summary(side: Side, sides: list[Side]) -> dict[str, Any]:
    """Medians over the rounds that were quiet for this side and for what it is compared with."""
    baseline = next((base for base in sides if base.name == BASELINE.get(side.name, ONE_WORKER)), side)
    pairs = list(zip(baseline.turns, side.turns, strict=True))
    quiet = [pair for pair in pairs if max(turn["others"] for turn in pair) < QUIET]
    used_pairs = quiet if len(quiet) >= min(5, len(pairs)) else pairs
    ratios = {key: [base[key] / turn[key] for base, turn in used_pairs] for key in ("ms", "cpu_ms")}
    return {
        **{
            key: statistics.median(turn[key] for _, turn in used_pairs)
            for key in ("ms", "cpu_ms", "system", "sleeps")
        },
        "efficiency": statistics.median(ratios["ms"]),
        "efficiency_quartiles": quartiles(ratios["ms"]),
        "cpu_efficiency": statistics.median(ratios["cpu_ms"]),
        "quiet": len(quiet),
        "used": len(used_pairs),
        "rounds": len(pairs),
    }


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [low, high]


def show(results: dict[str, Any], options: argparse.Namespace, parameters: int) -> None:
    """The contestants."""
    rounds = max(row["rounds"] for row in results.values())
    print(
        f"\nConv net, {parameters:,} weights, {options.image_size}x{options.image_size} images, {options.batch} a"
        f" worker and step; {rounds} rounds of {options.steps} steps\n"
    )
    print(
        "| workers | examples/s | ms/step | efficiency (quartiles) | CPU ms/step (system) | by CPU time"
        " | sleeps/step | quiet rounds |"
    )
    print("| --- |" + " ---: |" * 7)
    for name, row in results.items():
        low, high = row["efficiency_quartiles"]
        rate = SIDES[name][0] * options.batch / row["ms"] * 1000
        print(
            f"| {name} | {rate:,.0f} | {row['ms']:.1f} | {row['efficiency']:.3f} ({low:.3f}-{high:.3f})"
            f" | {row['cpu_ms']:.1f} ({row['system']:.1f}) | {row['cpu_efficiency']:.3f} | {row['sleeps']:.0f}"
            f" | {row['quiet']}/{row['rounds']}{'' if row['used'] == row['quiet'] else ' (all used)'} |"
        )


def profile(results: dict[str, Any], sides: dict[str, Side]) -> dict[str, float]:
    """Parts of a step of two workers, by difference, in ms."""
    parts = {"one worker's step": results[ONE_WORKER]["ms"]}
    if APART in results:
        pairs = [pair for turn in sides[APART].turns for pair in zip(*turn["step_ms"], strict=True)]
        parts["the other core is busy too"] = results[APART]["ms"] - results[ONE_WORKER]["ms"]
        parts["all-reduce of the gradients"] = results[TWO_WORKERS]["ms"] - results[APART]["ms"]
        waiting = statistics.median(max(pair) - statistics.mean(pair) for pair in pairs)
        parts["(of that: waiting for the slower one, estimated)"] = waiting
    if EVERY_STEP in results:
        parts["metrics, were they summed every step"] = results[EVERY_STEP]["ms"] - results[TWO_WORKERS]["ms"]
    if len(parts) == 1:
        return parts
    print("\n| of a step of two workers | ms |\n| --- | ---: |")
    for name, value in parts.items():
        print(f"| {name} | {value:.1f} |")
    return parts


if __name__ == "__main__":
    main()
