"""What differs between training as usual and private training: batches, steps, which weights remain, what is spent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfkit.distribution import parameter_servers
from tfkit.distribution.replicas import are_uneven, dealt, weigh_replicas
from tfkit.distribution.strategies import sum_metrics_once_an_epoch
from tfkit.environment import cluster
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, PrivacyError
from tfkit.training.checkpoint import Cadence, KeepBest, KeepLast

if TYPE_CHECKING:
    from tfkit.data.augment import Augmentation
    from tfkit.data.splits import Share, Splits
    from tfkit.privacy.plan import DPSGD
    from tfkit.run import Run


class AsUsual:
    """Shuffled epochs; the weights of the epoch with the lowest validation loss remain, or the last ones.

    Attributes:
      best: keeps the weights that remain.
      steps_per_epoch: batches in an epoch.
      callbacks: that come before those which log.
      cadence: when it is saved.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        augment: Augmentation | None,
        patience: int | None,
        start_val_loss: float | None,
        cadence: Cadence,
        class_weight: Mapping[int, float] | None = None,
        keep: str = "best",
    ) -> None:
        self.best = KeepLast() if keep == "last" else KeepBest(patience=patience, start=start_val_loss)
        self.steps_per_epoch = splits.steps_per_epoch
        self.callbacks: list[keras.callbacks.Callback] = []
        self.cadence = cadence
        self._splits = splits
        self._augment = augment
        self._class_weight = class_weight

    def prepare(
        self, model: keras.Model, callbacks: Sequence[Any], *, strategy: tf.distribute.Strategy
    ) -> dict[str, Any]:
        """Make the model ready, in its strategy's scope; returns what its backup must hold besides."""
        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            parameter_servers.check_readers(self._splits)
        if strategy.num_replicas_in_sync > 1 and are_uneven(strategy, self._splits):
            weigh_replicas(model)
        if cluster.current().size > 1:
            sum_metrics_once_an_epoch(model)
        return {}

    def last_epoch(self, first: int, epochs: int) -> int:
        """The epoch before which training ends that goes on at epoch `first`."""
        return epochs

    def batches(self, first: int, last: int, strategy: tf.distribute.Strategy, *, skip: int) -> Any:
        """What `model.fit` gets for the epochs [first, last), without the first `skip` steps."""

        def of_process(share: Share | None) -> tf.data.Dataset:
            return self._splits.epochs(
                first, last, skip=skip, augment=self._augment, class_weight=self._class_weight, share=share
            )

        return dealt(strategy, of_process)

    def rehearse(self, model: keras.Model, training_batches: Any) -> None:
        """Find out before the first step whether it can be taken."""

    def conclude(self, model: keras.Model) -> None:
        """Write down what the training was."""


class Private(AsUsual):
    """Poisson samples, the private step, an account of what is spent; the last weights remain.

    Raises:
      ConfigError: what was asked besides would look at single examples or at private counts.
      PrivacyError: the plan cannot be.
    """

    def __init__(
        self,
        splits: Splits,
        *,
        privacy: DPSGD,
        run: Run,
        stage: str,
        epochs: int,
        seed: int,
        patience: int | None,
        augment: Augmentation | None,
        class_weight: dict[int, float] | None,
    ) -> None:
        from tfkit.privacy.step import Session

        # Each epoch costs privacy: none is to be lost with its process. Within one the samples are nobody's to repeat.
        cadence = Cadence(seconds=None, epoch_seconds=0.0)
        super().__init__(splits, augment=None, patience=None, start_val_loss=None, cadence=cadence)
        _refuse(patience=patience, augment=augment, class_weight=class_weight)
        plan = privacy.plan(
            examples=len(splits.indices["train"]),
            expected_batch_size=splits.global_batch_size,
            epochs=epochs,
        )
        self.best = KeepLast()
        self.steps_per_epoch = plan.steps_per_epoch
        self._session = Session(plan, run=run, stage=stage, seed=seed)
        self.callbacks = [self._session]

    def prepare(
        self, model: keras.Model, callbacks: Sequence[Any], *, strategy: tf.distribute.Strategy
    ) -> dict[str, Any]:
        """Check that the epsilon would hold for this model, and make its step the private one."""
        from tfkit.environment.stack import tf

        if isinstance(strategy, tf.distribute.ParameterServerStrategy):
            raise PrivacyError(
                "The workers of parameter servers take steps whenever they like; the accountant counts steps that all"
                " take together.\n  Take the strategy mirrored or multi_worker_mirrored."
            )
        self._session.prepare(model, self._splits, callbacks)
        return {"private": self._session.state}

    def last_epoch(self, first: int, epochs: int) -> int:
        """Epochs that a killed process had begun are paid for, and not taken again.

        Raises:
          RunError: how many they are is not known.
        """
        self._session.begin(first)
        return max(first, epochs - (self._session.epochs_begun - first))

    def batches(self, first: int, last: int, strategy: tf.distribute.Strategy, *, skip: int) -> Any:
        """What `model.fit` gets for the epochs [first, last)."""
        assert not skip, "private training is saved at the ends of epochs alone"
        return self._session.batches(self._splits, strategy=strategy, first=first, last=last)

    def rehearse(self, model: keras.Model, training_batches: Any) -> None:
        """Trace the private step, which `fit` would do when the first epoch is accounted already.

        Raises:
          PrivacyError: it cannot be traced.
        """
        self._session.rehearse(model, training_batches)

    def conclude(self, model: keras.Model) -> None:
        """Write privacy.json."""
        self._session.conclude(model)


def _refuse(*, patience: int | None, augment: Any, class_weight: Any) -> None:
    """What does not go together with privacy, all at once."""
    reasons = {
        "patience": (
            patience,
            "training ends after the planned epochs; a stop chosen by looking is not accounted",
        ),
        "augment": (augment, "private training takes the images as they are"),
        "class_weight": (class_weight, "weights from the class counts would publish those counts"),
    }
    found = [
        f"{name}: {reason}. Leave it out." for name, (value, reason) in reasons.items() if value is not None
    ]
    if found:
        raise ConfigError("These do not go together with privacy:\n  " + "\n  ".join(found))
