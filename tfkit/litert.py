"""LiteRT: functions to .tflite files, such files read with care, and an interpreter that keeps all cores busy.

A file is a stranger's until it was found whole.
"""

from __future__ import annotations

import math
import queue
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import packages, stack
from tfkit.environment.files import Cache, digest_of
from tfkit.environment.process import quiet
from tfkit.environment.timeline import doing_locked, track
from tfkit.errors import CheckError, DataError

IDENTIFIER = b"TFL3"
MOST_TABLES = 250_000
"""Tensors, operators and buffers that a file may have; the verifier of flatbuffers stops at four times as many."""

MOST_NUMBERS = 2**28
"""Numbers in a tensor that is computed: as float32, 1 GB."""

_FILE = "model.tflite"
_CONVERSION = 1  # part of the key of converted models: raise it when they become others
_MIN_BYTES = 8
_TEXT_PREFIXES = ("FastBertNormalize", "FastWordpieceTokenize", "TFText>")
_RANDOM_OPS = ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL")
_FLEX_RANDOM, _FLEX_ASSIGN = ("FlexRandom", "FlexMultinomial", "FlexStatefulRandom"), "FlexAssign"


def conversion_key(*parts: object) -> str:
    """Return the key in the cache of a .tflite file that is made of these parts by the packages that are here."""
    versions = packages.version("tensorflow"), packages.version("ai-edge-quantizer")
    return digest_of(*parts, *versions, _CONVERSION)


def convert_once(key: str, convert: Callable[[], bytes]) -> bytes:
    """Return a .tflite file from the cache; convert it where it is not there, while other processes wait for it.

    Args:
      key: see `conversion_key`.
      convert: returns the file.
    """

    def write(folder: Path) -> dict[str, Any]:
        (folder / _FILE).write_bytes(convert())
        return {}

    return (Cache("tflite").get(key, write).path / _FILE).read_bytes()


def read(model: bytes) -> Any:
    """Return the tables of a .tflite file, as ModelT of the LiteRT schema with all weights in it; nothing of it is run.

    Args:
      model: the file's content.

    Raises:
      DataError: it is none, or damaged.
    """
    if len(model) < _MIN_BYTES or model[4:8] != IDENTIFIER:
        raise DataError(f"The model is no .tflite file: {len(model)} bytes, from {bytes(model[:8])!r} on.")
    try:
        root = stack.litert_schema.Model.GetRootAs(model, 0)
        _refuse_endless(root)
        tables = stack.litert_schema.ModelT.InitFromObj(root)
        for buffer in tables.buffers or ():
            if buffer.offset > 1:  # ai-edge-quantizer writes 256 kB of weights and more behind the tables
                buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0
        _refuse_dangling(tables, most=max(len(model), MOST_TABLES))
    except Exception as err:  # a flatbuffer that was cut or overwritten raises whatever its bytes make it
        raise damaged(err) from err
    return tables


def damaged(error: Exception) -> DataError:
    """Return the error of a .tflite file that is not what a converter wrote."""
    reason = f"{type(error).__name__}: {error}"
    return DataError(
        f"The model is a damaged .tflite file ({reason:.300})."
        "\n  Convert it or copy it again: a .tflite file is cut short by an interrupted download, say."
    )


def is_of_text(operation: str) -> bool:
    """Return whether an operation, by its name in a graph or in a file, is one of tensorflow-text."""
    return operation.startswith(_TEXT_PREFIXES)


def operator_names(tables: Any) -> list[str]:
    """Return the names of the operations in a file's list, "CONV_2D" or what a custom one is called, by their codes."""
    builtins = names_of(stack.litert_schema.BuiltinOperator)
    return [
        (code.customCode or b"").decode(errors="replace")
        # Codes above 126 do not fit into the older field.
        or builtins.get(max(code.builtinCode, code.deprecatedBuiltinCode), "UNKNOWN")
        for code in tables.operatorCodes or ()
    ]


def _refuse_endless(root: Any) -> None:
    """Refuse counts that are damaged: reading so many tables would take minutes."""
    graphs = root.SubgraphsLength()
    tables = graphs + root.OperatorCodesLength() + root.BuffersLength() + root.MetadataLength()
    if tables <= MOST_TABLES:
        inner = map(root.Subgraphs, range(graphs))
        tables += sum(graph.TensorsLength() + graph.OperatorsLength() for graph in inner)
    if tables > MOST_TABLES:
        raise ValueError(f"it has {tables:,} tables")


