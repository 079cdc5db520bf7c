"""From a TensorFlow Hub model to a fine-tuned, distributed, private, compressed one, on stock TensorFlow 2.

    import tfkit

    run = tfkit.train("photos/")                       images or texts to a finished run
    run = tfkit.train("scans/", privacy=tfkit.DPSGD(target_epsilon=3))
    run = tfkit.fit(build_model, splits, run_dir="runs/mine", epochs=10)       your own compiled tf_keras model
    run = tfkit.tune("transfer_image", trials=20)      settings searched by validation, the best one trained
    splits = tfkit.load_images("photos/")              load_texts, from_arrays
    tfkit.compress(run, max_accuracy_drop=0.01)        .tflite files, measured, and the chosen one
    tfkit.export(run, "browser")                       a page with the model in it; "tfjs", "serving"
    tfkit.audit(run)                                   attacks, a lower bound on epsilon
    tfkit.report(run)                                  report.html, model_card.md; several runs: side by side
    run.explain("a.jpg", output="explanations/")       where it looked; of a text, which words counted
    tfkit.find_label_errors(run)                       examples whose label is probably wrong
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

from tfkit import errors as errors
from tfkit.environment import stack as stack
from tfkit.environment.packages import DISTRIBUTION as _DISTRIBUTION

if TYPE_CHECKING:
    from tfkit import auditing as auditing
    from tfkit import calibration as calibration
    from tfkit import compression as compression
    from tfkit import data as data
    from tfkit import distribution as distribution
    from tfkit import environment as environment
    from tfkit import hub as hub
    from tfkit import inference as inference
    from tfkit import privacy as privacy
    from tfkit import reporting as reporting
    from tfkit import searching as searching
    from tfkit import text as text
    from tfkit import training as training
    from tfkit import tuning as tuning
    from tfkit.auditing.audit import audit as audit
    from tfkit.compression.compare import compare as compare
    from tfkit.compression.compress import compress as compress
    from tfkit.compression.convert import convert as convert
    from tfkit.compression.inspect import inspect as inspect
    from tfkit.compression.variants import Table as Table
    from tfkit.data import Splits as Splits
    from tfkit.data import from_arrays as from_arrays
    from tfkit.data import load_images as load_images
    from tfkit.data import load_texts as load_texts
    from tfkit.data import read_image as read_image
    from tfkit.exporting.export import export as export
    from tfkit.hub import Encoder as Encoder
    from tfkit.hub import load_model as load_model
    from tfkit.inference.label_errors import find_label_errors as find_label_errors
    from tfkit.privacy import DPSGD as DPSGD
    from tfkit.reporting.comparison import report as report
    from tfkit.run import Run as Run
    from tfkit.searching.search import search as search
    from tfkit.training.fit import fit as fit
    from tfkit.transfer.train import train as train
    from tfkit.tuning.tune import tune as tune

    __version__: str

_HOMES = {
    "": "auditing calibration compression data distribution environment errors hub inference privacy reporting"
    " searching stack text training tuning",
    "auditing": "audit",
    "compression": "Table compare convert inspect",
    "compression.compress": "compress",
    "data": "Splits from_arrays load_images load_texts read_image",
    "exporting.export": "export",
    "hub": "Encoder load_model",
    "inference": "find_label_errors",
    "privacy": "DPSGD",
    "reporting": "report",
    "run": "Run",
    "searching.search": "search",
    "training.fit": "fit",
    "transfer.train": "train",
    "tuning.tune": "tune",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}
# Not `__all__`: help(tfkit) would then be the help of every name.
_NAMES = sorted([*_HOME, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'tfkit' has no attribute {name!r}")
    if name == "__version__":
        value: Any = importlib.import_module("tfkit.environment.packages").version(_DISTRIBUTION)
    else:
        home = _HOME[name]
        module = importlib.import_module(f"tfkit.{home or name}")
        value = getattr(module, name) if home else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return _NAMES
