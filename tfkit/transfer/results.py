"""Record what surrounds a training: where data and model came from, what came out, and which examples are shown."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tfkit.data.splits import Splits, draw
from tfkit.environment.timeline import stage
from tfkit.hub.encoders import Encoder
from tfkit.metrics import Evaluation
from tfkit.privacy.ledger import register
from tfkit.reporting import examples, tensorboard
from tfkit.reporting.examples import Examples
from tfkit.run import EVALUATION, PRIVACY, Run
from tfkit.text.tokenizers import Tokenizer
from tfkit.training import export
from tfkit.transfer.attribution import grad_cam
from tfkit.transfer.models import Classifier
from tfkit.transfer.words import token_ids

SAMPLES = 16
PROJECTED = 1000
MEASURED_TEXTS = 20_000
NAME_CHARACTERS = 80


@stage("data", "Describing the data")
def describe(
    run: Run,
    encoder: Encoder | None,
    splits: Splits,
    *,
    recipe: str,
    show_examples: bool = True,
) -> None:
    """Write down where data and model came from, and what was decided about them.

    Args:
      run: gets provenance.json, labels.txt, and, where examples are shown, notes on them, counts and TensorBoard's
        samples.
      encoder: what is transferred; None: nothing, the model is trained from scratch.
      splits: of images or texts.
      recipe: the name under which `python -m recipes.NAME` does it again.
      show_examples: off: what was found in the data is printed, and not kept; see `tfkit.privacy.ledger`.

    Raises:
      DataError: a private run was begun on other data.
    """
    run.labels = splits.class_names
    run.provenance = {
        **run.provenance,
        "recipe": {"name": recipe},
        "data": splits.provenance if show_examples else register(run, splits),
        "model": encoder.origin if encoder is not None else {"handle": "a network trained from scratch"},
    }
    for note in encoder.notes if encoder is not None else ():
        run.note(note)
    for note in splits.notes:
        (run.note if show_examples else run.say)(note)
    run.decide(**_collect_settings(run, encoder, splits))
    if show_examples:
        run.record({"data/skipped_files": len(splits.skipped), "data/other_files": splits.other_files})
        run.record({f"data/{split}_examples": len(indices) for split, indices in splits.indices.items()})
        _write_samples(run, splits)
        if encoder is not None and encoder.tokenizer is not None:
            measure_tokens(run, encoder.tokenizer, splits, windows=encoder.windows)


def conclude(
    run: Run, classifier: Classifier, splits: Splits, *, calibrated: bool, show_examples: bool = True
) -> Evaluation:
    """Measure the classifier on the test split, export it, and draw what came out.

    Args:
      run: gets metrics.json, saved_model/, evaluation.npz and TensorBoard's pictures.
      classifier: the trained model.
      splits: of images or texts.
      calibrated: whether the model gets a temperature, and the run the scores of prediction sets.
      show_examples: off: test examples are numbered instead of named, and none is shown.

    Returns:
      The evaluation of the test split as the run has it: at the temperature, by the thresholds that were chosen.

    Raises:
      CheckError: the exported model is not the trained one.
    """
    options: Any = {"private": not show_examples, "calibrated": calibrated, "seed": splits.seed}
    model, measured, _, validate, frozen = classifier
    evaluation = export.conclude(run, model, splits, measured, validate, frozen=frozen, **options)
    with stage("figures", "Drawing what came out, for TensorBoard and the report"):
        mistakes = _write_mistakes(run, classifier.model, evaluation, splits) if show_examples else None
        examples.save(run.path / EVALUATION, evaluation, mistakes)
        tensorboard.write_evaluation(run.logdir, evaluation)
        history = run.history
        run.record(tensorboard.best(history))
        tensorboard.write_hparams(run.logdir, {**run.config, "data": splits.origin}, run.metrics)
        tensorboard.write_layout(run.logdir, map(str, history.columns))
        if statement := run.read(PRIVACY):
            tensorboard.write_statement(run.logdir, [statement["in_words"]])
        if show_examples:
            _write_projector(run, classifier.test_features, evaluation, splits)
    return evaluation


def measure_tokens(run: Run, tokenizer: Tokenizer, splits: Splits, *, windows: bool = False) -> None:
    """Record how long the texts are in tokens, how many are cut, and how much of them the vocabulary does not know.

    Args:
      run: gets metrics, a histogram and a note.
      tokenizer: of the texts.
      splits: whose training texts are measured.
      windows: whether all of a text is read.
    """
    train = splits.indices["train"]
    indices = train[draw(len(train), MEASURED_TEXTS)]
    rows = token_ids(splits, indices, tokenizer)
    counts, room = np.array([*map(len, rows)]), tokenizer.max_length - 2
    tensorboard.write_lengths(run.logdir, "tokens", np.minimum(counts, 4 * room))
    median, longer = float(np.median(counts)), float((counts > room).mean())
    cut, text = (0.0 if windows else longer), f"{longer:.1%} are cut to {room}."
    if windows:
        text = f"{longer:.1%} are longer than {room}: all is read, in {np.ceil(counts / room).sum():.0f} windows."
    oov_rate = sum(int((row == tokenizer.unknown).sum()) for row in rows) / max(int(counts.sum()), 1)
    run.record({"data/median_tokens": median, "data/cut_share": cut, "data/unknown_token_share": oov_rate})
    run.note(
        f"The median text has {median:.0f} tokens, the longest {counts.max()}; {text}"
        f" {oov_rate:.2%} of the tokens are not in the vocabulary."
    )


def _collect_settings(run: Run, encoder: Encoder | None, splits: Splits) -> dict[str, Any]:
    """Return the settings of data and model that may be left out, as they became."""
    settings: dict[str, Any] = dict(getattr(splits.source, "columns", {}))
    if splits.kind == "images":
        settings["image_size"] = int(splits.source.shape[0])
    if encoder is not None and encoder.modality == "texts":
        settings |= {"max_length": encoder.max_length, "windows": "all" if encoder.windows else "first"}
    if encoder is not None:
        settings["model_handle"] = encoder.handle  # the default may stand for one of several
    return settings


def _write_samples(run: Run, splits: Splits) -> None:
    """Show some training examples, under the names of their classes."""
    train = splits.indices["train"]
    labels, names = splits.source.labels, splits.class_names
    indices = train[draw(len(train), SAMPLES, classes=splits.task.strata(labels[train], len(names)))]
    captions = [splits.task.words(label, names) for label in labels[indices]]
    _write_examples(run, splits, "samples", _read_inputs(splits, indices), captions)


def _write_mistakes(run: Run, model: Any, evaluation: Evaluation, splits: Splits) -> Examples:
    """Show the worst mistakes in TensorBoard; return them for the report, of images with where the model looked."""
    mistakes = Examples.of(evaluation, splits)
    if splits.kind == "images" and len(mistakes.worst):
        classes = evaluation.shown_class(mistakes.worst)
        heat = grad_cam(model, mistakes.worst_inputs.astype(np.float32) / 255, classes)
        if heat is not None:
            mistakes = dataclasses.replace(mistakes, heat=np.rint(255 * heat).astype(np.uint8))
    captions = [evaluation.mistake(index) for index in mistakes.worst]
    _write_examples(run, splits, "worst_mistakes", mistakes.worst_inputs, captions)
    for language, (count, share) in examples.by_language(evaluation, mistakes.languages).items():
        run.record({f"test/{splits.task.share}/{language}": share, f"test/examples/{language}": count})
    return mistakes


def _write_examples(run: Run, splits: Splits, name: str, inputs: Any, captions: list[str]) -> None:
    write = tensorboard.write_images if splits.kind == "images" else tensorboard.write_texts
    write(run.logdir, name, inputs, captions=captions)


def _read_inputs(splits: Splits, indices: np.ndarray) -> Any:
    if splits.kind == "images":
        return splits.source.read(indices)
    return [str(splits.source.raw(int(index))) for index in indices]


def _write_projector(run: Run, features: np.ndarray, evaluation: Evaluation, splits: Splits) -> None:
    """Show what the last layer saw of the test split, float32 [n, d], in the Projector."""
    indices = draw(len(evaluation.labels), PROJECTED)
    inputs = _read_inputs(splits, splits.indices["test"][indices])
    names, images = [evaluation.names[index] for index in indices], inputs
    if splits.kind == "texts":
        names, images = [text[:NAME_CHARACTERS] for text in inputs], None
    labels = [splits.task.words(evaluation.labels[index], evaluation.class_names) for index in indices]
    tensorboard.write_projector(run.logdir, features[indices], labels=labels, names=names, images=images)
