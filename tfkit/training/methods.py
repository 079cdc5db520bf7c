"""Prepare standard and private training, which differ in batches, steps, kept weights and what is spent."""

from __future__ import annotations

import functools
import json
import math
import secrets
import time
from collections.abc import Sequence
from typing import Any

from tfkit.data.splits import Splits, typed_labels
from tfkit.distribution.replicas import (
    are_uneven,
    check_readers,
    distribute,
    real_examples,
    validation,
    weigh_replicas,
    weight_of_replica,
)
from tfkit.distribution.strategies import sum_metrics_once_an_epoch
from tfkit.environment import cluster, files, foreign
from tfkit.environment.packages import first_line
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy.ledger import Ledger, refuse_after_private, spend
from tfkit.privacy.plan import paragraph, statement
from tfkit.privacy.step import attach, sampled_batches
from tfkit.privacy.validation import check
from tfkit.run import PRIVACY, Run
from tfkit.training.checkpoint import KeptWeights
from tfkit.training.stage import Cadence, Stage

STANDARD_ERRORS = 2.0
"""Standard errors by which a loss is clearly worse."""
STEPS = 3
"""Steps that are taken to see what one costs; the first of them is traced."""


class StandardTraining:
    """Shuffled epochs; the weights of the epoch with the lowest validation loss remain, or the last ones.

    Attributes:
      weights: the callback that keeps the weights that remain.
      steps_per_epoch: batches in an epoch.
      callbacks: that come before those which log.
      cadence: when it is saved.
      timed: whether its checkpoints may tell how long it took.
    """

    timed = True

    def __init__(self, stage: Stage, splits: Splits, *, run: Run) -> None:
        refuse_after_private(run)
        self.callbacks: Sequence[keras.callbacks.Callback] = ()
        start, error = stage.start_val_loss, stage.start_error
        limit = None if start is None or error is None else start + STANDARD_ERRORS * error
        self.weights = KeptWeights(stage.keep, patience=stage.patience, start=start, limit=limit)
        self.steps_per_epoch = splits.steps_per_epoch
        self.cadence = stage.cadence or Cadence()
        self._stage, self._splits = stage, splits.replace(seed=stage.seed)

    def prepare(
        self, model: keras.Model, callbacks: Sequence[Any], *, strategy: tf.distribute.Strategy
    ) -> dict[str, Any]:
        """Make the model ready, in its strategy's scope; return what its checkpoints must hold besides."""
        optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        if getattr(optimizer, "use_ema", False) and not optimizer.ema_overwrite_frequency:
            raise ConfigError(
                "The optimizer puts its averaged weights (use_ema=True) in place after the last epoch, and the weights"
                " of the best epoch remain here, which are not averaged.\n  Give it ema_overwrite_frequency=N (steps)."
            )
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            check_readers(self._splits)
        uneven = strategy.num_replicas_in_sync > 1 and are_uneven(strategy, self._splits)
        if uneven:
            weigh_replicas(model)
        if piece := self._get_piece_size(strategy):
            accumulate_gradients(model, piece, uneven=uneven)
        if self.weights.limit is not None:
            self.callbacks = [_HalfEpoch(self.weights, self._splits, strategy)]
        if cluster.current().size > 1:
            sum_metrics_once_an_epoch(model)
        return {}

    def last_epoch(self, first: int) -> int:
        """Return the epoch before which training ends that goes on at epoch `first`."""
        return self._stage.epochs

    def batches(
        self,
        first: int,
        last: int,
        strategy: tf.distribute.Strategy,
        *,
        skip: int,
        splits: Splits | None = None,
    ) -> Any:
        """Return what `model.fit` gets for the epochs [first, last), without the first `skip` steps.

        Args:
          first: the first epoch, from 0.
          last: the epoch after the last.
          strategy: of the training.
          skip: steps of the first epoch that are passed over.
          splits: with batches of another size; None: those of the training.
        """
        kw: Any = {"skip": skip, "augment": self._stage.augment, "class_weight": self._stage.class_weight}
        epochs = functools.partial((splits or self._splits).epochs, first, last, **kw)
        return distribute(strategy, lambda share: epochs(share=share))

    def measure_epoch(self, model: keras.Model, strategy: tf.distribute.Strategy) -> float:
        """Return the seconds that an epoch takes here with its validation, by steps that are taken back.

        They are as small as the pieces of a batch. The first one, which is traced, does not count; `fit` takes over
        what was traced. Validation costs a third of training, since it goes through the model in one direction.
        """
        examples = {split: len(indices) for split, indices in self._splits.indices.items()}
        size = min(self._splits.global_batch_size, examples["train"])
        if piece := self._get_piece_size(strategy):
            size = min(size, piece * strategy.num_replicas_in_sync)
        data = self.batches(0, STEPS, strategy, skip=0, splits=self._splits.replace(global_batch_size=size))
        variables = [*model.variables, *model.optimizer.variables]
        values = [variable.numpy() for variable in variables]
        ends: list[float] = []
        # By the end of a step Keras has fetched its results.
        clock = keras.callbacks.LambdaCallback(on_train_batch_end=lambda *_: ends.append(time.perf_counter()))
        model.fit(data, steps_per_epoch=STEPS, callbacks=[clock], verbose=0)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return (ends[-1] - ends[0]) / (STEPS - 1) / size * (examples["train"] + examples["validation"] / 3)

    def _get_piece_size(self, strategy: tf.distribute.Strategy) -> int | None:
        """Return how many examples a replica computes at a time; None where it has no more in a batch."""
        size, replicas = self._stage.physical_batch_size, strategy.num_replicas_in_sync
        return size if size and size * replicas < self._splits.global_batch_size else None

    def conclude(self, model: keras.Model) -> None:
        """Do nothing: the model says all."""


