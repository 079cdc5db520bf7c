"""Measure what counting words reaches on the same test texts: what a pretrained encoder must be better than."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfkit.data.splits import Splits
from tfkit.environment.timeline import stage
from tfkit.metrics import Evaluation, evaluation
from tfkit.run import Run

WORTH = 0.03
"""Accuracy above the baseline that an encoder of millions of weights should bring, unless it halves the errors."""

MOST_BASELINE_TEXTS, MOST_CHARACTERS, MOST_IN_ALL = 20_000, 10_000, 10_000_000
MOST_TERMS, MOST_WEIGHTS = 200_000, 4_000_000
STRENGTHS, FEW_CLASSES = (1.0, 10.0, 100.0), 10

UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
)
_TERMS = f"(?u)[{UNSPACED}]|[^\\W{UNSPACED}]+"
"""A word; of scripts that put no spaces between words (Thai to Chinese) a character: two of them are a pair."""


class Baseline(NamedTuple):
    """The best of a few linear models of counted terms on the validation split.

    Attributes:
      measured: on the test texts.
      strength: scikit-learn's C.
      pairs: whether pairs of neighbouring terms count too.
      texts: training texts that it was fitted to.
      model: of scikit-learn.
      vectorizer: likewise; it counts and weighs the terms.
      terms: of the validation and of the test texts, as it weighs them, sparse [n, terms].
    """

    measured: Evaluation
    strength: float
    pairs: bool
    texts: int
    model: Any
    vectorizer: Any
    terms: list[Any]


@stage("baseline", "Counting words, for a baseline")
def baseline(splits: Splits) -> Baseline:
    """Fit TF-IDF (sublinear counts) and logistic regression to the training split, tuned on the validation split.

    Of numbers it is ridge regression.

    With and without pairs of words, and with C = 1, 10, 100: the one that is right most often there, of equals the
    simplest. Where there are over 10 classes C is 10. Of larger data 20,000 training texts are taken, of 10 million
    characters together (fewer for many classes), and of each text 10,000 characters: the time is bounded, to about a
    minute, and the result always the same.

    Args:
      splits: of texts.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    def make_vectorizer(pairs: bool) -> Any:
        most = min(MOST_TERMS, MOST_WEIGHTS // len(splits.class_names))
        words = {"token_pattern": _TERMS, "ngram_range": (1, 1 + pairs), "max_features": most}
        return TfidfVectorizer(sublinear_tf=True, **words)

    return fit_best(splits, functools.partial(_read_texts, splits), make_vectorizer)


def fit_best(
    splits: Splits, read: Callable[[np.ndarray], Sequence[Any]], vectorizer_of: Callable[[bool], Any]
) -> Baseline:
    """Return the logistic regression that is right most often on the validation split, of equals the first.

    Args:
      splits: of texts.
      read: makes of indices into their source what is counted.
      vectorizer_of: gives scikit-learn's vectorizer of these, with pairs of neighbouring terms or without.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.multiclass import OneVsRestClassifier

    best, best_score, classes, indices = None, -math.inf, len(splits.class_names), sample(splits)
    train, *texts = map(read, (indices, splits.indices["validation"], splits.indices["test"]))
    labels = splits.source.labels[indices]
    for pairs in (False, True):
        vectorizer = vectorizer_of(pairs)
        try:
            counts = vectorizer.fit_transform(train)
        except ValueError:  # no word in any text, such as emoji alone
            counts = vectorizer.set_params(analyzer="char", token_pattern=None).fit_transform(train)
        terms = [*map(vectorizer.transform, texts)]
        for strength in STRENGTHS if classes <= FEW_CLASSES else STRENGTHS[1:2]:
            # A class at a time is the quickest for a few, all at once for many.
            model = LogisticRegression(C=strength, max_iter=50)
            if classes <= FEW_CLASSES or labels.ndim > 1:
                model = LogisticRegression(C=strength, solver="liblinear", dual=True, random_state=0)
                model = OneVsRestClassifier(model)
            model = model if splits.task.each else Ridge(alpha=1 / strength)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.fit(counts, labels)
            validation = evaluation(_predict(model, terms[0], splits), splits, split="validation")
            task, _ = splits.task.tuned(validation)
            score = task.judge(validation).score  # not defined where all numbers there are one
            if best is None or score > best_score:
                measured = evaluation(_predict(model, terms[1], splits), splits)
                best = Baseline(task.judge(measured), strength, pairs, len(indices), model, vectorizer, terms)
                best_score = score
    assert best is not None
    return best


def _predict(model: Any, counts: Any, splits: Splits) -> np.ndarray:
    """Return probabilities, or of a regression numbers, each with a scale of 1."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(counts))[:, -len(splits.class_names) :]  # of one label: yes
    return np.stack([model.predict(counts), np.ones(counts.shape[0])], axis=1)


def compare_with_baseline(run: Run, splits: Splits, measured: Evaluation, *, pretrained: bool) -> None:
    """Say how much better than counting words the run's model is, and that it is not where it is not.

    Args:
      run: gets `baseline/accuracy`, `baseline/gain` with the 95 % interval `baseline/gain_low` to
        `baseline/gain_high`, and how the baseline was chosen.
      splits: of texts.
      measured: the model on the test split.
      pretrained: whether the model stands on an encoder.
    """
    if not math.isfinite(measured.score):
        run.note(f"No baseline: {splits.task.score_name} is not defined, since all test numbers are one.")
        return
    best = baseline(splits)
    score, gain = best.measured.score, measured.score - best.measured.score
    low, high = measured.gain_interval(best.measured)
    run.record(
        {
            f"baseline/{splits.task.score}": score,
            "baseline/gain": gain,
            "baseline/gain_low": low,
            "baseline/gain_high": high,
            "baseline/inverse_regularization": best.strength,
            "baseline/longest_ngram": 1 + best.pairs,
        }
    )
    kind = "logistic" if splits.task.each else "ridge"
    note = (
        f"TF-IDF of words{' and word pairs' if best.pairs else ''} and {kind} regression (C = {best.strength:g},"
        f" chosen on the validation split, fitted to {best.texts} training texts) reach {score:.4f} on these test"
        f" texts: the model is {gain:+.4f} from that, 95 % interval {low:+.4f} to {high:+.4f}."
    )
    is_halved = 1 - measured.score <= (1 - score) / 2
    if gain < 0:
        note += " Counting words is better: take the simpler model."
    elif pretrained and gain < WORTH and not is_halved:
        note += " That is little for what it costs: take the simpler model, or try --fine-tune-epochs 3 or more data."
    run.note(note)


def sample(splits: Splits) -> np.ndarray:
    """Return training texts, evenly drawn from their order, which is a shuffled one; of each class one at least."""
    train = splits.indices["train"]
    count = min(len(train), MOST_BASELINE_TEXTS)
    indices = train[np.unique(np.linspace(0, len(train) - 1, count).astype(int))]
    lengths = itertools.accumulate(map(len, _read_texts(splits, indices)))
    classes = len(splits.class_names)
    most = min(MOST_IN_ALL, (20_000_000 if classes <= FEW_CLASSES else 1_000_000_000) // classes)
    fit_count = sum(length <= most for length in lengths)
    strata = splits.task.strata(splits.source.labels[train], classes)
    firsts = train[np.unique(strata, return_index=True)[1]]
    return np.unique(np.concatenate([indices[: max(fit_count, 1)], firsts]))


def _read_texts(splits: Splits, indices: np.ndarray) -> Sequence[str]:
    return [str(splits.source.raw(int(index)))[:MOST_CHARACTERS] for index in indices]
