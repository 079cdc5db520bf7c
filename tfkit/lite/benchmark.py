"""benchmark: how long variants take on this machine, in turn, and how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfkit.errors import CheckError
from tfkit.litert.interpreter import opened

WARM_UP = 3
ROUNDS = 10
_LONGEST = 20_000  # characters of an argument of a process

# In a process of its own, whose memory is the model's and hardly anything else's.
_MEMORY = """
import json, re, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, InterpreterWithCustomOps

def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])

path, *text = sys.argv[1:]
operations = []
if text:
    from tensorflow_text import tflite_registrar
    operations = tflite_registrar.SELECT_TFTEXT_OPS
    try:  # what importing them took at its peak is no part of what the model takes
        open("/proc/self/clear_refs", "w").write("5")
    except OSError:
        pass
before = kilobytes("VmRSS")
make = InterpreterWithCustomOps if text else Interpreter
interpreter = make(model_path=path, num_threads=1, **({"custom_op_registerers": operations} if text else {}))
interpreter.allocate_tensors()
for details in interpreter.get_input_details():
    zeros = np.zeros(details["shape"], details["dtype"])
    interpreter.set_tensor(details["index"], np.array(text, object) if text else zeros)
interpreter.invoke()
print(json.dumps(kilobytes("VmHWM") - before))
"""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long one example takes.

    Attributes:
      p50_ms: median.
      p90_ms: nine of ten take at most so long.
      calls: how many were timed.
      other_cores: how many cores other processes kept busy meanwhile.
    """

    p50_ms: float
    p90_ms: float
    calls: int
    other_cores: float = 0.0


def latency(
    models: Mapping[str, bytes],
    *,
    threads: Sequence[int] = (1, 2),
    seconds: float = 0.6,
    rounds: int = ROUNDS,
    example: np.ndarray | None = None,
) -> dict[str, dict[int, Latency]]:
    """Time variants in turn: what else the machine does hits all of them alike.

    Args:
      models: name to the content of a .tflite file.
      threads: for each number of them an interpreter of its own.
      seconds: about how long each variant is timed for each number of threads, in all.
      rounds: how often it is each one's turn.
      example: what the models are given, [1, ...], where their time depends on it, as that of texts does; None: zeros.

    Returns:
      For each name and number of threads the time of one call after warm-up.

    Raises:
      CheckError: a model needs operations that LiteRT lacks.
    """
    found: dict[str, dict[int, Latency]] = {name: {} for name in models}
    for count in threads:
        ready = {name: _ready(model, count, example) for name, model in models.items()}
        times: dict[str, list[float]] = {name: [] for name in models}
        calls = {name: _calls(interpreter, seconds / rounds) for name, interpreter in ready.items()}
        others = _others()
        for _ in range(rounds):
            for name, interpreter in ready.items():
                times[name] += [_time(interpreter) for _ in range(calls[name])]
        other_cores = _cores_between(others, _others())
        for name, took in times.items():
            p50, p90 = np.percentile(took, [50, 90]) * 1000
            found[name][count] = Latency(
                p50_ms=float(p50), p90_ms=float(p90), calls=len(took), other_cores=other_cores
            )
    return found


def peak_memory(model: bytes, *, example: np.ndarray | None = None) -> int | None:
    """Bytes that a process needs to load and run a model once on one thread, beyond what it had before.

    Args:
      model: the content of a .tflite file.
      example: one text [1], for a model of texts.

    Returns:
      None where the system does not tell (it is Linux's /proc that does).

    Raises:
      CheckError: the process could not run the model.
    """
    if not Path("/proc/self/status").exists():
        return None
    with tempfile.TemporaryDirectory(prefix="tfkit-") as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(model)
        text = [] if example is None else [_argument(example[0])]
        done = subprocess.run(
            [sys.executable, "-c", _MEMORY, str(path), *text], capture_output=True, text=True, check=False
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CheckError(f"The model does not run in a process of its own: {last}")
    return int(json.loads(done.stdout.strip().splitlines()[-1])) * 1024


def _argument(text: bytes) -> str:
    """A text as a process can be given it."""
    return text.decode("utf-8", errors="replace").replace("\0", " ")[:_LONGEST]


def _ready(model: bytes, threads: int, example: np.ndarray | None) -> object:
    interpreter = opened(model, threads=threads)
    for details in interpreter.get_input_details():
        zeros = np.zeros(details["shape"], details["dtype"])
        interpreter.set_tensor(details["index"], zeros if example is None else example)
    for _ in range(WARM_UP):
        interpreter.invoke()
    return interpreter


def _calls(interpreter: object, seconds: float) -> int:
    return max(1, round(seconds / max(_time(interpreter), 1e-6)))


def _others() -> tuple[float, float]:
    """The time, and the seconds that all cores have worked for others than this process, or were taken by a host."""
    try:
        user, nice, system, _, _, interrupts, soft, steal = map(
            int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        )
    except (OSError, ValueError):  # Linux's
        return time.perf_counter(), 0.0
    worked = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), worked - time.process_time()


def _cores_between(before: tuple[float, float], after: tuple[float, float]) -> float:
    return max(0.0, (after[1] - before[1]) / max(after[0] - before[0], 1e-9))


def _time(interpreter: object) -> float:
    interpreter.reset_all_variables()  # type: ignore[attr-defined]
    began = time.perf_counter()
    interpreter.invoke()  # type: ignore[attr-defined]
    return time.perf_counter() - began
