"""Keras callbacks that show a training in TensorBoard as it goes.

    tensorboard --logdir runs/photos/logs

A run of a recipe is three of TensorBoard's, whatever the recipe: `train` and `validation` hold the curves, `train` the
graph of the model that was trained last (and the trace of `--profile`), and the root all that there is once: hparams,
examples, matrices, the variants of compress_tflite, the kernels of a model that is pruned, the layout of the custom
scalars, the privacy statement, and the Projector's points. `tensorboard --logdir runs` compares runs.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfkit.environment import cluster
from tfkit.environment.process import rounded_up
from tfkit.environment.stack import keras, tf
from tfkit.reporting.tensorboard import SPARSITY, event_writer, write_layout

FIRST_TRACED, LAST_TRACED = 10, 20
"""Steps of a training."""


class EpochLines(keras.callbacks.Callback):
    """Print a line an epoch: "epoch 3/30  loss 0.130  val_loss 0.214  val_accuracy 0.958  lr 2.8e-3  0.3 s".

    Args:
      say: prints a line.
      every: so many epochs, beside the first and the last.
    """

    def __init__(self, say: Callable[[str], object], *, every: int = 1) -> None:
        super().__init__()
        self._say, self._period, self._start = say, every, 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the clock."""
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Print the line."""
        epochs, number, logs = self.params["epochs"], epoch + 1, logs or {}
        if number not in (1, epochs) and number % self._period:
            return
        parts = [f"epoch {number}/{epochs}"]
        parts += [f"{k} {v:.3f}" for k, v in logs.items() if k == "loss" or k.startswith("val_")]
        parts += [f"epsilon {rounded_up(logs['epsilon'])}"] if "epsilon" in logs else []
        if (rate := logs.get("learning_rate")) is not None:
            parts.append(f"lr {rate:.2g}" if rate >= 1 else f"lr {rate:.1e}".replace("e-0", "e-"))
        self._say("  ".join([*parts, f"{time.monotonic() - self._start:.1f} s"]))


class _EpochFiles(keras.callbacks.Callback):
    """Event files that are begun before the first epoch, in the one process that writes them.

    They make void what a killed process has written of that epoch and of later ones.
    """

    def __init__(self, logdir: Path, *names: str, first_epoch: int = 0, timed: bool = True) -> None:
        super().__init__()
        self._logdir, self._names, self._first_epoch = logdir, names, first_epoch
        self._only_time = None if timed else time.time()
        self._files: dict[str, EventFileWriter] = {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin the event files, unless they are there."""
        if self._files or not self.model.distribute_strategy.extended.should_save_summary:
            return
        for name in self._names:
            # TensorBoard reads them in the order of their names, which begin with the second: one file a second.
            folder, now = self._logdir / name, time.time()
            if any(folder.glob(f"events.out.tfevents.{int(now):010d}.*")):
                time.sleep(int(now) + 1 - now)
            self._files[name] = EventFileWriter(str(folder))
            self._write(name, epoch, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _write(self, name: str, epoch: int, **content: Any) -> None:
        """Write an event where TensorBoard sees it at once, in the process that writes."""
        if name in self._files:
            step, now = self._first_epoch + epoch, self._only_time or time.time()
            self._files[name].add_event(event_pb2.Event(step=step, wall_time=now, **content))
            self._files[name].flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the event files."""
        for file in self._files.values():
            file.close()
        self._files = {}


class Kernels(_EpochFiles):
    """Write after each epoch a histogram of every kernel, and the share of zeros in all.

    It comes after the callbacks that change weights at the end of an epoch.
    """

    def __init__(self, logdir: Path) -> None:
        super().__init__(logdir, ".")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what the kernels are now."""
        names = [(variable.name.split(":")[0], variable) for variable in self.model.trainable_variables]
        kernels = {name: variable.numpy() for name, variable in names if name.endswith("kernel")}
        zeros = sum(int(np.sum(kernel == 0)) for kernel in kernels.values())
        share = zeros / max(sum(kernel.size for kernel in kernels.values()), 1)
        for name, kernel in kernels.items():
            self._write(".", epoch, summary=histogram_pb(name, kernel.ravel(), buckets=50))
        self._write(".", epoch, summary=scalar_pb(SPARSITY, share))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file, and give the sparsity its chart."""
        super().on_train_end(logs)
        write_layout(self._logdir, ["loss", "accuracy", "learning_rate", SPARSITY])


class Profile(keras.callbacks.Callback):
    """Trace steps 10 to 20, the first being 1, or what there is of them, below `train`; once in a run.

    By then the graph is traced, buffers are full and caches are warm. TensorBoard's Profile page shows it
    (pip install xprof). See https://www.tensorflow.org/guide/profiler.
    """

    def __init__(self, logdir: Path) -> None:
        super().__init__()
        self._folder = logdir / "train"
        self._step = 0
        self._is_running = False

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin before step 10."""
        self._step += 1
        if self._step == FIRST_TRACED and not (self._folder / "plugins" / "profile").is_dir():
            tf.profiler.experimental.start(str(self._folder))
            self._is_running = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End after step 20."""
        if self._step == LAST_TRACED:
            self.on_train_end()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """End with the training, if that is earlier."""
        if self._is_running:
            tf.profiler.experimental.stop()
            self._is_running = False


class Speed(keras.callbacks.Callback):
    """Add learning rate and training speed to the logs of each epoch; the time of validation is left out.

    Of an epoch that was resumed in its middle the speed is that of the steps which this process took. Of a training
    without `examples_per_step` only the learning rate is added.
    """

    def __init__(
        self, examples_per_step: float | None, of_each: Callable[[float], Sequence[float]] | None
    ) -> None:
        super().__init__()
        self._supports_tf_logs = True
        self._examples_per_step = examples_per_step
        self._of_each = of_each
        self._start, self._end, self._steps = 0.0, 0.0, 0
        self._first_batch: int | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._start, self._steps, self._first_batch = time.perf_counter(), 0, None

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Know which step the first one is, of an epoch that goes on in its middle."""
        self._first_batch = batch if self._first_batch is None else self._first_batch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count, and stop the clock: fit validates before it ends the epoch."""
        # Of a model with steps_per_execution, Keras calls once for several of them.
        self._steps, self._end = batch + 1 - (self._first_batch or 0), time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the numbers where later callbacks find them, as Keras's ReduceLROnPlateau does."""
        if logs is None:
            return
        logs["learning_rate"] = learning_rate(self.model.optimizer)
        if self._examples_per_step is None:
            return
        seconds = max(self._end - self._start, 0.0)
        speed = self._steps * self._examples_per_step / max(seconds, 1e-9)
        logs["examples_per_second"] = speed
        logs["step_ms"] = 1000 * seconds / max(self._steps, 1)
        speeds = self._of_each(speed) if self._of_each else ()
        for index, worker_speed in enumerate(speeds if len(speeds) > 1 else ()):
            logs[f"worker_{index}_examples_per_second"] = worker_speed / len(speeds)


def learning_rate(optimizer: Any) -> float:
    """Return what the optimizer's last step used, also where a schedule sets it."""
    rate = optimizer.learning_rate
    # Keras's legacy optimizers give the schedule itself.
    rate = rate(optimizer.iterations) if callable(rate) and not hasattr(rate, "dtype") else rate
    return float(keras.backend.get_value(rate))


class EpochLog(_EpochFiles):
    """Write scalars of each epoch in train/ and validation/, under the names of Keras's TensorBoard callback.

    That callback does not serve: its axes begin anew with each stage, and nothing tells TensorBoard to forget
    the epochs that a killed run had logged and a resumed one trains again. With the first epoch it writes the graph,
    but not where several processes train: tracing the model there sets up collectives, in this process alone.
    """

    def __init__(self, logdir: Path, *, first_epoch: int, timed: bool) -> None:
        super().__init__(logdir, "train", "validation", first_epoch=first_epoch, timed=timed)
        self._has_graph = False

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's numbers."""
        numbers = dict(logs or {})
        # The rate of a private training is a thousand times that of fine-tuning; charts of several runs hold both.
        if numbers.get("learning_rate", 0) > 0:
            numbers["log10_learning_rate"] = math.log10(numbers["learning_rate"])
        for name, value in numbers.items():
            split = "validation" if name.startswith("val_") else "train"
            self._write(split, epoch, summary=scalar_pb(f"epoch_{name.removeprefix('val_')}", float(value)))
        if cluster.current().size == 1 and not self._has_graph:
            self._has_graph = True
            write_graph(self.model, self._logdir)


def write_graph(model: keras.Model, logdir: Path) -> None:
    """Write the graph of a model that knows its inputs, under `train`, in place of an earlier one."""
    if (spec := model.save_spec()) is None:
        return
    arguments, keywords = spec
    forward = tf.function(model).get_concrete_function(*arguments, **{**keywords, "training": False})
    with event_writer(logdir / "train", kind="graph"):
        tf.summary.graph(forward.graph)
        # As Keras's TensorBoard callback does it, in folders of its own. Not every model has a JSON form.
        with contextlib.suppress(NotImplementedError, TypeError, ValueError):
            metadata = tf.compat.v1.SummaryMetadata()
            metadata.plugin_data.plugin_name, metadata.plugin_data.content = "graph_keras_model", b"1"
            tf.summary.write("keras", tf.constant(model.to_json()), step=0, metadata=metadata)


def callbacks(
    logdir: Path,
    *,
    first_epoch: int = 0,
    steps_per_epoch: int,
    examples_per_epoch: int | None,
    of_each: Callable[[float], Sequence[float]] | None = None,
    profile: bool = False,
) -> list[keras.callbacks.Callback]:
    """Return Keras callbacks that log one stage of a training.

    They come before callbacks that read the logs: to Keras's own numbers they add `learning_rate` (of the
    epoch's last step), `examples_per_second` and `step_ms`, so that History has them too.

    Args:
      logdir: the folder of the whole run.
      first_epoch: where epoch 0 of this stage stands on the axis: how many epochs earlier stages took.
      steps_per_epoch: batches in a training epoch.
      examples_per_epoch: examples in a training epoch. None: nothing that is logged says how long an epoch took, as of
        private training, where it tells how many examples were sampled.
      of_each: where several processes train: gives what each of them has, for this one's number. With it the examples
        per second of every worker are logged too.
      profile: whether to trace steps 10 to 20, unless an earlier stage of the run has been traced.

    Returns:
      To be given to one `model.fit`. When fit begins at an `initial_epoch` above 0, TensorBoard forgets what a
      killed process logged of that epoch and of later ones.
    """
    return [
        Speed(examples_per_epoch and examples_per_epoch / steps_per_epoch, of_each),
        EpochLog(logdir, first_epoch=first_epoch, timed=examples_per_epoch is not None),
        *([Profile(logdir)] if profile else []),
    ]
