"""The kernels of a model as it is pruned, clustered or quantized: their values, and how many are zero."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto import event_pb2
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from tfkit.stack import keras
from tfkit.tensorboard.layout import SPARSITY, write_layout


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
