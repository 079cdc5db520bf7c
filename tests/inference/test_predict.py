"""Run.predict and `python -m tfkit predict`: what training would have seen, and what the exported model says of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tfkit
from tests.conftest import write_digits
from tests.data.pictures import KINDS, picture
from tfkit import data
from tfkit.__main__ import main
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, DataError, PrivacyError, RunError
from tfkit.inference import predict as prediction
from tfkit.inference.inputs import Options, in_data_of, open_data
from tfkit.metrics import evaluate
from tfkit.reporting.examples import load
from tfkit.run import EVALUATION, Run
from tfkit.tasks import CLASSES, Labels
from tfkit.training.export import save
from tfkit.transfer.continuing import Start

SIZE = 24
DOCS = Path(__file__).parents[2] / "docs/manual/how-to/predict.md"


def network():
    layers = keras.layers
    convolutions = [layers.Conv2D(8, 3, 2, activation="relu"), layers.Conv2D(16, 3, 2, activation="relu")]
    model = keras.Sequential([keras.Input([SIZE, SIZE, 3]), *convolutions, layers.Flatten(), layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """Of three digits, with its report."""
    splits = data.load_images(photos, image_size=SIZE)
    return tfkit.fit(network, splits, run_dir=tmp_path_factory.mktemp("runs") / "photos", epochs=6)


@pytest.fixture
def own(run, tmp_path):
    """A copy that a test may write into."""
    return Run.open(shutil.copytree(run.path, tmp_path / "run"))


def exported(model, splits, folder):
    """A run of a model that is as it was made."""
    run = Run.create(folder, config={})
    save(model, run, splits, evaluation=evaluate(model, splits))
    run.provenance = {"data": splits.provenance}
    run.close()
    return Run.open(folder)


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory):
    """Of mails of two folders, one of which is called like a column of predictions."""
    folder = tmp_path_factory.mktemp("texts")
    words = {"label": ["parcel", "order"], "account": ["password", "login"]}
    rows = [f"where is my {words[name][i % 2]} {i},{name}" for i in range(40) for name in words]
    (folder / "mails.csv").write_text("\n".join(["body,folder", *rows]))
    splits = data.load_texts(folder / "mails.csv")
    layers, known = keras.layers, [word for of in words.values() for word in of]
    texts = keras.Input((), dtype=tf.string)
    ids = layers.TextVectorization(vocabulary=known, output_sequence_length=8)(texts)
    means = layers.GlobalAveragePooling1D()(layers.Embedding(8, 4)(ids))
    model = keras.Model(texts, layers.Dense(2, activation="softmax")(means))
    model.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(splits.train, epochs=8, verbose=0)
    return exported(model, splits, folder / "run")


@pytest.fixture
def litert(monkeypatch):
    monkeypatch.setattr(prediction, "FEW_EXAMPLES", 1)


def probabilities(frame, run):
    return frame[[f"class:{name}" if name == "label" else name for name in run.labels]].to_numpy(np.float32)


@pytest.mark.parametrize("engine", ["TensorFlow", "LiteRT"])
def test_the_test_split_gets_what_the_run_has_measured(run, photos, engine, monkeypatch, capsys):
    """From the files: what training saw of them, and what the exported model makes of that."""
    monkeypatch.setattr(prediction, "FEW_EXAMPLES", 1 if engine == "LiteRT" else 1000)
    frame = run.predict(photos)
    measured, _ = load(run.path / EVALUATION)
    order = {Path(name).relative_to(photos).as_posix(): place for place, name in enumerate(frame["name"])}
    rows = [order[name] for name in measured.names]
    np.testing.assert_allclose(probabilities(frame, run)[rows], measured.probabilities, atol=1e-5)
    assert [*frame["label"][rows]] == [measured.class_names[place] for place in measured.predicted]
    np.testing.assert_allclose(frame["probability"], probabilities(frame, run).max(axis=1))
    said = capsys.readouterr().err
    assert ("LiteRT computes" in said) == (engine == "LiteRT")
    assert "trained on a part of these" in said
    assert frame.attrs["accuracy"] == (frame["label"] == frame["truth"]).mean() > 0.9


def test_classes_that_are_close_are_left_to_the_model_and_litert_to_nothing_that_it_does_not_equal(
    run, photos, litert, monkeypatch, capsys
):
    expected = probabilities(run.predict(photos), run)
    monkeypatch.setattr(prediction, "TOLERANCE", 1.0)  # all are close
    close = probabilities(run.predict(photos), run)
    assert "LiteRT computes" in capsys.readouterr().err
    monkeypatch.setattr(prediction, "TOLERANCE", -1.0)  # nothing is equal
    model = probabilities(run.predict(photos), run)
    assert "TensorFlow computes: LiteRT is" in capsys.readouterr().err
    np.testing.assert_array_equal(close, model)
    np.testing.assert_allclose(expected, model, atol=1e-5)


def test_every_kind_of_image_is_read_as_the_exported_model_reads_it(run, tmp_path):
    model, paths = run.model, [tmp_path / kind for kind in KINDS]
    for kind, path in zip(KINDS, paths, strict=True):
        picture(kind, path)
    found = probabilities(run.predict(paths), run)
    for path, row in zip(paths, found, strict=True):
        # It resizes in its graph: pixels may be 1 of 255 apart.
        np.testing.assert_allclose(row, model(tfkit.read_image(path)), atol=0.02, err_msg=path.name)


def test_arrays_get_what_the_exported_model_gives(run):
    rng, model = np.random.default_rng(0), run.model
    images = rng.integers(0, 256, (40, 30, 17, 3), np.uint8)
    expected = model(images).numpy()
    for given in (
        images,
        images.astype(np.float32),
        images / np.float32(255),
        [*images],
        tf.constant(images),
    ):
        np.testing.assert_array_equal(probabilities(run.predict(given), run), expected)
    # Floats of one array are in one range, also in a batch that is all but black.
    dark = images.astype(np.float32) * 0.005
    dark[-1] = 255
    np.testing.assert_array_equal(probabilities(run.predict(dark), run), model(dark).numpy())
    mixed = [images[0], images[1, :, :, 0], images[2, :9], images[3].astype(np.uint16) * 257, images[4]]
    found = probabilities(run.predict(mixed), run)
    for row, image in zip(found, mixed, strict=True):
        np.testing.assert_allclose(row, model(image if image.ndim == 3 else image[..., None]), atol=1e-6)


def test_what_cannot_be_read_is_a_row_with_the_reason(run, photos, tmp_path, capsys, litert):
    folder = shutil.copytree(photos / "digit 0", tmp_path / "new")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:90])
    (folder / "empty.jpg").touch()
    (folder / "letter.png").write_text("no image")
    (folder / "lost.png").symlink_to("nowhere.png")
    (folder / "notes.txt").write_text("of another kind")
    (folder / os.fsdecode(b"\xff")).mkdir()
    shutil.copy(folder / "0.png", folder / os.fsdecode(b"\xff/\x1b[2J.png"))
    frame = run.predict(folder)
    bad = frame.set_index("name")["error"].dropna()
    assert {Path(name).name for name in bad.index} == {"broken.png", "empty.jpg", "letter.png", "lost.png"}
    assert all(bad)
    rows = frame[frame["error"].notna()]
    assert rows["label"].isna().all()
    assert rows["probability"].isna().all()
    assert np.isnan(probabilities(rows, run)).all()
    assert frame.attrs == {"examples": 45, "unreadable": 4}
    assert all(map(str.isprintable, frame["name"]))
    assert "passed over" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"broken\.png|empty\.jpg"):
        run.predict(folder, strict=True, output=tmp_path / "out.csv")
    assert not [*tmp_path.glob("*out.csv*")]
    for words, code in (([], 0), (["--strict"], 1)):
        assert (
            main(["predict", str(run.path), str(folder), "--output", f"{tmp_path}/out.csv", *words]) == code
        )
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "out.csv"), frame, check_dtype=False, atol=1e-6)


def test_a_file_is_whole_or_not_there_and_json_lines_say_the_same(run, photos, tmp_path, capsys):
    frame = run.predict(photos / "digit 1", output=tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [*frame["name"]]
    assert [*lines[0]] == [*frame]
    assert lines[0]["digit 1"] == pytest.approx(frame["digit 1"][0], abs=1e-6)
    table = shutil.copy(tmp_path / "out.jsonl", tmp_path / "data.jsonl")
    for output in (tmp_path, tmp_path / "out.xlsx", table):
        with pytest.raises(ConfigError, match=re.escape(str(output))):
            run.predict([table, photos] if output == table else photos, output=output)
    words = ["predict", str(run.path), str(photos / "digit 1")]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert capsys.readouterr().out == (tmp_path / "out.jsonl").read_text()
    assert main([*words, str(photos / "digit 2" / "*.png")]) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(printed) == 80
    assert printed[0][:2] == [frame["name"][0], frame["label"][0]]


def test_labelled_folders_are_evaluated_and_the_report_says_so(own, photos, tmp_path, capsys):
    other = write_digits(tmp_path / "other", classes=4, each=60)
    frame = own.predict(other)
    assert "accuracy" not in frame.attrs
    assert "'digit 3'" in capsys.readouterr().err  # is no class, and the others are: said, and left at that
    frame = own.predict(other, labels=True, report="more digits")
    said = capsys.readouterr().err
    known = frame[frame["truth"] != "digit 3"]
    right = int((known["label"] == known["truth"]).sum())
    assert frame.attrs["accuracy"] == pytest.approx(right / 180)
    assert frame.attrs["unknown_classes"] == {"digit 3": 60}
    assert "'digit 3' (60)" in said
    low, high = frame.attrs["accuracy_interval"]
    assert low < right / 180 < high
    mistakes = known[known["label"] != known["truth"]].value_counts(["truth", "label"])
    assert {(true, guess): count for true, guess, count in frame.attrs["confused"]} == mistakes.to_dict()
    with pytest.raises(DataError, match="not trained on"):
        own.predict(photos, report="mine")
    kept = json.loads((own.path / "other_data/more digits.json").read_text())
    assert kept == {"origin": str(other), **frame.attrs}
    page, card = ((own.path / name).read_text() for name in ("report.html", "model_card.md"))
    for text in (page, card):
        assert "On other data" in text
        assert "more digits" in text
        assert f"{100 * right / 180:.1f} %" in text
    (own.path / "other_data/more digits.json").write_text('{"accuracy": "high"}')
    with pytest.raises(RunError, match="more digits"):
        tfkit.report(own.path)


def test_its_own_data_are_known_from_any_folder_and_in_part(own, photos, tmp_path, monkeypatch):
    """An origin is from the folder on in which the run was made; a config has whole paths."""
    (own.path / "config.yaml").write_text(f"data_dir: {photos}\n")
    own.provenance = own.provenance | {"data": own.provenance["data"] | {"origin": f"{photos.name}/"}}
    other = write_digits(tmp_path / photos.name, classes=3, each=10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="not trained on"):
        own.predict(photos, report="mine")
    assert own.predict(other, report="theirs").attrs["evaluated"] == 30
    for path, is_of_it in {
        photos / "digit 0": True, photos.parent: True, photos / "train": True, photos / "test": False, other: False,
    }.items():  # fmt: skip
        assert bool(in_data_of(own, [path], test=False)) == is_of_it
    (own.path / "config.yaml").write_text("dataset: digits\n")
    own.provenance = own.provenance | {"data": own.provenance["data"] | {"origin": "digits (scikit-learn)"}}
    assert in_data_of(own, [tmp_path], test=False) == []


def test_what_it_was_trained_on_counts_for_no_report_whatever_it_is_called(own, of_texts, photos, tmp_path):
    splits = data.load_images(photos, image_size=SIZE)
    Start().remember(own, splits)
    copy = shutil.copytree(photos, tmp_path / "copy")
    frame = own.predict(copy, report="copy")
    test = [f"{copy}/{splits.source.names[place]}" for place in splits.indices["test"]]
    held_out = frame[frame["name"].isin(test)]
    assert frame.attrs["evaluated"] == len(held_out) == len(frame) - frame.attrs["trained_on"]
    assert frame.attrs["accuracy"] == (held_out["label"] == held_out["truth"]).mean()
    for name in test:
        Path(name).unlink()
    with pytest.raises(DataError, match="a report needs others"):
        own.predict(copy, report="copy")
    mails, run = (
        of_texts.path.parent / "mails.csv",
        Run.open(shutil.copytree(of_texts.path, tmp_path / "texts")),
    )
    Start().remember(run, data.load_texts(mails))
    rows = pd.read_csv(mails)
    more = pd.DataFrame({"body": ["my order", " where is\nmy parcel 0"], "folder": "label"})
    counts = [run.predict(given).attrs["trained_on"] for given in (rows, pd.concat([rows, more]), more[:1])]
    assert counts[0] == 68
    assert counts[1:] in ([68, 0], [69, 0])  # the last one is a copy, of a training example or of a test one


def test_a_private_run_keeps_nothing_of_it(own, photos, tmp_path):
    statement = {"private": True, "epsilon": 3.0, "delta": 1e-5, "in_words": "Nobody can tell."}
    statement["neighbouring_relation"] = "adding or removing one example"
    (own.path / "privacy.json").write_text(json.dumps(statement))
    assert own.predict(photos).attrs["accuracy"] > 0.9
    with pytest.raises(PrivacyError, match="report"):
        own.predict(photos, report="mine")
    (own.path / "other_data").mkdir()
    shown = {
        "origin": "mine/",
        "examples": 120,
        "unreadable": 0,
        "evaluated": 120,
        "unlabelled": 0,
        "confused": [],
    }
    shown |= {"unknown_classes": {}, "accuracy": 0.987, "accuracy_interval": [0.9, 1.0]}
    (own.path / "other_data/mine.json").write_text(json.dumps(shown))
    tfkit.report(own.path)
    assert "On other data" not in (own.path / "report.html").read_text()


def test_texts_from_wherever_they_are(of_texts, tmp_path):
    texts = ["my password is lost", "where is my parcel", "a" * 3000 + " order", "login"] * 20
    expected = of_texts.model(tf.constant(texts)).numpy()
    assert {*expected.argmax(axis=1)} == {0, 1}
    frame = pd.DataFrame({"id": range(80), "content": texts}, index=[f"row {i}" for i in range(80)])
    frame[["id", "content"]].to_csv(tmp_path / "two.csv", index=False)
    frame["content"].to_csv(tmp_path / "one.csv", index=False)
    frame.to_json(tmp_path / "lines.jsonl", orient="records", lines=True)
    frame.to_parquet(tmp_path / "table.parquet")
    (tmp_path / "letters").mkdir()
    for place, text in enumerate(texts):
        (tmp_path / "letters" / f"{place:02}.txt").write_text(text)
    files = ("two.csv", "one.csv", "lines.jsonl", "table.parquet", "letters")
    for given in (texts, frame["content"], frame, *(tmp_path / name for name in files)):
        found = of_texts.predict(given)
        np.testing.assert_allclose(probabilities(found, of_texts), expected, atol=1e-6)
    for given in (frame, frame["content"].where(frame["id"] != 3)):  # to be joined to its rows
        found = of_texts.predict(given)
        assert [*found.index] == [*found["name"]] == [*frame.index]
    assert [*np.flatnonzero(found["error"].notna())] == [3]
    assert of_texts.predict([None, "login"])["error"].notna().tolist() == [True, False]
    assert of_texts.predict(tmp_path / "two.csv")["name"][0] == "two.csv:2"
    assert [*found][:5] == ["name", "label", "probability", "account", "class:label"]
    # A text is no file: whoever gives names of files alone means what is in them.
    with pytest.raises(DataError, match=r"pathlib\.Path"):
        of_texts.predict([*map(str, (tmp_path / "letters").iterdir())])


def test_images_that_tables_name(own, photos, tmp_path, capsys):
    """Paths are from the table's folder on, those of a DataFrame from here on; images of PIL are as their files."""
    paths = sorted(photos.glob("*/*.png"))[::20]
    expected = own.predict(paths)
    frame = pd.DataFrame({"photo": [*map(str, paths)], "kind": [path.parent.name for path in paths]})
    for given in (frame, frame["photo"], frame[["photo"]], [*map(Image.open, paths)]):
        how = {"image_column": "photo"} if given is frame else {}
        found = own.predict(given, **how)
        np.testing.assert_allclose(probabilities(found, own), probabilities(expected, own), atol=1e-6)
    shutil.copytree(photos, tmp_path / "photos")
    frame["photo"] = [f"photos/{path.relative_to(photos)}" for path in paths]
    frame.loc[len(frame)] = ["photos/gone.png", "digit 0"]
    frame.to_csv(tmp_path / "new.csv", index=False)
    found = own.predict(tmp_path / "new.csv", label_column="kind", report="a table")
    np.testing.assert_allclose(probabilities(found[:-1], own), probabilities(expected, own), atol=1e-6)
    assert found["name"][0] == str(tmp_path / frame["photo"][0])
    assert "no such file" in found["error"].iloc[-1]
    assert found.attrs["accuracy"] == (expected["label"] == frame["kind"][:-1]).mean()
    words = ["predict", str(own.path), str(tmp_path / "new.csv"), "--image-column", "photo", "--json"]
    assert main([*words, "--output", str(tmp_path / "out.csv")]) == 0
    assert json.loads(capsys.readouterr().out)["evaluated"] == len(paths)
    with pytest.raises(DataError, match="images: there is no text_column"):
        own.predict(frame, text_column="photo")


