"""The Keras model behind a run's SavedModel: the same layers, with the weights that were exported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfkit.errors import RunError
from tfkit.transfer import models

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone
    from tfkit.run import Run
    from tfkit.stack import keras


def rebuild(run: Run, backbone: Backbone, splits: Splits) -> keras.Model:
    """The trained model of a run of `transfer_image`.

    Args:
      run: finished.
      backbone: that it is on.
      splits: that it was trained on.

    Returns:
      Uncompiled, float32 [batch, s, s, 3] in [0, 1] to logits [batch, classes]; flat where the backbone is bundled. All
      layers are trainable but batch normalisation, which stays in inference mode.

    Raises:
      RunError: what was exported is not this model.
    """
    model = models.whole(
        backbone,
        len(splits.class_names),
        spec=splits.spec,
        learning_rate=1.0,  # it is not trained as it is here
        steps=1,
        trainable="none",
    )
    stored: list[Any] = list(run.model.variables_of_model)
    shapes = [tuple(variable.shape) for variable in stored]
    if shapes != [tuple(variable.shape) for variable in model.variables]:
        raise RunError(
            f"{run.path} exported {len(shapes)} variables, which are not those of a classifier on {backbone.handle}."
            "\n  It was made by another tfkit, or changed. Make the run anew."
        )
    model.set_weights([variable.numpy() for variable in stored])
    models.unfreeze(model)
    return model
