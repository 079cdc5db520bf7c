"""Exposure: a head that learns by heart gives codes away, a private one does not; chance looks like chance."""

import csv
import json
import math
import sys

import pytest

from recipes import audit_privacy, train_private, transfer_text
from tfkit import auditing, cli, data, hub
from tfkit.auditing.audit import head_again
from tfkit.auditing.exposure import CHANCE, INSERTIONS, REFERENCES
from tfkit.environment.stack import keras
from tfkit.run import Run

CANARIES = 10
AT_MOST = 4.0
"""Bits: of ten codes that no training saw the mean is above that once in 30,000 times, and noise is drawn anew here."""
EPSILON = 0.1
FEWER = 300
"""References in place of REFERENCES, which the private run has: their embedding takes most of a test's time."""
SUBJECTS = [
    ("the soup", "a pan of rice", "fresh bread", "the roast", "some pepper", "an old recipe"),
    ("the roses", "a row of beans", "wet soil", "the hedge", "some seeds", "an apple tree"),
    ("the invoice", "a long meeting", "the printer", "her contract", "some minutes", "an order"),
]


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """210 short texts of 18 classes: few codes are taken for any one of so many by chance."""
    path = tmp_path_factory.mktemp("data") / "letters.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for subjects in SUBJECTS:
            for number in range(70):
                first, second = subjects[number % 6], subjects[(number // 6 + number + 1) % 6]
                writer.writerow([f"On day {number} we talked about {first} and {second}.", first])
    return path


@pytest.fixture(scope="module")
def stored(letters):
    encoder = hub.load_model("minilm-l6-v2")
    return encoder, hub.extract(encoder, data.load_texts(letters)).splits


@pytest.fixture
def fewer_references(monkeypatch):
    monkeypatch.setattr(sys.modules["tfkit.auditing.exposure"], "REFERENCES", FEWER)


def call(module, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(module.Config, module.run, arguments, closing=getattr(module, "closing_lines", None))
    return ended.value.code


def by_heart(pool):
    """A head without dropout, trained until nothing is left to learn."""
    inputs = keras.Input(pool.spec.shape)
    even = keras.layers.LayerNormalization(center=False, scale=False)(inputs)
    hidden = keras.layers.Dense(1024, activation="relu")(even)
    model = keras.Model(inputs, keras.layers.Dense(len(pool.class_names))(hidden))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(pool.epochs(0, 100), verbose=0)
    return model


@pytest.mark.slow
def test_what_is_learnt_by_heart_is_exposed(stored, fewer_references):
    encoder, features = stored
    keras.utils.set_random_seed(1)
    found = auditing.exposure(
        encoder, features.replace(global_batch_size=64), fit=by_heart, canaries=CANARIES
    )
    insertions = found["insertions"]
    assert list(insertions) == [str(times) for times in INSERTIONS]
    assert all(of["codes"] == CANARIES for of in insertions.values())
    assert insertions["16"]["mean_bits"] > AT_MOST + 1
    assert insertions["16"]["mean_bits"] > insertions["1"]["mean_bits"]
    assert insertions["16"]["largest_bits"] <= found["possible_bits"] == math.log2(FEWER)
    assert "leaves a trace" in found["verdict"]


@pytest.mark.slow
def test_codes_that_no_training_saw_have_what_chance_gives(stored, letters, fewer_references):
    """With classes that the run's texts have taught the model: under its own class a code is like any other."""
    encoder, features = stored
    config = transfer_text.Config(data_file=letters, epochs=2, fine_tune_epochs=0)
    found = auditing.exposure(
        encoder,
        features,
        fit=lambda pool: head_again(config, encoder, pool.replace(indices=features.indices), seed=1),
        canaries=100,
    )
    for of in found["insertions"].values():
        assert of["mean_bits"] == pytest.approx(CHANCE, abs=4 * CHANCE / math.sqrt(100))


@pytest.mark.slow
def test_a_private_run_does_not_give_them_away(letters, tmp_path, capsys):
    folder = tmp_path / "run"
    asked = {"data-file": letters, "run-dir": folder, "target-epsilon": EPSILON, "epochs": 5}
    train = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
    assert call(train_private, *train) == 0
    assert call(audit_privacy, "--run-dir", str(folder), "--canaries", str(CANARIES)) == 0
    run = Run.open(folder)
    found = json.loads((folder / "audit.json").read_text())["exposure"]
    assert list(found["insertions"]) == [str(times) for times in INSERTIONS]
    for times, of in found["insertions"].items():
        # Whatever chance gives, privacy lets a code that is there k times gain at most k * epsilon, in nats.
        assert of["mean_bits"] < AT_MOST + int(times) * EPSILON / math.log(2)
        assert run.metrics[f"audit/exposure_{times}_bits"] == of["mean_bits"]
    assert found["inserted"] == 21 * CANARIES
    assert (found["references"], found["possible_bits"]) == (
        REFERENCES,
        pytest.approx(math.log2(REFERENCES), abs=0.01),
    )
    assert "16 times has 16 times that" in found["verdict"]
    assert found["verdict"] in capsys.readouterr().out
    assert "mean exposure" in (folder / "report.html").read_text()
