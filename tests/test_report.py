"""The page of a run whose classes and files are named by an enemy, read as a browser would read it."""

import base64
import html.parser
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tfkit import exhibits, report
from tfkit.errors import CheckError, RunError
from tfkit.evaluation import Evaluation
from tfkit.exhibits import Pictures
from tfkit.run import Run
from tfkit.stack import tf

HOSTILE = "<script>alert(1)</script>"
CLASSES = (
    HOSTILE,
    '"><img src=x onerror=alert(2)>',
    "$\\frac{a$",
    "&amp;",
    "中文",
    "bell\x07\udcff",
    "a\tb",
    "7",
    "8",
    "{{ 9 }}",
)


def digits():
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(images[:300], labels[:300])
    measured = Evaluation(
        labels=labels[300:],
        probabilities=model.predict_proba(images[300:]),
        names=[f"{HOSTILE}/{index}\udcff.png" for index in range(300, len(images))],
        class_names=CLASSES,
    )
    grey = (load_digits().images[300:] * 255 / 16).astype(np.uint8)
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    worst = measured.worst(16)
    pictures = Pictures(
        worst=worst, worst_images=pixels[worst], sample_images=pixels[:16], sample_labels=measured.labels[:16]
    )
    return measured, pictures


@pytest.fixture(scope="module")
def measured():
    return digits()


@pytest.fixture
def run(tmp_path, measured):
    return full_run(tmp_path / "first run", measured)


@pytest.fixture(scope="module")
def page(tmp_path_factory, measured):
    return page_of(full_run(tmp_path_factory.mktemp("runs") / "first run", measured))


def full_run(path, measured):
    """A run with everything that a run can hold."""
    run = Run.create(path, config={"data_dir": HOSTILE, "epochs": 5, "augment": None})
    evaluation, pictures = measured
    exhibits.save(run.path / "evaluation.npz", evaluation, pictures)
    run.labels = [name.encode(errors="replace").decode() for name in CLASSES]
    run.record({**{f"m/{index}": index for index in range(3)}, "test/accuracy": evaluation.accuracy})
    run.record({"time/total_seconds": 83.4})
    run.note(f"Class weights are on: {HOSTILE} is rare.")
    stages = ["head"] * 4 + ["fine_tune"] * 2
    run.write_history(
        [
            {
                "stage": stage, "epoch": epoch, "loss": 2.0 / (epoch + 1), "accuracy": 0.5 + epoch / 20,
                "val_loss": 2.5 / (epoch + 1), "val_accuracy": 0.45 + epoch / 20, "learning_rate": 0.01,
            }
            for epoch, stage in enumerate(stages)
        ]
    )  # fmt: skip
    counts = {split: dict.fromkeys("0123456789", 30) for split in ("train", "validation", "test")}
    run.provenance = {
        "data": {"origin": HOSTILE, "counts": counts, "skipped": [[f"{HOSTILE}.png", "not an image"]]},
        "model": {"handle": "efficientnet-lite0", "parameters": 4694024, "input_range": [0, 1]},
        "recipe": {"name": "transfer_image"},
    }
    run.versions = {"python": "3.11", "packages": {"tensorflow": "2.21.0"}}
    return run


class Page(html.parser.HTMLParser):
    """Tags, attributes and text as a browser gets them."""

    def __init__(self, path):
        super().__init__()
        self.run = path.parent
        self.source = path.read_text(encoding="utf-8")
        self.tags, self.attributes, self.words = [], [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.words.append(data)


def page_of(run):
    return Page(report.write_report(run))


def test_everything_is_on_the_page(page, measured):
    evaluation, _ = measured
    low, high = evaluation.accuracy_interval
    assert f"{100 * evaluation.accuracy:.1f} %" in page.text
    assert f"{evaluation.correct:,} of 1,497 test images right" in page.text
    assert f"{100 * low:.1f} % to {100 * high:.1f} %" in page.text
    for heading in (
        "What the run decided", "Training", "What is taken for what", "The worst mistakes", "Classes",
        "Test images as the model sees them", "Use the model", "Model", "Data", "All numbers", "Settings", "Versions",
    ):  # fmt: skip
        assert (f"<h2>{heading}</h2>" in page.source) == (heading != "Use the model")
    assert "900 images: 300 train, 300 validation, 300 test" in page.text
    assert "1:23 minutes in all" in page.text
    assert "parameters 4,694,024 input_range 0, 1" in page.text
    assert f"{HOSTILE}.png: not an image" in page.text
    assert page.tags.count("svg") == 4
    assert page.tags.count("img") == 32
    command = "python -m recipes.transfer_image --config '{0}/config.yaml' --run-dir '{0}-again'"
    assert command.format(page.run) in page.text


def test_nothing_from_the_data_is_interpreted(page):
    assert "script" not in page.tags
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert {
        value.split(",")[0] for tag, name, value in page.attributes if tag == "img" and name == "src"
    } == {"data:image/png;base64"}
    for name in (HOSTILE, '"><img src=x onerror=alert(2)>', "$\\frac{a$", "&amp;", "中文", "{{ 9 }}"):
        assert page.text.count(name) > 1
    assert "\x07" not in page.source
    assert page.source.count(HOSTILE) == 0


def test_the_page_asks_for_nothing(page):
    allowed = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert set(re.findall(r"https?://[^\s\"'<]+", page.source)) <= allowed
    links = [
        value for _, name, value in page.attributes if name in ("src", "href", "xlink:href", "action", "data")
    ]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in links)
    assert "default-src 'none'" in page.source


