"""Training of a whole model at once: a small network from scratch, or all layers of a backbone."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from tfkit import distribute, training
from tfkit.config import ImageModelConfig
from tfkit.data import Augmentation, Splits
from tfkit.hub import Backbone
from tfkit.run import Run
from tfkit.transfer import models
from tfkit.transfer.stages import Classifier, observe

if TYPE_CHECKING:
    from tfkit.stack import keras, tf

FILTERS = (16, 32, 64, 128)
STAGE = "train"


def train_all(
    run: Run,
    backbone: Backbone | None,
    splits: Splits,
    config: ImageModelConfig,
    *,
    strategy: tf.distribute.Strategy | None = None,
) -> Classifier:
    """Train all layers of a classifier, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      backbone: whose layers are trained; None: a small network from scratch.
      splits: of images, float32 [batch, s, s, 3] in [0, 1].
      config: what to train.
      strategy: of the training; None: the one that the settings name.
    """
    top = models.plain_top(warmup=config.warmup, optimizer=config.optimizer)
    build = functools.partial(
        small_cnn if backbone is None else functools.partial(models.whole, backbone, trainable="all"),
        classes=len(splits.class_names),
        spec=splits.spec,
        learning_rate=config.learning_rate,
        steps=config.epochs * splits.steps_per_epoch,
        top=top,
    )
    trained = training.train(
        build,
        splits,
        run=run,
        stage=STAGE,
        epochs=config.epochs,
        strategy=strategy or distribute.strategy(config.strategy),
        seed=config.seed,
        patience=config.patience,
        class_weight=training.class_weight(splits, when=config.class_weights, run=run),
        augment=Augmentation.preset(config.augment),
        cadence=training.cadence(config),
        profile=config.profile,
    )
    run.record({"time/train_seconds": trained.seconds})
    return observe(trained.model, splits)


def small_cnn(
    *, classes: int, spec: tf.TensorSpec, learning_rate: float, steps: int, top: models.Top
) -> keras.Model:
    """Four convolutions, each of which halves the image, and a mean over what is left; 0.1 million weights.

    Without batch normalisation, whose statistics would depend on how a batch is dealt to replicas.

    Returns:
      Compiled: float32 [batch, s, s, 3] in [0, 1] to logits float32 [batch, classes].
    """
    from tfkit.stack import keras

    layers = keras.layers
    images = keras.Input(spec.shape, name="images")
    values = layers.Rescaling(2.0, offset=-1.0, name="centred")(images)
    for place, filters in enumerate(FILTERS):
        values = layers.Conv2D(
            filters, 3, strides=2, padding="same", activation="relu", kernel_initializer="he_normal",
            name=f"convolution_{place}",
        )(values)  # fmt: skip
    features = layers.GlobalAveragePooling2D(name="mean")(values)
    model = keras.Model(images, top.logits(features, classes))
    return models.compiled(model, top.optimizer(learning_rate, steps, model))
