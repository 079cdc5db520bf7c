"""What a run shows in TensorBoard: callbacks during training, summaries after it.

    tensorboard --logdir runs/photos/logs

Where things are, whatever the recipe: `train` and `validation` hold the scalars (and the trace of `--profile`), `graph`
the models, `images`, `texts` and `test` the examples, curves and matrices, `lite` the variants of compress_tflite,
`weights` the kernels of a model that is pruned; the root holds the hparams with the best, last and test numbers, the
layout of the custom scalars, the privacy statement, and the Projector's points. `tensorboard --logdir runs` compares
runs.

The kernels of a model as it is pruned, clustered or quantized: their values, and how many are zero.

A trace of steps 10 to 20 of a training, for TensorBoard's Profile page (pip install xprof).

The Keras callbacks behind `tfkit.reporting.callbacks`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfkit.environment import cluster, files
from tfkit.environment.stack import keras, tf
from tfkit.reporting.layout import SPARSITY, write_layout

if TYPE_CHECKING:
    from tfkit.environment.stack import keras


class Kernels(keras.callbacks.Callback):
    """After each epoch a histogram of every kernel, and the share of zeros in all, under `weights`.

    It comes after the callbacks that change weights at the end of an epoch.
    """

    def __init__(self, logdir: Path) -> None:
        super().__init__()
        self._logdir = logdir
        self._writer: EventFileWriter | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first epoch: begin the event file, and make void what a killed process wrote of it."""
        if self._writer is None:
            self._writer = EventFileWriter(str(self._logdir / "weights"))
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.add_event(event_pb2.Event(step=epoch, wall_time=time.time(), session_log=start))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write what the kernels are now."""
        if self._writer is None:
            return
        zeros = values = 0
        for variable in self.model.trainable_variables:
            name = variable.name.split(":")[0]
            if not name.endswith("kernel"):
                continue
            value = variable.numpy()
            zeros, values = zeros + int(np.sum(value == 0)), values + value.size
            self._add(epoch, histogram_pb(name, value.ravel(), buckets=50))
        self._add(epoch, scalar_pb(SPARSITY, zeros / max(values, 1)))
        self._writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the file, and give the sparsity its chart."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            write_layout(self._logdir, ["loss", "accuracy", "learning_rate", SPARSITY])

    def _add(self, epoch: int, summary: Any) -> None:
        assert self._writer is not None
        self._writer.add_event(event_pb2.Event(step=epoch, wall_time=time.time(), summary=summary))


FIRST = 10
LAST = 20


class Profile(keras.callbacks.Callback):
    """Traces steps 10 to 20, the first being 1, or what there is of them, below `train`; once in a run.

    By then the graph is traced, buffers are full and caches are warm. See
    https://www.tensorflow.org/guide/profiler.
    """

    def __init__(self, logdir: Path) -> None:
        super().__init__()
        self._folder = logdir / "train"
        self._step = 0
        self._running = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Count from here."""
        self._step = 0

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin before step 10."""
        self._step += 1
        if self._step == FIRST and not (self._folder / "plugins" / "profile").is_dir():
            tf.profiler.experimental.start(str(self._folder))
            self._running = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """End after step 20."""
        if self._step == LAST:
            self._end()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """End with the training, if that is earlier."""
        self._end()

    def _end(self) -> None:
        if self._running:
            tf.profiler.experimental.stop()
            self._running = False


VALIDATION = "val_"


class Speed(keras.callbacks.Callback):
    """Adds learning rate and training speed to the logs of each epoch; the time of validation is left out.

    Of an epoch that was resumed in its middle the speed is that of the steps which this process took.
    """

    def __init__(
        self,
        *,
        steps_per_epoch: int,
        examples_per_epoch: int,
        of_each: Callable[[float], Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self._supports_tf_logs = True
        self._examples_per_step = examples_per_epoch / steps_per_epoch
        self._of_each = of_each
        self._began = 0.0
        self._steps = 0
        self._seconds: float | None = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self._began, self._seconds, self._steps = time.perf_counter(), None, 0

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Count."""
        self._steps += 1

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Stop the clock: fit validates before it ends the epoch."""
        if self._seconds is None:
            self._seconds = time.perf_counter() - self._began

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the numbers where later callbacks find them, as Keras's ReduceLROnPlateau does."""
        if logs is None:
            return
        seconds = self._seconds if self._seconds is not None else time.perf_counter() - self._began
        speed = self._steps * self._examples_per_step / max(seconds, 1e-9)
        logs["learning_rate"] = learning_rate(self.model.optimizer)
        logs["examples_per_second"] = speed
        logs["step_ms"] = 1000 * seconds / max(self._steps, 1)
        speeds = self._of_each(speed) if self._of_each else ()
        if len(speeds) > 1:
            logs |= {
                f"worker_{index}_examples_per_second": own / len(speeds) for index, own in enumerate(speeds)
            }


