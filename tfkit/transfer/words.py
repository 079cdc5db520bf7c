"""Count pieces of words beside an encoder, where the validation split says that it helps: wide and deep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from tfkit.calibration import FEWEST
from tfkit.data.splits import Splits
from tfkit.environment import stack
from tfkit.environment.timeline import stage
from tfkit.metrics import Evaluation, evaluation, gives_logits
from tfkit.run import Run
from tfkit.tasks import CLASSES
from tfkit.transfer.baseline import fit_best
from tfkit.transfer.models import Classifier, compile_model

MOST_CONSTANTS = 16_000_000
"""Terms times classes: 64 MB of an exported model."""

SMALLEST = 1e-30
"""Probability whose logarithm is taken."""

_TEXTS_AT_A_TIME = 256


class Words(NamedTuple):
    """A model of counted pieces beside an encoder.

    Attributes:
      constants: what a `tfkit.text.layers.CountedPieces` takes: idf, kernel, bias, pairs.
      strength: scikit-learn's C.
      powers: in the product, of the encoder and of words.
      losses: mean cross-entropy on the validation split, without words at the best temperature, and with them.
      helps: whether that of the whole split falls by more than the 1 that a further parameter brings by chance (Akaike
        1974).
      probabilities: of both together, float32 [n, classes], of the validation and of the test split.
    """

    constants: dict[str, Any]
    strength: float
    powers: list[float]
    losses: list[float]
    helps: bool
    probabilities: list[np.ndarray]


def mix_words(run: Run, classifier: Classifier, splits: Splits, *, when: str) -> Classifier:
    """Return the classifier with a model of counted pieces beside it, or as it is where that does not help.

    Args:
      run: gets what was decided and why.
      classifier: of texts.
      splits: of texts.
      when: "yes", "no", or "auto": where it helps.
    """
    from tfkit.text.layers import PAIRS, TOKENS, WINDOWS, CountedPieces, Mix

    tokenizers = (layer.tokenizer for layer in classifier.model.layers if layer.name in (TOKENS, WINDOWS))
    tokenizer: Any = next(tokenizers, None)
    reason = ""
    if splits.task.output != CLASSES.output:
        reason = f"that is for classes, not for {splits.task.name}"
    elif tokenizer is None:
        reason = "the encoder has its tokenizer in a SavedModel"
    elif len(splits.indices["validation"]) < FEWEST and when == "auto":
        reason = f"there are less than {FEWEST} validation examples to decide by"
    elif len(splits.class_names) * (tokenizer.size + PAIRS) > MOST_CONSTANTS:
        reason = f"{len(splits.class_names)} classes would take too many weights"
    if when == "no" or reason:
        run.decide(words="no")
        if when != "no":
            run.note(f"Words are not counted: {reason}.")
        return classifier
    words = fit_words(splits, tokenizer, [classifier.validate(), classifier.evaluation])
    on = when == "yes" or words.helps
    run.decide(words="yes" if on else "no")
    run.note(
        f"Words are {'' if on else 'not '}counted beside the encoder (--words {'no' if on else 'yes'} changes that)."
        f" With them the cross-entropy on the validation split is {words.losses[1]:.4f}, without them"
        f" {words.losses[0]:.4f}. They are TF-IDF of word pieces{' and pairs' if words.constants['pairs'] else ''}, C ="
        f" {words.strength:g}; the powers in the product are {words.powers[0]:.2f} for the encoder,"
        f" {words.powers[1]:.2f} for words."
    )
    if not on:
        return classifier
    texts, counted = classifier.model.input, CountedPieces(tokenizer, **words.constants)
    deep = classifier.model.output
    if not gives_logits(classifier.model):  # of an order probabilities, whose logarithms are logits too
        deep = stack.tf.math.log(stack.tf.maximum(deep, SMALLEST))
    mixed = stack.keras.Model(texts, Mix(words.powers)([deep, counted(texts)]))
    of_validation = evaluation(words.probabilities[0], splits, split="validation")
    return classifier._replace(
        model=compile_model(mixed, stack.keras.optimizers.SGD()),
        evaluation=evaluation(words.probabilities[1], splits),
        validate=lambda: of_validation,
        frozen=classifier.frozen and classifier.frozen._replace(passes_inputs=True),
    )


@stage("words", "Counting words beside the encoder")
def fit_words(splits: Splits, tokenizer: Any, measured: Sequence[Evaluation]) -> Words:
    """Fit a model of counted pieces, and find the powers at which its product with an encoder's is best.

    TF-IDF of the tokenizer's pieces, with or without pairs of neighbours, and logistic regression are tuned as
    `tfkit.transfer.baseline` is; the powers have the lowest cross-entropy on the validation split.

    Args:
      splits: of texts.
      tokenizer: cuts them.
      measured: the encoder's classifier on the validation and on the test split.

    Source: Cheng et al. 2016 (arXiv:1606.07792) for wide and deep; Hinton 2002 (Neural Computation 14:1771) for
    products of models.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfTransformer  # takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    from tfkit.text.layers import MOST_COUNTED, PAIRS, pair_numbers

    def read(indices: np.ndarray) -> list[np.ndarray]:
        return [row[:MOST_COUNTED] for row in token_ids(splits, indices, tokenizer)]

    def make_vectorizer(pairs: bool) -> Any:
        def count_terms(rows: list[np.ndarray]) -> Any:
            terms = [np.append(row, tokenizer.size + pair_numbers(row)) if pairs else row for row in rows]
            ends = np.cumsum([0, *map(len, terms)])
            matrix = csr_matrix(
                (np.ones(ends[-1]), np.concatenate(terms), ends), (len(rows), tokenizer.size + PAIRS * pairs)
            )
            matrix.sum_duplicates()
            return matrix

        return make_pipeline(FunctionTransformer(count_terms), TfidfTransformer(sublinear_tf=True))

    base = fit_best(splits, read, make_vectorizer)
    models = getattr(base.model, "estimators_", [base.model])
    coefficients, bias = (
        np.concatenate([getattr(model, name) for model in models]) for name in ("coef_", "intercept_")
    )
    if len(bias) == 1:  # of two classes that of the second
        coefficients, bias = np.concatenate([0 * coefficients, coefficients]), np.concatenate([[0.0], bias])
    deep = [np.log(np.maximum(item.probabilities, SMALLEST)) for item in measured]
    wide = [part @ coefficients.T + bias for part in base.terms]
    labels = measured[0].labels

    def loss(powers: Any) -> float:
        probabilities = _multiply(powers, deep[0], wide[0])[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(probabilities, SMALLEST)).mean())

    # Bounded: where a few validation examples are all told rightly, ever larger powers would be better.
    best = [minimize(loss, [1.0, 0.1 * words], bounds=[(0, 1), (0, words)]) for words in (0, 2)]
    losses, powers = [minimum.fun for minimum in best], best[1].x.tolist()
    constants = {
        "idf": base.vectorizer[-1].idf_,
        "kernel": coefficients.T,
        "bias": bias,
        "pairs": base.pairs,
    }
    return Words(
        constants, base.strength, powers, losses,
        (losses[0] - losses[1]) * len(labels) > 1,
        [_multiply(powers, *item).astype(np.float32) for item in zip(deep, wide, strict=True)],
    )  # fmt: skip


def _multiply(powers: Sequence[float], deep: np.ndarray, wide: np.ndarray) -> np.ndarray:
    return np.asarray(softmax(powers[0] * deep + powers[1] * wide, axis=1))


def token_ids(splits: Splits, indices: np.ndarray, tokenizer: Any) -> list[np.ndarray]:
    """Return the pieces that a tokenizer cuts each of some texts into, int32 [of the text]."""
    rows: list[np.ndarray] = []
    for batch in np.split(indices, range(_TEXTS_AT_A_TIME, len(indices), _TEXTS_AT_A_TIME)):
        ragged = tokenizer.tokenize(stack.tf.constant(splits.source.read(batch)))
        rows += np.split(ragged.flat_values.numpy(), ragged.row_splits.numpy()[1:-1])
    return rows