def test_what_decided_the_weights_says_nothing_of_other_data(own, photos, tmp_path, capsys):
    """Also as copies: a folder that has grown holds old photos too."""
    splits = data.load_images(photos, image_size=SIZE)
    Start().remember(own, splits)
    grown = shutil.copytree(photos, tmp_path / "grown")
    found = own.predict(grown, report="later")
    assert (
        f"trained or validated on them, or on copies: {found.attrs['trained_on']}." in capsys.readouterr().err
    )
    assert found.attrs["evaluated"] == len(splits.indices["test"])
    assert found.attrs["accuracy"] == own.metrics["test/accuracy"]
    assert (
        json.loads((own.path / "other_data/later.json").read_text())["trained_on"]
        == found.attrs["trained_on"]
    )


def test_nearly_black_arrays_are_said(own, capsys):
    """Of 16 grey levels, say, where the run was trained on 256."""
    own.predict(np.full((2, SIZE, SIZE, 3), 16, np.uint8))
    assert "nearly black" in capsys.readouterr().err


def test_labels_of_tables_and_rows_that_say_nothing(of_texts, tmp_path):
    table = pd.DataFrame(
        {
            "body": ["password", None, "parcel", "login", "  "],
            "folder": ["account", "label", "label", "news", None],
        }
    )
    found = of_texts.predict(table)
    assert "truth" not in found  # "news" is no class
    assert [*found["error"].notna()] == [False, True, False, False, True]
    found = of_texts.predict(table, label_column="folder")
    assert found.attrs["accuracy"] == 1.0
    assert (found.attrs["evaluated"], found.attrs["unknown_classes"]) == (2, {"news": 1})
    assert of_texts.predict(table[:3]).attrs["evaluated"] == 2
    with pytest.raises(DataError, match="bodi"):
        of_texts.predict(table, text_column="bodi")
    with pytest.raises(DataError, match="report needs true classes"):
        of_texts.predict(table, report="mails")
    with pytest.raises(RunError, match="not come to its end"):
        of_texts.predict(table[:3], report="mails")
    for other in ({"body": ["where is my parcel?"]}, 7, "where is my parcel? " * 99):
        with pytest.raises(DataError):
            of_texts.predict(other)
    for verb in of_texts.predict, lambda text: of_texts.explain(Path(text)):
        with pytest.raises(DataError, match=r"run.predict\(\[text\]\)"):
            verb("where is my parcel?")


