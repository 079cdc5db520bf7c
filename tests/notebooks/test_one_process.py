"""The notebooks, as a student runs them: what they promise in their first cell is there when the last one has run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tfkit.data.embedded import sentiment_table
from tfkit.run import Run

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_transfer_image_makes_a_classifier(execute):
    executed = execute("transfer_image", fine_tune_epochs=0)
    run = Run.open(executed.folder / "runs/notebook")
    assert run.metrics["test/accuracy"] > 0.9
    assert (run.path / "saved_model/saved_model.pb").is_file()
    assert (run.path / "report.html").is_file()
    answer, probability = executed.printed.splitlines()[-1].split()
    assert answer in run.labels
    assert 0.1 <= float(probability) <= 1
    assert executed.plots == 1


def write_messages(path: Path) -> Path:
    """Of each sentiment 200 messages that annotators agreed on, and 20 documents of eight: those are read whole."""
    table = sentiment_table()
    rows = []
    for sentiment, found in table[table["confidence"] == 1].groupby("sentiment"):
        texts = list(found["text"][:360])
        documents = [" ".join(texts[first : first + 8]) for first in range(200, 360, 8)]
        rows += [(text, sentiment) for text in (*texts[:200], *documents)]
    pd.DataFrame(rows, columns=["text", "sentiment"]).to_csv(path, index=False)
    return path


def test_transfer_text_says_whether_it_is_worth_it(execute, tmp_path):
    executed = execute("transfer_text", data_file=repr(str(write_messages(tmp_path / "messages.csv"))))
    run = Run.open(executed.folder / "runs/notebook")
    assert run.metrics["test/accuracy"] > 0.7  # of three classes
    assert run.labels == ["negative", "neutral", "positive"]
    gain = run.metrics["test/accuracy"] - run.metrics["baseline/accuracy"]
    assert run.metrics["baseline/gain"] == pytest.approx(gain)
    assert executed.printed.splitlines()[-1].split()[0] in run.labels
    assert (run.path / "report.html").is_file()
    assert executed.plots == 1


def test_search_text_finds_what_shares_no_word(execute):
    executed = execute("search_text")
    committed = (ROOT / "notebooks/search_text.ipynb").read_text()
    assert (executed.folder / "runs/notebook/index/embeddings.npy").is_file()
    answers = {"who sees where I live?": "privacy.txt", "when will it arrive?": "delivery.txt"}
    for question, document in {**answers, "can I pay with Visa?": "invoices.txt"}.items():
        (line,) = (line for line in executed.printed.splitlines() if line.startswith(question))
        assert document in line
        assert line in committed  # the scores too: nothing here is random
    assert executed.plots == 1


def test_compress_tflite_makes_a_file_that_is_small_and_as_good(execute):
    executed = execute("compress_tflite")
    run = Run.open(executed.folder / "runs/notebook")
    found = run.read("tflite/variants.json")
    variants = {variant["name"]: variant for variant in found["variants"]}
    # int8-selective: made where int8 costs more than the half of what is allowed.
    assert set(variants) - {"int8-selective"} == {"float32", "float16", "dynamic", "int8"}
    assert variants["int8"]["size_bytes"] < 0.35 * variants["float32"]["size_bytes"]
    assert found["chosen"] is not None
    assert found["verdict"] in executed.printed
    assert variants[found["chosen"]]["accuracy"] >= found["source"]["accuracy"] - 0.02
    assert (run.path / "tflite/model.tflite").stat().st_size == variants[found["chosen"]]["size_bytes"]
    assert "bytes: " in executed.printed.splitlines()[-1]
    assert executed.plots == 1


def test_train_private_keeps_to_its_budget_and_is_attacked(execute):
    executed = execute("train_private")
    run = Run.open(executed.folder / "runs/notebook")
    assert 2.9 < run.metrics["privacy/epsilon"] <= 3
    assert run.metrics["test/accuracy"] > 0.7
    assert "AUC" in executed.printed
    assert run.metrics["audit/epsilon_lower_bound"] <= 3
    mine = Run.open(executed.folder / "runs/mine")
    assert 7.5 < mine.metrics["privacy/epsilon"] <= 8
    accuracy, epsilon = (mine.metrics[name] for name in ("test/accuracy", "privacy/epsilon"))
    assert executed.printed.splitlines()[-1] == f"test accuracy {accuracy:.3f}, epsilon {epsilon:.3f}"
    assert executed.plots == 1
