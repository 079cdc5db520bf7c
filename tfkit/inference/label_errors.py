"""Find examples whose label is probably wrong: confident learning on out-of-sample probabilities."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tfkit import hub
from tfkit.environment.timeline import track
from tfkit.errors import DataError, PrivacyError
from tfkit.privacy.ledger import is_private
from tfkit.run import Run
from tfkit.settings.options import ENCODER, DataConfig
from tfkit.tasks import refuse
from tfkit.transfer.train import load, settings_of

FOLDS = 5
STRENGTH = 1e-2
"""scikit-learn's C: a model that is free to learn the wrong labels by heart is too sure of all others."""

RECIPES = ("transfer_image", "transfer_text", "train_distributed")


def find_label_errors(run: Run | str | Path) -> pd.DataFrame:
    """List the examples of a run's data whose labels are probably wrong, of all splits, the most suspicious first.

    The probabilities are those of a logistic regression on the features of the run's pretrained model, cross-validated:
    no example is judged by a model that has seen its label. Features that the run has stored are read again. A model
    that was trained from scratch gives none: the bundled encoder's are taken.

    Args:
      run: of tfkit.train or its recipes without privacy, or its folder; its data are read again.

    Returns:
      One row an example, those of `label_errors` alone: name ("examples.parquet:7" for row 7 of a DataFrame,
      from 1), split, given, suggested (names of classes), probability (of the given class) and score (0 to 1).

    Raises:
      PrivacyError: the run is private: it would look at its training examples, which no epsilon covers.
      RunError: no recipe made the run.
      DataError: its data are not there any more.

    Example:
      tfkit.find_label_errors("runs/photos").head(20)
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if is_private(run):
        raise PrivacyError(
            f"{run.path} is a private run: to look for label errors is to look at its training examples, and what comes"
            " of it is covered by no epsilon.\n  Look for them before training, in a run without privacy that you keep"
            " to yourself."
        )
    refuse(run.task, "classes", what="find_label_errors", why="take label_errors for each label, yes or no.")
    otherwise = "tfkit.inference.label_errors(probabilities, labels), with your own ones, out of sample"
    config = settings_of(run, recipes=RECIPES, otherwise=otherwise)
    encoder: Any
    encoder, splits = load(config, global_batch_size=1)
    if run.provenance.get("data", {}).get("fingerprint") != splits.source.fingerprint:
        run.say(f"{splits.origin} has changed since {run.path} was made of it: it is looked at as it is now.")
    if encoder is None:
        if splits.kind == "texts":
            encoder = hub.load_model(ENCODER)
        else:  # at a size that suits it: the network may have been trained at fewer pixels than it takes
            suited: dict[str, Any] = {"model_handle": DataConfig.model_handle, "image_size": None}
            encoder, splits = load(dataclasses.replace(config, **suited), global_batch_size=1)
        run.say(f"The model was trained from scratch: the features are those of {encoder.handle}.")
    extraction = hub.extract(encoder, splits)
    run.say(extraction.summary)
    order = np.concatenate([*splits.indices.values()])
    split_of = np.repeat([*splits.indices], [len(indices) for indices in splits.indices.values()])
    labels = splits.source.labels[order]
    groups = np.concatenate([splits.digests(split) for split in splits.indices])
    features = extraction.splits.source.read(order)
    probabilities = out_of_sample(features, labels, groups=groups if len(groups) else None, seed=splits.seed)
    table, names = label_errors(probabilities, labels), np.asarray(splits.class_names, object)
    table.insert(0, "name", [splits.source.names[order[row]] for row in table.index])
    table.insert(1, "split", split_of[table.index])
    table["given"], table["suggested"] = names[table["given"]], names[table["suggested"]]
    return table.reset_index(drop=True)


def out_of_sample(
    features: np.ndarray, labels: np.ndarray, *, groups: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Return for each example the class probabilities by a model that was fitted without it.

    Args:
      features: float32 [n, d].
      labels: int64 [n], in [0, c), each class at least twice.
      groups: int [n]; of examples with the same number, as copies are, the model has seen none. None: each its own.
      seed: of the five folds.

    Returns:
      float32 [n, c].
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probabilities = np.zeros((len(labels), int(labels.max()) + 1), np.float32)
    _, first_rows, group_of = np.unique(
        np.arange(len(labels)) if groups is None else groups, return_index=True, return_inverse=True
    )
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(first_rows, labels[first_rows])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class of fewer than five, of steps that are used up
        for _, groups_out in track(folds, "Cross-validating", unit="fold", total=FOLDS):
            held_out = np.isin(group_of, groups_out)
            model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=100))
            model.fit(features[~held_out], labels[~held_out])
            probabilities[np.ix_(held_out, model.classes_)] = model.predict_proba(features[held_out])
    return probabilities


def label_errors(probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
    """List the examples that confident learning counts as labelled wrongly, the most suspicious first.

    An example is counted for a class if it has at least the probability that those who are labelled so have on average;
    it is listed if the most probable of these classes is not its own.

    Args:
      probabilities: float [n, c], of each example by a model that has not seen its label.
      labels: int [n], as given, in [0, c).

    Returns:
      Rows under the examples' numbers as index: given and suggested (int), probability (of the given class), score:
      half of one plus the margin by which the suggested class is more probable (0 to 1).

    Raises:
      DataError: the two do not go together.

    Source: Northcutt, Jiang and Chuang 2021 (arXiv:1911.00068), the confident joint and its off-diagonal examples.
    """
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    is_ok = probabilities.ndim == 2 and labels.shape == probabilities.shape[:1] and labels.dtype.kind in "iu"
    is_ok = is_ok and np.isfinite(probabilities).all()
    if not (is_ok and np.isin(labels, range(probabilities.shape[1])).all()):
        raise DataError(
            f"label_errors takes finite probabilities [n, c] and integer labels [n] below c, not {probabilities.shape}"
            f" and {labels.dtype} {labels.shape}.\n  Names as labels: numpy.unique(labels, return_inverse=True)."
        )
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    confidence = probabilities[np.arange(len(labels)), labels]
    thresholds = np.bincount(labels, confidence, minlength=len(counts)) / np.maximum(counts, 1)
    thresholds[counts == 0] = np.inf  # nobody is labelled so
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    guesses = np.where(confident.max(axis=1) >= 0, confident.argmax(axis=1), labels)
    score = (1 + probabilities[np.arange(len(labels)), guesses] - confidence) / 2
    rows = pd.DataFrame({"given": labels, "suggested": guesses, "probability": confidence, "score": score})
    return rows[guesses != labels].sort_values("score", ascending=False, kind="stable")
