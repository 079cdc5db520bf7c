"""convert: one model of any kind to one .tflite.

ai-edge-quantizer, for what the converter lacks: integers for the weights alone, also of four bits.

Selective quantization: all in int8 but a few operations, by TensorFlow's own quantization debugger.

Conversions in a process of their own: a converter that crashes is an error here, and not the end of the session.

The process stays for the jobs that follow: it takes longer to import TensorFlow than to convert most models.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.compression import representative
from tfkit.compression.inspect import inspect, prove_int8
from tfkit.compression.sources import InputShape, Source, saved
from tfkit.environment import packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import CheckError, TfkitError, UsageError

WEIGHTS = {"weights8": 8, "weights4": 4}
"""Variants of float32 activations whose weights are integers of so many bits, made float as the model runs."""


def weights_only(model: bytes, *, bits: int) -> bytes:
    """A float32 .tflite with integer weights, one scale a channel.

    Four bits hold 16 values: small models lose much by them, so measure what you get.

    Args:
      model: float32.
      bits: 8 or 4.

    Raises:
      StackError: ai-edge-quantizer is not installed.
      CheckError: it cannot quantize the model.
    """
    made = _quantizer(model)
    recipe = stack.quantizer.recipe
    made.load_quantization_recipe(
        recipe.weight_only_wi8_afp32() if bits == 8 else recipe.weight_only_wi4_afp32()
    )
    return _quantized(made)


def static_int8(model: bytes, examples: Sequence[np.ndarray], *, signature: str = "serving_default") -> bytes:
    """A float32 .tflite with int8 weights and activations: what the int8 variant is set beside in benchmarks.

    Args:
      model: float32, of one input.
      examples: inputs with their batch.
      signature: of the model.
    """
    from tfkit.litert.interpreter import opened

    name = opened(model, threads=1).get_signature_list()[signature]["inputs"][0]
    made = _quantizer(model)
    made.load_quantization_recipe(stack.quantizer.recipe.static_wi8_ai8())
    ranges = made.calibrate({signature: [{name: example} for example in examples]})
    return _quantized(made, ranges)


def _quantizer(model: bytes) -> Any:
    module = stack.quantizer
    return module.quantizer.Quantizer(bytearray(model))


def _quantized(made: Any, *ranges: Any) -> bytes:
    try:
        with quiet():
            return bytes(made.quantize(*ranges).quantized_model)
    except Exception as err:  # whatever a library of its age raises
        raise CheckError(f"ai-edge-quantizer cannot quantize the model: {packages.first_line(err)}") from err


def selective(
    converter: Any,
    representative: Callable[[], Iterator[Mapping[str, np.ndarray]]],
    keep: Sequence[str],
) -> bytes:
    """Convert with some operations left in float32.

    Args:
      converter: a tf.lite.TFLiteConverter, set up for int8 with its representative dataset.
      representative: the same dataset.
      keep: names of the tensors that these operations make, as the float32 .tflite has them.

    Source: tensorflow.org/lite/performance/quantization_debugger
    """
    from tfkit.environment.stack import tf

    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=list(keep))
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=representative, debug_options=options
    )
    return bytes(debugger.get_nondebug_quantized_model())


JOB, EXAMPLES_FILE, LOG = "job.json", "examples.npz", "log.txt"
_LAST_LINES = 5
_OF_LOOPS = (
    "The model has a loop, which a GRU or SimpleRNN layer becomes, and TensorFlow's converter crashes as it measures"
    " the ranges inside of one; select_tf_ops does not help. Build the layer with unroll=True (a fixed length; the same"
    " weights fit), take an LSTM, whose loop becomes one operation, or take variant='dynamic' or 'float16'."
)
_OF_ANY = (
    "It is TensorFlow's converter that crashed. Try variant='dynamic' or 'float16', select_tf_ops=True, or the model"
    " without its last layers, to find the one that it cannot take. A SIGKILL is mostly a lack of memory."
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
      For the name of each request the content of a .tflite file, or what was in the way of it.
    """
    with tempfile.TemporaryDirectory(prefix="tfkit-") as name:
        folder = Path(name)
        job = {
            "saved_model": str(source.folder),
            "inputs": source.inputs,
            "cuts_text": source.cuts_text,
            "requests": [asdict(request) for request in requests],
        }
        (folder / JOB).write_text(json.dumps(job))
        if examples is not None:
            # Strings as numpy's own: a file of objects could run code when it is read.
            arrays: dict[str, Any] = {
                name: values.astype(bytes) if values.dtype == object else values
                for name, values in examples.items()
            }
            np.savez(folder / EXAMPLES_FILE, **arrays)
        ended = dict(_crashes(folder, requests, loops=source.loops))
        return {
            request.name: ended.get(request.name) or _result(folder, place)
            for place, request in enumerate(requests)
        }


