"""Prepare standard and private training, which differ in batches, steps, kept weights and what is spent."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfkit.data.splits import typed_labels
from tfkit.distribution.replicas import are_uneven, check_readers, distribute, weigh_replicas
from tfkit.distribution.strategies import sum_metrics_once_an_epoch
from tfkit.environment import cluster, files
from tfkit.environment.packages import first_line
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy.ledger import Ledger, refuse_after_private, spend
from tfkit.privacy.plan import paragraph, statement
from tfkit.privacy.step import attach, sampled_batches
from tfkit.privacy.validation import check
from tfkit.run import PRIVACY
from tfkit.training.checkpoint import KeptWeights
from tfkit.training.stage import Cadence

if TYPE_CHECKING:
    from tfkit.data.splits import Share, Splits
    from tfkit.run import Run
    from tfkit.training.stage import Stage


class StandardTraining:
    """Shuffled epochs; the weights of the epoch with the lowest validation loss remain, or the last ones.

    Attributes:
      weights: the callback that keeps the weights that remain.
      steps_per_epoch: batches in an epoch.
      callbacks: that come before those which log.
      cadence: when it is saved.
    """

    callbacks: Sequence[keras.callbacks.Callback] = ()

    def __init__(self, stage: Stage, splits: Splits, *, run: Run) -> None:
        refuse_after_private(run)
        self.weights = KeptWeights(stage.keep, patience=stage.patience, start=stage.start_val_loss)
        self.steps_per_epoch = splits.steps_per_epoch
        self.cadence = stage.cadence or Cadence()
        self._stage, self._splits = stage, splits

    def prepare(
        self, model: keras.Model, callbacks: Sequence[Any], *, strategy: tf.distribute.Strategy
    ) -> dict[str, Any]:
        """Make the model ready, in its strategy's scope; return what its checkpoints must hold besides."""
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            check_readers(self._splits)
        if strategy.num_replicas_in_sync > 1 and are_uneven(strategy, self._splits):
            weigh_replicas(model)
        if cluster.current().size > 1:
            sum_metrics_once_an_epoch(model)
        return {}

    def last_epoch(self, first: int) -> int:
        """Return the epoch before which training ends that goes on at epoch `first`."""
        return self._stage.epochs

    def batches(self, first: int, last: int, strategy: tf.distribute.Strategy, *, skip: int) -> Any:
        """Return what `model.fit` gets for the epochs [first, last), without the first `skip` steps."""
        augment, class_weight = self._stage.augment, self._stage.class_weight

        def of_process(share: Share | None) -> tf.data.Dataset:
            return self._splits.epochs(
                first, last, skip=skip, augment=augment, class_weight=class_weight, share=share
            )

        return distribute(strategy, of_process)

    def conclude(self, model: keras.Model) -> None:
        """Do nothing: the model says all."""


class PrivateTraining(keras.callbacks.Callback):
    """Poisson samples, the private step, an account of what is spent; the last weights remain.

    As a callback it accounts each epoch before its first step: what a killed process had begun is paid for.

    Raises:
      ConfigError: what was asked besides would look at single examples or at private counts.
      PrivacyError: the plan cannot be.
      RunError: what was spent before is not known.
    """

    def __init__(self, stage: Stage, splits: Splits, *, run: Run) -> None:
        super().__init__()
        assert stage.privacy is not None
        looking = {"patience": stage.patience, "augment": stage.augment, "class_weight": stage.class_weight}
        if asked := [name for name, value in looking.items() if value is not None]:
            raise ConfigError(
                f"{', '.join(asked)} and privacy do not go together: a stop chosen by looking and weights from the"
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
        begun = self._ledger.epochs_begun
        if not begun:
            spent = self._plan.epsilon(self._plan.steps)
            private = math.isfinite(spent) and not self._plan.deterministic_noise
            spend(self._run, epsilon=spent if private else None)
        return max(first, self._plan.epochs - (begun - first))

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
            if self._plan.noise_multiplier:
                logs["epsilon"] = self._plan.epsilon(self._steps)
            if self._plan.adaptive_clip_quantile is not None:
                logs["l2_norm_clip"] = float(self._step.clip.numpy())

    def conclude(self, model: keras.Model) -> None:
        """Write privacy.json and the numbers of metrics.json."""
        content = statement(self._plan, steps=self._steps, optimizer=type(model.optimizer).__name__)
        content["in_words"] = paragraph(content)
        files.write_json(self._run.path / PRIVACY, content)
        spend(self._run, epsilon=content["epsilon"] if content["private"] else None)
        # What is not private has no epsilon, though a secret seed would have given one.
        claimed = [*(["epsilon"] if content["private"] else []), "delta", "noise_multiplier"]
        self._run.record({f"privacy/{name}": content[name] for name in claimed})
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
        identity, begun = json.loads(string_value)
        self.restored = str(identity), int(begun)
