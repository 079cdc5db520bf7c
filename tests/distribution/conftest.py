"""Small programs that beat and end in every way; none of them needs TensorFlow."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from tests.distribution import processes

ROOT = Path(__file__).parents[2]

# Each start of a worker leaves a file `start-<worker>-<number>` that says what it found.
PRELUDE = """
import json, os, signal, subprocess, sys, threading, time
from pathlib import Path
from tfkit.environment import cluster, heartbeat

folder, me = Path({folder!r}), cluster.current().index
started = len(list(folder.glob(f"start-{{me}}-*")))
found = {{"pid": os.getpid(), "cores": sorted(os.sched_getaffinity(0)), "environment": dict(os.environ)}}
(folder / "new").mkdir(exist_ok=True)
(folder / "new" / str(os.getpid())).write_text(json.dumps(found))
(folder / "new" / str(os.getpid())).rename(folder / f"start-{{me}}-{{started}}")

def save(*_):
    print("saved", flush=True)
    os._exit(3)

def train(steps, seconds=0.02):
    heartbeat.phase("training")
    for step in range(steps):
        time.sleep(seconds)
        heartbeat.progress(step + 1, steps, "epoch 1 of 1")

def die(number):
    os.kill(os.getpid(), number)

signal.signal(signal.SIGTERM, save)
{before}
heartbeat.start()
"""


def written(folder: Path, program: str, *, before: str = "") -> Path:
    """The program, behind the prelude, as a file of the folder."""
    path = folder / "program.py"
    path.write_text(PRELUDE.format(folder=str(folder), before=before) + program)
    return path


@pytest.fixture(autouse=True)
def _hang_ups_count() -> Iterator[None]:
    """Under nohup a SIGHUP is ignored, by all that the tests start too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """`script(program)`: the program as a file, for a launcher that the test starts itself."""
    return lambda program: written(tmp_path, program)


class Launch(processes.Started):
    """A launcher that runs a program in a process of its own."""

    def __init__(self, folder: Path, program: str, *options: str, before: str) -> None:
        self.folder = folder
        script = written(folder, program, before=before)
        words = [sys.executable, "-m", "tfkit", "launch", *options, "--", script]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        super().__init__(words, folder / "out", folder / "errors", env=environment)

    def starts(self, worker: int) -> list[dict]:
        """What each start of a worker found, in order."""
        paths = sorted(self.folder.glob(f"start-{worker}-*"), key=lambda path: int(path.name.split("-")[2]))
        return [json.loads(path.read_text()) for path in paths]

    def left(self) -> list[str]:
        """The command lines of processes that run this job's program or came of it."""
        own = [found for found in processes.running() if str(self.folder) in found[1]]
        return [f"{pid} {line}" for pid, line, _ in own if pid != self.process.pid]


def over(jobs: Iterable[Launch]) -> None:
    """Nothing of these jobs may be left."""
    for each in jobs:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGKILL)
            each.process.wait()
            time.sleep(1)
        assert each.left() == []


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Launch]]:
    """Start a launcher: `launch(program, *options, before=...)`; `before` comes before the first beat.

    Nothing of it is left after the test, and that is asserted.
    """
    started: list[Launch] = []

    def begin(program: str, *options: str, before: str = "") -> Launch:
        folder = tmp_path / f"launch-{len(started)}"
        folder.mkdir()
        started.append(Launch(folder, program, *options, before=before))
        return started[-1]

    yield begin
    over(started)


@pytest.fixture(scope="module")
def jobs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Launch]]:
    """The jobs of a module's tests that are marked `runs`, by the tests' names; all are started at once.

    They spend their time waiting, for a hang or a restart: together they take as long as the longest.
    """
    started = {}
    for item in request.session.items:
        mark = item.get_closest_marker("runs")
        if mark is not None and item.path == request.path:
            folder = tmp_path_factory.mktemp("job")
            started[item.name] = Launch(folder, *mark.args, before=mark.kwargs.get("before", ""))
    yield started
    over(started.values())


@pytest.fixture
def job(request: pytest.FixtureRequest, jobs: dict[str, Launch]) -> Launch:
    """The job of this test: `@pytest.mark.runs(program, *options, before=...)`."""
    return jobs[request.node.name]
