"""The page of a run whose classes and files are named by an enemy, read as a browser would read it."""

import base64
import html
import io
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from tests.reporting.finished_runs import (
    CLASSES,
    HOSTILE,
    PRIVATE,
    digits,
    full_run,
    page_of,
    with_evaluation,
)
from tfkit import reporting
from tfkit.environment import files
from tfkit.environment.stack import tf
from tfkit.errors import RunError
from tfkit.metrics import Evaluation, LabelsEvaluation
from tfkit.reporting.examples import save
from tfkit.run import Run


@pytest.fixture
def run(tmp_path):
    return full_run(tmp_path / "first run")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return page_of(full_run(tmp_path_factory.mktemp("runs") / "first run"))


def headings(page):
    return re.findall(r"<h2[^>]*>(.*?)</h2>", page.source)


def test_everything_is_on_the_page(page):
    evaluation, _ = digits()
    low, high = evaluation.interval
    assert f"{100 * evaluation.accuracy:.1f} %" in page.text
    assert f"{evaluation.correct:,} of 1,497 test images correct" in page.text
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in page.text
    assert headings(page) == [
        "Summary", "Training curves", "Confusion matrix", "Worst mistakes", "Classes",
        "Test images as the model sees them", "TFLite", "Decisions of this run", "Intended use", "Data", "Backbone",
        "How to reproduce", "All numbers", "Environment",
    ]  # fmt: skip
    assert "900 images: 300 train, 300 validation, 300 test" in page.text
    for part in (
        "based on efficientnet-lite0, trained on ",
        "1:23 minutes",
        "4,694,024",
        "licence not known",
    ):
        assert part in page.text
    for part in ("Trained without differential privacy", "Not stated", f"{HOSTILE}.png: not an image"):
        assert part in page.text
    assert "train</th>" in page.source
    assert len(page.figures) == 5
    assert len(page.photos) == 32
    command = "python -m recipes.transfer_image --config '{0}/config.yaml' --run-dir '{0}-again'"
    assert command.format(page.run) in page.text


def test_nothing_from_the_data_is_interpreted(page):
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    kinds = {source.split(",")[0] for source in page.sources}
    assert kinds == {"data:image/png;base64", "data:image/svg+xml;base64"}
    for name in (*CLASSES[:3], "&amp;", "中文", "{{ 9 }}", "a b # c"):
        assert page.text.count(name) > 1
    assert not {"\x07", "\u202e"} & set(page.source)
    assert page.source.count(HOSTILE) == 0


def test_the_page_asks_for_nothing(page):
    found = re.findall(r"https?://[^\s\"'<]+", page.source)
    assert all(address.startswith("https://example.") for address in found)
    links = [
        value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")
    ]
    assert all(value.startswith(("data:image/", "#")) for value in links)
    assert "default-src 'none'" in page.source


def test_figures_are_well_formed_and_described(page):
    for svg in page.figures:
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert not [one for one in root.iter() if one.tag.endswith(("script", "foreignObject"))]
    assert len(page.alternatives) == len(page.sources)
    assert all(page.alternatives)
    assert sum(len(text) > 20 for text in page.alternatives) >= 5


def test_pictures_are_the_worst_mistakes(page):
    evaluation, pictures = digits()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.photos[0].partition(",")[2]))))
    assert np.array_equal(shown, pictures.worst_inputs[0])
    truth, guess = evaluation.labels[pictures.worst[0]], evaluation.predicted[pictures.worst[0]]
    assert evaluation.mistake(pictures.worst[0]).startswith(f"{CLASSES[truth]}, predicted {CLASSES[guess]} (")


def test_beside_a_mistake_is_where_the_model_looked(run):
    heat = np.zeros((16, 8, 8), np.uint8)
    heat[:, 2, 3] = 255
    page = page_of(with_evaluation(run, heat=heat))
    assert len(page.photos) == 48
    assert sum(text.startswith("Grad-CAM: ") for text in page.alternatives) == 16
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(page.photos[1].partition(",")[2]))), int)
    assert np.unravel_index(shown.sum(axis=-1).argmax(), (8, 8)) == (2, 3)
    for wrong in (heat[:3], heat[:, :4], heat.astype(float), heat > 0):
        with pytest.raises(RunError, match=r"evaluation\.npz"):
            page_of(with_evaluation(run, heat=wrong))


def test_the_worst_images_in_the_world_stay_under_2_mb(run):
    noise = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
    with_evaluation(run, worst_inputs=noise, samples=noise, heat=noise[..., 0])
    (run.path / "history.csv").unlink()
    assert reporting.write_report(run).stat().st_size < 2_000_000


