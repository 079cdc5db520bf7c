"""Attributes of other libraries that are not public: all that tfkit uses, each with the version it was checked on.

It imports nothing of tfkit: `tfkit.environment.stack` stands on it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType


@contextlib.contextmanager
def traced_for_saving() -> Iterator[None]:
    """Trace functions as tf.saved_model.save does, which else traces them again (TensorFlow 2.19 to 2.21)."""
    saved_model = importlib.import_module("tensorflow").saved_model
    save_context = importlib.import_module("tensorflow.python.saved_model.save_context")
    with save_context.save_context(saved_model.SaveOptions()):
        yield


def keras_is_3(tensorflow: ModuleType) -> bool:
    """Return whether tf.keras, settled at its first use in a process, is Keras 3 (TensorFlow 2.19 to 2.21)."""
    for name in ("keras", "losses", "metrics", "optimizers", "initializers"):
        # Not getattr on what is found: that would settle it.
        module = vars(vars(tensorflow).get(name, object))
        if module.get("_tfll_keras_version") == "keras_3" or module.get("__name__", "").startswith("keras."):
            return True
    return False
