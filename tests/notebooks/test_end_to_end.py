"""The notebook of all steps: its table tells of the models that are there, and epsilon stays true to the end."""

from __future__ import annotations

import itertools

import pandas as pd
import pytest

from tfkit.run import Run


@pytest.mark.slow
def test_it_says_what_each_step_cost(execute):
    executed = execute("end_to_end")
    plain, private = (Run.open(executed.folder / "runs" / name) for name in ("plain", "private"))
    steps = pd.read_csv(executed.folder / "steps.csv", index_col=0)
    assert list(steps.index) == ["plain", "private", "int8", "prune0.1+int8"]
    measured = [run.metrics[name] for run, name in ((plain, "test/accuracy"), (private, "test/accuracy"))]
    measured += [private.metrics[f"lite/{name}/accuracy"] for name in steps.index[2:]]
    assert list(steps["accuracy"]) == pytest.approx(measured)
    lost = [100 * (before - after) for before, after in itertools.pairwise(measured)]
    assert list(steps["cost in points"].iloc[1:]) == pytest.approx(lost, abs=0.051)
    assert measured[0] > 0.9
    assert measured[1] > 0.75  # privacy costs, but does not ruin
    assert measured[2] > measured[1] - 0.03
    zeros = {
        variant["name"]: variant["sparsity"] for variant in private.read("tflite/variants.json")["variants"]
    }
    assert zeros["int8"] < 0.05 < zeros["prune0.1+int8"]

    assert 2.9 < private.metrics["privacy/epsilon"] <= 3
    assert "qat would look at its training examples again" in executed.printed
    assert "The ranges of integers are measured on 200 images of public" in executed.printed
    assert "int8" in (private.path / "report.html").read_text()
    assert executed.plots == 1