def test_true_labels_have_the_form_of_predicted_ones(of_texts, tmp_path):
    """So that they can be compared as they are."""
    folder = shutil.copytree(of_texts.path, tmp_path / "run")
    (folder / "task.json").write_text(json.dumps({"name": "labels", "thresholds": [0.5, 0.5]}))
    for truth, expected in (
        ("label|account", "account|label"),
        (["label", "account"], "account|label"),
        ("account", "account"),
        ("news|label", "news|label"),
    ):
        table = pd.DataFrame({"body": ["my password"], "folder": [truth]})
        frame = Run.open(folder).predict(table, label_column="folder")
        assert frame["truth"][0] == expected
        assert ("metrics" in frame.attrs) == (truth != "news|label")
    assert frame.attrs["unknown_classes"] == {"news|label": 1}


def test_the_model_of_a_run_as_an_encoder_is_said(of_texts):
    (note,) = tfkit.load_model(of_texts.path / "saved_model", modality="texts").check().notes
    assert "taken for features" in note
    assert "--continue-from" in note


def test_columns_are_those_of_the_runs_own_table(of_texts, tmp_path):
    folder = shutil.copytree(of_texts.path, tmp_path / "run")
    (folder / "config.yaml").write_text("text_column: mail\nlabel_column: box\n")
    table = pd.DataFrame(
        {"text": "parcel", "label": "label", "mail": ["login", "password"] * 9, "box": "account"}
    )
    table.loc[0, "box"] = "news"  # a class of this month
    found = Run.open(folder).predict(table)
    assert {*found["label"]} == {"account"}
    assert (found.attrs["evaluated"], found.attrs["unknown_classes"]) == (17, {"news": 1})
    assert Run.open(folder).predict(table, text_column="text", label_column="label").attrs["accuracy"] == 1.0
    assert Run.open(folder).predict(table[["label", "text"]]).attrs["accuracy"] == 1.0


