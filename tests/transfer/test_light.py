"""The light model: it learns words, and it can be trained privately and by several replicas."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from tfkit.privacy import validator
from tfkit.stack import keras, tf
from tfkit.text import WordPiece, build
from tfkit.transfer.light import light


@pytest.fixture(scope="module")
def texts():
    """Docstrings of two packages, whose names they do not tell."""
    import pandas
    import scipy.stats

    found = {}
    for label, module in enumerate((scipy.stats, pandas.DataFrame)):
        for name in sorted(vars(module)):
            text = inspect.getdoc(getattr(module, name)) if not name.startswith("_") else None
            if text and len(text) > 60:
                found.setdefault(
                    text.replace("scipy", "it").replace("pandas", "it").replace("pd.", "it."), label
                )
    order = np.random.default_rng(0).permutation(len(found))
    return np.array(list(found), dtype=object)[order], np.array(list(found.values()))[order]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return WordPiece(vocabulary=build(texts[0][:200], size=600), max_length=64)


def test_it_learns(texts, tokenizer):
    x, y = texts
    cut = int(len(x) * 0.7)
    keras.utils.set_random_seed(0)
    model = light(tokenizer, 2, learning_rate=1e-2, steps=20 * (cut // 32 + 1))
    train = tf.data.Dataset.from_tensor_slices((x[:cut], y[:cut])).batch(32)
    model.fit(train, epochs=20, verbose=0)
    accuracy = (model(tf.constant(x[cut:])).numpy().argmax(1) == y[cut:]).mean()
    assert accuracy > max(np.bincount(y[cut:])) / len(y[cut:]) + 0.15


def test_padding_is_no_word(texts, tokenizer):
    model = light(tokenizer, 2, learning_rate=1e-2, steps=1)
    short, long = "a mean", texts[0][0]
    np.testing.assert_allclose(
        model(tf.constant([short, long]))[0], model(tf.constant([short]))[0], atol=1e-6
    )
    filled = light(tokenizer, 2, learning_rate=1e-2, steps=1, length=64)
    filled.set_weights(model.get_weights())
    np.testing.assert_allclose(filled(tf.constant([short])), model(tf.constant([short])), atol=1e-6)


def test_an_epsilon_holds_for_it_with_rows_of_one_length(tokenizer):
    assert validator.problems(light(tokenizer, 2, learning_rate=1e-2, steps=1, length=64)) == []


def test_it_is_made_and_trained_by_replicas(texts, tokenizer):
    x, y = texts
    strategy = tf.distribute.OneDeviceStrategy("CPU:0")
    with strategy.scope():
        model = light(tokenizer, 2, learning_rate=1e-2, steps=2)
    before = model.get_weights()[0]
    model.fit(tf.data.Dataset.from_tensor_slices((x[:32], y[:32])).batch(16), epochs=1, verbose=0)
    assert not np.allclose(before, model.get_weights()[0])
