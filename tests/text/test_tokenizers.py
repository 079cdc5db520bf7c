"""The tokenizers beside each other: rows as a model takes them, and what TFLite makes of them."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.errors import DataError
from tfkit.litert import ParallelInterpreter
from tfkit.text.layers import MaskedMean, Tokens, on_device
from tfkit.text.tokenizers import SentencePiece, WordPiece, check

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def field(number, wire, content):
    """Of a protocol buffer."""
    return bytes([number << 3 | wire]) + content


def sentence_pieces(path, pieces):
    """A unigram model without normalisation: (piece, score, type), type 1 a normal one, 2 the unknown, 3 a control."""
    model = b""
    for piece, score, kind in pieces:
        word = piece.encode()
        content = (
            field(1, 2, bytes([len(word)]) + word)
            + field(2, 5, struct.pack("<f", score))
            + field(3, 0, bytes([kind]))
        )
        model += field(1, 2, bytes([len(content)]) + content)
    trainer = field(3, 0, b"\x01")
    normalizer = (
        field(1, 2, b"\x08identity") + field(3, 0, b"\x01") + field(4, 0, b"\x01") + field(5, 0, b"\x01")
    )
    model += field(2, 2, bytes([len(trainer)]) + trainer) + field(3, 2, bytes([len(normalizer)]) + normalizer)
    path.write_bytes(model)
    return path


@pytest.fixture(scope="module")
def of_sentences(tmp_path_factory):
    words = [
        ("▁the", -2.0, 1),
        ("▁cat", -3.0, 1),
        ("s", -4.0, 1),
        ("▁sat", -3.5, 1),
        ("▁", -6.0, 1),
        ("cat", -5.0, 1),
    ]
    controls = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("<pad>", 0.0, 3)]
    return sentence_pieces(tmp_path_factory.mktemp("pieces") / "a.model", [*controls, *words])


@pytest.fixture(scope="module")
def of_pieces():
    return WordPiece(
        vocabulary=(*BERT, *LETTERS, *(f"##{letter}" for letter in LETTERS), "the", "cat"), max_length=10
    )


def test_sentence_pieces(of_sentences):
    tokenizer = SentencePiece(model=of_sentences, max_length=6)
    assert tokenizer.ids(["the cats sat", "the", "zzz"]).to_list() == [
        [1, 4, 5, 6, 7, 2],
        [1, 4, 2],
        [1, 8, 0, 2],
    ]
    assert tokenizer.dense(["the"], length=6)["input_word_ids"].numpy().tolist() == [[1, 4, 2, 3, 3, 3]]
    fast = SentencePiece(model=of_sentences, max_length=6, fast=True)
    assert fast.ids(["the cats sat", "the"]).to_list() == [[1, 4, 5, 6, 7, 2], [1, 4, 2]]
    assert SentencePiece(model=of_sentences).vocabulary[4] == "▁the"


def test_models_that_are_none(of_sentences, tmp_path):
    (tmp_path / "no.model").write_bytes(b"no model")
    with pytest.raises(DataError, match="is no model of SentencePiece"):
        SentencePiece(model=tmp_path / "no.model")
    with pytest.raises(DataError, match=r"lacks \[CLS\].*\n.*start="):
        SentencePiece(model=of_sentences, start="[CLS]")


@pytest.mark.slow
def test_tflite_cuts_as_it_does(of_sentences, hard, tmp_path):
    tokenizer = SentencePiece(model=of_sentences, max_length=20, fast=True)
    texts = keras.Input([], dtype=tf.string, name="texts")
    tokens = Tokens(tokenizer)(texts)
    vectors = keras.layers.Embedding(len(tokenizer.vocabulary), 4)(tokens["input_word_ids"])
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
