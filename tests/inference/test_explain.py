"""Explanations: they light where the object is, follow the weights, and say nothing of a private run's examples."""

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

import tfkit
from tests.reporting.finished_runs import Parsed
from tfkit.__main__ import main
from tfkit.environment import files, stack
from tfkit.errors import ConfigError, DataError, PrivacyError, RunError, UsageError
from tfkit.inference.inputs import content_digest
from tfkit.run import Run
from tfkit.transfer.attribution import grad_cam, integrated_gradients, occlusion, pieces_of
from tfkit.transfer.models import plain_top, small_cnn

pytestmark = pytest.mark.slow
SIDE, DIGIT = 64, 28


def composed(count, *, seed, new=True):
    """Real digits, each in a corner of a larger image of smooth noise: uint8 [n, 64, 64, 3], labels, corners.

    The last hundred are for the tests alone: `new`.
    """
    digits, chance = load_digits(), np.random.default_rng(seed)
    some = np.flatnonzero(digits.target < 3)
    chosen = chance.choice(some[-100:] if new else some[:-100], count, replace=False)
    noise = gaussian_filter(chance.random((count, SIDE, SIDE)), (0, 2, 2))
    images = np.uint8(900 * np.clip(noise - 0.4, 0, 0.15))
    corners = chance.integers(0, 2, (count, 2))
    for image, digit, (down, right) in zip(images, digits.images[chosen], corners, strict=True):
        pixels = Image.fromarray(np.uint8(digit * 255 / 16)).resize((DIGIT, DIGIT), Image.Resampling.BICUBIC)
        place = (slice(2 + 32 * down, 2 + 32 * down + DIGIT), slice(2 + 32 * right, 2 + 32 * right + DIGIT))
        image[place] = np.maximum(image[place], np.asarray(pixels))
    return np.repeat(images[..., np.newaxis], 3, axis=-1), digits.target[chosen], corners


@pytest.fixture(scope="module")
def images():
    return composed(400, seed=0, new=False)


