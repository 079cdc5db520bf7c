"""The tokenizers beside each other: rows as a model takes them, and what TFLite makes of them."""

from __future__ import annotations

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.hub.bundled import MODELS
from tfkit.litert import ParallelInterpreter
from tfkit.text.layers import MaskedMean, Tokens, on_device
from tfkit.text.tokenizers import WordPiece, check

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def of_pieces():
    return WordPiece(
        vocabulary=(*BERT, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "cat"), max_length=10
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["words", "sentences"])
def test_tflite_cuts_as_it_does(of_pieces, hard, tmp_path, kind):
    tokenizer = of_pieces if kind == "words" else MODELS["multilingual"].tokenizer(max_length=10)
    texts = keras.Input([], dtype=tf.string, name="texts")
    tokens = Tokens(tokenizer)(texts)
    vectors = keras.layers.Embedding(tokenizer.size, 4)(tokens["input_word_ids"])
    model = keras.Model(texts, keras.layers.Dense(3)(MaskedMean()(vectors, mask=tokens["input_mask"])))
    given = [b"the cat sat", b"the", b"cats", *hard]
    expected = tf.nn.softmax(model(tf.constant(given)))
    module = tf.Module()
    module.kept, module.device = model.variables, on_device(model)
    tf.saved_model.save(module, str(tmp_path), signatures={"device": module.device})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["device"])
    converter.allow_custom_ops = True
    content = converter.convert()
    with ParallelInterpreter(content) as interpreter:
        np.testing.assert_allclose(interpreter(np.array(given, object)), expected, atol=1e-6)


def test_what_is_kept_folded_and_lost(of_pieces):
    table = check(of_pieces)
    assert table.outcome["upper case"] == table.outcome["accents"] == "folded"
    assert table.back["upper case"] == "the cat"
    assert (
        table.outcome["plain words"] == table.outcome["an unknown word"] == "kept"
    )  # all letters are pieces
    assert {"CJK", "Arabic", "emoji"} <= set(table[table.outcome == "lost"].index)
    assert "upper case" in str(table)


def test_a_tokenizer_that_keeps_case(of_pieces):
    cased = WordPiece(vocabulary=(*of_pieces.vocabulary, "T", "C", "A", "##A", "##T"), lower_case=False)
    table = check(cased)
    assert (table.back["upper case"], table.outcome["upper case"]) == ("The CAT", "kept")


def test_python_cuts_as_the_graph_does(english, hard):
    """All but what control characters do to a word: an index with such texts asks TensorFlow."""
    tokenizer = MODELS["minilm-l6-v2"].tokenizer(max_length=128)
    texts = [*english[0], *(text.decode("utf-8", "replace") for text in hard if b"\0" not in text)]
    rows = tokenizer.tokenize(texts).to_list()
    assert [text for text, row in zip(texts, rows, strict=True) if tokenizer.split(text) != row] == []