def test_ids_are_unique_and_references_hit(page):
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    wanted = {
        value[1:] for _, name, value in page.attributes if name == "xlink:href" and value.startswith("#")
    }
    wanted |= {
        found for _, _, value in page.attributes for found in re.findall(r"url\(#([^)]+)\)", value or "")
    }
    assert wanted <= set(ids)
    assert wanted


def test_figures_are_well_formed_and_described(page):
    for svg in re.findall(r"<svg.*?</svg>", page.source, flags=re.DOTALL):
        root = ElementTree.fromstring(svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label")) > 20
        assert not root.findall(".//{http://www.w3.org/2000/svg}style")
    assert all(value for tag, name, value in page.attributes if tag == "img" and name == "alt")
    assert sum(tag == "img" and name == "alt" for tag, name, _ in page.attributes) == 32


def test_pictures_are_the_worst_mistakes(page, measured):
    evaluation, pictures = measured
    first = next(value for tag, name, value in page.attributes if tag == "img" and name == "src")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(first.partition(",")[2]))))
    assert np.array_equal(shown, pictures.worst_images[0])
    truth, guess = evaluation.labels[pictures.worst[0]], evaluation.predicted[pictures.worst[0]]
    assert evaluation.mistake(pictures.worst[0]).startswith(f"{CLASSES[truth]} → {CLASSES[guess]} (")


def test_the_worst_images_in_the_world_stay_under_2_mb(run, measured):
    noise = np.random.default_rng(0).integers(0, 256, (16, 224, 224, 3), np.uint8)
    evaluation, pictures = measured
    pictures = Pictures(**{**vars(pictures), "worst_images": noise, "sample_images": noise})
    exhibits.save(run.path / "evaluation.npz", evaluation, pictures)
    assert report.write_report(run).stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("absent", "heading"),
    [
        ("history.csv", "Training"),
        ("evaluation.npz", "What is taken for what"),
        ("provenance.json", "Model"),
        ("versions.json", "Versions"),
        ("notes.txt", "What the run decided"),
        ("metrics.json", "All numbers"),
    ],
)
def test_what_is_absent_has_no_section(run, absent, heading):
    (run.path / absent).unlink()
    assert f"<h2>{heading}</h2>" not in page_of(run).source


def test_a_run_of_nothing_but_its_config(tmp_path):
    page = page_of(Run.create(tmp_path / "bare", config={"epochs": 1}))
    assert "<h2>Settings</h2>" in page.source
    assert page.source.count("<h2>") == 1


@pytest.mark.parametrize("classes", [2, 51, 1000])
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
    exhibits.save(run.path / "evaluation.npz", evaluation)
    page = page_of(run)
    assert len(page.source) < 2_000_000
    assert page.tags.count("tr") == classes + 1
    assert "nan" not in page.text.lower()


def test_the_lines_that_load_the_model_run(run, tmp_path, monkeypatch, capsys):
    model = tf.Module()
    model.__call__ = tf.function(
        lambda images: tf.one_hot(tf.cast(images[0, 0, 0], tf.int32), 10),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    tf.saved_model.save(model, str(run.path / "saved_model"))
    page = page_of(run)
    lines = html.unescape(re.search(r"<pre>(import numpy.*?)</pre>", page.source, flags=re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (13, 7), (8, 0, 0)).save("photo.jpg", quality=100)
    exec(compile(lines, "report", "exec"), {})
    assert capsys.readouterr().out == "8 1.0\n"


def test_the_command_writes_reports_of_finished_runs_only(run, tmp_path, capsys):
    assert report.main([run.path]) == 0
    assert capsys.readouterr().out == f"{run.path / 'report.html'}\n"
    begun = Run.create(tmp_path / "begun", config={})
    with pytest.raises(RunError, match="has not come to its end"):
        report.main([run.path, begun.path])
    assert not begun.finished
    with pytest.raises(RunError, match="holds no run"):
        report.main([tmp_path / "nowhere"])


def test_a_damaged_file_is_an_error(run):
    (run.path / "evaluation.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckError, match=r"evaluation\.npz"):
        report.write_report(run)