def test_a_private_run_shows_nothing_that_privacy_withholds(tmp_path):
    """Whoever put it into the folder: `fit` with a user's own splits keeps counts and names of files there."""
    run = full_run(tmp_path / "private", privacy=PRIVATE)
    page = page_of(run)
    card = (run.path / "model_card.md").read_text()
    assert "differentially private with epsilon 3 at delta 1e-05" in page.text
    assert headings(page).index("Privacy") < headings(page).index("TFLite")
    assert not page.photos
    for text in (page.text, card):
        assert "not an image" not in text
        assert ".png" not in text
    assert "| 30 |" not in card
    assert "trained on</th>" not in page.source
    drawn = [text.partition(" over ")[0] for text in page.alternatives if " over " in text]
    assert drawn == ["loss", "accuracy", "learning rate"]
    assert "training" not in "".join(page.figures)


@pytest.mark.parametrize(
    ("present", "wanted"),
    [
        ("history.csv", ["Training curves"]),
        ("evaluation.npz", ["Summary", "Confusion matrix", "Worst mistakes", "Classes"]),
        ("provenance.json", ["Summary", "Data", "Backbone"]),
        ("versions.json", ["Environment"]),
        ("notes.txt", ["Decisions of this run"]),
        ("metrics.json", ["All numbers"]),
    ],
)
def test_each_file_of_a_run_is_shown_without_the_others(tmp_path, page, present, wanted):
    run = Run.create(tmp_path / "run", config={})
    shutil.copy(page.run / present, run.path)
    shown = headings(page_of(run))
    assert [heading for heading in shown if heading in wanted] == wanted
    always = {"Intended use", "How to reproduce", "Test images as the model sees them"}
    assert not {*shown} - {*wanted} - always


def test_a_run_of_nothing_but_its_config(tmp_path):
    page = page_of(Run.create(tmp_path / "bare", config={"epochs": 1}))
    assert headings(page) == ["Intended use", "How to reproduce"]
    assert "epochs 1" in page.text


@pytest.mark.parametrize("classes", [2, 51, 200, 1000])
def test_few_and_many_classes(tmp_path, classes):
    run = Run.create(tmp_path / "run", config={})
    labels = np.arange(1000) % (classes - 1)  # the last class does not occur
    random = np.random.default_rng(0)
    evaluation = Evaluation(
        labels=labels,
        probabilities=random.dirichlet(np.full(classes, 0.1), 1000),
        names=[str(index) for index in range(1000)],
        class_names=[f"class {index}" for index in range(classes)],
    )
    save(run.path / "evaluation.npz", evaluation)
    page = page_of(run)
    assert len(page.source) < 2_000_000
    assert page.tags.count("tr") == classes + 1
    assert "nan" not in page.text.lower()
    card = (run.path / "model_card.md").read_text()
    assert len(re.findall(r"\n\| class \d", card)) == min(classes, 200)


def test_the_lowest_recall_is_that_of_labels_too(tmp_path):
    """Their table begins with the lowest F1: here of a label that is said too often, and found."""
    run, labels, said = (
        Run.create(tmp_path / "run", config={}),
        np.zeros((20, 2), int),
        np.zeros((20, 2), int),
    )
    labels[:4, 0], said[1:, 0], labels[:10, 1], said[:6, 1] = 1, 1, 1, 1
    about = {"names": range(20), "class_names": ["loud", "shy"]}
    save(
        run.path / "evaluation.npz", LabelsEvaluation(labels=labels, probabilities=said * 0.8 + 0.1, **about)
    )
    files.write_json(run.path / "task.json", {"name": "labels"})
    page = page_of(run)
    assert page.source.index('scope="row">loud') < page.source.index('scope="row">shy')
    assert "Lowest recall: shy, 60.0 % of 10." in page.text


def test_the_lines_that_load_the_model_run(run, tmp_path, monkeypatch, capsys):
    model = tf.Module()
    model.__call__ = tf.function(
        lambda images: tf.one_hot(tf.cast(images[0, 0, 0], tf.int32), 10),
        input_signature=[tf.TensorSpec([None, None, 4], tf.uint8)],
    )
    tf.saved_model.save(model, str(run.path / "saved_model"))
    run.labels = "0123456789"
    page = page_of(run)
    lines = html.unescape(re.search(r"<pre>(import tensorflow.*?)</pre>", page.source, flags=re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (13, 7), (8, 0, 0)).save("photo.jpg", quality=100)
    exec(compile(lines, "report", "exec"), {})
    assert capsys.readouterr().out == "8 1.0\n"
