"""A classifier of strings as .tflite: the tokenizer inside, exact ids, every variant measured."""

from __future__ import annotations

import dataclasses
import runpy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests.text.conftest import HARD, docstrings
from tfkit.calibration import with_temperature
from tfkit.compression import Gates, Table, Variant, compare, inspect, representative, results
from tfkit.compression.compare import ModelUnderTest, compare_outputs
from tfkit.compression.compress import check_allowed, convert_and_choose
from tfkit.compression.results import DEVICE, FOLDER, IDS_MODEL, README, of_run, write_ids_variant
from tfkit.compression.variants import Choice
from tfkit.data import Splits
from tfkit.environment.stack import tf
from tfkit.errors import RunError, UsageError
from tfkit.metrics import Evaluation
from tfkit.reporting.examples import load, save
from tfkit.run import EVALUATION, SAVED_MODEL, TFLITE, VARIANTS, Run
from tfkit.settings.jobs import CompressConfig
from tfkit.text.tokenizers import WordPiece, build_vocabulary
from tfkit.training import export
from tfkit.transfer.models import light, plain_top

TEMPERATURE = 1.7  # of the exported model


@dataclass(frozen=True)
class Texts:
    """A source of texts."""

    texts: np.ndarray
    labels: np.ndarray
    shape: tuple[int, ...] = ()
    fingerprint: str = "docstrings"

    @property
    def names(self):
        return [f"text/{place}" for place in range(len(self.texts))]

    def read(self, indices):
        return self.texts[indices]

    def raw(self, index):
        return self.texts[index].decode("utf-8", errors="replace")