def test_rows_of_features(tmp_path):
    rng = np.random.default_rng(0)
    images = data.from_arrays(rng.integers(0, 256, (60, 8, 8), np.uint8), np.arange(60) % 2, image_size=8)

    def read(indices):
        return images.source.read(indices).mean((1, 2)).astype(np.float32)

    known = {"labels": images.source.labels, "names": images.source.names}
    splits = images.replace(source=SimpleNamespace(**known, shape=(3,), fingerprint="means", read=read))
    model = keras.Sequential([keras.layers.Dense(2, activation="softmax", input_shape=(3,))])
    model.compile("sgd", "sparse_categorical_crossentropy")
    run = exported(model, splits, tmp_path / "run")
    rows = np.append(read(np.arange(60)), [[np.nan, 1, 2]], axis=0)
    frame = run.predict(rows)
    np.testing.assert_allclose(frame[["0", "1"]][:60], model.predict(rows[:60], verbose=0), atol=1e-6)
    assert frame["error"][60] == "is not finite"
    for wrong in (rows[:, :2], "photos/", rows[:0]):
        with pytest.raises(DataError, match="rows of numbers"):
            run.predict(wrong)


def test_prediction_sets(own, photos, tmp_path):
    pytest.importorskip("tfkit.calibration")
    with pytest.raises(RunError, match=r"calibration\.json"):
        own.predict(photos, coverage=0.9)
    content = {"temperature": 1.0, "scores": np.linspace(0, 0.5, 99).tolist(), "coverage": {}}
    content["examples"] = dict.fromkeys(("temperature", "scores", "test"), 99)
    content |= dict.fromkeys(("ece_before", "ece", "nll_before", "nll"), 0.1)
    (own.path / "calibration.json").write_text(json.dumps(content))
    (tmp_path / "bad.png").touch()
    frame = own.predict([photos, tmp_path / "bad.png"], coverage=0.9)
    values = probabilities(frame, own)
    for row, members, abstain in zip(values[:-1], frame["set"], frame["abstain"], strict=False):
        inside = [
            name for name, value in zip(own.labels, row, strict=True) if 1 - value <= 0.5 * 89 / 98 + 1e-9
        ]
        assert members == "|".join(inside)
        assert abstain == (not inside)
    assert frame.iloc[-1][["set", "abstain"]].isna().all()


