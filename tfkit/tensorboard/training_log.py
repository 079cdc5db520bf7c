"""The Keras callbacks behind `tfkit.tensorboard.callbacks`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfkit import cluster, files
from tfkit.stack import keras, tf

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
