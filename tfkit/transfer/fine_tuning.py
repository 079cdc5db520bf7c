"""Train in the stages of transfer learning: features once, a head on them, then perhaps the whole model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfkit import hub
from tfkit.data.augment import Augmentation
from tfkit.data.splits import Splits, draw, typed_labels
from tfkit.distribution.replicas import Replicas
from tfkit.environment import files, process, stack
from tfkit.hub.encoders import Encoder
from tfkit.privacy.clipping import per_example_loss
from tfkit.run import Run
from tfkit.settings.options import TransferConfig
from tfkit.text.tokenizers import WordPiece, build_vocabulary
from tfkit.training.fit import train
from tfkit.training.stage import Stage, Trained, class_weight
from tfkit.transfer import models
from tfkit.transfer.continuing import VOCABULARY, Start
from tfkit.transfer.models import Classifier, Top, measure, measure_head, plain_top
from tfkit.transfer.results import measure_tokens

TOP_SHARE = 1 / 3
USUAL_EPOCHS, CPU_MINUTES = {"images": 5, "texts": 3}, 1.0
PIXELS_AT_A_TIME = 8 * 224**2
"""Of the images whose activations a CPU holds: with EfficientNet-Lite0 those of an image of 224 pixels take 60 MB."""
RATE_FACTOR = 3.0
"""The vector of a piece is in few of the steps: the light model learns at so many times the rate of a head."""
MAX_LENGTH = 256
MOST_TEXTS = 50_000


def fine_tune(
    run: Run,
    encoder: Encoder,
    splits: Splits,
    config: TransferConfig,
    *,
    strategy: stack.tf.distribute.Strategy,
    start: Start,
    callbacks: Sequence[Any] = (),
) -> Classifier:
    """Train a classifier on a pretrained model, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      encoder: of images or texts, see `tfkit.load_model`.
      splits: of images, float32 [batch, s, s, 3] in [0, 1], or of texts.
      config: what to train.
      strategy: of all stages: a model of one strategy cannot be read in another's scope.
      start: what the head starts from, and an encoder that was fine-tuned before.
      callbacks: further ones of Keras, of all stages.
    """
    augment = Augmentation.preset(config.augment)
    weights = class_weight(splits, when=config.class_weights, run=run)
    stage = functools.partial(Stage.of_settings, config, augment=augment, class_weight=weights)
    replicas = Replicas(strategy)
    make = functools.partial(models.whole_model, encoder, classes=len(splits.class_names), spec=splits.spec)
    top = _get_top(config, encoder, splits, config.learning_rate, config.epochs)
    begins_tuned = config.features and start.is_tuned(functools.partial(make, top=top))
    extraction = _extract_features(run, encoder, splits, config, begins_tuned=begins_tuned)
    features, base = (extraction.splits, extraction.model) if extraction else (None, None)
    precision = "mixed_float16" if stack.has_gpu() else "float32"
    # What is tuned is what is exported, unless it is tuned by replicas or in float16.
    is_single = precision == "float32" and strategy is stack.tf.distribute.get_strategy()
    tunable = functools.partial(make, base=base if is_single else None)
    options: dict[str, Any] = {"run": run, "strategy": strategy, "callbacks": callbacks}
    if features is None:
        trained = start.train(functools.partial(tunable, top=top), splits, stage(name="head"), **options)
    else:
        trained = train_head(encoder, features, config, start=start, **options)
    head, seconds, is_improved = trained, trained.seconds, features is None
    is_perfect = head.best_epoch is not None and head.rows[head.best_epoch].get("val_accuracy") == 1.0
    plan = _Plan(run, encoder, splits, config, replicas, is_perfect=is_perfect)
    if plan.epochs:
        error = float(replicas.of_chief([_compute_standard_error(head, features or splits)])[0])
    for name, trainable in (("fine_tune_top", "top"), ("fine_tune", "all")):
        if not plan.epochs_of(name):
            continue

        def build(name: str = name, trainable: str = trainable, start: Trained = trained) -> Any:
            plan.schedule = models.open_schedule(config.fine_tune_learning_rate)
            steps = plan.epochs_of(name) * splits.steps_per_epoch
            models.set_steps(plan.schedule, steps, warmup=config.warmup)
            tuned_top = _get_top(config, encoder, splits, plan.schedule, 0, layer_decay=config.layer_decay)
            return tunable(trainable=trainable, head=start.model, top=tuned_top, precision=precision)

        tuning = stage(
            name=name,
            epochs=plan.epochs_of(name),
            start_val_loss=trained.val_loss,
            start_error=error,
            physical_batch_size=_get_physical_batch_size(encoder, splits, strategy),
        )
        trained = train(build, splits, tuning, plan=functools.partial(plan.decide, name), **options)
        seconds += trained.seconds
        is_improved = is_improved or trained.best_epoch is not None
    run.record({"time/train_seconds": seconds})
    # Outside of the strategy's scope and in float32, whatever it was trained in: this is measured and exported.
    model = make(head=trained.model, top=top, base=base)
    return measure(model, splits) if features is None or is_improved else measure_head(model, head, features)


def train_head(
    encoder: Encoder, features: Splits, config: TransferConfig, *, start: Start, **options: Any
) -> Trained:
    """Train a head on stored features, or what is left to train of it.

    Args:
      encoder: whose features they are.
      features: splits of them.
      config: what to train.
      start: what it starts from.
      options: run, strategy and callbacks, as of `fine_tune`.
    """
    weights = class_weight(features, when=config.class_weights)
    stage = Stage.of_settings(config, name="head", class_weight=weights)
    return start.train(build_head(config, encoder, features), features, stage, **options)


def train_at_once(
    run: Run,
    encoder: Encoder | None,
    splits: Splits,
    config: Any,
    *,
    strategy: Any,
    start: Start,
    callbacks: Sequence[Any] = (),
) -> Classifier:
    """Train all layers of a classifier from the first step, or what is left to train of an interrupted one.

    Args:
      run: gets the logs, the measurements and what was decided.
      encoder: of images, whose layers are trained; None: a small network of images, or the light model of texts.
      splits: of images, float32 [batch, s, s, 3] in [0, 1], or of texts.
      config: of a recipe that trains; of texts the head's epochs and three times its rate are the light model's.
      strategy: of the training, a tf.distribute.Strategy.
      start: what all layers start from.
      callbacks: further ones of Keras.
    """
    name, rate, classes = "train", config.learning_rate, len(splits.class_names)
    if splits.kind == "images":
        network: Any = models.small_cnn
        if encoder is not None:
            network = functools.partial(models.whole_model, encoder, trainable="all")
        network = functools.partial(network, classes=classes, spec=splits.spec)
    else:
        name, rate, max_length = "light", RATE_FACTOR * rate, config.max_length or MAX_LENGTH
        run.decide(max_length=max_length, fine_tune_epochs=0)
        tokenizer = _load_or_build_tokenizer(run, splits, strategy, max_length=max_length)
        if run.is_chief:
            measure_tokens(run, tokenizer, splits)
        run.record({"time/features_seconds": 0.0})
        network = functools.partial(models.light, tokenizer, classes)
    build = functools.partial(network, top=_get_top(config, None, splits, rate, config.epochs))
    weights = class_weight(splits, when=config.class_weights, run=run)
    augment = Augmentation.preset(config.augment)
    stage = Stage.of_settings(config, name=name, class_weight=weights, augment=augment)
    trained = start.train(build, splits, stage, run=run, strategy=strategy, callbacks=callbacks)
    run.record({"time/train_seconds": trained.seconds})
    return measure(trained.model, splits)


def build_head(config: TransferConfig, encoder: Encoder, features: Splits) -> Callable[[], stack.keras.Model]:
    """Return what builds the head that is trained on these features."""
    top = _get_top(config, encoder, features, config.learning_rate, config.epochs)
    return functools.partial(models.head, encoder.feature_size, len(features.class_names), top)


def _get_top(config: Any, encoder: Encoder | None, splits: Splits, rate: Any, epochs: int, **how: Any) -> Top:
    hidden = models.HIDDEN_OF_TEXTS if encoder is not None and encoder.modality == "texts" else 0
    settings = {name: getattr(config, name, None) for name in ("warmup", "hidden", "dropout", "optimizer")}
    how |= {"hidden": hidden} | {name: value for name, value in settings.items() if value is not None}
    return plain_top(rate, epochs * splits.steps_per_epoch, task=splits.task, **how)


def _load_or_build_tokenizer(
    run: Run, splits: Splits, strategy: stack.tf.distribute.Strategy, *, max_length: int
) -> WordPiece:
    """Return a tokenizer whose vocabulary the chief has built once, however often the run is resumed."""
    path = run.backup / VOCABULARY
    if run.is_chief and not path.is_file():
        train = splits.indices["train"]
        indices = train[draw(len(train), MOST_TEXTS)]
        pieces = build_vocabulary(str(splits.source.raw(int(index))) for index in indices)
        files.write_hashed(path, "".join(f"{piece}\n" for piece in pieces).encode())
        run.note(f"The vocabulary has {len(pieces)} pieces, made of the training texts.")
    Replicas(strategy).barrier()
    vocabulary = tuple(files.read_hashed(path).decode().split("\n")[:-1])
    return WordPiece(vocabulary=vocabulary, max_length=max_length)


def _extract_features(
    run: Run, encoder: Encoder, splits: Splits, config: TransferConfig, *, begins_tuned: bool
) -> hub.Extraction | None:
    """Return the stored features; None where they do not serve."""
    run.record({"time/features_seconds": 0.0})
    if not config.features:
        return None
    if begins_tuned or config.augment != "none":
        tuned = f"they would be those of {encoder.handle} before it was fine-tuned"
        changed = f"augmentation ({config.augment}) makes other images in each epoch"
        run.note(f"Stored features are off: {tuned if begins_tuned else changed}.")
        run.decide(features=False)
        return None
    extraction = hub.extract(encoder, splits)
    run.note(extraction.summary)
    run.record({"time/features_seconds": extraction.seconds})
    return extraction


class _Plan:
    """The number of epochs of fine-tuning: as asked, and where there is a budget as many as fit it.

    What a few steps take decides, once for a run and by its chief. It stands in config.yaml from then on, so that a run
    which goes on, or is begun again from that file, trains so many.

    Attributes:
      epochs: at most so many over all stages; 0: none.
      schedule: see `models.open_schedule`; of the model that is trained.
    """

    schedule: Any = None

    def __init__(
        self,
        run: Run,
        encoder: Encoder,
        splits: Splits,
        config: TransferConfig,
        replicas: Replicas,
        *,
        is_perfect: bool = False,
    ) -> None:
        self._run, self._config, self._replicas = run, config, replicas
        self._steps, self._start_time, self._is_decided = splits.steps_per_epoch, time.monotonic(), False
        self._staged = config.unfreeze == "staged" and bool(encoder.stages)
        default = USUAL_EPOCHS[encoder.modality]
        # An earlier process of this run may have decided.
        settings = {**vars(config), **run.config} if run.is_chief else vars(config)
        epochs, minutes = settings["fine_tune_epochs"], settings["fine_tune_minutes"]
        by_default, why = epochs is None and minutes is None, ""
        if by_default and not stack.has_gpu():
            minutes = CPU_MINUTES
        if epochs is None and encoder.windows:
            why = f"whole documents are read (--windows first --fine-tune-epochs {default} trains on their beginnings)"
        elif epochs is None and not encoder.trainable_variables:
            why = f"{encoder.handle} has no trainable weights"
        elif by_default and is_perfect:
            examples = process.counted(len(splits.indices["validation"]), "validation example")
            why = (
                f"the head makes no mistake on the {examples}, so that no gain could be seen"
                f" (--fine-tune-epochs {default} trains nevertheless)"
            )
        if why:
            run.note(f"Fine-tuning is off: {why}.")
            run.decide(fine_tune_epochs=0, fine_tune_minutes=None)
        elif config.unfreeze == "staged" and not self._staged and epochs != 0:
            run.note("Staged unfreezing is off: a hub.KerasLayer is trained as a whole or not at all.")
        epochs = 0 if why else default if epochs is None else epochs
        numbers = replicas.of_chief([float(epochs), minutes or 0.0])
        self.epochs, self._minutes = int(numbers[0]), float(numbers[1]) or None

    def epochs_of(self, stage: str) -> int:
        """Return how many epochs a stage has: "fine_tune_top" (the later half of the model) or "fine_tune" (all)."""
        first = round(self.epochs * TOP_SHARE) if self._staged else 0
        return first if stage == "fine_tune_top" else self.epochs - first

    def decide(self, stage: str, seconds: float) -> int:
        """Print what training takes, and return how many epochs of this stage fit.

        Args:
          stage: that is about to begin.
          seconds: that an epoch takes here.
        """
        if not self._is_decided:
            self._bound(seconds)
        models.set_steps(self.schedule, self.epochs_of(stage) * self._steps, warmup=self._config.warmup)
        return self.epochs_of(stage)

    def _bound(self, seconds: float) -> None:
        limit, self._is_decided = self.epochs, True
        if self._minutes is not None:
            time_left = 60 * self._minutes - (time.monotonic() - self._start_time)
            count = float(np.clip(time_left // seconds, 0, limit))
            self.epochs = int(self._replicas.of_chief([count])[0])
        if self.epochs:
            note = f" in place of {limit}" if self.epochs < limit else ""
            epochs = f"{process.counted(self.epochs, 'epoch')}{note}"
            self._run.note(
                f"Fine-tuning: about {_format_duration(self.epochs * seconds)} ({epochs} of {self._steps} steps);"
                " --fine-tune-minutes N bounds it, --fine-tune-epochs 0 leaves it out."
            )
        else:
            self._run.note(
                f"Fine-tuning is off: an epoch takes about {_format_duration(seconds)} here, which is too long for"
                f" {_format_duration(60 * (self._minutes or 0))} in all (--fine-tune-epochs {limit} turns it on: about"
                f" {_format_duration(limit * seconds)}; --fine-tune-minutes N as many epochs as fit)."
            )
        self._run.decide(fine_tune_epochs=self.epochs, fine_tune_minutes=None)


def _format_duration(seconds: float) -> str:
    """Return a duration as a person would say it.

    Example:
      >>> _format_duration(1.2), _format_duration(60), _format_duration(400)
      ('1 second', '60 seconds', '7 minutes')
    """
    count, unit = (max(seconds, 1), "second") if seconds < 100 else (seconds / 60, "minute")
    return process.counted(round(count), unit)


def _compute_standard_error(head: Trained, splits: Splits) -> float:
    """Return the standard error of a model's mean loss on the validation split of `splits`, of its examples."""
    outputs = head.model.predict(splits.validation, verbose=0)
    labels = typed_labels(splits.source.labels[splits.indices["validation"]])
    losses = np.asarray(per_example_loss(head.model)(labels, outputs))
    return float(losses.std() / np.sqrt(len(losses)))


def _get_physical_batch_size(encoder: Encoder, splits: Splits, strategy: Any) -> int | None:
    """Return how many images a CPU has the activations of at a time; None: as many as there are, or texts."""
    on_tpu = isinstance(strategy, stack.tf.distribute.TPUStrategy)
    if encoder.modality != "images" or stack.has_gpu() or on_tpu:
        return None
    return max(1, PIXELS_AT_A_TIME // int(splits.spec.shape[0]) ** 2)
