"""Encoders of text of every kind, written here, are called rightly; every reason against one is said at once."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from tests.hub.conftest import export
from tfkit import hub
from tfkit.data import Splits
from tfkit.environment.stack import keras, tf
from tfkit.errors import CheckError, DataError, HubError, UsageError
from tfkit.hub import extract
from tfkit.hub.catalogue import known_models
from tfkit.hub.features import TextEngines
from tfkit.text.tokenizers import WordPiece

PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "##ness", "day", "!")
TEXTS = ["good day", "bad day!", "", "goodness", "日本 😀", "good " * 40]
STRINGS_OF_ONE = tf.TensorSpec((), tf.string)
STRINGS = tf.TensorSpec((None,), tf.string, name="text")


def ids_encoder(folder, *, rows=9, output="pooled_output", **options):
    """A bag of words over ids: the table is the identity as far as it goes, so that outputs can be read."""
    table = tf.Variable(np.eye(rows, 8, dtype=np.float32), name="word_embeddings")

    def call(inputs, training=False):
        vectors = tf.gather(table, inputs["input_word_ids"])
        mask = tf.cast(inputs["input_mask"], tf.float32)[..., tf.newaxis]
        types = tf.cast(inputs["input_type_ids"], tf.float32)[..., tf.newaxis]
        sums = tf.reduce_sum(vectors * mask + types, axis=1)
        others = {} if output == "pooled_output" else {"another": -sums}
        return {output: sums, "sequence_output": vectors, **others}

    names = ("input_word_ids", "input_mask", "input_type_ids")
    spec = {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in names}
    return export(folder, call, spec, variables=[table], **options)


def preprocessor(folder, *, pieces=PIECES, left_out=(), packs=False):
    tokenizer = WordPiece(vocabulary=pieces, max_length=8)
    (folder.parent / "vocab.txt").write_text("\n".join(pieces))
    held = {"vocabulary": tf.saved_model.Asset(str(folder.parent / "vocab.txt"))}

    def call(text):
        made = tokenizer.dense(text, length=8)
        return {name: value for name, value in made.items() if name not in left_out}

    if packs:

        def pack(inputs, seq_length=8):
            rows = inputs[0][:, : seq_length - 2]
            edge = tf.ones([rows.nrows(), 1], tf.int32)
            rows = tf.concat([edge * 2, rows, edge * 3], axis=1)
            words = rows.to_tensor(0, shape=[None, seq_length])
            mask = tf.ones_like(rows).to_tensor(0, shape=[None, seq_length])
            return {
                "input_word_ids": words,
                "input_mask": mask,
                "input_type_ids": tf.zeros_like(words),
            }

        held["tokenize"] = tf.Module()
        held["tokenize"].__call__ = tf.function(tokenizer.tokenize, input_signature=[STRINGS])
        held["bert_pack_inputs"] = tf.Module()
        held["bert_pack_inputs"].__call__ = tf.function(pack)
        ragged = tf.RaggedTensorSpec((None, None), tf.int32)
        for length in (8, 16):
            held["bert_pack_inputs"].__call__.get_concrete_function([ragged], length)
    return export(folder, call, STRINGS, modes=(), **held)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def ids(models):
    return ids_encoder(models / "ids")


@pytest.fixture(scope="module")
def fitting(models):
    (models / "fitting").mkdir()
    return preprocessor(models / "fitting" / "model", packs=True)


@pytest.fixture(scope="module")
def one_part(models):
    """Strings to vectors: their bytes and their characters."""
    weight = tf.Variable(tf.ones(()), name="weight")

    def call(text, training=False):
        vectors = tf.stack([tf.strings.length(text), tf.strings.length(text, unit="UTF8_CHAR")], axis=1)
        return tf.cast(vectors, tf.float32) * weight

    return export(models / "one", call, STRINGS, variables=[weight])


def problems(encoder, **asked):
    with pytest.raises(HubError) as error:
        encoder.check(**asked)
    return str(error.value)


def test_a_one_part_encoder(one_part):
    encoder = hub.load_model(one_part).check(trainable=True)
    assert (encoder.feature_size, encoder.preprocessor, encoder.max_length) == (2, None, None)
    layer = encoder.layer(trainable=True)
    assert len(layer.trainable_variables) == 1
    expected = [[len(text.encode()), len(text)] for text in TEXTS]
    np.testing.assert_array_equal(layer(tf.constant(TEXTS)), expected)
    assert encoder.functional() is encoder.tokenizer is None


def test_a_two_part_encoder(ids, fitting):
    encoder = hub.load_model(ids, preprocessor=fitting).check(trainable=True)
    assert (encoder.feature_size, encoder.max_length, encoder.interface.output_key) == (8, 8, "pooled_output")
    vectors = encoder.layer(trainable=True)(tf.constant(TEXTS)).numpy()
    # Of the columns: [PAD] [UNK] [CLS] [SEP] good bad ##ness day
    np.testing.assert_array_equal(vectors[0], [0, 0, 1, 1, 1, 0, 0, 1])
    np.testing.assert_array_equal(vectors[2], [0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(vectors[3], [0, 0, 1, 1, 1, 0, 1, 0])
    np.testing.assert_array_equal(vectors[5], [0, 0, 1, 1, 6, 0, 0, 0])  # cut at 8


def test_rows_of_another_length(ids, fitting):
    encoder = hub.load_model(ids, preprocessor=fitting, max_length=16).check()
    np.testing.assert_array_equal(encoder.layer()(tf.constant(TEXTS))[5], [0, 0, 1, 1, 14, 0, 0, 0])
    assert encoder.digest != hub.load_model(ids, preprocessor=fitting).digest


def test_a_graph_of_stock_layers_trains(ids, fitting):
    texts, features = hub.load_model(ids, preprocessor=fitting).graph(STRINGS_OF_ONE, trainable="all")
    model = keras.Model(texts, keras.layers.Dense(2, name="classifier")(features))
    assert len(model.trainable_variables) == 3
    frozen = keras.Model(*hub.load_model(ids, preprocessor=fitting).graph(STRINGS_OF_ONE))
    assert frozen.trainable_variables == []
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.1), loss, ["accuracy"])
    labels = [int("bad" in text) for text in TEXTS]
    before = model.get_weights()[0].copy()
    model.fit(tf.constant(TEXTS), tf.constant(labels), epochs=30, verbose=0)
    assert model.evaluate(tf.constant(TEXTS), tf.constant(labels), verbose=0)[1] == 1
    assert np.abs(model.get_weights()[0] - before).max() > 0.1


def test_preprocessors_that_are_none(ids, one_part, models, fitting):
    assert "preprocessor='...'" in problems(hub.load_model(ids))
    (models / "lacking").mkdir()
    lacking = preprocessor(models / "lacking" / "model", left_out=("input_type_ids",))
    for other in (one_part, ids, lacking):
        message = problems(hub.load_model(ids, preprocessor=other))
        assert str(other) in message
        assert "not one batch of strings to input_mask, input_type_ids, input_word_ids" in message
    assert "Leave out preprocessor=" in problems(hub.load_model(one_part, preprocessor=fitting))
    assert "max_length=" in problems(hub.load_model(one_part, max_length=8))


@pytest.mark.parametrize("count", [len(PIECES) + 40, len(PIECES) - 2])
def test_a_vocabulary_that_does_not_fit(ids, models, count):
    """More pieces than rows would read beyond the table; far fewer are another model's."""
    (models / str(count)).mkdir()
    pieces = (*PIECES, *(f"word{i}" for i in range(40)))[:count]
    other = preprocessor(models / str(count) / "model", pieces=pieces)
    message = problems(hub.load_model(ids, preprocessor=other))
    assert f"has {count} pieces, the encoder's embedding 9 rows" in message
    assert "max_length=16" in problems(hub.load_model(ids, preprocessor=other, max_length=16))


