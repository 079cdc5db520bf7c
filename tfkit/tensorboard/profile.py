"""A trace of steps 10 to 20 of a training, for TensorBoard's Profile page (pip install xprof)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfkit.stack import keras, tf

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
