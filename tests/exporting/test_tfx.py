"""What `export RUN tfx` writes trains in an environment of TensorFlow Transform, and gives what Keras does."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tfkit
from tests.data.pictures import picture
from tests.data.test_records import example, write_records
from tests.exporting.test_serving import PATIENCE, build_model, environment
from tfkit.__main__ import main
from tfkit.environment.stack import tf, tf_hub
from tfkit.errors import ConfigError

TRIAL = Path(__file__).with_name("tfx_trial.py")
DOCS = (Path(__file__).parents[2] / "docs/manual/how-to/tfx.md").read_text()
WORDS = {"invoice": ["parcel", "order", "refund"], "account": ["password", "login", "user"]}


def finished(splits, folder, **options):
    run = tfkit.fit(build_model, splits, run_dir=folder, verbose=0, **options)
    tfkit.report(run)
    return run


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """Of three digits."""
    folder = tmp_path_factory.mktemp("tfx") / "runs/Three digits"
    return finished(tfkit.load_images(photos, image_size=24), folder, epochs=5)


@pytest.fixture(scope="module")
def exported(run):
    assert main(["export", str(run.path), "tfx"]) == 0
    return run.path / "tfx"


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory):
    """The folder of records/, two shards of texts, and of the run that the program of the page makes of them."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [(f"where is my {words[i % 3]} {i}", name) for i in range(40) for name, words in WORDS.items()]
    for shard in range(2):
        records = (example(body=text, folder=name) for text, name in rows[40 * shard :][:40])
        write_records(folder / f"records/part-{shard:05}-of-00002", records)
    program, expected = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", DOCS, flags=re.DOTALL).groups()
    said = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(said):
        exec(program, {})
    assert said.getvalue().endswith(expected)
    return folder


def test_the_folder_holds_what_the_page_says_and_its_model_reads_files_as_training_did(
    run, exported, photos, tmp_path
):
    promised = set(re.findall(r"^\| `([\w.]+)/?` \|", DOCS, flags=re.MULTILINE))
    assert promised | {"export.json"} == {path.name for path in exported.iterdir()}
    paths = sorted(photos.glob("*/*.png"))[::10]
    for number, quality in enumerate((30, 75, 95)):  # small JPEGs, which training decodes whole
        paths.append(tmp_path / f"{number}.jpg")
        pixels = np.random.default_rng(number).integers(0, 256, (40, 30 + number, 3), np.uint8)
        Image.fromarray(pixels).save(paths[-1], quality=quality)
    layer = tf_hub.KerasLayer(str(exported / "model"), trainable=True)
    given = layer(tf.constant([path.read_bytes() for path in paths])).numpy()
    model = run.model
    expected = [model(tfkit.read_image(path)).numpy() for path in paths]
    np.testing.assert_allclose(given, expected, atol=1e-6)
    for kind in ("BMP", "GIF"):
        content = io.BytesIO()
        Image.open(paths[0]).save(content, kind)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"neither JPEG nor PNG.*save it as PNG"):
            layer(tf.constant([content.getvalue()]))
    assert len(layer.trainable_weights) == 2
    compile((exported / "pipeline.py").read_text(), "pipeline.py", "exec")
    assert 'NAME = "three-digits"' in (exported / "pipeline.py").read_text()
    assert main(["export", str(run.path), "tfx"]) == 0  # which it replaces


def loss(probabilities, truth):
    rows = np.asarray(probabilities)
    return -np.log(rows[np.arange(len(truth)), truth]).mean()


@pytest.mark.slow
def test_the_trainer_trains_on_transformed_examples_and_what_it_exports_is_the_keras_model(
    run, exported, of_texts, photos, tmp_path
):
    of_mails = of_texts / "runs/mails/tfx"
    needs = (of_mails / "requirements.txt").read_text()  # those of images, and tensorflow-text
    without_tfx = re.sub("^tfx==(.*)$", r"tensorflow-transform==\1\ntfx-bsl==\1", needs, flags=re.MULTILINE)
    (tmp_path / "requirements.txt").write_text(without_tfx)
    paths = sorted(photos.glob("*/*.png"), key=lambda path: path.name)
    records = (example(image=path.read_bytes(), label=path.parent.name) for path in paths)
    pictures = write_records(tmp_path / "photos.tfrecord", records)
    words = [environment(tmp_path / "requirements.txt", tmp_path / "env"), TRIAL]
    shard = of_texts / "records/part-00000-of-00002"
    for name, export, source in (("photos", exported, pictures), ("mails", of_mails, shard)):
        (tmp_path / name).mkdir()
        words += [export, source, tmp_path / name]
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr[-3000:]
    of_photos, of_mails = map(json.loads, [line for line in done.stdout.splitlines() if line.startswith("{")])

    truth = [run.labels.index(path.parent.name) for path in paths[:40]]
    assert of_photos["features"] == ["image", "label"]
    assert of_photos["labels"] == truth
    assert of_photos["difference"] < 1e-6
    assert loss(of_photos["probabilities"], truth) < 0.9 * loss(run.predict(paths[:40])[run.labels], truth)

    assert of_mails["features"] == ["body", "folder"]
    assert of_mails["labels"] == [1, 0] * 20  # account, invoice
    assert of_mails["difference"] < 1e-6
    before = tfkit.Run.open(of_texts / "runs/mails").predict(shard)  # whose true classes are known
    assert [*before["truth"]] == ["invoice", "account"] * 20
    assert loss(of_mails["probabilities"], [1, 0] * 20) < loss(before[["account", "invoice"]], [1, 0] * 20)
    # Back again: what Transform wrote is data of tfkit's, its labels the places of the classes.
    splits = tfkit.load_texts(tmp_path / "mails/graph")
    assert len(splits.source.labels) == 40
    assert splits.class_names == ("0", "1")
    assert "not run" in " ".join(splits.notes)


def test_what_a_pipeline_would_not_train_rightly_is_refused(photos, tmp_path):
    splits = tfkit.load_images(photos, image_size=24)
    privacy = tfkit.DPSGD(noise_multiplier=1.0)
    private = finished(splits, tmp_path / "private", epochs=1, privacy=privacy)
    with pytest.raises(ConfigError, match=r"differential privacy(.|\n)*serving"):
        tfkit.export(private, "tfx")
    assert not (private.path / "tfx").exists()
    for label in "abc":
        (tmp_path / f"deep/{label}").mkdir(parents=True)
        for number in range(4):
            picture("16", tmp_path / f"deep/{label}/{number}.png", highest=4095 - 9 * number)
    splits = tfkit.load_images(tmp_path / "deep", image_size=24)
    deep = finished(splits, tmp_path / "runs/deep", epochs=1)
    with pytest.raises(ConfigError, match="16 bits"):
        tfkit.export(deep, "tfx")
