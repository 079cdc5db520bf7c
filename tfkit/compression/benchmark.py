"""How long .tflite files take on this machine, timed in turn, and how much memory they need."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.errors import CheckError
from tfkit.litert.interpreter import opened

WARM_UP = 3
ROUNDS = 10
_LONGEST = 20_000  # characters of an argument of a process

# In a process of its own, whose memory is the model's and hardly anything else's.
_MEMORY = """
import re, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter, InterpreterWithCustomOps

def kilobytes(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])

path, *text = sys.argv[1:]
make, operations = Interpreter, {}
if text:
    from tensorflow_text import tflite_registrar
    make, operations = InterpreterWithCustomOps, {"custom_op_registerers": tflite_registrar.SELECT_TFTEXT_OPS}
    try:  # what importing them took at its peak is no part of what the model takes
        open("/proc/self/clear_refs", "w").write("5")
    except OSError:
        pass
before = kilobytes("VmRSS")
interpreter = make(model_path=path, num_threads=1, **operations)
interpreter.allocate_tensors()
for details in interpreter.get_input_details():
    zeros = np.zeros(details["shape"], details["dtype"])
    interpreter.set_tensor(details["index"], np.array(text, object) if text else zeros)
interpreter.invoke()
print(kilobytes("VmHWM") - before)
"""


def latency(
    models: Mapping[str, bytes],
    *,
    threads: Sequence[int] = (1, 2),
    seconds: float = 0.6,
    rounds: int = ROUNDS,
    example: np.ndarray | None = None,
) -> tuple[dict[str, dict[str, dict[str, float]]], float]:
    """Time variants in turn: what else the machine does hits all of them alike.

    Args:
      models: name to the content of a .tflite file.
      threads: for each number of them an interpreter of its own.
      seconds: about how long each variant is timed for each number of threads, in all.
      rounds: how often it is each one's turn.
      example: what the models are given, [1, ...], where their time depends on it, as that of texts does; None: zeros.

    Returns:
      For each name and number of threads the milliseconds of one call after warm-up, median and ninth decile:
      {"int8": {"1": {"p50": 5.0, "p90": 5.4}}}; and how many cores other processes kept busy meanwhile.

    Raises:
      CheckError: a model needs operations that LiteRT lacks.
    """
    latencies: dict[str, dict[str, dict[str, float]]] = {name: {} for name in models}
    other_cores = 0.0
    for count in threads:
        interpreters = {name: _warm_interpreter(model, count, example) for name, model in models.items()}
        calls = {
            name: max(1, round(seconds / rounds / max(_seconds(interpreter), 1e-6)))
            for name, interpreter in interpreters.items()
        }
        times: dict[str, list[float]] = {name: [] for name in models}
        began, worked = time.perf_counter(), _seconds_of_others()
        for _ in range(rounds):
            for name, interpreter in interpreters.items():
                times[name] += [_seconds(interpreter) for _ in range(calls[name])]
        others = (_seconds_of_others() - worked) / max(time.perf_counter() - began, 1e-9)
        other_cores = max(other_cores, others)
        for name, taken in times.items():
            p50, p90 = np.percentile(taken, [50, 90]) * 1000
            latencies[name][str(count)] = {"p50": float(p50), "p90": float(p90)}
    return latencies, other_cores


def peak_memory(model: bytes, *, example: np.ndarray | None = None) -> int | None:
    """Measure the bytes that a process needs to load and run a model once on one thread, beyond what it had before.

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
    text = []
    if example is not None:
        text = [example[0].decode("utf-8", errors="replace").replace("\0", " ")[:_LONGEST]]
    with tempfile.TemporaryDirectory(prefix="tfkit-") as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(model)
        command = [sys.executable, "-c", _MEMORY, str(path), *text]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
        raise CheckError(f"The model does not run in a process of its own: {last}")
    return int(ended.stdout.strip().splitlines()[-1]) * 1024


def _warm_interpreter(model: bytes, threads: int, example: np.ndarray | None) -> Any:
    interpreter = opened(model, threads=threads)
    for details in interpreter.get_input_details():
        zeros = np.zeros(details["shape"], details["dtype"])
        interpreter.set_tensor(details["index"], zeros if example is None else example)
    for _ in range(WARM_UP):
        interpreter.invoke()
    return interpreter


def _seconds(interpreter: Any) -> float:
    interpreter.reset_all_variables()
    began = time.perf_counter()
    interpreter.invoke()
    return time.perf_counter() - began


def _seconds_of_others() -> float:
    """Seconds that all cores have worked for others than this process, or were taken by a host."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
        user, nice, system, _, _, interrupts, soft, steal = map(int, first.split()[1:9])
    except (OSError, ValueError):  # Linux's
        return 0.0
    worked = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return worked - time.process_time()
