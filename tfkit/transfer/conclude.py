"""What surrounds the training: where data and model came from, and what came out, measured and exported."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tfkit import export, tensorboard
from tfkit import run as runs
from tfkit.exhibits import Pictures, save
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone
    from tfkit.transfer.stages import Classifier

SAMPLES = 16
PROJECTED = 1000


def describe(
    run: Run, backbone: Backbone | None, splits: Splits, *, recipe: str, show_examples: bool = True
) -> None:
    """Write down where data and model came from, and what was decided about them.

    Args:
      run: gets provenance.json, labels.txt, notes, the counts and TensorBoard's sample images.
      recipe: the name under which `python -m recipes.NAME` does it again.
      backbone: what is transferred; None: nothing, the model is trained from scratch.
      splits: of images.
      show_examples: off: no image, no file name and no class count goes into the folder.
    """
    run.labels = splits.class_names
    data = splits.provenance
    if not show_examples:
        data.update(skipped=[], counts={})
    run.provenance = {
        "recipe": {"name": recipe},
        "data": data,
        "model": _origin(backbone) if backbone is not None else {"handle": "a network trained from scratch"},
    }
    run.record({"data/skipped_files": len(splits.skipped), "data/other_files": splits.other_files})
    run.record({f"data/{split}_examples": len(indices) for split, indices in splits.indices.items()})
    for note in (*(backbone.notes if backbone is not None else ()), *splits.notes):
        run.note(note)
    if not show_examples:
        return
    shown = splits.indices["train"][:SAMPLES]
    captions = [splits.class_names[label] for label in splits.source.labels[shown]]
    tensorboard.write_images(run.logdir, "samples", splits.source.read(shown), captions=captions)


def _origin(backbone: Backbone) -> dict[str, Any]:
    return {
        "handle": backbone.handle,
        "digest": backbone.digest,
        "licence": backbone.licence,
        "parameters": backbone.parameters,
        "feature_size": backbone.feature_size,
        "native_size": backbone.native_size,
        "input_range": list(backbone.input_range),
    }


def conclude(run: Run, classifier: Classifier, splits: Splits, *, show_examples: bool = True) -> None:
    """Measure the classifier on the test split, export it, and draw what came out.

    Args:
      run: gets metrics.json, saved_model/, evaluation.npz and TensorBoard's pictures.
      classifier: the trained model.
      splits: of images.
      show_examples: off: test examples are numbered instead of named, and none is shown.

    Raises:
      CheckError: the exported model is not the trained one.
    """
    measured = classifier.evaluation
    if not show_examples:
        numbers = [f"test/{index}" for index in range(len(measured.labels))]
        measured = dataclasses.replace(measured, names=numbers)
    run.record(measured.metrics("test"))
    run.record(export.save(classifier.model, run, splits, evaluation=measured))
    pictures = Pictures.of(measured, splits) if show_examples else None
    save(run.path / runs.EVALUATION, measured, pictures)
    tensorboard.write_confusion(run.logdir, measured)
    tensorboard.write_pr_curves(run.logdir, measured)
    tensorboard.write_hparams(run.logdir, run.config, run.metrics)
    if pictures is None:
        return
    captions = [measured.mistake(index) for index in pictures.worst]
    tensorboard.write_images(run.logdir, "worst_mistakes", pictures.worst_images, captions=captions)
    shown = range(min(len(measured.labels), PROJECTED))
    tensorboard.write_projector(
        run.logdir,
        classifier.test_features[shown],
        labels=[measured.class_names[measured.labels[index]] for index in shown],
        names=[measured.names[index] for index in shown],
        images=splits.source.read(splits.indices["test"][shown]),
    )