@pytest.fixture(scope="module")
def data(images, tmp_path_factory):
    """Those as files of three classes."""
    folder = tmp_path_factory.mktemp("data") / "corners"
    for number, (image, label) in enumerate(zip(*images[:2], strict=True)):
        (folder / f"digit {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"digit {label}" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    settings = {"image_size": SIDE, "epochs": 15, "learning_rate": 3e-3}
    return tfkit.train(data, model="cnn", run_dir=tmp_path_factory.mktemp("runs") / "corners", **settings)


@pytest.fixture(scope="module")
def mails(tmp_path_factory):
    """A finished run of the light model of texts."""
    folder = tmp_path_factory.mktemp("mails")
    with (folder / "mails.csv").open("w", newline="") as file:
        rows = [
            (f"Invoice {n // 2} is wrong." if n % 2 else f"I like lamp {n // 2}.", n % 2) for n in range(80)
        ]
        csv.writer(file).writerows(
            [("body", "folder"), *((text, ("praise", "billing")[n]) for text, n in rows)]
        )
    return tfkit.train(
        folder / "mails.csv", model="light", epochs=15, learning_rate=3e-3, run_dir=folder / "run"
    )


@pytest.fixture(scope="module")
def fitted(images, tmp_path_factory):
    """A run of tfkit.fit, whose layers nobody knows."""
    splits = tfkit.from_arrays(*images[:2], image_size=32)

    def build():
        return small_cnn(classes=3, spec=splits.spec, top=plain_top(3e-3, 100))

    return tfkit.fit(build, splits, run_dir=tmp_path_factory.mktemp("runs") / "fitted", epochs=8, verbose=0)


def quadrant(heat, corner):
    """The share of a map's mass in one of its quarters."""
    half = heat.shape[0] // 2
    down, right = corner * half
    return heat[down : down + half, right : right + half].sum() / heat.sum()


def test_grad_cam_lights_where_the_object_is(run):
    """On images of the same kind that are in no split; a quarter of the mass would be chance."""
    assert run.metrics["test/accuracy"] > 0.8
    pictures, labels, corners = composed(60, seed=1)
    found = run.explain(pictures)
    right = [one.label == f"digit {label}" for one, label in zip(found, labels, strict=True)]
    assert np.mean(right) > 0.8
    assert {one.method for one in found} == {"Grad-CAM"}
    assert all(one.heat.shape == (SIDE, SIDE) and one.heat.dtype == np.float32 for one in found)
    assert all(one.heat.min() >= 0 and one.heat.max() <= 1 for one in found)
    shares = [quadrant(one.heat, corner) for one, corner in zip(found, corners, strict=True)]
    assert np.mean(shares) > 0.4
    assert np.mean(np.array(shares) > 0.25) > 0.8


def test_other_weights_make_another_map(run):
    """Adebayo et al. 2018 (arXiv:1810.03292): what stays with random weights explains the image, not the model."""
    pictures = composed(40, seed=2)[0].astype(np.float32) / 255
    spec = stack.tf.TensorSpec([SIDE, SIDE, 3], stack.tf.float32)
    models = [small_cnn(classes=3, spec=spec, top=plain_top()) for _ in range(2)]
    models[0].set_weights([variable.numpy() for variable in run.model.variables_of_model])
    classes = models[0](pictures).numpy().argmax(axis=1)
    trained, randomised = (grad_cam(model, pictures, classes) for model in models)
    again = grad_cam(models[0], pictures, classes)
    pairs = [
        (one.ravel(), other.ravel()) for one, other in zip(trained, randomised, strict=True) if other.any()
    ]
    assert len(pairs) > 10
    assert np.array_equal(trained, again)
    assert np.mean([spearmanr(*pair).statistic for pair in pairs]) < 0.5


def test_integrated_gradients_are_complete_and_light_the_object(fitted):
    """They sum to the probability, less that of the baselines: nothing is made up, nothing lost."""
    assert fitted.metrics["test/accuracy"] > 0.5
    pictures, _, corners = composed(24, seed=3)
    found = fitted.explain(list(pictures))
    assert {one.method for one in found} == {"integrated gradients"}
    shares = [quadrant(one.heat, corner) for one, corner in zip(found, corners, strict=True)]
    assert (
        np.mean(shares) - 2 * np.std(shares) / len(shares) ** 0.5 > 0.25
    )  # above chance by two standard errors
    # Floats of one array are in one range, also those of a frame that is all but black.
    frames = np.stack([pictures[0], pictures[0] // 200]).astype(np.float32)
    expected = fitted.predict(frames)
    for one, (_, row) in zip(fitted.explain(frames), expected.iterrows(), strict=True):
        assert (one.label, one.probability) == (row["label"], pytest.approx(row["probability"], abs=1e-4))
    model = fitted.model
    square = (
        np.stack([np.asarray(Image.fromarray(picture).resize((32, 32), 2)) for picture in pictures[:3]]) / 255
    )
    square = square.astype(np.float32)
    of = model.classify(square).numpy()
    classes = of.argmax(axis=1)
    plain = model.classify(np.stack([np.zeros((32, 32, 3)), np.ones((32, 32, 3))]).astype(np.float32)).numpy()
    added = integrated_gradients(model.classify, square, classes, steps=128).sum(axis=(1, 2))
    wanted = of[np.arange(3), classes] - plain.mean(axis=0)[classes]
    np.testing.assert_allclose(added, wanted, atol=0.02)


def test_files_get_pictures_with_the_image_on_their_left(run, data, tmp_path, capsys):
    files = sorted((data / "digit 1").glob("*.png"))[:2]
    odd = [tmp_path / "=1 +$x.png", tmp_path / files[0].name]  # the second of that name
    for file in odd:
        shutil.copy(files[0], file)
    out = tmp_path / "explained"
    words = ["explain", run.path, *files, *odd, "--output", out, "--label", "digit 2"]
    assert main([*map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("digit 2 (") == 4
    assert f"written to   {out}" in printed
    rows = json.loads((out / "explanations.json").read_text())
    names = [row["picture"] for row in rows]
    assert names == [f"000-{files[0].name}", f"001-{files[1].name}", "002-_1_x.png", f"003-{files[0].name}"]
    assert {path.name for path in out.iterdir()} == {*names, "explanations.json"}
    answers = run.model(np.asarray(Image.open(files[0]))).numpy()
    assert rows[0]["probability"] == pytest.approx(answers[run.labels.index("digit 2")], abs=1e-3)
    picture = np.asarray(Image.open(out / names[0]))
    assert picture.shape == (256, 512, 3)
    assert np.array_equal(picture[::4, :256:4], np.asarray(Image.open(files[0])))
    assert not np.array_equal(picture[:, 256:], picture[:, :256])


def test_words_that_decide_weigh_most(mails, tmp_path):
    (tmp_path / "mail.txt").write_text("Invoice 7 is wrong.")
    texts = ["I like lamp 9.", "Invoice <b>12</b> is\u202e wrong.", tmp_path / "mail.txt"]
    praise, billing, of_file = mails.explain(texts, output=tmp_path / "out")
    assert (praise.label, billing.label, of_file.label) == ("praise", "billing", "billing")
    assert "".join(word for word, _ in billing.words) == texts[1]
    assert mails.explain(pd.Series(texts[:1], index=["a"]))[0].words == praise.words
    assert {word.strip() for word, _ in of_file.strongest(2)} <= {"Invoice", "wrong.", "is"}
    left_out = np.asarray(mails.model(stack.tf.constant(["7 is wrong."])))[0, mails.labels.index("billing")]
    assert of_file.words[0] == ("Invoice ", pytest.approx(of_file.probability - left_out, abs=1e-6))
    page = Parsed((tmp_path / "out" / "explanations.html").read_text())
    assert "Invoice <b>12</b> is� wrong." in page.text
    assert not {"b", "script"} & set(page.tags)
    assert len(json.loads((tmp_path / "out" / "explanations.json").read_text())) == 3
    other = mails.explain("Invoice 7 is wrong.", label="praise")[0]
    assert other.words[0][1] == pytest.approx(-of_file.words[0][1], abs=1e-5)


def test_long_texts_cost_no_more_than_300_pieces(mails):
    text = "wrong lamp " * 5000
    pieces = pieces_of(text)
    assert len(pieces) <= 300
    assert "".join(pieces) == text
    seen = []
    occlusion(lambda batch: seen.append(len(batch)) or mails.model(batch), text)
    assert sum(seen) == len(pieces) + 1


def test_a_private_run_explains_nothing_that_it_was_trained_on(run, data, tmp_path, capsys):
    """The folder of a run with a statement of privacy: files of its own data are refused, others are explained."""
    shutil.copytree(run.path, tmp_path / "private")
    (tmp_path / "private" / "privacy.json").write_text('{"private": true, "epsilon": 3.0}')
    private, own = Run.open(tmp_path / "private"), next((data / "digit 0").iterdir())
    with pytest.raises(PrivacyError, match=re.escape(own.name)):
        private.explain(own, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # Images of a table lie beside it.
    table = data.parent / "corners.csv"
    table.write_text(f"file,label\n{own.relative_to(data.parent)},a\n")
    (private.path / "config.yaml").write_text(f"data_file: {table}\n")
    with pytest.raises(PrivacyError, match=re.escape(own.name)):
        private.explain(own)
    # A copy is told by its content, where the owner's record is.
    shutil.copy(own, tmp_path / "copy.png")
    kept, record = np.array([content_digest(own)], np.uint64), "0" * 32
    np.save(files.cache_dir("private") / f"{record}.npy", kept)
    provenance = private.provenance
    provenance["data"]["record"] = record
    (private.path / "provenance.json").write_text(json.dumps(provenance))
    with pytest.raises(PrivacyError, match=r"copy\.png"):
        private.explain(tmp_path / "copy.png")
    Image.fromarray(np.asarray(Image.open(own)) // 2).save(tmp_path / "new.png")
    assert private.explain(tmp_path / "new.png")[0].heat.max() > 0
    assert "training example" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "culprit_and_fix"),
    [
        ({"data": "no.png"}, DataError, "no.png"),
        ({"data": Path(__file__)}, DataError, "test_explain.py"),
        ({"data": []}, UsageError, "0 images"),
        ({"data": [np.zeros((8, 8, 3), np.uint8)] * 201}, UsageError, "200"),
        ({"data": {"a": 1}}, DataError, "dict"),
        ({"data": Path(__file__).parent}, DataError, "takes files"),
        ({"data": 3}, DataError, "int"),
        ({"data": np.zeros((8, 8, 7), np.uint8)}, DataError, "image 0[\\s\\S]*uint8"),
        ({"data": np.full((8, 8, 3), 900.0)}, DataError, "image 0[\\s\\S]*uint8"),
        ({"data": np.zeros((8, 8, 3), np.uint8), "label": "digit1"}, ConfigError, "digit1[\\s\\S]*digit 1"),
        ({"data": np.zeros((8, 8, 3), np.uint8), "output": __file__}, UsageError, "folder"),
    ],
)
def test_what_cannot_be_explained_is_refused(run, arguments, error, culprit_and_fix):
    with pytest.raises(error, match=culprit_and_fix):
        run.explain(**arguments)


def test_a_run_of_numbers_is_refused_and_a_text_must_be_one(run, mails, tmp_path):
    shutil.copytree(run.path, tmp_path / "numbers", ignore=shutil.ignore_patterns("saved_model"))
    numbers = Run.open(tmp_path / "numbers")
    numbers.provenance = {**numbers.provenance, "data": {"shape": [12]}}
    with pytest.raises(RunError, match="permutation_importance"):
        numbers.explain("a.png")
    for text in ("  \n", tmp_path, 7, "word " * 300_000, __file__):
        with pytest.raises(DataError):
            mails.explain(text)
    assert main(["explain", str(mails.path), "nowhere.txt"]) == 2


def test_pieces_are_words_or_characters():
    assert pieces_of("  你好 world") == ["  你", "好 ", "world"]
    assert pieces_of("🙂🙂") == ["🙂🙂"]


def test_the_programs_of_the_documentation_run(run, mails, data, tmp_path, monkeypatch, capsys):
    """Those that explain; tests/inference/test_label_errors.py runs the others."""
    shutil.copytree(run.path, tmp_path / "runs" / "photos")
    shutil.copytree(mails.path, tmp_path / "runs" / "mails")
    (tmp_path / "new").mkdir()
    Image.open(next((data / "digit 2").iterdir())).save(tmp_path / "new" / "a.jpg", quality=95)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/manual/how-to/explain.md").read_text()
    programs = [one for one in re.findall(r"```python\n(.*?)```", page, re.S) if ".explain(" in one]
    assert len(programs) == 2
    for program in programs:
        exec(program, {})
    printed = capsys.readouterr().out
    assert re.search(r"Grad-CAM \(64, 64\) 1\.0", printed)
    assert "('Invoice ', " in printed
    assert (tmp_path / "explanations" / "000-a.png").is_file()