def state(tables: Any) -> tuple[str, ...]:
    """Return what a .tflite file keeps from one call to the next.

    Args:
      tables: of the file, by `read`.

    Returns:
      "variables": tensors that a fused LSTM goes on from, which `reset_all_variables` sets back; "resources": variables
      that only a new interpreter sets back; "random": each call draws other random numbers. Mostly nothing.
    """
    names, graphs = operator_names(tables), tables.subgraphs
    op_sets = [{names[step.opcodeIndex] for step in graph.operators or ()} for graph in graphs]
    # What a file assigns once, before its first call, is no state; that stands in graphs of its own.
    call_sets = op_sets[:1] if "CALL_ONCE" in op_sets[0] else op_sets
    kinds = []
    if any(tensor.isVariable for graph in graphs for tensor in graph.tensors or ()):
        kinds.append("variables")
    if any(name == "ASSIGN_VARIABLE" or name.startswith(_FLEX_ASSIGN) for ops in call_sets for name in ops):
        kinds.append("resources")
    if any(name in _RANDOM_OPS or name.startswith(_FLEX_RANDOM) for ops in op_sets for name in ops):
        kinds.append("random")
    return tuple(kinds)


def _refuse_dangling(tables: Any, *, most: int) -> None:
    """Refuse indices that point outside of their tables: the interpreter would follow them."""
    if not tables.subgraphs:
        raise ValueError("it has no graph")
    for graph in tables.subgraphs:
        tensors, operators = graph.tensors or (), graph.operators or ()
        ends = [graph.inputs, graph.outputs]
        operands = [
            indices for step in operators for indices in (step.inputs, step.outputs) if indices is not None
        ]
        if sum(map(len, [*ends, *operands])) > most:
            raise ValueError("operators of more tensors than the file has bytes")
        bounds = [(indices, 0, len(tensors)) for indices in ends]
        bounds += [(indices, -1, len(tensors)) for indices in operands]  # -1: an input that is left out
        bounds += [([step.opcodeIndex for step in operators], 0, len(tables.operatorCodes))]
        bounds += [([tensor.buffer for tensor in tensors], 0, len(tables.buffers))]
        if any(len(ids) and not low <= np.min(ids) <= np.max(ids) < count for ids, low, count in bounds):
            raise ValueError("an index points at a tensor, an operation or a buffer that is not there")
        for tensor in tensors:
            data = tables.buffers[tensor.buffer].data
            shape = [] if tensor.shape is None else [abs(int(size)) for size in tensor.shape]
            if (data is None or not len(data)) and math.prod(shape) > MOST_NUMBERS:
                raise ValueError(f"a tensor of shape {shape}")


def names_of(enumeration: type) -> dict[int, str]:
    """Return the names of an enumeration of the schema by value, such as of BuiltinOperator."""
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


REMEDY = "Replace the layers that use them; TensorFlow itself runs the model as it is."


@doing_locked("Converting the model to LiteRT")
def to_tflite(
    model: Callable[[stack.tf.Tensor], stack.tf.Tensor],
    *,
    input_shape: Sequence[int | None],
    dtype: str = "float32",
) -> bytes:
    """Convert a function to float32 TFLite, in this process: quick, for what is known to convert.

    Args:
      model: a tf_keras model, a hub.KerasLayer, a tf.function, or any other function that TensorFlow can
        trace: of one tensor, to one tensor. It is called as it infers, not as it trains.
      input_shape: of that tensor, with the batch. With a batch of 1 the interpreter plans its memory best;
        None makes an input that is resized.
      dtype: of that tensor; ids of words are "int32".

    Returns:
      The content of a .tflite file.

    Raises:
      CheckError: the model has operations that TFLite lacks, or cannot be converted for another reason.

    Example:
      >>> from tfkit.environment.stack import tf
      >>> to_tflite(tf.nn.relu, input_shape=[1, 4])[4:8]
      b'TFL3'
    """
    function = stack.tf.function(lambda inputs: model(inputs), autograph=False).get_concrete_function(
        stack.tf.TensorSpec(list(input_shape), dtype)
    )
    # The model itself is handed over only so that its variables live on.
    converter = stack.tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    # Its default way saves all of the model as a SavedModel first, with every layer traced four times: 16 s
    # for EfficientNet-Lite0 where freezing the one function that is converted takes 1.3 s, for the same bytes.
    converter.experimental_lower_to_saved_model = False
    return converted(converter.convert)


