"""Writing what a run exports, and making sure that it is the trained model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import files, stack
from tfkit import run as runs
from tfkit.data import Splits
from tfkit.errors import CheckError
from tfkit.evaluation import Evaluation
from tfkit.export.images import image_module
from tfkit.export.module import feature_module
from tfkit.export.predicting import predict
from tfkit.export.texts import text_module
from tfkit.predictions import gives_logits
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.stack import keras

MINIMUM_AGREEMENT = 0.98


def save(
    model: keras.Model, run: Run, splits: Splits, *, evaluation: Evaluation, logits: bool | None = None
) -> dict[str, float]:
    """Write saved_model/ and labels.txt, load them again, and compare with the trained model on the test split.

    A model of images gets what the training did to them built in: the exported one takes what `tfkit.read_image`
    gives, [h, w], [h, w, c] or [batch, h, w, c] of any size with 1, 3 or 4 channels (grey, RGB, RGBA), as uint8, as
    uint16, whose `Splits.pixel_range` becomes black to white, or as float in [0, 1] or [0, 255], see `to_bytes`, and
    gives float32 [classes] or [batch, classes]. `serving_default` takes uint8 [batch, h, w, c] as `images` (uint16
    where all images of the set are) and gives `probabilities`. `classify` takes what the model was trained on, float32
    [batch, s, s, 3] in [0, 1]. A model of texts takes strings, see `tfkit.export.texts`. Either is a reusable
    SavedModel as TF Hub has it: hub.KerasLayer(path, trainable=True) trains it further.

    Args:
      model: the trained model, of images in [0, 1], texts or features, giving logits or probabilities.
      run: the folder to write into.
      splits: what it was trained on.
      evaluation: of `model` on the test split.
      logits: whether `model` gives logits; None: what its loss was told.

    Returns:
      `export/agreement`: the share of test examples, as the user has them, to which the loaded model gives the
      class that `model` gave; `export/max_difference` of a probability; `export/seconds`; `export/size_bytes`.

    Raises:
      CheckError: the two agree on less than 98 % of the test split.
    """
    began = time.monotonic()
    logits = gives_logits(model) if logits is None else logits
    run.labels = splits.class_names
    with (
        files.new_folder(run.path / runs.SAVED_MODEL) as folder,
        tempfile.TemporaryDirectory() as scratch,
    ):
        with stack.traced_for_saving():
            if splits.kind == "texts":
                module = text_module(model, scratch=Path(scratch), logits=logits)
            else:
                make = image_module if splits.kind == "images" else feature_module
                module = make(model, splits, logits=logits)
        _write(module, folder)
        exported = predict(stack.load_saved_model(folder), splits, splits.indices["test"])
        agreement = float(np.mean(exported.argmax(axis=1) == evaluation.probabilities.argmax(axis=1)))
        difference = float(np.abs(exported - evaluation.probabilities).max())
        if agreement < MINIMUM_AGREEMENT:
            raise CheckError(
                f"The exported model agrees with the trained one on {agreement:.3f} of the test split"
                f" (it must be {MINIMUM_AGREEMENT}); the largest difference of a probability is {difference:.3f}."
                "\n  It was not kept. Please report this with the run's config.yaml and versions.json."
            )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "export/agreement": agreement,
        "export/max_difference": difference,
        "export/seconds": time.monotonic() - began,
        "export/size_bytes": size,
    }


def _write(module: Any, folder: Path) -> None:
    from tfkit.stack import tf

    signatures = {"serving_default": module.serve}
    for name in ("device", "device_ids"):
        if hasattr(module, name):
            signatures[name] = getattr(module, name)
    tf.saved_model.save(module, str(folder), signatures=signatures)
