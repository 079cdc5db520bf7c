"""What a device computes of a string is what the model computes of it."""

from __future__ import annotations

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.errors import UsageError
from tfkit.text.layers import on_device, on_ids
from tfkit.text.tokenizers import WordPiece, build_vocabulary
from tfkit.transfer.models import light, plain_top


@pytest.fixture(scope="module")
def tokenizer(english):
    return WordPiece(vocabulary=build_vocabulary(english[0][:200], size=500), max_length=40)


@pytest.fixture(scope="module", params=[None, 40])
def model(request, tokenizer):
    return light(tokenizer, 3, plain_top(1e-2, 10), length=request.param)


def test_one_string_as_in_a_batch(model, english, hard):
    texts = [*(text.encode() for text in english[0][:20]), *hard]
    expected = tf.nn.softmax(model(tf.constant(texts)))
    device = on_device(model)
    found = np.concatenate([device(tf.constant([text]))["probabilities"] for text in texts])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    tokenizer = model.get_layer("tokens").tokenizer
    rows = tokenizer.dense(texts, length=40)
    of_ids = on_ids(model, length=40)
    for place in range(len(texts)):
        one = of_ids(rows["input_word_ids"][place : place + 1], rows["input_mask"][place : place + 1])
        np.testing.assert_allclose(one["probabilities"][0], expected[place], atol=1e-6)


def test_a_model_of_probabilities(model):
    whole = keras.Model(model.input, keras.layers.Softmax()(model.output))
    text = tf.constant(["a text"])
    np.testing.assert_allclose(
        on_device(whole, probabilities=tf.identity)(text)["probabilities"], whole(text), atol=1e-6
    )


def test_a_model_without_a_tokenizer():
    inputs = keras.Input([4], name="numbers")
    with pytest.raises(UsageError, match=r"'plain' has no tokenizer"):
        on_device(keras.Model(inputs, keras.layers.Dense(2)(inputs), name="plain"))
