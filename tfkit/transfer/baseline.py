"""What a simple model of words reaches on the same split: what a pretrained encoder must be better than."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator

import numpy as np

from tfkit.data import Splits
from tfkit.run import Run

WORTH = 0.03
"""Accuracy above the baseline that an encoder of millions of weights should bring, unless it halves the errors."""

MOST_TEXTS, MOST_CHARACTERS = 20_000, 10_000


def baseline(run: Run, splits: Splits) -> float:
    """The test accuracy of TF-IDF and logistic regression, fitted on the training split; recorded once for a run.

    Both are scikit-learn's with its defaults. Of larger data 20,000 training texts are taken, and of each text
    10,000 characters.

    Args:
      run: gets `baseline/accuracy` and `time/baseline_seconds`.
      splits: of texts.
    """
    if "baseline/accuracy" in run.metrics:
        return run.metrics["baseline/accuracy"]
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    began = time.monotonic()
    train, test = splits.indices["train"], splits.indices["test"]
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), MOST_TEXTS)).astype(int))]
    words = TfidfVectorizer()
    try:
        fitted = words.fit_transform(_texts(splits, chosen))
    except ValueError:  # no word in any text, such as emoji alone
        words = TfidfVectorizer(analyzer="char")
        fitted = words.fit_transform(_texts(splits, chosen))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(max_iter=200).fit(fitted, splits.source.labels[chosen])
    accuracy = float(model.score(words.transform(_texts(splits, test)), splits.source.labels[test]))
    run.record({"baseline/accuracy": accuracy, "time/baseline_seconds": time.monotonic() - began})
    return accuracy


def compare(run: Run, *, pretrained: bool) -> None:
    """Say how much better than the baseline the run's model is, and, of an encoder, that it is not where it is not."""
    accuracy, simple = run.metrics["test/accuracy"], run.metrics["baseline/accuracy"]
    gain = accuracy - simple
    run.record({"baseline/gain": gain})
    said = f"TF-IDF and logistic regression reach {simple:.4f} on this split: the model is {gain:+.4f} from that."
    halved = 1 - accuracy <= (1 - simple) / 2
    if pretrained and gain < WORTH and not halved:
        said += (
            " That is little for what it costs: take the simpler model, or try --fine-tune-epochs 3, more data, or"
            " another encoder."
        )
    run.note(said)


def _texts(splits: Splits, indices: np.ndarray) -> Iterator[str]:
    return (str(splits.source.raw(int(index)))[:MOST_CHARACTERS] for index in indices)
