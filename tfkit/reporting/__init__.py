"""The report: what a run did and how good its model is, on one HTML page that needs nothing beside itself.

`write_report` writes the page and the model card of one run, `write_comparison` puts several beside each other;
`callbacks` shows a training in TensorBoard as it goes.
"""

import importlib
from typing import Any

__all__ = ["callbacks", "report", "write_comparison", "write_report"]

_HOMES = {
    "callbacks": "keras_callbacks",
    "report": "comparison",
    "write_comparison": "comparison",
    "write_report": "page",
}


def __getattr__(name: str) -> Any:
    # Each brings its libraries: of TensorFlow, pandas and matplotlib a reader of an evaluation needs none.
    if name in _HOMES:
        return getattr(importlib.import_module(f"tfkit.reporting.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
