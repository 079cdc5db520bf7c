"""From a TensorFlow Hub model to one that is fine-tuned, distributed, private, compressed, on stock TensorFlow 2.

    import tfkit

    run = tfkit.train("photos/")                       images or texts to a finished run
    run = tfkit.train("scans/", privacy=tfkit.DPSGD(target_epsilon=3))
    run = tfkit.fit(build_model, splits, run_dir="runs/mine", epochs=10)       your own compiled tf_keras model
    splits = tfkit.load_images("photos/")              load_texts, from_arrays
    tfkit.compress(run, max_accuracy_drop=0.01)        .tflite files, measured, and the chosen one
    tfkit.audit(run)                                   attacks, a lower bound on epsilon
    tfkit.report(run)                                  report.html, model_card.md; several runs: side by side
    tfkit.search("documents/", query="how do I cancel")
    content = tfkit.convert(model, variant="int8", representative_dataset=images)        inspect, compare
    encoder = tfkit.load_model("efficientnet-lite0")   a verified model; .layer() is a stock hub.KerasLayer
    run = tfkit.Run.open("runs/photos")                run.metrics, run.model, run.notes

The jobs are programs too: python -m recipes.transfer_image --help, and python -m tfkit --help.

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
    from tfkit.auditing.audit import audit
    from tfkit.compression.compare import compare
    from tfkit.compression.compress import compress
    from tfkit.compression.convert import convert
    from tfkit.compression.inspect import inspect
    from tfkit.compression.variants import Table
    from tfkit.data.arrays import from_arrays
    from tfkit.data.loaders import load_images, load_texts, read_image
    from tfkit.data.splits import Splits
    from tfkit.hub.encoders import Encoder, load_model
    from tfkit.privacy.plan import DPSGD
    from tfkit.reporting.comparison import report
    from tfkit.run import Run
    from tfkit.searching.search import search
    from tfkit.training.fit import fit
    from tfkit.transfer.train import train

    __version__: str

__all__ = [
    "DPSGD",
    "Encoder",
    "Run",
    "Splits",
    "Table",
    "__version__",
    "audit",
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
    "load_model",
    "load_texts",
    "privacy",
    "read_image",
    "report",
    "reporting",
    "search",
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
    "Encoder": "tfkit.hub",
    "audit": "tfkit.auditing",
    "report": "tfkit.reporting",
    "search": "tfkit.searching.search",
    "Table": "tfkit.compression",
    "load_model": "tfkit.hub",
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
