"""Adam with a share of the learning rate for each layer: the lower ones, which know the most, change the least."""

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
        """A step of Adam, then back by what is not the variable's share of it."""
        share = self._shares.get(variable.name, 1.0)
        if share == 1.0:
            super().update_step(gradient, variable)
            return
        before = tf.identity(variable)
        super().update_step(gradient, variable)
        variable.assign(before + share * (variable - before))


def shares(model: keras.Model, decay: float) -> dict[str, float]:
    """For each variable of a transformer its share of the rate: `decay` to the power of the layers above it.

    Args:
      model: whose transformer layers are named layer0_..., layer1_...; what stands before them counts as below the
        first, what stands behind the last has the whole rate.
      decay: in (0, 1].
    """
    depths = [_depth(layer.name) for layer in model.layers]
    top = max((depth for depth in depths if depth is not None), default=-1)
    found, current = {}, -1
    for layer, depth in zip(model.layers, depths, strict=True):
        current = max(current, current if depth is None else depth)
        found.update({variable.name: decay ** (top - current) for variable in layer.trainable_variables})
    return {name: share for name, share in found.items() if share != 1.0}


def _depth(name: str) -> int | None:
    matched = re.match(r"layer(\d+)_", name)
    return int(matched[1]) if matched else None
