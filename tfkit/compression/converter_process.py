"""The process that converts, started by `tfkit.compression.convert`, which tells it folders."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.compression.convert import EXAMPLES_FILE, JOB, LOG, ConversionRequest, error_path, result_path
from tfkit.compression.sources import SIGNATURE, with_operations
from tfkit.environment import files, stack
from tfkit.errors import TfkitError, UsageError
from tfkit.litert.converter import REMEDY, converted

_SELECT = (
    "Keep them as TensorFlow operations with --select-tf-ops (select_tf_ops=True), which most can be: the device then"
    " needs the Flex delegate.\n  Or replace the layers that use them."
)

IDLE_SECONDS = 120
"""After which a process that nobody asks for anything ends, and gives back its memory."""


def main() -> None:
    """Do one job after the other: a line is a folder, and gets a line when its job is done.

    Ends when nothing more is asked for a while, or with the process that asks. Ctrl-C is for that process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    while select.select([0], [], [], IDLE_SECONDS)[0] and (line := sys.stdin.buffer.readline()):
        folder = Path(os.fsdecode(line.rstrip(b"\n")))
        # What a converter says, it says to whatever the first two files are, from Python and from C++.
        log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        _do(folder)
        answers.write(b"\n")
        answers.flush()


def _do(folder: Path) -> None:
    """What FOLDER/job.json asks; what an earlier process has done there is not done again."""
    from tfkit.environment.stack import tf

    tf.config.set_visible_devices([], "GPU")  # their memory is for the process that asks
    job = json.loads((folder / JOB).read_text())
    examples = _examples(folder / EXAMPLES_FILE)
    for place, asked in enumerate(job["requests"]):
        if result_path(folder, place).is_file() or error_path(folder, place).is_file():
            continue
        request = ConversionRequest(**{**asked, "keep_float": tuple(asked["keep_float"])})
        try:
            files.write_bytes(result_path(folder, place), _convert(job, request, examples))
        except TfkitError as err:
            said = {"message": str(err), "usage": isinstance(err, UsageError)}
            files.write_json(error_path(folder, place), said)


def _examples(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _convert(job: Mapping[str, Any], request: ConversionRequest, examples: Mapping[str, np.ndarray]) -> bytes:
    from tfkit.environment.stack import tf

    operations = stack.tf_text.tflite_registrar.SELECT_TFTEXT_OPS if job["cuts_text"] else None
    converter = with_operations(
        lambda: tf.lite.TFLiteConverter.from_saved_model(job["saved_model"], signature_keys=[SIGNATURE])
    )

    def representative() -> Iterator[dict[str, np.ndarray]]:
        batch = {name: int(shape[0]) for name, (shape, _) in job["inputs"].items()}
        steps = min(len(values) // batch[name] for name, values in examples.items())
        for step in range(steps):
            yield {
                name: _typed(values[step * batch[name] : (step + 1) * batch[name]], job["inputs"][name][1])
                for name, values in examples.items()
            }

    _set(converter, request, measured=bool(examples))
    if operations:
        converter.allow_custom_ops = True
        converter.target_spec._experimental_custom_op_registerers = operations  # for measuring ranges
    if request.variant in ("int8", "int16x8") and examples:
        # Of a quantization-aware model too: its own ranges stay, what it left out (its input) gets some.
        converter.representative_dataset = representative
    remedy = REMEDY if request.select_tf_ops else _SELECT
    if request.keep_float:
        from tfkit.compression.convert import selective

        return converted(lambda: selective(converter, representative, request.keep_float), remedy=remedy)
    return converted(converter.convert, remedy=remedy)


def _typed(values: np.ndarray, dtype: str) -> np.ndarray:
    return values.astype(object if dtype == "string" else dtype)


def _set(converter: Any, request: ConversionRequest, *, measured: bool) -> None:
    """The converter's switches for a variant; `measured`: whether there are examples to measure ranges on."""
    from tfkit.environment.stack import tf

    sets = tf.lite.OpsSet
    operations = [sets.TFLITE_BUILTINS]
    if request.variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if request.variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if request.variant == "int8" and measured:
        # Nothing else: an operation that has no int8 form is an error and not a float one in between.
        operations = [sets.TFLITE_BUILTINS_INT8]
    if request.keep_float:
        operations = [sets.TFLITE_BUILTINS_INT8, sets.TFLITE_BUILTINS]
    if request.variant == "int16x8":
        operations = [sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    if request.select_tf_ops:
        operations.append(sets.SELECT_TF_OPS)
    converter.target_spec.supported_ops = operations
    converter.inference_input_type = tf.dtypes.as_dtype(request.inference_input_type)
    converter.inference_output_type = tf.dtypes.as_dtype(request.inference_output_type)


if __name__ == "__main__":
    main()