@pytest.mark.parametrize(
    ("given", "culprit"),
    [
        ("new_fotos", "new_fotos"),
        ("*.nothing", "nothing"),
        ([], "empty"),
        (np.zeros((0, 24, 24, 3), np.uint8), "empty"),
        (np.zeros((24, 24, 3), np.uint8), r"array\[None\]"),
        (np.zeros((2, 24, 24, 3)) + 300, r"300"),
        (np.zeros((2, 24, 24, 5), np.uint8), "channels"),
        (np.zeros((2, 24, 24, 3), np.int64), "int64"),
        ([np.zeros((24, 24, 3), np.uint8), "a.png"], "paths alone"),
        (Image.new("RGB", (9, 9)), r"\[image\]"),
        (pd.DataFrame({"a": ["a.png"], "b": ["b.png"], "c": [1]}), "image_column"),
        (("new_fotos",), "new_fotos"),
    ],
)
def test_what_is_no_image_is_refused_with_what_would_be(run, given, culprit):
    with pytest.raises(DataError, match=culprit):
        run.predict(given)


def test_wrong_words_on_the_command_line(run, photos, tmp_path, capsys):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    wrong = {
        "nowhere": [str(tmp_path / "nowhere"), str(photos)],
        "holds no image": [str(run.path), str(run.path / "logs")],
        "no table": [str(run.path), str(photos), "--text-column", "body"],
        "no name of a report": [str(run.path), str(photos), "--report", "../x"],
        "invalid float": [str(run.path), str(photos), "--coverage", "most"],
    }
    for said, words in wrong.items():
        assert main(["predict", *words]) == 2
        printed = capsys.readouterr()
        assert said in printed.err
        assert not printed.out