class _HalfEpoch(keras.callbacks.Callback):
    """Evaluates in the middle of the first epoch, and leaves the epoch's metrics as they are."""

    def __init__(self, weights: KeptWeights, splits: Splits, strategy: tf.distribute.Strategy) -> None:
        super().__init__()
        foreign.take_tensor_logs(self)
        self._weights, self._splits, self._strategy = weights, splits, strategy

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluate where it is time; what comes of it is part of the checkpoints, which are made after this."""
        state = self._weights.state
        is_first_epoch = state["epoch"] is None and not state["wait"]
        if not is_first_epoch or batch + 1 != self._splits.steps_per_epoch // 2:
            return
        metric_weights = [metric.get_weights() for metric in self.model.metrics]
        steps = self._splits.evaluation_steps("validation")
        batches = validation(self._strategy, self._splits)
        results = self.model.evaluate(batches, steps=steps, verbose=0, return_dict=True)
        self._weights.compare_with_limit(float(results["loss"]))
        for metric, values in zip(self.model.metrics, metric_weights, strict=True):
            metric.set_weights(values)


def accumulate_gradients(model: keras.Model, size: int, *, uneven: bool = False) -> None:
    """Have `fit` sum the gradient of a batch over pieces of it, so that the activations of one are kept at a time.

    The optimizer takes the step that it would take on the whole batch, up to float32's rounding, and dropout draws
    other masks of the same kind. Only one update is made of a batch, and mixed precision and replicas stay as they are:
    the pieces are of each replica's own examples.

    Args:
      model: functional, compiled, with one input, one output and a loss that is a mean over the examples.
      size: examples of a piece; the last of a batch may have fewer.
      uneven: whether replicas may have different numbers of examples; see `weigh_replicas`.

    Raises:
      ConfigError: batch normalisation is trained: its statistics would be those of the pieces.
    """
    kinds = (keras.layers.BatchNormalization,)
    if names := [
        layer.name for layer in foreign.modules(model) if isinstance(layer, kinds) and layer.trainable
    ]:
        raise ConfigError(
            f"Batch normalisation is trained ({names[0]}): on pieces of a batch its statistics would be others.\n"
            "  Freeze it (layer.trainable = False), or leave physical_batch_size out."
        )

    def train_step(data: Any) -> dict[str, Any]:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(data)
        count, variables = tf.shape(y)[0], model.trainable_variables

        def add(start: Any, sums: Any, outputs: Any) -> tuple[Any, Any, Any]:
            rows = slice(start, start + size)
            own_weights = None if weights is None else weights[rows]
            with tf.GradientTape() as tape:
                y_pred = model(x[rows], training=True)
                # Of the class: what weigh_replicas puts in its place is a collective.
                loss = type(model).compute_loss(model, x[rows], *real_examples(y[rows], y_pred, own_weights))
                loss *= tf.cast(tf.shape(y_pred)[0] / count, loss.dtype)
            pairs = model.optimizer.compute_gradients(loss, variables, tape)
            sums = [old if new is None else old + new for old, (new, _) in zip(sums, pairs, strict=True)]
            return start + size, sums, outputs.write(start // size, y_pred)

        shape = tf.TensorShape([None, *model.output.shape[1:]])
        outputs = tf.TensorArray(
            model.output.dtype, size=-(-count // size), element_shape=shape, infer_shape=False
        )
        zeros = [tf.zeros_like(variable) for variable in variables]
        _, sums, outputs = tf.while_loop(
            lambda start, *_: start < count, add, (0, zeros, outputs), parallel_iterations=1
        )
        outputs = outputs.concat()
        if uneven:
            weight = weight_of_replica(real_examples(y, outputs, weights)[0])
            sums = [gradient * weight for gradient in sums]
        model.optimizer.apply_gradients(zip(sums, variables, strict=True))
        return dict(model.compute_metrics(x, y, outputs, weights))

    model.train_step, model.train_function = train_step, None


class PrivateTraining(keras.callbacks.Callback):
    """Poisson samples, the private step, an account of what is spent; the last weights remain.

    As a callback it accounts each epoch before its first step: what a killed process had begun is paid for.

    Raises:
      ConfigError: what was asked besides would look at single examples or at private counts.
      PrivacyError: the plan cannot be.
      RunError: what was spent before is not known.
    """

    timed = False  # how long an epoch took tells how many examples were sampled

    def __init__(self, stage: Stage, splits: Splits, *, run: Run) -> None:
        super().__init__()
        assert stage.privacy is not None
        settings = {"patience": stage.patience, "augment": stage.augment, "class_weight": stage.class_weight}
        if names := [name for name, value in settings.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(names)} and privacy do not go together: a stop chosen by looking and weights from the"
                " counts of private classes are not accounted, and images are taken as they are.\n  Leave it out."
            )
        self._plan = stage.privacy.plan(
            examples=len(splits.indices["train"]),
            expected_batch_size=splits.global_batch_size,
            epochs=stage.epochs,
        )
        self.weights = KeptWeights("last")
        self.steps_per_epoch = self._plan.steps_per_epoch
        # Each epoch costs privacy: none is to be lost with its process. Within one the samples are nobody's to repeat.
        self.cadence = Cadence(seconds=None, epoch_seconds=0.0)
        self.callbacks: Sequence[keras.callbacks.Callback] = [self]
        self._splits, self._run = splits, run
        self._ledger = Ledger(run, stage.name)
        self._ledger.check_plan(self._plan)
        self._saved = _SavedAccount(self._ledger)
        self._secret = secrets.token_bytes(32)
        if self._plan.deterministic_noise:
            self._secret = bytes.fromhex(files.digest_of("deterministic noise", stage.seed))
        self._step: Any = None

    def prepare(
        self, model: keras.Model, callbacks: Sequence[Any], *, strategy: tf.distribute.Strategy
    ) -> dict[str, Any]:
        """Check that the epsilon would hold for this model, and make its step the private one."""
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            raise PrivacyError(
                "The workers of parameter servers do not take their steps together, as the accountant counts them.\n"
                "  Take the strategy mirrored or multi_worker_mirrored."
            )
        labels = typed_labels(self._splits.source.labels[:0])
        label_spec = tf.TensorSpec(labels.shape[1:], labels.dtype)
        specs = {"example_spec": self._splits.spec, "label_spec": label_spec}
        check(model, callbacks=callbacks, engine=self._plan.engine, **specs)
        self.model, self._step = model, attach(model, self._plan)
        return {"private": tf.train.Checkpoint(clip=self._step.clip, account=self._saved)}

    def last_epoch(self, first: int) -> int:
        """Return the epoch before which training ends; those that a killed process began are paid for, not repeated.

        Raises:
          RunError: the account is not that of the weights, which begin at epoch `first`.
        """
        self._ledger.check_weights(epoch=first, saved=self._saved.restored)
        count = self._ledger.epochs_begun
        if not count:
            epsilon = self._plan.epsilon(self._plan.steps)
            is_private = math.isfinite(epsilon) and not self._plan.deterministic_noise
            spend(self._run, epsilon=epsilon if is_private else None)
        return max(first, self._plan.epochs - (count - first))

    def batches(self, first: int, last: int, strategy: tf.distribute.Strategy, *, skip: int) -> Any:
        """Return what `model.fit` gets for the epochs [first, last), after the step was traced without being taken.

        `fit` would trace it when the first epoch is accounted already.

        Raises:
          PrivacyError: it cannot be traced.
        """
        assert not skip, "private training is saved at the ends of epochs alone"
        batches = sampled_batches(
            self._splits, self._plan, strategy=strategy, epochs=(first, last), secret=self._secret,
            weights=sum(variable.shape.num_elements() for variable in self.model.trainable_variables),
        )  # fmt: skip
        self.model.make_train_function()
        function = getattr(self.model, "train_tf_function", None)
        if function is None:  # run_eagerly: there is nothing to trace
            return batches
        try:
            function.get_concrete_function(iter(batches))
        except PrivacyError:
            raise
        except Exception as error:
            raise PrivacyError(
                f"The private step cannot be taken ({type(error).__name__}: {first_line(error)}). Nothing was spent.\n"
                "  tfkit.privacy.problems(model, example_spec=splits.spec) looks at the model."
            ) from error
        return batches

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Account the epoch before anything of it can be seen."""
        self._ledger.begin_epoch()
        for mean in self._step.diagnostics.values():
            mean.reset_state()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add what has been spent so far to the numbers of the epoch."""
        if logs is not None:
            if self._plan.noise_multiplier and not self._plan.deterministic_noise:
                logs["epsilon"] = self._plan.epsilon(self._steps, interval=self._plan.interval)
            if self._plan.adaptive_clip_quantile is not None:
                logs["l2_norm_clip"] = float(self._step.clip.numpy())

    def conclude(self, model: keras.Model) -> None:
        """Write privacy.json and the numbers of metrics.json."""
        content = statement(self._plan, steps=self._steps, optimizer=type(model.optimizer).__name__)
        content["in_words"] = paragraph(content)
        files.write_json(self._run.path / PRIVACY, content)
        spend(self._run, epsilon=content["epsilon"] if content["private"] else None)
        # What is not private has no epsilon, though a secret seed would have given one.
        names = [*(["epsilon"] if content["private"] else []), "delta", "noise_multiplier"]
        self._run.record({f"privacy/{name}": content[name] for name in names})
        if not content["private"]:
            self._run.note("This training is NOT PRIVATE: privacy.json says why.")

    @property
    def _steps(self) -> int:
        """Return how many steps were ever begun, by this process and by those before it."""
        return self._ledger.epochs_begun * self.steps_per_epoch


class _SavedAccount(tf.train.experimental.PythonState):
    """The account as a checkpoint holds it, written with the weights: it tells whose weights they are.

    Attributes:
      restored: identity and epochs begun of the account when the checkpoint was made; None: none was restored.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.restored: tuple[str, int] | None = None

    def serialize(self) -> str:
        """Return the identity and the epochs begun."""
        return json.dumps([self._ledger.identity, self._ledger.epochs_begun])

    def deserialize(self, string_value: Any) -> None:
        """Take them from a checkpoint."""
        identity, epochs_begun = json.loads(string_value)
        self.restored = str(identity), int(epochs_begun)
