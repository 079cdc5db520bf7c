"""The head of a run, trained once more on other examples: for what compares models with each other."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import config as configs
from tfkit import training, transfer
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.hub import Backbone, TextEncoder
    from tfkit.stack import keras


def head_again(config: Any, backbone: Backbone | TextEncoder, pool: Splits, *, seed: int) -> keras.Model:
    """A head with the run's own settings, private or not; nothing of its training is left on disk.

    Args:
      config: of the recipe that made the run: a `TransferConfig` or a `PrivateConfig`.
      backbone: that the features are of.
      pool: of features, with the training split in place.
      seed: of what is drawn, but for the noise of private training.

    Returns:
      Features float32 [b, d] to logits float32 [b, classes], compiled.
    """
    examples = len(pool.indices["train"])
    with tempfile.TemporaryDirectory() as folder, Run.create(Path(folder) / "run", config={}) as run:
        if isinstance(config, configs.PrivateConfig):
            # What suited the run's own number of examples may be too large for fewer of them, or for more.
            batch = min(config.global_batch_size, examples) if config.global_batch_size else None
            delta = config.delta if config.delta and config.delta < 1 / examples else None
            own = dataclasses.replace(config, delta=delta, global_batch_size=batch, seed=seed)
            return transfer.train_private_head(run, backbone, pool, own, verbose=0)[0].model
        return training.train(
            transfer.plain_head(config, backbone, pool),
            pool,
            run=run,
            epochs=config.epochs,
            patience=config.patience,
            class_weight=training.class_weight(pool, when=config.class_weights),
            seed=seed,
            verbose=0,
        ).model