def test_the_programs_of_the_documentation(run, of_texts, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run.path, "runs/photos")
    shutil.copytree(of_texts.path, "runs/mails")
    shutil.copytree(photos, "new_photos")
    shutil.copytree(photos, "holdout")
    Path("mails_of_today.csv").write_text("id,body\n1,where is my parcel?\n2,my password is lost\n")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", DOCS.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert {kind for kind, _ in blocks} == {"sh", "python"}
    for kind, block in blocks:
        if kind == "python":
            exec(block, {})
            continue
        for line in filter(None, block.splitlines()):
            words = shlex.split(line, comments=True)
            assert words[:3] == ["python", "-m", "tfkit"], line
            assert main(words[3:]) == 0, capsys.readouterr().err
    assert Path("predictions.csv").is_file()


def test_small_numbers_are_printed_as_they_are(run, monkeypatch, capsys):
    frame = pd.DataFrame(
        {"name": ["a"], "value": [3.21e-6], "low": [1e-7], "high": [123456.7], "error": [None]}
    )
    monkeypatch.setattr(prediction, "stream", lambda run, data, take, **how: take(frame) or {"unreadable": 0})
    assert main(["predict", str(run.path), "a.png"]) == 0
    assert [*map(float, capsys.readouterr().out.split()[1:])] == [3.21e-6, 1e-7, 123456.7]


