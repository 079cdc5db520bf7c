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

import ast
import importlib
from pathlib import Path
from typing import Any

from tfkit import errors as errors
from tfkit.environment import stack as stack
from tfkit.environment.packages import DISTRIBUTION as _DISTRIBUTION

# The stub is where editors and type checkers find the public names, with the module that each is of.
_STUB = ast.parse(Path(__file__).with_suffix(".pyi").read_bytes()).body
_ROWS = [row for row in _STUB if isinstance(row, ast.ImportFrom)]
_HOMES = {alias.name: str(row.module) for row in _ROWS for alias in row.names}
# Not `__all__`: help(tfkit) would then be the help of every name.
_NAMES = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'tfkit' has no attribute {name!r}")
    if name == "__version__":
        value: Any = importlib.import_module("tfkit.environment.packages").version(_DISTRIBUTION)
    else:
        home = _HOMES[name]
        is_package = home == "tfkit"
        module = importlib.import_module(f"tfkit.{name}" if is_package else home)
        value = module if is_package else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return _NAMES