def _crashes(
    folder: Path, requests: Sequence[ConversionRequest], *, loops: bool
) -> Iterator[tuple[str, TfkitError]]:
    """Ask children until every request has its result or its error; yields those at which one died."""
    while (code := _converted(folder)) is not None:
        place = next((place for place in range(len(requests)) if not _is_done(folder, place)), None)
        if place is None:
            return
        died = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        words = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.strip()]
        last = "".join(f"\n    {line}" for line in words[-_LAST_LINES:]) or " none"
        what = f"The converter {died} at {requests[place].name} ({requests[place].variant})."
        advice = _OF_LOOPS if loops and requests[place].variant in ("int8", "int16x8") else _OF_ANY
        _fail(folder, place, f"{what} Nothing else is lost.\n  {advice}\n  Its last words:{last}")
        yield requests[place].name, _error(folder, place)


_waiting: list[subprocess.Popen[bytes]] = []
"""Children that have nothing to do; they end by themselves after a while (`child.IDLE_SECONDS`)."""

os.register_at_fork(after_in_child=_waiting.clear)  # they are the other process's


def _converted(folder: Path) -> int | None:
    """Have a child do what is left to do in a folder; the exit code of one that died of it."""
    while child := _taken():
        if _answers(child, folder):
            return None
        if child.wait() != 0:
            return child.returncode
        # It had waited long enough and ended just now.
    with (folder / LOG).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tfkit.compression.converter_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    return None if _answers(child, folder) else child.wait()


def _taken() -> subprocess.Popen[bytes] | None:
    """A child that waits for a job, if one does; it is the caller's alone."""
    with contextlib.suppress(IndexError):
        while (child := _waiting.pop()).poll() is not None:
            pass
        return child
    return None


def _answers(child: subprocess.Popen[bytes], folder: Path) -> bool:
    """Whether a child, which is asked here, is there when it is through; it waits for another job then."""
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(os.fsencode(folder.resolve()) + b"\n")
        child.stdin.flush()
        answered = bool(child.stdout.readline())
    except BrokenPipeError:
        answered = False
    except BaseException:
        child.kill()
        child.wait()
        raise
    if answered:
        _waiting.append(child)
    return answered


@atexit.register
def end_children() -> None:
    """End those that wait, and free their memory; the next job starts another."""
    while child := _taken():
        child.kill()
        child.wait()


def _is_done(folder: Path, place: int) -> bool:
    return result_path(folder, place).is_file() or error_path(folder, place).is_file()


def _result(folder: Path, place: int) -> bytes | TfkitError:
    path = result_path(folder, place)
    return path.read_bytes() if path.is_file() else _error(folder, place)


def _error(folder: Path, place: int) -> TfkitError:
    said = json.loads(error_path(folder, place).read_text())
    return (UsageError if said["usage"] else CheckError)(said["message"])


def _fail(folder: Path, place: int, message: str, *, usage: bool = False) -> None:
    error_path(folder, place).write_text(json.dumps({"message": message, "usage": usage}))


def result_path(folder: Path, place: int) -> Path:
    """Where the child puts what it made."""
    return folder / f"{place}.tflite"


def error_path(folder: Path, place: int) -> Path:
    """Where the child says why it could not."""
    return folder / f"{place}.error.json"


VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8")
MEASURED = ("int8", "int16x8")
"""Variants whose activations are integers: their ranges are measured on representative data."""

TYPES = {
    "int8": ("float32", "uint8", "int8"),
    "int16x8": ("float32", "int16"),
}
"""What a variant may take and give; all others take and give float32."""


