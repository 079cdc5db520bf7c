"""Whole documents, in windows inside of the exported graph, and word pieces that are counted beside the encoder."""

from __future__ import annotations

import dataclasses
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tfkit
from recipes import train_private, transfer_text
from tests.text.conftest import HARD, docstrings
from tfkit import hub
from tfkit.data import load_texts
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, HubError
from tfkit.litert import ParallelInterpreter
from tfkit.metrics import evaluation
from tfkit.run import Run
from tfkit.text.layers import AT_A_TIME, CountedPieces, Windows, pair_numbers, window_sizes
from tfkit.text.tokenizers import MASK, WORDS
from tfkit.transfer.train import load
from tfkit.transfer.words import fit_words

DOCS = Path(__file__).parents[2] / "docs/manual/how-to/long_documents.md"


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    """96 docstrings of numpy and of scipy.stats, 300 to 900 characters of each."""
    import numpy
    import scipy.stats

    texts, labels = docstrings(numpy, scipy.stats)
    rows = pd.DataFrame({"text": texts, "label": np.array(["numpy", "stats"])[labels]})
    rows.text = rows.text.str[:900]
    rows = rows[rows.text.str.len() >= 300].drop_duplicates("text").groupby("label").head(24)
    path = tmp_path_factory.mktemp("documents") / "documents.csv"
    rows.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(documents):
    """What the program of docs/manual/how-to/long_documents.md makes."""
    (program,) = re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), flags=re.DOTALL | re.MULTILINE)
    (documents.parent / "program.py").write_text(program)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(documents.parent)
        runpy.run_path("program.py")
    return Run.open(documents.parent / "runs/documents")


@pytest.fixture(scope="module")
def exported(run):
    """Its model, loaded once: two seconds each time."""
    return run.model


