"""Kill a worker of a distributed training at random moments, many times: does every run end, and with the same weights?

    python benchmarks/kills.py                      # 20 kills, some 20 minutes on 2 cores
    python benchmarks/kills.py --kills 5 --seed 7

Each run is `python -m tfkit launch --workers 2 -- -m recipes.train_distributed` in a network of its own. At a moment
drawn evenly from the duration of an undisturbed run one of its workers, drawn too, gets SIGKILL: while TensorFlow
starts, while the workers join, within an epoch, in a backup, in the export. The launcher starts all again. Printed:
what each kill met, the largest difference of a final weight to the undisturbed run's, and the seconds from death to
training.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

PATIENCE = 600
RECIPE = [
    *(
        "-m",
        "recipes.train_distributed",
        "--dataset",
        "mnist5k",
        "--epochs",
        "4",
        "--global-batch-size",
        "50",
    ),
    *("--optimizer", "sgd", "--learning-rate", "0.05", "--backup-steps", "10"),
]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    at_seconds: float
    worker: int
    met: str
    code: int
    restarts: int
    difference: float
    again_seconds: float | None
    seconds: float


def start(run_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tfkit", "launch", "--workers", "2", "--private-network", "--", *RECIPE]
    return subprocess.Popen(
        [*command, "--run-dir", str(run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def workers_of(run_dir: Path) -> dict[int, int]:
    """Number of each worker that runs now -> its process id."""
    process_ids = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            environment = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(run_dir) not in words or "launch" in words or "recipes.train_distributed" not in words:
            continue
        config = [value for value in environment if value.startswith("TF_CONFIG=")]
        if config:
            index = json.loads(config[0].partition("=")[2])["task"]["index"]
            process_ids.setdefault(index, int(folder.name))
    return process_ids


def weights(run_dir: Path) -> list[np.ndarray]:
    from tfkit.run import Run

    return [variable.numpy() for variable in Run.open(run_dir).model.variables_of_model]


def describe_moment(run_dir: Path) -> str:
    if not run_dir.is_dir():
        return "start-up"
    states = sorted((run_dir / "backup" / "train").glob("[0-9]*/state.json"))
    if (run_dir / "report.html").is_file():
        return "after the report"
    if list(run_dir.glob(".saved_model*")) or (run_dir / "saved_model").is_dir():
        return "export or report"
    if list((run_dir / "backup" / "train").glob(".0*")):
        return "a backup"
    if states:
        state = json.loads(states[-1].read_text())
        return "end" if state["finished"] else f"after backup of epoch {state['epoch']}, step {state['step']}"
    return "joining or first steps"


def kill_once(run_dir: Path, *, delay: float, worker: int) -> tuple[str, int, str, float]:
    start_time = time.monotonic()
    process = start(run_dir)
    time.sleep(delay)
    victims = workers_of(run_dir)
    moment = describe_moment(run_dir) if worker in victims else "nobody: it had ended, or not begun"
    if worker in victims:
        os.kill(victims[worker], signal.SIGKILL)
    output, _ = process.communicate(timeout=PATIENCE)
    return moment, process.returncode, output, time.monotonic() - start_time


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=Path("runs/kills.json"))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start_time = time.monotonic()
        process = start(folder / "undisturbed")
        output, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            sys.exit(output)
        duration = time.monotonic() - start_time
        reference = weights(folder / "undisturbed")
        print(f"undisturbed: {duration:.0f} s")
        outcomes = []
        for number in range(arguments.kills):
            run_dir = folder / f"run-{number}"
            delay, worker = rng.uniform(0.5, duration), rng.randrange(2)
            moment, code, output, seconds = kill_once(run_dir, delay=delay, worker=worker)
            again = re.search(r"Training again after ([0-9.]+) s", output)
            final_weights = weights(run_dir) if code == 0 else []
            difference = max(
                (float(np.abs(x - y).max()) for x, y in zip(final_weights, reference, strict=True)),
                default=float("nan"),
            ) if final_weights else float("nan")  # fmt: skip
            outcome = Outcome(
                at_seconds=round(delay, 1),
                worker=worker,
                met=moment,
                code=code,
                restarts=output.count("starting all again"),
                difference=difference,
                again_seconds=float(again[1]) if again else None,
                seconds=round(seconds, 1),
            )
            outcomes.append(outcome)
            print(
                f"{number:3}  at {outcome.at_seconds:5.1f} s  worker {worker}  {moment:<42} exit {code}"
                f"  restarts {outcome.restarts}  difference {difference:.1e}"
                f"  training again after {outcome.again_seconds or float('nan'):.1f} s",
                flush=True,
            )
            if code:
                print(output[-3000:])
    agains = [outcome.again_seconds for outcome in outcomes if outcome.again_seconds is not None]
    finished = sum(outcome.code == 0 for outcome in outcomes)
    print(f"\n{finished} of {len(outcomes)} runs finished; largest difference of a weight", end=" ")
    print(f"{max(outcome.difference for outcome in outcomes):.1e}")
    if agains:
        print(f"death to training: median {statistics.median(agains):.1f} s, longest {max(agains):.1f} s")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    print(arguments.json)


if __name__ == "__main__":
    main()
