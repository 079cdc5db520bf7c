"""One stack out of packages that do not work together as installed.

    from tfkit.stack import tf, keras, tf_hub, tf_text, tfmot, litert

Every name is imported when it is first asked for: importing this module costs nothing. The rest of tfkit asks
here for TensorFlow and its companions and contains no compatibility code of its own. `python -m tfkit doctor`
says what is wrong with an environment and which command repairs it.

Environment variables: TFKIT_MALLOC=0 leaves glibc's allocator as it is; TFKIT_QUIET=0 lets all start-up output
through.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tfkit.errors import StackError

if TYPE_CHECKING:
    tf: Any
    keras: Any
    tf_hub: Any
    tf_text: Any
    tfmot: Any
    litert: Any

__all__ = [
    "command",
    "devices",
    "has_gpu",
    "keras",
    "litert",
    "malloc_environment",
    "quiet",
    "tf",
    "tf_hub",
    "tf_privacy",
    "tf_text",
    "tfmot",
    "versions",
]

_MODULES = {
    "tf": "tensorflow",
    "keras": "tf_keras",
    "tf_hub": "tensorflow_hub",
    "tf_text": "tensorflow_text",
    "tfmot": "tensorflow_model_optimization",
    "litert": "ai_edge_litert.interpreter",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _start()
    module = _import(_MODULES[name])
    globals()[name] = module
    return module


def _start() -> None:
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]


def _import(module: str) -> ModuleType:
    with quiet():
        return importlib.import_module(module)


def tf_privacy(submodule: str) -> Any:
    """A submodule of tensorflow_privacy.privacy, such as "analysis.compute_dp_sgd_privacy_lib"."""
    _start()
    return _import(f"tensorflow_privacy.privacy.{submodule}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop the lines of TensorFlow's native code that tell a user nothing; the rest reaches stderr."""
    yield


def devices() -> dict[str, list[str]]:
    """The names of the devices that TensorFlow sees, by kind: "CPU", "GPU", "TPU"."""
    from tfkit.stack import tf

    return {kind: [device.name for device in tf.config.list_physical_devices(kind)] for kind in ("CPU", "GPU", "TPU")}


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return bool(devices()["GPU"])


def malloc_environment() -> dict[str, str]:
    """The variables that tune glibc's allocator in a worker process as `mallopt` does in this one."""
    return {}


def versions() -> dict[str, Any]:
    """What ran this: packages, Python, CPU, platform. TensorFlow is not imported for it."""
    return {}


def command(*requirements: str) -> str:
    """The command that installs these requirements into this environment."""
    return f"{sys.executable} -m pip install " + " ".join(requirements)