def converted(convert: Callable[[], Any], *, remedy: str = REMEDY) -> bytes:
    """Return what a converter makes, or what is in its way, in words.

    Args:
      convert: such as the method of a tf.lite.TFLiteConverter.
      remedy: what to do about operations that TFLite lacks.

    Raises:
      CheckError: it fails.
    """
    try:
        with quiet():
            return bytes(convert())
    except Exception as err:  # the converter's own error, and whatever TensorFlow raises on the way there
        matches = re.findall(r"^\s*(?:TF Select|Custom) ops: (.+)$", str(err), flags=re.MULTILINE)
        if missing_names := sorted({name.strip() for names in matches for name in names.split(",")}):
            raise CheckError(
                f"The model does not convert: TFLite lacks {', '.join(missing_names)}.\n  {remedy}"
            ) from err
        raise CheckError(f"The model does not convert to TFLite: {packages.first_line(err)}") from err


MOST_WORKERS = 16  # each has a copy of the weights


class ParallelInterpreter:
    """Runs a TFLite model over any number of examples, with as many workers as there are cores.

    A worker is an interpreter with one thread of its own that takes one example after the other; invoking
    it does not hold Python's global lock. Threads that share the work of one example wait for each other
    after every layer, the more so the smaller the layers are.

    Each call of a file with state (a fused LSTM goes on where it ended) begins as the first one does.

    Example:
      >>> from tfkit.litert import to_tflite
      >>> from tfkit.environment.stack import tf
      >>> with ParallelInterpreter(to_tflite(tf.nn.relu, input_shape=[1, 2])) as relu:
      ...     relu(np.array([[1, -1], [-2, 2], [3, 4]], np.float32))
      array([[1., 0.],
             [0., 2.],
             [3., 4.]], dtype=float32)
    """

    def __init__(self, model: bytes, *, cores: int | None = None) -> None:
        """Make the workers.

        Args:
          model: of one output [b, ...], and one input [b, ...] or several.
          cores: how many to keep busy; None takes those that this process may use (its affinity, its
            container's limit).
        """
        from joblib import cpu_count

        cores = cores or cpu_count()
        self.workers = min(cores, MOST_WORKERS)
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        with quiet():
            for _ in range(self.workers):
                self._idle.put(worker := _Worker(model, threads=cores // self.workers))
        self.input_shape = worker.input_shape
        self.output_shape = worker.output_shape
        self._pool = ThreadPoolExecutor(self.workers)

    def __call__(self, inputs: Any, *, prepare: Callable[[Any], np.ndarray] | None = None) -> np.ndarray:
        """Return the model's output for each example.

        Args:
          inputs: [n, ...], of which real numbers of the model's input shape are made. A quantized model gets them
            by its own scale: one of images that takes uint8 with scale 1 gets pixels as they are. Of a model of
            strings objects [n], `str` or UTF-8 bytes. Or a list of what `prepare` makes arrays of: sizes that the
            model leaves open may differ from one to the next, at half a millisecond each time that they do. Of a
            model of several inputs arrays by their names.
          prepare: makes them, for the few examples of a call and on the worker's thread; None where `inputs`
            are the real numbers already.

        Returns:
          float32 [n, ...], in the order of the inputs; those of a quantized model are made real.
        """
        arrays = inputs if isinstance(inputs, Mapping) else {"": inputs}
        count = len(next(iter(arrays.values())))
        outputs = np.empty((count, *self.output_shape[1:]), np.float32)
        step = self.input_shape[0]

        def run(start: int) -> None:
            window = slice(start, start + step)
            rows = {name: values[window] for name, values in arrays.items()}
            if prepare:
                rows = {name: prepare(values) for name, values in rows.items()}
            worker = self._idle.get()
            try:
                outputs[window] = worker(rows)[: len(outputs[window])]
            finally:
                self._idle.put(worker)

        calls = [self._pool.submit(run, start) for start in range(0, count, step)]
        for call in track(calls, "Running LiteRT", unit="call", leave=False):
            call.result()
        return outputs

    def __enter__(self) -> ParallelInterpreter:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)


class _Worker:
    """One stock interpreter; used by one thread at a time."""

    def __init__(self, model: bytes, *, threads: int) -> None:
        self._reopen = lambda: opened(model, threads=threads)
        self._interpreter = self._reopen()
        self._state = state(read(model))
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if not inputs or len(outputs) != 1:
            raise DataError(
                f"The model has {len(inputs)} inputs and {len(outputs)} outputs; one of one output is computed here."
                "\n  The stock interpreter runs it: ai_edge_litert.interpreter.Interpreter."
            )
        (output,) = outputs
        self._inputs = inputs_of(self._interpreter)
        self._output = Number(output)
        self.input_shape = tuple(int(size) for size in inputs[0]["shape"])
        self.output_shape = tuple(int(size) for size in output["shape"])
        self._shape = self.input_shape

    def __call__(self, inputs: Mapping[str, Any]) -> np.ndarray:
        if "resources" in self._state:
            self._interpreter, self._shape = self._reopen(), self.input_shape
        for name, values in inputs.items():
            number = self._inputs[name]
            padding = self.input_shape[0] - len(values)
            if padding:  # the last examples, where the model takes several at a time
                values = np.concatenate([values, np.zeros((padding, *values.shape[1:]), values.dtype)])
            if not name and values.shape != self._shape:  # strict: only sizes that the model leaves open
                self._interpreter.resize_tensor_input(number.index, values.shape, strict=True)
                self._interpreter.allocate_tensors()
                self._shape = values.shape
            self._interpreter.set_tensor(number.index, number.quantized(values))
        if "variables" in self._state:
            self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return self._output.real(self._interpreter.get_tensor(self._output.index))


class Number:
    """A mapping from the numbers of a tensor to real ones: as they are, or as (number - zero point) * scale.

    Args:
      details: of the tensor, as the stock interpreter gives them.
    """

    def __init__(self, details: dict[str, Any]) -> None:
        self.index = int(details["index"])
        self.dtype = np.dtype(details["dtype"])
        scale, zero_point = details["quantization"]
        # Integers without a scale, such as the ids of words, stand for themselves.
        self._scale = np.float32(scale) if scale and self.dtype.kind in "iu" else None
        self._zero_point = int(zero_point)

    def quantized(self, values: np.ndarray) -> np.ndarray:
        """Return the tensor that stands for real numbers; those beyond its range become the nearest in it."""
        if self.dtype.kind == "S":  # strings: as objects, since numpy's own end before their last NUL
            return np.asarray(values, object)
        if self._scale is None:
            return np.asarray(values, self.dtype)
        range_, numbers = np.iinfo(self.dtype), np.rint(values / self._scale) + self._zero_point
        return numbers.clip(range_.min, range_.max).astype(self.dtype)

    def real(self, tensor: np.ndarray) -> np.ndarray:
        """Return the real numbers that a tensor stands for: float32."""
        if self._scale is None:
            return np.asarray(tensor, np.float32)
        return (tensor.astype(np.float32) - self._zero_point) * self._scale


def inputs_of(interpreter: Any) -> dict[str, Number]:
    """Return the inputs of a stock interpreter by their names; a single one as ""."""
    (first, *rest) = interpreter.get_input_details()
    details_by_name = interpreter.get_signature_runner().get_input_details() if rest else {"": first}
    return {name: Number(details) for name, details in details_by_name.items()}


def opened(model: bytes, *, threads: int, **options: Any) -> Any:
    """Return a stock interpreter with its tensors allocated, and with the operations of tensorflow-text if needed.

    Args:
      model: the content of a .tflite file.
      threads: that one call may use.
      options: of the stock interpreter.

    Raises:
      DataError: it is no .tflite file, or damaged.
      CheckError: it needs operations that are not there.
    """
    # The interpreter reads what offsets and indices point at, wherever that is: a damaged file can end the process.
    cuts_text = any(map(is_of_text, operator_names(read(model))))
    operations = stack.tf_text.tflite_registrar.SELECT_TFTEXT_OPS if cuts_text else []
    make = stack.litert.InterpreterWithCustomOps
    try:
        interpreter = make(operations, model_content=model, num_threads=threads, **options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as err:
        raise CheckError(
            f"The interpreter does not take the model: {packages.first_line(err)}\n"
            "  Operations named Flex... need TensorFlow's Flex delegate, custom ones their library; neither is part of"
            " LiteRT."
        ) from err
    return interpreter