def test_another_output_has_another_digest(ids, fitting, monkeypatch):
    """The catalogue names the output of some: a copy of such a model in a folder gives that which its name suggests."""
    by_path = hub.load_model(ids, preprocessor=fitting)
    row = next(row for row in known_models() if row.output)
    monkeypatch.setattr(
        "tfkit.hub.encoders.find", lambda _: dataclasses.replace(row, output="sequence_output")
    )
    by_name = hub.load_model(ids, preprocessor=fitting)
    assert by_name.interface.output.name == "sequence_output" != by_path.interface.output.name
    assert by_name.digest != by_path.digest


def test_an_encoder_without_a_vector(models, fitting):
    """All that is wrong at once."""
    other = ids_encoder(models / "other", output="some", listed=False)
    folder = models / "tokens"

    def call(text):
        return tf.strings.length(text)[:, tf.newaxis, tf.newaxis]

    tokens = export(folder, call, STRINGS, modes=())
    assert "not plainly a feature vector" in problems(hub.load_model(tokens))
    message = problems(hub.load_model(other, preprocessor=fitting), trainable=True)
    assert "not plainly a feature vector" in message
    assert "0 trainable weights" in message


def test_a_model_of_images():
    message = problems(hub.load_model("efficientnet-lite0", modality="texts"))
    assert "recipes.transfer_image" in message
    with pytest.raises(HubError, match=r"recipes\.transfer_text"):
        hub.load_model("minilm-l6-v2", modality="images").check()