@pytest.fixture(scope="module")
def splits():
    """Docstrings of three modules, and the strings at which tokenizers break."""
    import numpy
    import pandas
    import scipy.stats

    texts, labels = docstrings(numpy, scipy.stats, pandas.DataFrame)
    order = np.random.default_rng(0).permutation(len(texts))
    texts = np.array([*(texts[place].encode() for place in order), *HARD], dtype=object)
    source = Texts(texts=texts, labels=np.array([*labels[order], *[0] * len(HARD)], np.int64))
    train = len(texts) - 500
    return Splits(
        source=source,
        indices={
            "train": np.arange(train), "validation": np.arange(50), "test": np.arange(train, len(source.texts)),
        },
        class_names=("numpy", "scipy", "pandas"), global_batch_size=32, seed=0, origin="docstrings",
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(splits):
    x, y = splits.source.texts[:-500], splits.source.labels[:-500]
    tokenizer = WordPiece(vocabulary=build_vocabulary([text[:500] for text in x], size=1500), max_length=96)
    model = light(tokenizer, 3, plain_top(1e-2, 10 * (len(x) // 32 + 1)), dimension=32)
    model.fit(tf.data.Dataset.from_tensor_slices((x, y)).batch(32), epochs=10, verbose=0)
    return model


@pytest.fixture(scope="module")
def run(splits, model, tmp_path_factory):
    """A finished run, as recipes.transfer_text leaves one."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "texts", config={})
    test = splits.indices["test"]
    logits = np.concatenate(
        [model(tf.constant(part)) for part in np.array_split(splits.source.read(test), 50)]
    )
    measured = Evaluation(
        labels=splits.source.labels[test], probabilities=tf.nn.softmax(logits).numpy(),
        names=[splits.source.names[place] for place in test], class_names=splits.class_names,
    )  # fmt: skip
    warmer = with_temperature(measured.probabilities, TEMPERATURE)
    measured = dataclasses.replace(measured, probabilities=warmer)
    export.save(model, run, splits, evaluation=measured, temperature=TEMPERATURE)
    save(run.path / EVALUATION, measured)
    return run


@pytest.fixture(scope="module")
def compressed(run, splits):
    config = CompressConfig(
        from_run=run.path,
        variants=("float32", "dynamic", "int8", "int16x8", "weights8"),
        max_accuracy_drop=0.02,
    )
    with of_run(run, splits, examples=representative.from_splits(splits)) as subject:
        convert_and_choose(run, subject, config)
    return run


@pytest.mark.slow
def test_each_of_500_strings_gets_the_class_that_keras_gives(compressed, splits):
    content = compressed.read(VARIANTS)
    found = {one["name"]: one for one in content["variants"]}
    assert content["examples"] == 500
    assert found["float32"]["agreement"] == 1.0
    assert found["float32"]["max_difference"] < 1e-5
    assert found["dynamic"]["agreement"] > 0.98
    assert found["dynamic"]["size_bytes"] < 0.9 * found["float32"]["size_bytes"] < 900_000
    assert found["int8"]["macs"] == {"int8": 1.0}
    assert set(found["float32"]["needs"]) == {"FastBertNormalize", "FastWordpieceTokenizeWithOffsets"}
    failed = {one["name"]: one["reason"] for one in content["failed"]}
    assert failed.keys() == {"int16x8", "weights8"}
    assert found["float32"]["latency_ms"]["1"]["p50"] > 0


@pytest.mark.slow
def test_infer_runs_it_in_a_process_of_its_own(compressed, splits, tmp_path):
    folder = compressed.path / TFLITE
    text = splits.source.raw(int(splits.indices["test"][0]))
    done = subprocess.run(
        [sys.executable, folder / "infer.py", "-"], input=text.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    measured, _ = load(compressed.path / EVALUATION)
    expected = splits.class_names[int(measured.probabilities[0].argmax())]
    assert done.stdout.decode().split()[1] == expected
    (tmp_path / "mails").mkdir()
    (tmp_path / "mails" / "a.txt").write_text(text)
    (tmp_path / "mails" / "b.md").write_text("")
    (tmp_path / "mails" / "c.txt").write_bytes(b"\xff\xfe\x00")
    words = [sys.executable, folder / "infer.py", "--files", tmp_path / "mails"]
    many = subprocess.run(words, capture_output=True, text=True, check=False)
    rows = [line.split("\t") for line in many.stdout.splitlines()]
    assert [Path(name).name for name, _, _ in rows] == ["a.txt", "b.md"]
    assert rows[0][1:] == [expected, done.stdout.decode().split()[0]]
    assert many.returncode == 1
    assert "c.txt cannot be read as a text" in many.stderr
    assert (folder / "vocab.txt").read_text().startswith("[PAD]\n[UNK]\n")


@pytest.mark.slow
def test_a_strangers_one_number_of_a_text_has_no_label(compressed, splits, tmp_path, monkeypatch, capsys):
    """A sigmoid's number is of yes, and stood beside the name of no; other answers than the original's have words."""
    run, texts = Run.create(tmp_path / "run", config={}), splits.source.read(np.arange(4))
    said = []
    monkeypatch.setattr(results, "write_texts", lambda *_, captions: said.extend(captions))
    facts = {
        "name": "float32",
        "quantization": "float32",
        "size_bytes": 1,
        "gzipped_bytes": 1,
        "agreement": 0.0,
    }
    variant = Variant(**facts, max_difference=1.0)
    content = (compressed.path / TFLITE / "float32.tflite").read_bytes()
    table = Table(variants=(variant,), models={"float32": content}, failed={}, examples=4)
    zeros, classes = np.zeros((4, 1), np.float32), np.eye(2, dtype=np.float32)
    for output, expected, outputs, caption in (
        ("sigmoid", zeros, zeros + 1, "no → yes"),
        ("logits", classes[[0] * 4], classes[[1] * 4], "no → yes"),
        ("values", zeros[:, 0], zeros[:, 0] + 1, "0 → 1"),
    ):
        names = ("no", "yes")
        said.clear()
        tested = ModelUnderTest(
            source=SimpleNamespace(op_counts={}), read=lambda places: texts[places], count=4, expected=expected,
            output=output, labels=None, class_names=names, takes="texts",
        )  # fmt: skip
        compared = {"float32": compare_outputs(outputs, expected, output=output, class_names=names)}
        chosen = {"choice": Choice(variant, ""), "gates": Gates(), "show_examples": True}
        results.write_results(run, tested, table, compared, **chosen)
        assert said == [caption] * 4
    monkeypatch.setattr(sys, "argv", ["infer.py", texts[0].decode()])
    with pytest.raises(SystemExit):
        runpy.run_path(str(run.path / TFLITE / "infer.py"), run_name="__main__")
    numbers = capsys.readouterr().out.split("\t")
    assert sum(map(float, numbers)) == pytest.approx(
        1, abs=1e-4
    )  # the file's three probabilities, and no label


@pytest.mark.slow
def test_the_variant_of_ids_needs_no_operations_of_others_and_says_the_same(compressed):
    folder = compressed.path / TFLITE / FOLDER
    census = inspect((folder / IDS_MODEL).read_bytes())
    assert census.custom_ops == census.flex_ops == ()
    assert {one.name.removeprefix("serving_default_").removesuffix(":0") for one in census.inputs} == {
        "input_mask", "input_word_ids",
    }  # fmt: skip
    assert any("agreement 1.000" in note and "takes ids" in note for note in compressed.notes)
    assert "int32 [1, 96]" in (folder / README).read_text()


@pytest.mark.slow
def test_a_saved_model_of_texts_is_compared_as_it_is(run, splits):
    """Its time and memory are those of a text of median length, by operations of tensorflow-text."""
    texts = [splits.source.raw(place) for place in range(20)]
    table = compare(
        run.path / SAVED_MODEL, signature=DEVICE, inputs=np.array(texts), variants=("float32",), threads=(1,)
    )
    assert table["float32"].agreement == 1
    assert table["float32"].peak_memory_bytes > 0


@pytest.mark.slow
def test_of_many_classes_the_next_one_is_another_one(splits, tmp_path):
    """Class 120 is no 121, though the numbers differ by less than a hundredth."""
    texts, names = splits.source.texts[:40], tuple(map(str, range(150)))
    source = Texts(texts=texts, labels=np.arange(40))
    indices = dict.fromkeys(("train", "validation", "test"), np.arange(40))
    few = dataclasses.replace(splits, source=source, indices=indices, class_names=names)
    tokenizer = WordPiece(vocabulary=build_vocabulary(list(texts), size=300), max_length=16)
    model, run = (
        light(tokenizer, 150, plain_top(1e-2, 10), dimension=8),
        Run.create(tmp_path / "run", config={}),
    )
    model.layers[-1].bias.assign(np.arange(150) >= 100)  # it gives no class below that
    measured = Evaluation(
        labels=source.labels, probabilities=tf.nn.softmax(model(tf.constant(texts))).numpy(), names=source.names,
        class_names=names,
    )  # fmt: skip
    export.save(model, run, few, evaluation=measured, temperature=1.0)
    save(run.path / EVALUATION, measured)
    with of_run(run, few, examples=None) as subject:
        other = dataclasses.replace(subject, expected=np.roll(subject.expected, 1, axis=1))
        phone = Run.create(tmp_path / "phone", config={})  # another folder than that of the model
        notes = [write_ids_variant(phone, one, quantization="float32") for one in (subject, other)]
    written = [phone.path / TFLITE / FOLDER / name for name in (IDS_MODEL, "vocab.txt", "../vocab.txt")]
    assert all(path.is_file() for path in written)
    assert ["agreement 1.000" in note for note in notes] == [True, False]
    assert "agreement 0.0" in notes[1]


@pytest.mark.slow
def test_a_process_that_never_heard_of_texts_opens_the_saved_model(run):
    """The SavedModel's operations come with tensorflow-text, which `convert` brings."""
    script = (
        "import sys; from tfkit.compression.sources import saved\n"
        "with saved(sys.argv[1], signature='device') as source: print(*source.inputs)"
    )
    folder = run.path / SAVED_MODEL
    done = subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["texts"]


def test_the_signatures_of_devices_have_the_temperature(run, splits):
    loaded, (measured, _) = run.model, load(run.path / EVALUATION)
    vocabulary = (run.path / SAVED_MODEL / "assets" / "vocab.txt").read_text().split("\n")[:-1]
    tokenizer = WordPiece(vocabulary=tuple(vocabulary), max_length=96)
    for place, index in enumerate(splits.indices["test"][:5]):
        text = splits.source.read(np.array([index]))
        ids = tokenizer.dense(text, length=96)
        fed = {name: ids[name] for name in loaded.signatures["device_ids"].structured_input_signature[1]}
        for given in (
            loaded.signatures["device"](texts=tf.constant(text)),
            loaded.signatures["device_ids"](**fed),
        ):
            np.testing.assert_allclose(given["probabilities"][0], measured.probabilities[place], atol=1e-5)


class Foreign(tf.Module):
    """A run's model whose texts are cut by operations of its own."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return tf.zeros([1, 3]) + tf.cast(tf.strings.length(texts), tf.float32)[:, None]

    classify = __call__


def test_a_run_whose_tokenizer_tflite_lacks(run, splits, tmp_path):
    foreign = Foreign()
    shutil.copytree(run.path, tmp_path / "foreign", ignore=shutil.ignore_patterns(SAVED_MODEL))
    tf.saved_model.save(foreign, str(tmp_path / "foreign" / SAVED_MODEL), signatures=foreign.classify)
    opened = of_run(Run.open(tmp_path / "foreign"), splits, examples=None)
    with pytest.raises(RunError, match="no signature 'device'"), opened:
        pass


def test_techniques_are_refused_before_anything_is_trained(run):
    with pytest.raises(UsageError, match="is for models of images"):
        check_allowed(
            run, CompressConfig(from_run=run.path, techniques=("prune",)), private=False, of_texts=True
        )
