"""Count pieces of words beside an encoder, where the validation split says that it helps: wide and deep."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit.calibration import FEWEST
from tfkit.data.splits import Splits
from tfkit.environment import stack
from tfkit.metrics import evaluation
from tfkit.run import Run
from tfkit.tasks import CLASSES
from tfkit.transfer.baseline import MOST_WEIGHTS, fit_best, sample
from tfkit.transfer.models import Classifier, compiled

_TEXTS_AT_A_TIME = 256


def mix_words(run: Run, classifier: Classifier, splits: Splits, *, when: str) -> Classifier:
    """Return the classifier with a model of counted pieces beside it, or as it is where that does not help.

    TF-IDF of the tokenizer's pieces, with or without pairs of neighbours, and logistic regression are tuned as
    `tfkit.transfer.baseline` is. What both models say is multiplied, each to a power that the validation split decides.

    Args:
      run: gets what was decided and why.
      classifier: of texts.
      splits: of texts.
      when: "yes"; "no"; or "auto": where the cross-entropy on the validation split falls by more than its standard
        error, against the classifier at its best temperature.

    Source: Cheng et al. 2016 (arXiv:1606.07792) for wide and deep; Hinton 2002 (Neural Computation 14:1771) for
    products of models.
    """
    from tfkit.text.layers import PAIRS, TOKENS, WINDOWS, CountedPieces, Mix

    began = time.monotonic()
    tokenizer: Any = None
    for layer in classifier.model.layers:
        tokenizer = layer.tokenizer if layer.name in (TOKENS, WINDOWS) else tokenizer
    classes, reason = len(splits.class_names), ""
    if splits.task.output != CLASSES.output:
        reason = f"that is for classes, not for {splits.task.name}"
    elif tokenizer is None:
        reason = "the encoder has its tokenizer in a SavedModel"
    elif len(splits.indices["validation"]) < FEWEST and when == "auto":
        reason = f"there are less than {FEWEST} validation examples to decide by"
    elif classes * (tokenizer.size + PAIRS) > 4 * MOST_WEIGHTS:
        reason = f"{classes} classes would take too many weights"
    if when == "no" or reason:
        run.decide(words="no")
        if when != "no":
            run.note(f"Words are not counted: {reason}.")
        return classifier
    key, model, strength, parts = _fit(splits, tokenizer)
    pairs, idf = key
    coefficients = [part for one in getattr(model, "estimators_", [model]) for part in one.coef_]
    bias = [part for one in getattr(model, "estimators_", [model]) for part in one.intercept_]
    if len(bias) == 1:  # of two classes that of the second
        coefficients, bias = [np.zeros_like(coefficients[0]), *coefficients], [0.0, *bias]
    kernel = np.stack(coefficients, axis=1)
    validation = classifier.validate()
    deep = [np.log(np.maximum(of.probabilities, 1e-30)) for of in (validation, classifier.evaluation)]
    wide = [counts @ kernel + bias for counts in parts]
    alone, both = (_powers(deep[0], wide[0], validation.labels, words=words) for words in (False, True))
    loss = [_losses(powers, deep[0], wide[0], validation.labels) for powers in (alone, both)]
    gain = loss[0] - loss[1]
    on = when == "yes" or gain.mean() > gain.std() / np.sqrt(len(gain))
    run.decide(words="yes" if on else "no")
    run.record({"time/words_seconds": time.monotonic() - began})
    run.note(
        f"Words are {'' if on else 'not '}counted beside the encoder (--words {'no' if on else 'yes'} changes that)."
        f" With them the cross-entropy on the validation split is {loss[1].mean():.4f}, without them"
        f" {loss[0].mean():.4f}. They are TF-IDF of word pieces{' and pairs of them' if pairs else ''}, C ="
        f" {strength:g}; the powers in the product are {both[0]:.2f} for the encoder, {both[1]:.2f} for words."
    )
    if not on:
        return classifier
    counted = CountedPieces(tokenizer, idf=idf, kernel=kernel, bias=bias, pairs=pairs)
    texts = classifier.model.input
    mixed = stack.keras.Model(texts, Mix(both.tolist())([classifier.model.output, counted(texts)]))
    of_validation, of_test = (
        evaluation(_probabilities(both, *of), splits, split=split)
        for split, of in zip(("validation", "test"), zip(deep, wide, strict=True), strict=True)
    )
    return classifier._replace(
        model=compiled(mixed, stack.keras.optimizers.SGD()),
        evaluation=of_test,
        validate=lambda: of_validation,
    )


def _fit(splits: Splits, tokenizer: Any) -> tuple[tuple[bool, np.ndarray], Any, float, list[Any]]:
    """Return the key of the best model (with pairs? and the idf), it, its C, and the other splits as it takes them."""
    from sklearn.feature_extraction.text import TfidfTransformer

    train, labels = sample(splits), splits.source.labels
    others = {}

    def counted(pairs: bool) -> tuple[Any, Any, Any]:
        counts = [
            _counts(splits, indices, tokenizer, pairs=pairs)
            for indices in (train, splits.indices["validation"], splits.indices["test"])
        ]
        weigh = TfidfTransformer(sublinear_tf=True).fit(counts[0])
        weighed = [weigh.transform(part) for part in counts]
        others[pairs] = weighed[1:]
        return (pairs, weigh.idf_), *weighed[:2]

    key, model, strength, _ = fit_best(map(counted, (False, True)), labels[train], splits)
    return key, model, strength, others[key[0]]


def _counts(splits: Splits, indices: np.ndarray, tokenizer: Any, *, pairs: bool) -> Any:
    """Return how often each term is in each text, a scipy.sparse matrix [n, terms]; see `CountedPieces`."""
    from scipy.sparse import csr_matrix, vstack

    from tfkit.text.layers import MOST_COUNTED, PAIRS, pair_numbers

    pieces = tokenizer.size
    parts = []
    for start in range(0, len(indices), _TEXTS_AT_A_TIME):
        texts = splits.source.read(indices[start : start + _TEXTS_AT_A_TIME])
        ragged = tokenizer.tokenize(stack.tf.constant(texts))[:, :MOST_COUNTED]
        terms, rows = ragged.flat_values.numpy(), ragged.value_rowids().numpy()
        if pairs:
            inside = rows[1:] == rows[:-1]
            terms = np.concatenate([terms, pieces + pair_numbers(terms)[inside]])
            rows = np.concatenate([rows, rows[1:][inside]])
        shape = (len(texts), pieces + PAIRS * pairs)
        parts.append(csr_matrix((np.ones(len(terms)), (rows, terms)), shape=shape))
    return vstack(parts, format="csr")


def _powers(deep: np.ndarray, wide: np.ndarray, labels: np.ndarray, *, words: bool) -> np.ndarray:
    """Return the powers, of the encoder and of words, float64 [2], 0 or more, of the lowest mean loss."""
    from scipy.optimize import minimize

    bounds = [(0, None), (0, None if words else 0)]
    loss = functools.partial(_losses, deep=deep, wide=wide, labels=labels)
    return np.asarray(minimize(lambda powers: loss(powers).mean(), [1.0, 0.1 * words], bounds=bounds).x)


def _losses(
    powers: Sequence[float] | np.ndarray, deep: np.ndarray, wide: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    return np.asarray(
        -np.log(np.maximum(_probabilities(powers, deep, wide), 1e-30))[np.arange(len(labels)), labels]
    )


def _probabilities(powers: Any, deep: np.ndarray, wide: np.ndarray) -> np.ndarray:
    from scipy.special import softmax

    return np.asarray(softmax(powers[0] * deep + powers[1] * wide, axis=1), np.float32)
