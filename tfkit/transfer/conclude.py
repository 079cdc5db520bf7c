"""What surrounds the training: where data and model came from, and what came out, measured and exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfkit import export, tensorboard
from tfkit import run as runs
from tfkit.evaluation import Pictures, save
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone
    from tfkit.transfer.stages import Classifier

SAMPLES = 16
PROJECTED = 1000


def describe(run: Run, backbone: Backbone, splits: Splits, *, recipe: str) -> None:
    """Write down where data and model came from, and what was decided about them.

    Args:
      run: gets provenance.json, labels.txt, notes, the counts and TensorBoard's sample images.
      recipe: the name under which `python -m recipes.NAME` does it again.
      backbone: what is transferred.
      splits: of images.
    """
    run.labels = splits.class_names
    run.provenance = {
        "recipe": {"name": recipe},
        "data": splits.provenance,
        "model": {
            "handle": backbone.handle,
            "digest": backbone.digest,
            "licence": backbone.licence,
            "parameters": backbone.parameters,
            "feature_size": backbone.feature_size,
            "native_size": backbone.native_size,
            "input_range": list(backbone.input_range),
        },
    }
    run.record({"data/skipped_files": len(splits.skipped), "data/other_files": splits.other_files})
    run.record({f"data/{split}_examples": len(indices) for split, indices in splits.indices.items()})
    for note in (*backbone.notes, *splits.notes):
        run.note(note)
    shown = splits.indices["train"][:SAMPLES]
    captions = [splits.class_names[label] for label in splits.source.labels[shown]]
    tensorboard.write_images(run.logdir, "samples", splits.source.read(shown), captions=captions)


def conclude(run: Run, classifier: Classifier, splits: Splits) -> None:
    """Measure the classifier on the test split, export it, and draw what came out.

    Args:
      run: gets metrics.json, saved_model/, evaluation.npz and TensorBoard's pictures.
      classifier: the trained model.
      splits: of images.

    Raises:
      CheckError: the exported model is not the trained one.
    """
    measured = classifier.evaluation
    run.record(measured.metrics("test"))
    run.record(export.save(classifier.model, run, splits, evaluation=measured))
    pictures = Pictures.of(measured, splits)
    save(run.path / runs.EVALUATION, measured, pictures)
    captions = [measured.mistake(index) for index in pictures.worst]
    tensorboard.write_images(run.logdir, "worst_mistakes", pictures.worst_images, captions=captions)
    tensorboard.write_confusion(run.logdir, measured)
    tensorboard.write_pr_curves(run.logdir, measured)
    shown = range(min(len(measured.labels), PROJECTED))
    tensorboard.write_projector(
        run.logdir,
        classifier.test_features[shown],
        labels=[measured.class_names[measured.labels[index]] for index in shown],
        names=[measured.names[index] for index in shown],
        images=splits.source.read(splits.indices["test"][shown]),
    )
    tensorboard.write_hparams(run.logdir, run.config, run.metrics)
