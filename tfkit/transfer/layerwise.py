"""Train the lower layers, which know the most, at a share of the learning rate: Adam with a share for each variable."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tfkit.environment.stack import keras, tf


class LayerwiseAdam(keras.optimizers.Adam):
    """Stock Adam, of whose step each variable takes its share.

    Args:
      learning_rate: of a variable whose share is 1, a number or a schedule.
      shares: name of a variable to its share, in [0, 1]; those that are not named have 1.

    Source: Howard and Ruder 2018 (arXiv:1801.06146), "discriminative fine-tuning".
    """

    def __init__(self, learning_rate: Any, *, shares: Mapping[str, float]) -> None:
        super().__init__(learning_rate)
        self._shares = dict(shares)

    def update_step(self, gradient: Any, variable: Any) -> None:
        """Take a step of Adam, then go back by what is not the variable's share of it."""
        share = self._shares.get(variable.name, 1.0)
        if share == 1.0:
            super().update_step(gradient, variable)
            return
        before = tf.identity(variable)
        super().update_step(gradient, variable)
        variable.assign(before + share * (variable - before))


def shares(model: keras.Model, decay: float) -> dict[str, float]:
    """Return for each variable of a transformer its share of the rate: `decay` to the power of the layers above it.

    Args:
      model: whose transformer layers are named layer0_..., layer1_...; what stands before them counts as below the
        first, what stands behind the last has the whole rate.
      decay: in (0, 1].
    """
    found, depth = {}, -1
    for layer in model.layers:
        matched = re.match(r"layer(\d+)_", layer.name)
        depth = max(depth, int(matched[1])) if matched else depth
        found.update({variable.name: depth for variable in layer.trainable_variables})
    return {name: decay ** (depth - below) for name, below in found.items() if below != depth}