def test_a_bundled_model_takes_no_preprocessor(fitting):
    """It was named in the model card, and its own one used."""
    with pytest.raises(HubError, match=r"preprocessor=(?s:.*)leave it out"):
        hub.load_model("minilm-l6-v2", preprocessor=fitting)


def splits_of(texts):
    """Splits over texts in memory."""
    content = np.array([text.encode() for text in texts], object)
    source = SimpleNamespace(
        labels=np.arange(len(texts)) % 2,
        names=[f"texts/{i}" for i in range(len(texts))],
        shape=(),
        fingerprint=str(texts),
        lengths=np.array(list(map(len, texts)), np.int32),
        read=lambda indices: content[indices],
        raw=lambda index: texts[index],
    )
    every = np.arange(len(texts))
    indices = {"train": every[:-2], "validation": every[-2:-1], "test": every[-1:]}
    return Splits(
        source=source, indices=indices, class_names=("a", "b"), global_batch_size=2, seed=0, origin="texts"
    )


def rows_of(extraction):
    return extraction.splits.source.read(np.arange(len(extraction.splits.source.labels)))


@pytest.fixture(scope="module")
def hard_texts():
    """Texts, and what MiniLM's layer gives for them."""
    texts = [*TEXTS, "How do I cancel?", "x" * 5000, "word " * 127, "word " * 126, "a\n" * 3000, "é" * 3000]
    return texts, hub.load_model("minilm-l6-v2").layer()(tf.constant(texts)).numpy()


@pytest.mark.parametrize("engine", ["auto", "tensorflow"])
def test_features_of_texts_are_the_encoders(hard_texts, engine):
    """In the order of the source, whatever the lengths, and those that are cut are counted."""
    encoder, (texts, expected) = hub.load_model("minilm-l6-v2"), hard_texts
    extraction = extract(encoder, splits_of(texts), engine=engine)
    assert extraction.engine == ("litert" if engine == "auto" else "tensorflow")
    np.testing.assert_allclose(rows_of(extraction), expected, atol=1e-4)
    assert extraction.cut == 2
    assert "Texts longer than a window: 2 (16.7%), cut off." in extraction.summary
    again = extract(encoder, splits_of(texts), engine=engine)
    assert again.reused
    assert again.cut == 2
    assert extraction.splits.source.raw(6) == "How do I cancel?"


def test_the_beginning_of_a_text_may_end_within_a_character():
    """As Python cuts the questions of a search."""
    encoder = hub.load_model("minilm-l6-v2")
    engines = TextEngines(encoder)
    engines.in_python = True
    texts = np.array([text.encode() for text in ("é" * 3000, "a" + "é" * 3000)], object)
    first, last, _ = encoder.tokenizer.edges
    assert [[*row] for row in engines._make_rows(texts, encoder.tokenizer)] == [
        [first, encoder.tokenizer.unknown, last]
    ] * 2


def test_features_of_an_encoder_that_is_not_bundled(ids, fitting):
    encoder = hub.load_model(ids, preprocessor=fitting)
    extraction = extract(encoder, splits_of(TEXTS))
    assert extraction.engine == "tensorflow"
    assert "tokenizer" in extraction.reason
    np.testing.assert_array_equal(rows_of(extraction), encoder.layer()(tf.constant(TEXTS)))
    assert extraction.cut == 1
    with pytest.raises(CheckError, match="tokenizer"):
        extract(encoder, splits_of(TEXTS), engine="litert")


def test_an_engine_that_there_is_not(one_part):
    with pytest.raises(UsageError, match="tensorfow"):
        hub.embed(hub.load_model(one_part), ["a text"], engine="tensorfow")


def test_each_model_to_its_own_examples(ids, fitting):
    with pytest.raises(DataError, match="load_images"):
        extract(hub.load_model("efficientnet-lite0"), splits_of(TEXTS))
    images = splits_of(TEXTS)
    images.source.shape = (8, 8, 3)
    with pytest.raises(DataError, match="load_texts"):
        extract(hub.load_model(ids, preprocessor=fitting), images)