def learning_rate(optimizer: Any) -> float:
    """What the optimizer's last step used, also where a schedule sets it."""
    rate = optimizer.learning_rate
    # Keras's legacy optimizers give the schedule itself.
    rate = rate(optimizer.iterations) if callable(rate) and not hasattr(rate, "dtype") else rate
    return float(keras.backend.get_value(rate))


class EpochLog(keras.callbacks.Callback):
    """Scalars of each epoch in train/ and validation/, under the names of Keras's TensorBoard callback.

    That callback does not serve: its axes begin anew with each stage, and nothing tells TensorBoard to forget
    the epochs that a killed run had logged and a resumed one trains again.
    """

    def __init__(self, logdir: Path, *, first_epoch: int) -> None:
        super().__init__()
        self._logdir = logdir
        self._first_epoch = first_epoch
        self._writers: dict[str, EventFileWriter] = {}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first epoch: begin the event files."""
        if self._writers or not _writes(self.model):
            return
        for name in ("train", "validation"):
            _wait_for_a_later_name(self._logdir / name)
            writer = EventFileWriter(str(self._logdir / name))
            # A session that starts at a step makes what stands at that step and later void.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            writer.add_event(_event(self._first_epoch + epoch, session_log=start))
            self._writers[name] = writer

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Write the epoch's numbers where TensorBoard sees them at once."""
        for name, value in (logs or {}).items():
            run, metric = (
                ("validation", name.removeprefix(VALIDATION))
                if name.startswith(VALIDATION)
                else ("train", name)
            )
            if run in self._writers:
                summary = scalar_pb(f"epoch_{metric}", float(value))
                self._writers[run].add_event(_event(self._first_epoch + epoch, summary=summary))
        for writer in self._writers.values():
            writer.flush()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the event files."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class ModelGraph(keras.callbacks.Callback):
    """Writes the model's graph once: its layers, and the operations of its forward pass.

    Not where several processes train: tracing the model there sets up collectives, in this process alone.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """After the first epoch every kind of model knows its inputs."""
        if cluster.current().size == 1:
            write_graph(self.model, self._folder)


def write_graph(model: keras.Model, folder: Path) -> None:
    """The graph of a model that knows its inputs; one that is there already stays."""
    spec = model.save_spec()
    if folder.is_dir() or spec is None:
        return
    arguments, keywords = spec
    forward = tf.function(model).get_concrete_function(*arguments, **{**keywords, "training": False})
    with files.new_folder(folder) as new:
        layers = keras.callbacks.TensorBoard(str(new), profile_batch=0)
        layers.set_model(model)
        layers.on_train_end()
        # Beside the layers, where that callback puts them: one entry of the dashboard holds both.
        with tf.summary.create_file_writer(str(new / "train")).as_default() as writer:
            tf.summary.graph(forward.graph)
            writer.close()


def _wait_for_a_later_name(folder: Path) -> None:
    """TensorBoard reads event files in the order of their names, which begin with the second: one file a second."""
    now = time.time()
    if any(path.name.split(".")[3] == f"{int(now):010d}" for path in folder.glob("events.out.tfevents.*")):
        time.sleep(int(now) + 1 - now)


def _writes(model: Any) -> bool:
    """Whether this process is the one of a distributed training that writes."""
    return bool(model.distribute_strategy.extended.should_save_summary)


def _event(step: int, **content: Any) -> event_pb2.Event:
    return event_pb2.Event(step=step, wall_time=time.time(), **content)


GRAPH = "graph"
"""The folder of the models' graphs, below the logs."""


def callbacks(
    logdir: Path,
    *,
    first_epoch: int = 0,
    steps_per_epoch: int,
    examples_per_epoch: int,
    stage: str = "train",
    of_each: Callable[[float], Sequence[float]] | None = None,
    profile: bool = False,
) -> list[keras.callbacks.Callback]:
    """Keras callbacks that log one stage of a training.

    They come before callbacks that read the logs: to Keras's own numbers they add `learning_rate` (of the
    epoch's last step), `examples_per_second` and `step_ms`, so that History has them too.

    Args:
      logdir: the folder of the whole run.
      first_epoch: where epoch 0 of this stage stands on the axis: how many epochs earlier stages took.
      steps_per_epoch: batches in a training epoch.
      examples_per_epoch: examples in a training epoch.
      stage: names the model's graph, which is written once, also when the stage is resumed.
      of_each: where several processes train: gives what each of them has, for this one's number. With it the examples
        per second of every worker are logged too.
      profile: whether to trace steps 10 to 20, unless an earlier stage of the run has been traced.

    Returns:
      To be given to one `model.fit`. When fit begins at an `initial_epoch` above 0, TensorBoard forgets what a
      killed process logged of that epoch and of later ones.
    """

    return [
        Speed(steps_per_epoch=steps_per_epoch, examples_per_epoch=examples_per_epoch, of_each=of_each),
        EpochLog(logdir, first_epoch=first_epoch),
        ModelGraph(logdir / GRAPH / stage),
        *([Profile(logdir)] if profile else []),
    ]
