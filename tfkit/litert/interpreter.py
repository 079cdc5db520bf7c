"""A TFLite model on all cores."""

from __future__ import annotations

import functools
import queue
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tfkit.environment import packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import CheckError, DataError
from tfkit.litert.converter import cuts_text, read, state

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
        named = inputs if isinstance(inputs, Mapping) else {"": inputs}
        count = len(next(iter(named.values())))
        outputs = np.empty((count, *self.output_shape[1:]), np.float32)
        step = self.input_shape[0]

        def run(start: int) -> None:
            cut = slice(start, start + step)
            rows = {name: values[cut] for name, values in named.items()}
            if prepare:
                rows = {name: prepare(values) for name, values in rows.items()}
            worker = self._idle.get()
            try:
                outputs[cut] = worker(rows)[: len(outputs[cut])]
            finally:
                self._idle.put(worker)

        for done in [self._pool.submit(run, start) for start in range(0, count, step)]:
            done.result()
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
        self._open_again = lambda: opened(model, threads=threads)
        self._interpreter = self._open_again()
        self._state = state(model)
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
        self._open = np.asarray(inputs[0]["shape_signature"]) < 0
        self._shape = self.input_shape

    def __call__(self, inputs: Mapping[str, Any]) -> np.ndarray:
        if "resources" in self._state:
            self._interpreter, self._shape = self._open_again(), self.input_shape
        for name, values in inputs.items():
            number = self._inputs[name]
            missing = self.input_shape[0] - len(values)
            if missing:  # the last examples, where the model takes several at a time
                values = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
            if not name and values.shape != self._shape and self._fits(values.shape):
                self._interpreter.resize_tensor_input(number.index, values.shape)
                self._interpreter.allocate_tensors()
                self._shape = values.shape
            self._interpreter.set_tensor(number.index, number.quantized(values))
        if "variables" in self._state:
            self._interpreter.reset_all_variables()
        self._interpreter.invoke()
        return self._output.real(self._interpreter.get_tensor(self._output.index))

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the model takes this shape, having left open what is another size."""
        return len(shape) == len(self._open) and bool(
            np.all(self._open | (np.array(shape) == self.input_shape))
        )


class Number:
    """Say how a tensor of a model stands for real numbers: as they are, or as (number - zero point) * scale.

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
        range_ = np.iinfo(self.dtype)
        return np.clip(np.rint(values / self._scale) + self._zero_point, range_.min, range_.max).astype(
            self.dtype
        )

    def real(self, tensor: np.ndarray) -> np.ndarray:
        """Return the real numbers that a tensor stands for: float32."""
        if self._scale is None:
            return np.asarray(tensor, np.float32)
        return (tensor.astype(np.float32) - self._zero_point) * self._scale


def inputs_of(interpreter: Any) -> dict[str, Number]:
    """Return the inputs of a stock interpreter by their names; a single one as ""."""
    (first, *others) = interpreter.get_input_details()
    named = interpreter.get_signature_runner().get_input_details() if others else {"": first}
    return {name: Number(details) for name, details in named.items()}


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
    read(model)
    make = stack.litert.Interpreter
    if cuts_text(model):
        operations = stack.tf_text.tflite_registrar.SELECT_TFTEXT_OPS
        make = functools.partial(stack.litert.InterpreterWithCustomOps, custom_op_registerers=operations)
    try:
        interpreter = make(model_content=model, num_threads=threads, **options)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as err:
        raise CheckError(
            f"The interpreter does not take the model: {packages.first_line(err)}\n"
            "  Operations named Flex... need TensorFlow's Flex delegate, custom ones their library; neither is part of"
            " LiteRT."
        ) from err
    return interpreter
