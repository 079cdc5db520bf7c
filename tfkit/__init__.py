"""TensorFlow recipes that work together: from a TensorFlow Hub model to one that is fine-tuned and exported.

    import tfkit

    splits = tfkit.load_images("photos/", image_size=224)
    backbone = tfkit.resolve("efficientnet-lite0").check()

Importing tfkit imports no TensorFlow: each name below is loaded when it is first used. It does choose Keras 2
for tf.keras (see `tfkit.stack`), so import it before tf.keras is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tfkit import errors
from tfkit.environment import stack

if TYPE_CHECKING:
    from tfkit import (
        auditing,
        compression,
        data,
        distribution,
        environment,
        hub,
        privacy,
        reporting,
        searching,
        text,
        training,
    )
    from tfkit.compression.compare import compare
    from tfkit.compression.compress import compress
    from tfkit.compression.convert import convert
    from tfkit.compression.inspect import inspect
    from tfkit.data.arrays import from_arrays
    from tfkit.data.loaders import load_images, load_texts, read_image
    from tfkit.data.splits import Splits
    from tfkit.hub.resolver import resolve, resolve_text
    from tfkit.privacy.plan import DPSGD
    from tfkit.run import Run
    from tfkit.training.fit import fit
    from tfkit.transfer.train import train

    __version__: str

__all__ = [
    "DPSGD",
    "Run",
    "Splits",
    "__version__",
    "auditing",
    "compare",
    "compress",
    "compression",
    "convert",
    "data",
    "distribution",
    "environment",
    "errors",
    "fit",
    "from_arrays",
    "hub",
    "inspect",
    "load_images",
    "load_texts",
    "privacy",
    "read_image",
    "reporting",
    "resolve",
    "resolve_text",
    "searching",
    "stack",
    "text",
    "train",
    "training",
]

_HOME = {
    "Run": "tfkit.run",
    "Splits": "tfkit.data",
    "DPSGD": "tfkit.privacy",
    "fit": "tfkit.training.fit",
    "train": "tfkit.transfer.train",
    "from_arrays": "tfkit.data",
    "load_images": "tfkit.data",
    "load_texts": "tfkit.data",
    "read_image": "tfkit.data",
    "resolve": "tfkit.hub",
    "resolve_text": "tfkit.hub",
    "convert": "tfkit.compression",
    "inspect": "tfkit.compression",
    "compare": "tfkit.compression",
    "compress": "tfkit.compression.compress",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = importlib.import_module("importlib.metadata").version("tfkit")
    elif name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in __all__:
        value = importlib.import_module(f"tfkit.{name}")
    else:
        raise AttributeError(f"module 'tfkit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