def test_augment_is_the_mean_over_moved_views(run, photos, tmp_path, capsys):
    paths = sorted(photos.glob("*/*.png"))[::30]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    predictions = run.predict([*paths, broken], augment=True)
    images = np.stack([np.asarray(tfkit.read_image(path)) for path in paths])
    moved, model = [], run.model
    for down, right in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        rows, columns = (np.clip(np.arange(SIZE) - by, 0, SIZE - 1) for by in (down, right))
        moved.append(np.asarray(model.classify(images[:, rows][:, :, columns] / np.float32(255))))
    given = predictions[[*run.labels]].to_numpy()[:-1]
    np.testing.assert_allclose(given, np.mean(moved, axis=0), atol=1e-5)
    assert np.abs(np.mean(moved, axis=0) - moved[0]).max() > 1e-4
    assert predictions["error"].iloc[-1]
    assert pd.isna(predictions["label"].iloc[-1])
    for more in ({"coverage": 0.9}, {"report": "name"}):
        with pytest.raises(ConfigError, match="augment"):
            run.predict(paths, augment=True, **more)
    with pytest.raises(DataError, match="augment"):
        run.predict(np.zeros([2, 50, 40, 3], np.uint8), augment=True)
    assert main(["predict", str(run.path), str(paths[0]), "--augment"]) == 0
    assert f"{predictions['probability'][0]:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("task", "truths"), [(Labels(), ["even", "", None]), (CLASSES, ["even", None, None])]
)
def test_a_label_is_missing_as_in_training(task, truths):
    """An empty cell says that none of several labels holds; NA, that nobody knows."""
    frame = pd.DataFrame({"text": ["two", "seven", "who knows"], "label": ["even", "", "NA"]})
    data = open_data(frame, shape=[], options=Options(("even", "prime"), task, label_column="label"))
    assert [example.truth for example in data.examples] == truths
