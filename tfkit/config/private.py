"""How to train with differential privacy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tfkit import cluster
from tfkit.config import fields
from tfkit.config.devices import StrategyConfig
from tfkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PrivateConfig(StrategyConfig):
    """How to train a classifier on a public pretrained backbone with differential privacy."""

    target_epsilon: fields.Positive | None = None
    """Privacy budget epsilon: the noise is chosen so that it is not exceeded.
    Left out, and no --noise-multiplier: 3."""

    delta: Annotated[float, fields.Range(gt=0, lt=1)] | None = None
    """Probability with which epsilon may fail. Left out: 1e-5, or less for more than 10,000 examples."""

    noise_multiplier: Annotated[float, fields.Range(ge=0)] | None = None
    """Standard deviation of the noise in units of the clipping norm, instead of --target-epsilon."""

    l2_norm_clip: fields.Positive = 0.3
    """Length to which the gradient of each example is cut."""

    global_batch_size: fields.Count | None = None
    """Expected examples in a training step, over all replicas: the true number is random and private.
    Left out: all, up to 4096 of features and 256 of images."""

    epochs: fields.Count | None = None
    """Epochs, each of so many steps that an example is expected once. Left out: 80 on features, 15 on images."""

    learning_rate: fields.Positive | None = None
    """The peak, after warm-up and before cosine decay. Left out: larger for more examples and more epsilon."""

    features: bool = True
    """Train a head on stored features of the frozen backbone; off: train all layers (bundled backbones)."""

    mean_budget: fields.Share = 0.2
    """Share of the budget for a noisy mean of the features, which is taken off each example's; 0: none is released."""

    sampler: Literal["poisson", "shuffled"] = "poisson"
    """poisson: each example enters each step by chance. shuffled: once an epoch, which costs far more epsilon."""

    accountant: Literal["pld", "rdp"] = "pld"
    """What epsilon is computed by: privacy loss distributions, or Rényi divergences (never tighter)."""

    microbatch_size: fields.Count | None = None
    """Examples that go through the model at a time. Left out: chosen; the result does not depend on it."""

    adaptive_clip_quantile: Annotated[float, fields.Range(gt=0, lt=1)] | None = None
    """Share of examples that is to stay unclipped: the clipping norm follows, at a cost that is accounted.
    Left out: the norm stays."""

    deterministic_noise: bool = False
    """Noise and samples from --seed, for tests: repeatable and NOT private."""

    diagnostics: bool = False
    """Log loss, gradient norms and the clipped share of the training examples: without noise, so they leak."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.strategy == "parameter_server" or (
            self.strategy == "auto" and cluster.current().parameter_servers
        ):
            raise ConfigError(
                "Parameter servers do not go together with privacy: their workers take steps whenever they like, on"
                " weights of any age, and the accountant counts steps that all take together.\n"
                "  Take --strategy mirrored or multi_worker_mirrored (python -m tfkit launch --workers N)."
            )
        if self.target_epsilon is not None and self.noise_multiplier is not None:
            raise ConfigError(
                "--target-epsilon and --noise-multiplier both decide the noise: give one of them."
            )
        if self.target_epsilon is None and self.noise_multiplier is None:
            object.__setattr__(self, "target_epsilon", 3.0)