def convert(
    model: Any,
    *,
    variant: str = "float32",
    representative_dataset: Any = None,
    input_shape: InputShape = None,
    signature: str | None = None,
    inference_input_type: str = "float32",
    inference_output_type: str = "float32",
    select_tf_ops: bool = False,
) -> bytes:
    """A model as TFLite, converted in a process of its own and checked.

    Args:
      model: a tf_keras model, a Keras 3 model, the .keras or .h5 file of one, a SavedModel's folder, a model handle, a
        hub.KerasLayer, or a function.
      variant: "float32"; "float16" (weights); "dynamic" (int8 weights, float32 activations); "int8" (all int8, weights
        per channel); "int16x8" (int16 activations, int8 weights).
      representative_dataset: for int8 and int16x8, some hundred examples of what the model will see: an array [n, ...],
        arrays by the names of several inputs, a tf.data.Dataset, or a function that yields lists of inputs; with labels
        as (inputs, labels) each class has its share. Of very many a seeded sample is drawn (of 20,000 at most, of large
        inputs 200); what has no end is read for 50,000 examples. A quantization-aware model has its ranges already.
      input_shape: of the one input with its batch, where the model leaves it open; of several inputs by name, or a
        list in their order.
      signature: of a SavedModel that has several.
      inference_input_type: what the file takes: "float32", or for int8 "uint8" or "int8", for int16x8 "int16".
      inference_output_type: what it gives, likewise.
      select_tf_ops: keep operations that TFLite lacks as TensorFlow's; the device then needs the Flex delegate.

    Returns:
      The content of a .tflite file, batch of 1 where the model leaves the batch open.

    Raises:
      UsageError: this cannot be asked for: a variant without its data, a model without signature, ...
      DataError: the file is no model that can be loaded here, or the representative data do not fit.
      CheckError: the model does not convert, has weights that are not finite, or the result is not what was asked for:
        an int8 file that computes in float.

    Example:
      >>> import numpy as np
      >>> from tfkit.environment.stack import keras
      >>> model = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
      >>> examples = np.random.default_rng(0).random((100, 4), np.float32)
      >>> convert(model, variant="int8", representative_dataset=examples)[4:8]
      b'TFL3'
    """
    request = ConversionRequest(
        name=variant,
        variant=variant,
        inference_input_type=inference_input_type,
        inference_output_type=inference_output_type,
        select_tf_ops=select_tf_ops,
    )
    check_request(request)
    with saved(model, input_shape=input_shape, signature=signature) as source:
        examples = None
        if variant in MEASURED and representative_dataset is None and not source.quantize_aware:
            raise UsageError(missing_data(variant))
        if variant in MEASURED and representative_dataset is not None:
            examples = representative.collect_representative(representative_dataset, source.takes)
        return finished(run_conversions(source, [request], examples=examples)[variant], request, source)


def check_request(request: ConversionRequest) -> None:
    """Refuse what no file can be, before anything is converted.

    Raises:
      UsageError: no such variant, or types that it cannot have.
    """
    if request.variant not in VARIANTS:
        raise UsageError(f"There is no TFLite variant {request.variant!r}; there are: {', '.join(VARIANTS)}.")
    allowed = TYPES.get(request.variant, ("float32",))
    for name in ("inference_input_type", "inference_output_type"):
        if getattr(request, name) not in allowed:
            raise UsageError(
                f"{name} is {getattr(request, name)!r}; {request.variant} can have {' or '.join(allowed)}."
            )


def missing_data(variant: str) -> str:
    """Why a variant cannot be had without examples, and what to do."""
    return (
        f"{variant} needs a representative dataset: the ranges of its integers are measured on it, and without one the"
        " converter silently leaves the activations in float.\n"
        "  Give some hundred examples: representative_dataset=array [n, ...], a tf.data.Dataset, or a function that"
        " yields lists of inputs. Or take variant='dynamic', which needs none."
    )


def finished(result: bytes | TfkitError, request: ConversionRequest, source: Source) -> bytes:
    """What a job gave, if it is what was asked for.

    Raises:
      CheckError: it is not.
    """
    if isinstance(result, TfkitError):
        raise result
    if request.variant == "int8" and not request.keep_float:
        prove_int8(inspect(result), name=request.name)
    return result
