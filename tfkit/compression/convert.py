"""Convert models of any kind to .tflite files, in a process of its own, and make sure that they are what was asked for.

A crash of TensorFlow's converter is an error here, and not the end of the session. The process stays for the
conversions that follow: it takes longer to import TensorFlow than to convert most models. It is one of loky, whose
processes do not import the program that starts them: a script without `if __name__ == "__main__"` would run a second
time.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.compression import representative
from tfkit.compression.inspect import NOTES, inspect, prove_int8
from tfkit.compression.sources import SIGNATURE, InputShape, Source, saved, with_operations
from tfkit.environment import files, packages, stack
from tfkit.environment.foreign import register_custom_operations, saved_model_converter
from tfkit.environment.process import quiet
from tfkit.environment.timeline import stage
from tfkit.errors import CheckError, TfkitError, UsageError
from tfkit.litert import REMEDY, conversion_key, convert_once, converted, read, state

MEASURED = ("int8", "int16x8")
"""Variants whose activations are integers: their ranges are measured on representative data."""

IDLE_SECONDS = 120
"""After which a process that is not given anything to convert ends, and frees its memory."""

VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8", "weights8", "weights4")
WEIGHTS = {"weights8": 8, "weights4": 4}
"""Variants of float32 activations whose weights are integers of so many bits, made float as the model runs."""

TYPES = {"int8": ("float32", "uint8", "int8"), "int16x8": ("float32", "int16")}
"""Types of inputs and outputs that a variant may have; all others have float32."""

_ADVICE = "Keep them with --select-tf-ops (select_tf_ops=True), for the Flex delegate, or replace the layers."
_CRASH_REMEDY = (
    "Build a GRU or SimpleRNN layer with unroll=True (ranges are not measured within loops), or try variant='dynamic',"
    " or the model without its last layers. A SIGKILL is mostly a lack of memory."
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

    Raises:
      UsageError: no such variant, or types that it cannot have.
    """

    name: str
    variant: str
    inference_input_type: str = "float32"
    inference_output_type: str = "float32"
    keep_float: tuple[str, ...] = ()
    select_tf_ops: bool = False

    def __post_init__(self) -> None:
        """Refuse what no file can be, before anything is converted."""
        if self.variant not in VARIANTS:
            raise UsageError(f"There is no TFLite variant {self.variant!r}, but {', '.join(VARIANTS)}.")
        allowed = TYPES.get(self.variant, ("float32",))
        if not {self.inference_input_type, self.inference_output_type} <= set(allowed):
            raise UsageError(
                f"inference_input_type is {self.inference_input_type!r}, inference_output_type"
                f" {self.inference_output_type!r}; {self.variant} can have {' or '.join(allowed)}."
            )


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
    """Convert a model to TFLite, in a process of its own and checked.

    Args:
      model: a tf_keras model, a Keras 3 model, the .keras or .h5 file of one, a SavedModel's folder, a model handle, a
        hub.KerasLayer, or a function.
      variant: "float32"; "float16" (weights); "dynamic" (int8 weights, float32 activations); "int8" (all int8, weights
        per channel); "int16x8" (int16 activations, int8 weights); "weights8", "weights4" (float32 with integer weights,
        by ai-edge-quantizer).
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
      The content of a .tflite file, batch of 1 where the model leaves the batch open. Warnings name numbers that
      float16 cannot hold, state that the file keeps (an LSTM), and representative data that are no good.

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
    with saved(model, input_shape=input_shape, signature=signature) as source:
        examples = examples_for([request], source, representative_dataset)
        models, failed = run_conversions(source, [request], examples=examples)
    if failed:
        raise failed[variant]
    notes = [NOTES[kind] for kind in state(read(models[variant]))]
    if variant == "float16" and (cut_names := inspect(models[variant]).cut):
        notes.append(f"{', '.join(cut_names[:3])}: {NOTES['cut']}")
    for note in (*representative.find_doubts(examples or {}, source.takes), *notes):
        warnings.warn(note, stacklevel=2)
    return models[variant]


def examples_for(
    requests: Sequence[ConversionRequest], source: Source, representative_dataset: Any
) -> dict[str, np.ndarray] | None:
    """Return the examples on which ranges are measured; None where no request needs them.

    Raises:
      UsageError: a variant needs a representative dataset, and there is none.
    """
    names = [request.variant for request in requests if request.variant in MEASURED]
    if names and representative_dataset is None and not source.quantize_aware:
        raise UsageError(
            f"{names[0]} needs a representative dataset, without which the converter silently leaves it in float.\n"
            "  Give some hundred examples: representative_dataset=array [n, ...] or a tf.data.Dataset. Or take"
            " variant='dynamic', which needs none."
        )
    if not names or representative_dataset is None:
        return None
    return representative.collect_representative(representative_dataset, source.takes)


def run_conversions(
    source: Source, requests: Sequence[ConversionRequest], *, examples: Mapping[str, np.ndarray] | None = None
) -> tuple[dict[str, bytes], dict[str, TfkitError]]:
    """Convert a model in several ways, and make sure that an int8 file computes in int8.

    Args:
      source: see `tfkit.compression.sources.saved`.
      requests: what is wanted.
      examples: representative inputs by name, [n, ...]; needed by int8 and int16x8.

    Returns:
      The contents of .tflite files by the names of the requests, and the errors that prevent others.
    """
    model = {"folder": str(source.folder), "inputs": source.inputs, "cuts_text": source.cuts_text}
    contents: dict[str, bytes] = {}
    failed: dict[str, TfkitError] = {}
    for request in requests:
        data = examples if examples and request.variant in MEASURED else {}
        what = f"{request.name} ({request.variant})"
        convert = functools.partial(run_in_converter, _convert, model, request, data, what=what)
        try:
            if source.quantize_aware and request.variant in ("float16", "dynamic"):
                raise CheckError(
                    f"The model is quantization-aware, and TensorFlow's converter makes it int8: there is no"
                    f" {request.variant} of it.\n  Take int8, or convert the model that it was made of."
                )
            with stage("convert", f"Converting to {request.name}"):
                content = convert_once(_hash(source, request, data), convert) if source.digest else convert()
            if request.variant == "int8" and not request.keep_float:
                prove_int8(inspect(content), name=request.name)
            contents[request.name] = content
        except TfkitError as err:
            failed[request.name] = err
    return contents, failed


def _hash(source: Source, request: ConversionRequest, examples: Mapping[str, np.ndarray]) -> str:
    """Return the digest of all that a file depends on, for a model whose own digest is known."""
    example_digests = {
        name: files.digest_of(values.shape, values.tolist() if values.dtype == object else values.tobytes())
        for name, values in examples.items()
    }
    return conversion_key(source.digest, dict(source.inputs), replace(request, name=""), example_digests)


def run_in_converter(function: Callable[..., Any], *arguments: Any, what: str) -> Any:
    """Call a function in the process that converts, which native code may end in place of this one.

    Args:
      function: of a module.
      arguments: of the function.
      what: is converted, for the error.

    Raises:
      CheckError: the process was ended; the next call starts another.
    """
    from joblib.externals.loky import BrokenProcessPool

    executor, log = _get_executor()
    os.truncate(log, 0)
    try:
        return executor.submit(function, *arguments).result()
    except TfkitError:  # the process is well
        raise
    except BaseException as err:
        # Behind them Python tells where it was itself, and lists every extension module.
        words = Path(log).read_text(errors="replace").partition("Fatal Python error")[0].rstrip()
        last_words = "\n    ".join(words.split("\n")[-5:])
        end_converters()
        if not isinstance(err, BrokenProcessPool):
            raise
        match = re.search(r"(\w+)\(-?\d+\)", str(err))
        raise CheckError(
            f"TensorFlow's converter was ended by {match[1] if match else 'something'} at {what}."
            f"\n  {_CRASH_REMEDY}\n  Its last words: {last_words}"
        ) from err


_executors: list[tuple[Any, str]] = []
os.register_at_fork(after_in_child=_executors.clear)  # it is the other process's


def _get_executor() -> tuple[Any, str]:
    """Return the executor whose one process converts, and the file of what that prints."""
    from joblib.externals.loky import ProcessPoolExecutor

    if not _executors:
        descriptor, log = tempfile.mkstemp(prefix="tfkit-converter-")
        os.close(descriptor)
        executor = ProcessPoolExecutor(
            max_workers=1, timeout=IDLE_SECONDS, initializer=_prepare_process, initargs=(log,)
        )
        _executors.append((executor, log))
    return _executors[0]


@atexit.register
def end_converters() -> None:
    """End the process that converts, and free its memory; the next conversion starts another."""
    while _executors:
        executor, log = _executors.pop()
        executor.shutdown(kill_workers=True)
        Path(log).unlink(missing_ok=True)


def _prepare_process(log: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process
    with Path(log).open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    stack.tf.config.set_visible_devices([], "GPU")  # their memory too


def _convert(
    model: Mapping[str, Any], request: ConversionRequest, examples: Mapping[str, np.ndarray]
) -> bytes:
    if model["cuts_text"] and request.variant in WEIGHTS:
        raise CheckError("ai-edge-quantizer does not know tensorflow-text; dynamic has the same weights.")
    converter = saved_model_converter(model["folder"], SIGNATURE)

    batches = {}
    for name, values in examples.items():
        (batch, *_), dtype = model["inputs"][name]
        full_batches = values[: len(values) // batch * batch].astype(object if dtype == "string" else dtype)
        batches[name] = full_batches.reshape(-1, batch, *full_batches.shape[1:])

    def representative() -> Iterator[dict[str, np.ndarray]]:
        for rows in zip(*batches.values(), strict=False):
            yield dict(zip(batches, rows, strict=True))

    sets = stack.tf.lite.OpsSet
    operations = [sets.TFLITE_BUILTINS]
    if request.variant not in ("float32", *WEIGHTS):
        converter.optimizations = [stack.tf.lite.Optimize.DEFAULT]
    if request.variant == "float16":
        converter.target_spec.supported_types = [stack.tf.float16]
    if request.variant == "int8" and examples:
        # Nothing else: an operation that has no int8 form is an error and not a float one in between.
        operations = [sets.TFLITE_BUILTINS_INT8, *(operations if request.keep_float else [])]
    if request.variant == "int16x8":
        operations = [sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8]
    if request.select_tf_ops:
        operations.append(sets.SELECT_TF_OPS)
    converter.target_spec.supported_ops = operations
    converter.inference_input_type = stack.tf.dtypes.as_dtype(request.inference_input_type)
    converter.inference_output_type = stack.tf.dtypes.as_dtype(request.inference_output_type)
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
        lite = stack.tf.lite.experimental
        options = lite.QuantizationDebugOptions(denylisted_nodes=list(request.keep_float))
        debugger = lite.QuantizationDebugger(
            converter=converter, debug_dataset=representative, debug_options=options
        )
        return debugger.get_nondebug_quantized_model()

    # It loads all of the model, of which the signature may use a part.
    content = converted(lambda: with_operations(convert), remedy=REMEDY if request.select_tf_ops else _ADVICE)
    return weights_only(content, bits=WEIGHTS[request.variant]) if request.variant in WEIGHTS else content


def weights_only(model: bytes, *, bits: int) -> bytes:
    """Return a float32 .tflite with integer weights, one scale a channel, by ai-edge-quantizer.

    Four bits hold 16 values: small models lose much by them, so measure what you get.

    Args:
      model: float32.
      bits: 8 or 4.

    Raises:
      StackError: ai-edge-quantizer is not installed.
      CheckError: it cannot quantize the model.
    """
    quantizer, recipes = stack.quantizer.quantizer.Quantizer(bytearray(model)), stack.quantizer.recipe
    recipe = recipes.weight_only_wi8_afp32 if bits == 8 else recipes.weight_only_wi4_afp32
    quantizer.load_quantization_recipe(recipe())
    try:
        with quiet():
            return bytes(quantizer.quantize().quantized_model)
    except Exception as err:  # whatever a library of its age raises
        raise CheckError(f"ai-edge-quantizer cannot quantize the model: {packages.first_line(err)}") from err
