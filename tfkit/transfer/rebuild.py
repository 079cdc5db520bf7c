"""The Keras model behind a run's SavedModel: the same layers, with the weights that were exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.errors import RunError
from tfkit.transfer import models
from tfkit.transfer.whole_model import small_cnn

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone
    from tfkit.run import Run
    from tfkit.stack import keras


def rebuild(run: Run, backbone: Backbone | None, splits: Splits) -> keras.Model:
    """The trained model of a run of images.

    Args:
      run: finished.
      backbone: that it is on; None: the small network that `train_distributed` trains from scratch.
      splits: that it was trained on.

    Returns:
      Uncompiled, float32 [batch, s, s, 3] in [0, 1] to logits [batch, classes]; flat where the backbone is bundled. All
      layers are trainable but batch normalisation, which stays in inference mode.

    Raises:
      RunError: what was exported is not this model.
    """
    # It is not trained as it is here.
    settings: dict[str, Any] = {"spec": splits.spec, "learning_rate": 1.0, "steps": 1}
    classes = len(splits.class_names)
    model = (
        small_cnn(classes=classes, top=models.plain_top(), **settings)
        if backbone is None
        else models.whole(backbone, classes, trainable="none", **settings)
    )
    stored: list[Any] = list(run.model.variables_of_model)
    shapes = [tuple(variable.shape) for variable in stored]
    if shapes != [tuple(variable.shape) for variable in model.variables]:
        raise RunError(
            f"{run.path} exported {len(shapes)} variables, which are not those of a classifier on"
            f" {backbone.handle if backbone else 'no backbone'}."
            "\n  It was made by another tfkit, or changed. Make the run anew."
        )
    model.set_weights([variable.numpy() for variable in stored])
    models.unfreeze(model)
    return model
