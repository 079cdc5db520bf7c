"""The process in which TensorFlow's converter runs: its crash is an error here, and not the end of the session.

The process stays for the conversions that follow: it takes longer to import TensorFlow than to convert most models.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from tfkit.compression.sources import SIGNATURE, Source, with_operations
from tfkit.environment import stack
from tfkit.environment.foreign import register_custom_operations
from tfkit.errors import CheckError, TfkitError
from tfkit.litert.converter import REMEDY, converted

MEASURED = ("int8", "int16x8")
"""Variants whose activations are integers: their ranges are measured on representative data."""

IDLE_SECONDS = 120
"""After which a process that is not given anything to convert ends, and frees its memory."""

_LAST_LINES = 5
_SELECT = (
    "Keep them as TensorFlow operations with --select-tf-ops (select_tf_ops=True), which most can be: the device then"
    " needs the Flex delegate.\n  Or replace the layers that use them."
)
_CRASH_REMEDY = (
    "It is TensorFlow's converter that crashed. Try variant='dynamic' or 'float16', select_tf_ops=True, or the model"
    " without its last layers, to find the one that it cannot take. A SIGKILL is mostly a lack of memory."
)
_LOOP_REMEDY = (
    "The model has a loop, as of a GRU or SimpleRNN layer, inside of which the converter cannot measure ranges. Build"
    " the layer with unroll=True (the same weights fit), take an LSTM, or variant='dynamic' or 'float16'."
)


@dataclass(frozen=True, kw_only=True)
class ConversionRequest:
    """One .tflite file that is wanted of a model.

    Attributes:
      name: what the file is called here.
      variant: of `tfkit.compression.VARIANTS`.
      inference_input_type: "float32", or for a quantized variant "uint8", "int8", "int16".
      inference_output_type: likewise.
      keep_float: names of operations that stay in float32 where the others are quantized.
      select_tf_ops: whether operations that TFLite lacks stay TensorFlow's.
    """

    name: str
    variant: str
    inference_input_type: str = "float32"
    inference_output_type: str = "float32"
    keep_float: tuple[str, ...] = ()
    select_tf_ops: bool = False


def run_conversions(
    source: Source, requests: Sequence[ConversionRequest], *, examples: Mapping[str, np.ndarray] | None = None
) -> dict[str, bytes | TfkitError]:
    """Convert a model in several ways.

    Args:
      source: see `tfkit.compression.sources.saved`.
      requests: what is wanted.
      examples: representative inputs by name, [n, ...]; needed by int8 and int16x8.

    Returns:
      For the name of each request the content of a .tflite file, or the error that prevents it.
    """
    model = {"folder": str(source.folder), "inputs": source.inputs, "cuts_text": source.cuts_text}
    results: dict[str, bytes | TfkitError] = {}
    for request in requests:
        measured = request.variant in MEASURED
        try:
            results[request.name] = _convert_apart((model, request, (examples or {}) if measured else {}))
        except _CrashError as err:
            remedy = _LOOP_REMEDY if source.loops and measured else _CRASH_REMEDY
            results[request.name] = CheckError(
                f"The converter {err} at {request.name} ({request.variant}). Nothing else is lost.\n  {remedy}"
                f"\n  Its last words:{err.last_words}"
            )
    return results


class _CrashError(Exception):
    """The converter ended its process."""

    def __init__(self, code: int, last_words: str) -> None:
        super().__init__(
            f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        )
        self.code, self.last_words = code, last_words


class _Converter:
    """A process that converts what it is sent.

    Not one of a pool of multiprocessing, whose processes import the program that starts them: a script without
    `if __name__ == "__main__"` would run a second time.
    """

    def __init__(self) -> None:
        self.connection, theirs = multiprocessing.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"from {__name__} import main; main({theirs.fileno()})"],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=[theirs.fileno()],
            )

    def convert(self, task: Any) -> bytes | TfkitError:
        """Return the result of a task.

        Raises:
          _CrashError: the process ended; with code 0 if it was idle for too long.
        """
        self._log.seek(0)
        self._log.truncate()
        try:
            self.connection.send(task)
            result: bytes | TfkitError = self.connection.recv()
        except (EOFError, OSError) as err:
            code = self.process.wait()
            self._log.seek(0)
            lines = [line for line in self._log.read().decode(errors="replace").splitlines() if line.strip()]
            raise _CrashError(
                code, "".join(f"\n    {line}" for line in lines[-_LAST_LINES:]) or " none"
            ) from err
        except BaseException:
            self.end()
            raise
        return result

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


_waiting: list[_Converter] = []
os.register_at_fork(after_in_child=_waiting.clear)  # they are the other process's


def _convert_apart(task: Any) -> bytes | TfkitError:
    while True:
        converter = _waiting_converter() or _Converter()
        try:
            result = converter.convert(task)
        except _CrashError as err:
            if err.code:
                raise
            continue  # it was idle for too long, and ended just now
        _waiting.append(converter)
        return result


def _waiting_converter() -> _Converter | None:
    with contextlib.suppress(IndexError):
        while (converter := _waiting.pop()).process.poll() is not None:
            pass
        return converter
    return None


@atexit.register
def end_converters() -> None:
    """End the processes that wait for conversions, and free their memory; the next conversion starts another."""
    while converter := _waiting_converter():
        converter.end()


def main(file_descriptor: int) -> None:
    """Convert what arrives, until nothing does for a while or the process that sends it ends.

    Args:
      file_descriptor: of the connection to it.
    """
    from tfkit.environment.stack import tf

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process
    tf.config.set_visible_devices([], "GPU")  # their memory too
    connection = Connection(file_descriptor)
    with contextlib.suppress(EOFError):
        while connection.poll(IDLE_SECONDS):
            try:
                result: bytes | TfkitError = _convert(*connection.recv())
            except TfkitError as err:
                result = err
            connection.send(result)


def _convert(
    model: Mapping[str, Any], request: ConversionRequest, examples: Mapping[str, np.ndarray]
) -> bytes:
    from tfkit.environment.stack import tf

    converter = with_operations(
        lambda: tf.lite.TFLiteConverter.from_saved_model(model["folder"], signature_keys=[SIGNATURE])
    )

    def representative() -> Iterator[dict[str, np.ndarray]]:
        batches = {name: shape[0] for name, (shape, _) in model["inputs"].items()}
        for step in range(min(len(values) // batches[name] for name, values in examples.items())):
            yield {
                name: values[step * batches[name] : (step + 1) * batches[name]].astype(
                    object if model["inputs"][name][1] == "string" else model["inputs"][name][1]
                )
                for name, values in examples.items()
            }

    _set(converter, request, measured=bool(examples))
    if model["cuts_text"]:
        converter.allow_custom_ops = True
        register_custom_operations(converter, stack.tf_text.tflite_registrar.SELECT_TFTEXT_OPS)
    if examples:
        # Of a quantization-aware model too: its own ranges stay, what it left out (its input) gets some.
        converter.representative_dataset = representative

    def convert() -> Any:
        if not request.keep_float:
            return converter.convert()
        # Some operations in float32, as of tensorflow.org/lite/performance/quantization_debugger.
        options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=list(request.keep_float))
        return tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=representative, debug_options=options
        ).get_nondebug_quantized_model()

    return converted(convert, remedy=REMEDY if request.select_tf_ops else _SELECT)


def _set(converter: Any, request: ConversionRequest, *, measured: bool) -> None:
    """Set the converter's switches; `measured`: whether there are examples to measure ranges on."""
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
