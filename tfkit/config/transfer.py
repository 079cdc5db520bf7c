"""How to train a classifier: on a pretrained model, or all layers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfkit.config import fields
from tfkit.config.devices import ReplicaConfig


@dataclass(frozen=True, kw_only=True)
class TransferConfig(ReplicaConfig):
    """How to train a classifier on a pretrained model: first its head, then perhaps all of it."""

    epochs: fields.Count = 30
    """Epochs of the head, on the frozen model, at most."""

    learning_rate: fields.Positive = 3e-3
    """Of the head: the peak, after warm-up and before cosine decay."""

    fine_tune_epochs: fields.Whole | None = None
    """Of the whole model after that, at most. Left out: decided by what an epoch costs here."""

    fine_tune_learning_rate: fields.Positive = 3e-4
    """Of the whole model: the peak."""

    unfreeze: Literal["all", "staged"] = "all"
    """staged: a third of the fine-tuning epochs goes to the later half of the model (bundled ones)."""

    patience: fields.Count = 5
    """Epochs without a lower validation loss after which a stage stops; the best epoch's weights are kept."""

    features: bool = True
    """Compute the frozen model's features once and store them; off: run it in every epoch."""

    class_weights: Literal["auto", "always", "never"] = "auto"
    """Weigh classes by rarity. auto: when the largest has over 3 times the examples of the smallest."""

    augment = "none"  # what has no augmentation has this
    layer_decay = 1.0


@dataclass(frozen=True, kw_only=True)
class WholeModelConfig(ReplicaConfig):
    """How to train all layers of a classifier."""

    epochs: fields.Count = 10
    """Epochs at most."""

    learning_rate: fields.Positive = 1e-3
    """The peak, after warm-up and before cosine decay."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """sgd has a momentum of 0.9."""

    patience: fields.Count = 5
    """Epochs without a lower validation loss after which training stops; the best epoch's weights are kept."""

    class_weights: Literal["auto", "always", "never"] = "auto"
    """Weigh classes by rarity. auto: when the largest has over 3 times the examples of the smallest."""