def test_windows_hold_all_pieces_and_none_is_empty():
    for room in (1, 2, 10, 126):
        lengths = np.arange(1, 3000)
        counts, sizes = (of.numpy() for of in window_sizes(lengths, room=room))
        last = lengths - (counts - 1) * sizes
        assert sizes.max() <= room
        assert last.min() >= 1
        assert (last <= sizes).all()
        assert (counts == -(-lengths // room)).all()


def test_memory_does_not_grow_with_a_document():
    """A network that says how many rows it was given together."""
    tokenizer = hub.load_model("minilm-l6-v2", max_length=16).tokenizer
    ids = {name: keras.Input([None], dtype=tf.int32, name=name) for name in (WORDS, MASK)}
    together = keras.layers.Lambda(
        lambda rows: tf.ones([tf.shape(rows)[0], 1]) * tf.cast(tf.shape(rows)[0], tf.float32)
    )(ids[WORDS])
    layer = Windows(tokenizer, keras.Model(ids, together))
    assert layer(tf.constant(["word " * 700])).numpy()[0, 1] == AT_A_TIME


def test_the_layer_computes_what_was_stored(documents):
    encoder = hub.load_model("minilm-l6-v2").with_windows()
    splits = load_texts(documents)
    extraction = hub.extract(encoder, splits)
    assert extraction.windows > 1.3 * len(splits.source.labels)
    assert encoder.feature_size == 2 * 384
    texts, features = encoder.graph(splits.spec)
    of_layer = keras.Model(texts, features).predict(tf.constant(splits.source.read(np.arange(12))), verbose=0)
    np.testing.assert_allclose(of_layer, extraction.splits.source.read(np.arange(12)), atol=1e-5)
    assert np.abs(of_layer[:, :384] - of_layer[:, 384:]).max() > 0.01  # the mean is not the maximum


@pytest.mark.slow
def test_a_run_reads_whole_documents_and_says_so(run):
    # By the table: neither recipe nor model is named.
    assert run.provenance["recipe"]["name"] == "transfer_text"
    assert list(run.labels) == ["numpy", "stats"]
    assert run.config["model_handle"] == "minilm-l6-v2"
    assert (run.config["windows"], run.config["words"], run.config["fine_tune_epochs"]) == ("all", "yes", 0)
    assert run.provenance["model"]["pooling"] == "mean and maximum of windows"
    assert run.metrics["data/cut_share"] == 0
    assert run.metrics["export/agreement"] == 1
    assert run.metrics["export/max_difference"] < 1e-4
    notes = (run.path / "notes.txt").read_text()
    assert re.search(r"longer than 126: all is read, in \d{2,} windows", notes)
    assert "Words are counted beside the encoder (--words no" in notes


@pytest.mark.slow
def test_the_end_of_a_document_counts(exported):
    beginning = "The invoice is wrong. " * 40
    ends = [
        beginning + "Draw samples from a distribution of random variates.",
        beginning + "Array axis shape dtype.",
    ]
    with_words = exported(tf.constant([beginning, *ends])).numpy()
    assert np.abs(with_words[1] - with_words[2]).max() > 1e-3
    np.testing.assert_allclose(exported(tf.constant(ends[0])), with_words[1], atol=1e-5)


@pytest.mark.slow
def test_a_device_gets_the_same_of_any_text(exported, documents):
    texts = [text for text in HARD if len(text) < 10_000] + [*load_texts(documents).source.read(np.arange(5))]
    many = exported(tf.constant(texts)).numpy()
    for text, expected in zip(texts, many, strict=True):
        on_device = exported.signatures["device"](texts=tf.constant([text]))["probabilities"].numpy()[0]
        np.testing.assert_allclose(on_device, expected, atol=1e-5)
    assert "device_ids" not in exported.signatures  # a row of ids is no document


@pytest.mark.slow
def test_it_is_compressed_with_windows_and_words(run, exported, documents):
    tfkit.compress(run, variants=["float32", "dynamic"])
    assert run.metrics["lite/float32/agreement"] == 1
    assert run.metrics["lite/dynamic/agreement"] > 0.7
    text = load_texts(documents).source.read(np.array([0]))
    with ParallelInterpreter((run.path / "tflite/float32.tflite").read_bytes()) as interpreter:
        given = interpreter(text)
    np.testing.assert_allclose(given[0], exported(tf.constant(text)).numpy()[0], atol=1e-4)


@pytest.mark.parametrize("pairs", [False, True])
def test_counted_pieces_are_scikit_learns_tf_idf(documents, pairs):
    from sklearn.feature_extraction.text import TfidfVectorizer

    tokenizer, source = hub.load_model("minilm-l6-v2").tokenizer, load_texts(documents).source
    texts, size = source.read(np.arange(20)), tokenizer.size
    rows = [tokenizer.tokenize([text]).flat_values.numpy() for text in texts]
    terms = [[*row, *(size + pair_numbers(row))] if pairs else [*row] for row in rows]
    numbers = sorted({int(number) for row in terms for number in row})
    words = TfidfVectorizer(analyzer=lambda row: row, lowercase=False, vocabulary=numbers, sublinear_tf=True)
    weighed = words.fit_transform(terms)
    kernel = np.random.default_rng(0).normal(size=(size + 2**17 * pairs, 3))
    idf = np.zeros(len(kernel))
    idf[numbers] = words.idf_
    layer = CountedPieces(tokenizer, idf=idf, kernel=kernel, bias=[0.0, 1.0, 2.0], pairs=pairs)
    np.testing.assert_allclose(layer(tf.constant(texts)), weighed @ kernel[numbers] + [0, 1, 2], atol=1e-4)


def test_words_help_where_the_encoder_knows_nothing_and_not_where_it_knows_all(documents):
    splits = load_texts(documents)
    tokenizer = hub.load_model("minilm-l6-v2").tokenizer
    truth = [np.eye(2)[splits.source.labels[splits.indices[split]]] for split in ("validation", "test")]

    def fitted(sure):
        measured = [
            evaluation(np.float32(sure * one + (1 - sure) / 2), splits, split=split)
            for one, split in zip(truth, ("validation", "test"), strict=True)
        ]
        return fit_words(splits, tokenizer, measured)

    ignorant, knowing = fitted(0.0), fitted(0.999)
    assert (ignorant.helps, knowing.helps) == (True, False)
    assert ignorant.losses[1] < ignorant.losses[0] == pytest.approx(np.log(2), abs=1e-4)
    assert (ignorant.probabilities[1].argmax(1) == truth[1].argmax(1)).mean() > 0.6


@pytest.mark.slow
def test_a_private_run_reads_what_it_is_told_to(documents, tmp_path):
    settings = {
        "data_file": documents,
        "epochs": 2,
        "target_epsilon": 8.0,
        "delta": 1e-2,
    }
    config = train_private.Config(run_dir=tmp_path / "private", windows="all", **settings)
    private = train_private.run(config)
    assert (private.config["windows"], private.config["words"]) == ("all", "no")
    assert private.metrics["export/max_difference"] < 1e-4
    assert not {"data/cut_share", "data/median_tokens", "time/words_seconds"} & set(private.metrics)
    left_open, _ = load(dataclasses.replace(config, windows="auto"), global_batch_size=32)
    assert not left_open.windows


@pytest.mark.parametrize(
    ("config", "settings", "culprit_and_fix"),
    [
        (transfer_text.Config, {"model_handle": "light"}, "windows[\\s\\S]*--max-length"),
        (transfer_text.Config, {"fine_tune_epochs": 1}, "windows[\\s\\S]*fine-tune-epochs"),
        (transfer_text.Config, {"features": False}, "windows[\\s\\S]*no-features"),
        (train_private.Config, {"features": False}, "windows[\\s\\S]*no-features"),
        (train_private.Config, {"windows": "auto", "words": "yes"}, "words[\\s\\S]*Leave it out"),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_data_are_read(config, settings, culprit_and_fix):
    with pytest.raises(ConfigError, match=culprit_and_fix):
        config(data_file=Path(__file__), **{"windows": "all", **settings})


def test_an_encoder_whose_tokenizer_is_not_at_hand_cuts_no_document():
    encoder = hub.load_model("minilm-l6-v2")
    other = dataclasses.replace(encoder, handle="a-model-of-strings")
    with pytest.raises(HubError, match=r"a-model-of-strings[\s\S]*minilm-l6-v2[\s\S]*--windows first"):
        other.with_windows()
