"""The light model: padding is no word, and it can be trained privately."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from tfkit.environment.stack import keras, tf
from tfkit.privacy import problems
from tfkit.privacy.clipping import clipped_sum
from tfkit.text.tokenizers import WordPiece, build_vocabulary
from tfkit.transfer.models import light, plain_top, private_top


@pytest.fixture(scope="module")
def texts():
    return [inspect.getdoc(getattr(np.linalg, name)) for name in np.linalg.__all__]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return WordPiece(vocabulary=build_vocabulary(texts, size=600), max_length=64)


def test_padding_is_no_word(texts, tokenizer):
    model = light(tokenizer, 2, plain_top(1e-2))
    short, long = "a mean", texts[0]
    np.testing.assert_allclose(
        model(tf.constant([short, long]))[0], model(tf.constant([short]))[0], atol=1e-6
    )
    filled = light(tokenizer, 2, plain_top(1e-2), length=64)
    filled.set_weights(model.get_weights())
    np.testing.assert_allclose(filled(tf.constant([short])), model(tf.constant([short])), atol=1e-6)


def test_an_epsilon_holds_for_it_with_rows_of_one_length(tokenizer):
    assert problems(light(tokenizer, 2, plain_top(1e-2), length=64)) == []


def test_its_private_gradients_are_those_of_each_text_alone(texts, tokenizer):
    """Of strings, with an embedding whose rows meet in a text, and again in another one."""
    model = light(tokenizer, 2, private_top(1e-2), length=64)
    # A head of zeros, as it begins, would hide the embedding's gradient.
    model.layers[-1].set_weights([np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)])
    strings, labels = tf.constant([*texts[:5], texts[0]]), tf.constant([0, 1, 0, 1, 1, 1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="none")
    alone = []
    for index in range(6):
        with tf.GradientTape() as tape:
            value = loss(labels[index : index + 1], model(strings[index : index + 1]))
        gradients = tape.gradient(value, model.trainable_variables)
        alone.append([tf.convert_to_tensor(one).numpy() for one in gradients])
    norms = np.array([np.sqrt(sum((one**2).sum() for one in gradients)) for gradients in alone])
    clip = float(np.median(norms))  # some are clipped, some are not
    found = clipped_sum(model, strings, labels, tf.ones([6]), per_example_loss=loss, l2_norm_clip=clip)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-4)
    for ours, theirs in zip(found.gradients, zip(*alone, strict=True), strict=True):
        expected = np.tensordot(np.minimum(1, clip / norms), theirs, 1)
        np.testing.assert_allclose(tf.convert_to_tensor(ours), expected, atol=1e-5)
