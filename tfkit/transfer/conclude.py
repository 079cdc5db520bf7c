"""What surrounds the training: where data and model came from, and what came out, measured and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit import export, tensorboard
from tfkit import run as runs
from tfkit.config import DataConfig
from tfkit.exhibits import save
from tfkit.hub import TextEncoder
from tfkit.privacy import owner
from tfkit.run import Run
from tfkit.transfer import shown

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone
    from tfkit.transfer.stages import Classifier


def describe(
    run: Run,
    backbone: Backbone | TextEncoder | None,
    splits: Splits,
    *,
    recipe: str,
    show_examples: bool = True,
) -> None:
    """Write down where data and model came from, and what was decided about them.

    Args:
      run: gets provenance.json, labels.txt, and, where examples are shown, notes on them, counts and TensorBoard's
        samples.
      recipe: the name under which `python -m recipes.NAME` does it again.
      backbone: what is transferred; None: nothing, the model is trained from scratch.
      splits: of images or texts.
      show_examples: off: what was found in the data is printed, and not kept; see `tfkit.privacy.owner`.

    Raises:
      DataError: a private run was begun on other data.
    """
    run.labels = splits.class_names
    run.provenance = {
        "recipe": {"name": recipe},
        "data": splits.provenance if show_examples else owner.register(run, splits),
        "model": backbone.origin if backbone is not None else {"handle": "a network trained from scratch"},
    }
    for note in backbone.notes if backbone is not None else ():
        run.note(note)
    for note in splits.notes:
        (run.note if show_examples else run.say)(note)
    run.decide(**_decided(run, backbone, splits))
    if show_examples:
        run.record({"data/skipped_files": len(splits.skipped), "data/other_files": splits.other_files})
        run.record({f"data/{split}_examples": len(indices) for split, indices in splits.indices.items()})
        shown.samples(run, splits)
        if isinstance(backbone, TextEncoder) and backbone.tokenizer is not None:
            shown.tokens(run, backbone.tokenizer, splits)


def _decided(run: Run, backbone: Backbone | TextEncoder | None, splits: Splits) -> dict[str, Any]:
    """The settings of data and model that may be left out, as they became."""
    decided: dict[str, Any] = dict(getattr(splits.source, "columns", {}))
    if splits.kind == "images":
        decided["image_size"] = int(splits.source.shape[0])
    if isinstance(backbone, TextEncoder):
        decided["max_length"] = backbone.max_length
        if run.is_chief and run.config.get("model_handle") == DataConfig.model_handle:
            decided["model_handle"] = backbone.handle  # the default is one for images
    return decided


def conclude(run: Run, classifier: Classifier, splits: Splits, *, show_examples: bool = True) -> None:
    """Measure the classifier on the test split, export it, and draw what came out.

    Args:
      run: gets metrics.json, saved_model/, evaluation.npz and TensorBoard's pictures.
      classifier: the trained model.
      splits: of images or texts.
      show_examples: off: test examples are numbered instead of named, and none is shown.

    Raises:
      CheckError: the exported model is not the trained one.
    """
    measured = classifier.evaluation if show_examples else classifier.evaluation.numbered()
    run.record(measured.metrics("test"))
    run.record(export.save(classifier.model, run, splits, evaluation=measured))
    exhibits = shown.mistakes(run, measured, splits) if show_examples else None
    save(run.path / runs.EVALUATION, measured, exhibits)
    tensorboard.write_confusion(run.logdir, measured)
    tensorboard.write_pr_curves(run.logdir, measured)
    tensorboard.write_roc(run.logdir, measured)
    history = run.history
    run.record(tensorboard.best(history))
    tensorboard.write_hparams(run.logdir, run.config, run.metrics)
    tensorboard.write_layout(run.logdir, map(str, history.columns))
    if statement := run.read(runs.PRIVACY):
        tensorboard.write_statement(run.logdir, [statement["in_words"]])
    if show_examples:
        shown.points(run, classifier.test_features, measured, splits)
