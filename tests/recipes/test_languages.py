"""The job of someone whose labels are in one language and whose texts are in many, as in how-to/languages.md."""

from __future__ import annotations

import json
import os
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.cross_lingual import names_of
from recipes import compress_tflite, search_text
from tests import forked
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError, PrivacyError
from tfkit.run import Run

DOCS = (Path(__file__).parents[2] / "docs/manual/how-to/languages.md").read_text()
EACH = 120
LANGUAGES = ("en", "de", "fr", "ja", "tr")
DOCUMENTS = {
    "abo.txt": "Ein Abonnement kann jederzeit zum Ende des Monats gekündigt werden.",
    "lager.txt": "Die Batterien für Fahrräder liegen im Lager in Rotterdam.",
    "katze.txt": "Katzen schlafen den größten Teil des Tages.",
    "wetter.txt": "Am Wochenende wird es regnen und stürmen.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder in which the program of the page has run: english.csv, others.csv, runs/names."""
    folder = tmp_path_factory.mktemp("user")
    columns = ["label", "key", "text"]
    names = {language: pd.DataFrame(names_of(language), columns=columns) for language in LANGUAGES}
    english = names["en"][~names["en"].text.duplicated(keep=False)].sample(frac=1, random_state=0)
    train = english.groupby("label").head(EACH)
    train.to_csv(folder / "english.csv", index=False)
    held_out = english.drop(train.index).groupby("label").head(EACH)
    tables = [names[name].merge(held_out[columns[:2]]).assign(language=name) for name in LANGUAGES[1:]]
    others = pd.concat(tables)
    others[~others.text.isin(english.text)].to_csv(folder / "others.csv", index=False)
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCS, flags=re.DOTALL | re.MULTILINE)
    (folder / "program.py").write_text(program)
    before = Path.cwd()
    os.chdir(folder)
    try:
        runpy.run_path("program.py")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return Run.open(folder / "runs" / "names")


@pytest.mark.slow
def test_what_is_learned_in_english_holds_in_others(run, folder):
    assert run.metrics["test/accuracy"] > 0.8
    kept = json.loads((run.path / "other_data/other languages.json").read_text())
    others = pd.read_csv(folder / "others.csv")
    assert {
        name: count for name, (count, _) in kept["languages"].items()
    } == others.language.value_counts().to_dict()
    frame = run.predict(folder / "others.csv")
    right = frame.label == others.label
    for language, of in right.groupby(others.language):
        assert kept["languages"][language][1] == pytest.approx(of.mean())
        assert of.mean() > 0.6  # a quarter by chance; half of it by the script or by words
    page = (run.path / "report.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in kept["languages"])
    assert "languages" not in run.predict(others[others.language == "de"]).attrs  # nothing to tell apart
    assert "multilingual: fine-tuning" in (run.path / "notes.txt").read_text()
    assert 0 <= run.metrics["data/unknown_token_share"] < 0.05


@pytest.mark.slow
def test_the_exported_model_takes_strings_of_any_language(run):
    strange = ["", "\0", "東京", "नमस्ते", "🙂" * 500, "x" * 100_000, b"\xff\xfe broken", "Schweizer Franken"]
    model = run.model
    many = model(tf.constant(strange)).numpy()
    np.testing.assert_allclose(many.sum(axis=1), 1, atol=1e-5)
    for string, expected in zip(strange, many, strict=True):
        on_device = model.signatures["device"](texts=tf.constant([string]))["probabilities"].numpy()[0]
        np.testing.assert_allclose(on_device, expected, atol=1e-5)
    (found,) = run.explain(["Schweizer Franken"])
    assert found.label == "currency"
    assert [word for word, _ in found.strongest(1)] == ["Franken"]


@pytest.mark.slow
def test_the_file_for_a_phone_has_its_tokenizer(run, tmp_path):
    made = compress_tflite.run(
        compress_tflite.Config(from_run=run.path, run_dir=tmp_path / "lite", variants=("float32",))
    )
    assert made.metrics["lite/float32/accuracy_drop"] == 0
    words = [sys.executable, str(made.path / "tflite/infer.py"), "東京"]
    done = forked.run(words, capture_output=True, text=True)
    (expected,) = run.predict(["東京"]).itertuples()
    assert done.stdout.split()[:2] == [f"{expected.probability:.4f}", expected.label], done.stderr[-2000:]


@pytest.mark.slow
def test_a_page_for_a_browser_is_refused_before_anything_is_fetched(run, tmp_path):
    import tfkit

    with pytest.raises(ConfigError, match="not WordPiece"):
        tfkit.export(run, "browser", output=tmp_path / "page")
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_a_question_in_french_finds_an_answer_in_german(tmp_path):
    for name, text in DOCUMENTS.items():
        (tmp_path / name).write_text(text)
    questions = {
        "comment résilier mon abonnement ?": "abo.txt",
        "où sont rangés les accumulateurs des vélos": "lager.txt",
        "天気予報": "wetter.txt",
    }
    run = search_text.run(
        search_text.Config(
            data_dir=tmp_path, run_dir=tmp_path / "run", model_handle="multilingual", query=tuple(questions)
        )
    )
    answers = json.loads((run.path / "hits.json").read_text())["answers"]
    assert [answer["hits"][0]["name"] for answer in answers] == list(questions.values())


@pytest.mark.slow
def test_a_private_run_says_it_and_keeps_nothing(folder, tmp_path, capsys):
    from recipes import train_private

    settings = {"target_epsilon": 8.0, "epochs": 4, "model_handle": "multilingual"}
    config = train_private.Config(data_file=folder / "english.csv", run_dir=tmp_path / "private", **settings)
    run = train_private.run(config)
    with pytest.raises(PrivacyError):
        run.predict(folder / "others.csv", report="languages")
    assert set(run.predict(folder / "others.csv").attrs["languages"]) == set(LANGUAGES) - {"en"}
    assert not list(run.path.glob("other_data/*"))
