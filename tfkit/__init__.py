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

from typing import Any

from tfkit import errors as errors
from tfkit.environment import lazy_names as _lazy_names
from tfkit.environment import stack as stack
from tfkit.environment.packages import DISTRIBUTION as _DISTRIBUTION
from tfkit.environment.packages import version as _version

# Not `__all__`: help(tfkit) would then be the help of every name.
_get_attribute, _names = _lazy_names(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _version(_DISTRIBUTION) if name == "__version__" else _get_attribute(name)


def __dir__() -> list[str]:
    return sorted([*_names, "__version__"])
