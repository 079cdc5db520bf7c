"""Programs of the tests in processes of their own: side by side, and two workers in a network of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests import forked

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PATIENCE = 900
TWO_WORKERS = Path(__file__).with_name("two_workers.py")


def running() -> Iterator[tuple[int, str, dict[str, str]]]:
    """Process id, command line and environment of every process that is not over."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if (folder / "stat").read_bytes().rpartition(b")")[2].split()[0] not in b"ZX":
                contents = [
                    (folder / name).read_bytes().decode(errors="replace") for name in ("cmdline", "environ")
                ]
                variables = dict(pair.partition("=")[::2] for pair in contents[1].split("\0"))
                yield int(folder.name), contents[0].replace("\0", " "), variables


def until(found: Callable[[], T], seconds: float, output: Callable[[], str] = str) -> T:
    """What `found()` gives as soon as it gives something."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"in vain: {output()[-3000:]}"
        time.sleep(0.05)
    return value


class Started:
    """A program in a process of its own, and what it printed."""

    def __init__(
        self, words: Sequence[object], log: Path, errors: Path | None = None, **options: Any
    ) -> None:
        self.log, self.errors = log, errors or log
        log.write_bytes(b"")
        with log.open("ab") as out, self.errors.open("ab") as err:
            self.process = subprocess.Popen(
                list(map(str, words)), stdin=subprocess.DEVNULL, stdout=out, stderr=err, **options
            )

    def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code."""
        return self.process.wait(timeout=seconds)

    @property
    def said(self) -> str:
        return self.errors.read_text(errors="replace")

    @property
    def printed(self) -> str:
        return self.log.read_text(errors="replace")

    def until(self, found: Callable[[], T], seconds: float = PATIENCE) -> T:
        """What `found()` gives as soon as it gives something."""
        return until(found, seconds, lambda: self.said)


def newest(run_dir: Path) -> int:
    """The epoch of the newest backup; -1 where there is none."""
    states = sorted((run_dir / "backup" / "train").glob("[0-9]*/state.json"))
    return json.loads(states[-1].read_text())["epoch"] if states else -1


def start(*words: str, **environment: str) -> subprocess.Popen[str]:
    """A program in a process of its own, with the variables beside this one's."""
    return forked.Popen(
        words,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_workers(program: Path, *arguments: str, ports: tuple[int, int]) -> tuple[list[str], dict[str, str]]:
    """The words of a process that becomes two workers, and what its environment has to say."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    first, second = (
        json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)
    )
    words = [sys.executable, str(TWO_WORKERS), str(program), *arguments]
    return words, {"FIRST": first, "SECOND": second}


def start_workers(
    program: Path, *arguments: str, ports: tuple[int, int], other: str = "/dev/null", **environment: str
) -> subprocess.Popen[str]:
    """Two workers; what the first prints is what is printed, and what the second does where `other` says."""
    words, variables = two_workers(program, *arguments, ports=ports)
    return start(*words, **variables, OTHER=other, **environment)


def answer(process: subprocess.Popen[str]) -> dict:
    """The last line that it printed, which is JSON."""
    return answers(process)[-1]


def answers(process: subprocess.Popen[str]) -> list[dict]:
    """The lines of JSON that it printed."""
    try:
        out, errors = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"no answer in {PATIENCE} s: {process.communicate()[1][-3000:]}")
    assert process.returncode == 0, errors[-3000:]
    return json_lines(out)


def json_lines(printed: str) -> list[dict]:
    """The lines of JSON among those that a program printed."""
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
