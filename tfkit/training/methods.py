"""Prepare standard and private training, which differ in batches, steps, kept weights and what is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfkit.distribution.replicas import are_uneven, check_readers, distribute, weigh_replicas
from tfkit.distribution.strategies import sum_metrics_once_an_epoch
from tfkit.environment import cluster
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError
from tfkit.privacy.ledger import refuse_after_private
from tfkit.training.checkpoint import Cadence, KeptWeights

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


class PrivateTraining:
    """Poisson samples, the private step, an account of what is spent; the last weights remain.

    Raises:
      ConfigError: what was asked besides would look at single examples or at private counts.
      PrivacyError: the plan cannot be.
    """

    def __init__(self, stage: Stage, splits: Splits, *, run: Run) -> None:
        from tfkit.privacy.step import Session

        assert stage.privacy is not None
        _refuse_looking(stage)
        plan = stage.privacy.plan(
            examples=len(splits.indices["train"]),
            expected_batch_size=splits.global_batch_size,
            epochs=stage.epochs,
        )
        self.weights = KeptWeights("last")
        self.steps_per_epoch = plan.steps_per_epoch
        # Each epoch costs privacy: none is to be lost with its process. Within one the samples are nobody's to repeat.
        self.cadence = Cadence(seconds=None, epoch_seconds=0.0)
        self._epochs, self._splits, self._model = stage.epochs, splits, None
        self._session = Session(plan, run=run, stage=stage.name, seed=stage.seed)
        self.callbacks: Sequence[keras.callbacks.Callback] = [self._session]

    def prepare(
        self, model: keras.Model, callbacks: Sequence[Any], *, strategy: tf.distribute.Strategy
    ) -> dict[str, Any]:
        """Check that the epsilon would hold for this model, and make its step the private one."""
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            raise PrivacyError(
                "The workers of parameter servers take steps whenever they like; the accountant counts steps that all"
                " take together.\n  Take the strategy mirrored or multi_worker_mirrored."
            )
        self._session.prepare(model, self._splits, callbacks)
        self._model = model
        return {"private": self._session.state}

    def last_epoch(self, first: int) -> int:
        """Return the epoch before which training ends; those that a killed process began are paid for, not repeated.

        Raises:
          RunError: how many they are is not known.
        """
        self._session.begin(first)
        return max(first, self._epochs - (self._session.epochs_begun - first))

    def batches(self, first: int, last: int, strategy: tf.distribute.Strategy, *, skip: int) -> Any:
        """Return what `model.fit` gets for the epochs [first, last), after the step was traced.

        `fit` would trace it when the first epoch is accounted already.

        Raises:
          PrivacyError: it cannot be traced.
        """
        assert not skip, "private training is saved at the ends of epochs alone"
        batches = self._session.batches(self._splits, strategy=strategy, first=first, last=last)
        self._session.rehearse(self._model, batches)
        return batches

    def conclude(self, model: keras.Model) -> None:
        """Write privacy.json."""
        self._session.conclude(model)


def _refuse_looking(stage: Stage) -> None:
    """Refuse what does not go together with privacy, all at once."""
    reasons = {
        "patience": "training ends after the planned epochs; a stop chosen by looking is not accounted",
        "augment": "private training takes the images as they are",
        "class_weight": "weights from the class counts would publish those counts",
    }
    problems = [
        f"{name}: {reason}. Leave it out."
        for name, reason in reasons.items()
        if getattr(stage, name) is not None
    ]
    if problems:
        raise ConfigError("These do not go together with privacy:\n  " + "\n  ".join(problems))
