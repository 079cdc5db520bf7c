"""One private training of a run: its secret, what it has spent, and the statement at its end."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from typing import Any

from tfkit import files
from tfkit import run as runs
from tfkit.data import Splits
from tfkit.errors import PrivacyError
from tfkit.packages import first_line
from tfkit.privacy import owner, sampling, statement, step, validator
from tfkit.privacy.ledger import Ledger
from tfkit.privacy.mechanism import Plan
from tfkit.run import Run
from tfkit.stack import keras, tf


class Session(keras.callbacks.Callback):
    """Ties a plan to a run; as a callback it accounts each epoch before its first step.

    So an epoch that a killed process had begun is paid for, whatever came of it.

    Args:
      plan: what is accounted.
      run: holds the ledger beside the backup, and gets privacy.json.
      stage: of the training, names the folder of the backup.
      seed: of the run; it decides noise and sampling only if the plan says so, which is then not private.

    Raises:
      RunError: what was spent before is not known.
    """

    def __init__(self, plan: Plan, *, run: Run, stage: str, seed: int) -> None:
        super().__init__()
        self._plan = plan
        self._run = run
        self._ledger = Ledger(run, stage)
        self._ledger.check_plan(plan)
        self._saved = _Saved(self._ledger)
        self._secret = (
            bytes.fromhex(files.digest("deterministic noise", seed))
            if plan.deterministic_noise
            else secrets.token_bytes(32)
        )
        self.step: step.PrivateStep | None = None

    @property
    def epochs_begun(self) -> int:
        """How many epochs have been begun, by this process and by those before it."""
        return self._ledger.epochs_begun

    @property
    def state(self) -> tf.train.Checkpoint:
        """What a backup must hold besides model and optimizer."""
        assert self.step is not None, "prepare() comes first"
        return tf.train.Checkpoint(clip=self.step.clip, account=self._saved)

    @property
    def epsilon(self) -> float:
        """What has been spent so far."""
        return self._plan.epsilon(self.epochs_begun * self._plan.steps_per_epoch)

    def prepare(self, model: keras.Model, splits: Splits, callbacks: Sequence[Any]) -> None:
        """Check that the epsilon would hold for this model, and make its step the private one.

        Raises:
          PrivacyError: it would not; all reasons at once.
        """
        validator.check(model, plan=self._plan, callbacks=callbacks, example_spec=splits.spec)
        self.step = step.attach(model, self._plan, secret=self._secret[:16])

    def begin(self, first: int) -> None:
        """Make sure that the account is that of the weights, which begin at this epoch, before more is spent.

        Raises:
          RunError: it is not.
        """
        self._ledger.check_weights(epoch=first, saved=self._saved.restored)
        owner.count_epochs(self._run, self.epochs_begun)
        if not self.epochs_begun:
            owner.spend(self._run, epsilon=self._claim(self._plan.steps))

    def batches(self, splits: Splits, *, strategy: tf.distribute.Strategy, first: int, last: int) -> Any:
        """What `model.fit` gets for the epochs [first, last)."""
        return sampling.dataset(
            splits, self._plan, strategy=strategy, epochs=(first, last), secret=self._secret[16:]
        )

    def rehearse(self, model: keras.Model, training_batches: Any) -> None:
        """Trace the private step as `fit` will take it, without taking it: nothing is computed, and nothing spent.

        Raises:
          PrivacyError: it cannot be traced.
        """
        model.make_train_function()
        function = getattr(model, "train_tf_function", None)
        if function is None:  # run_eagerly: there is nothing to trace
            return
        try:
            function.get_concrete_function(iter(training_batches))
        except PrivacyError:
            raise
        except Exception as error:
            raise PrivacyError(
                f"The private step cannot be taken ({type(error).__name__}: {first_line(error)}). Nothing was spent.\n"
                "  tfkit.privacy.problems(model, example_spec=splits.spec) looks at the model."
            ) from error

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Account the epoch before anything of it can be seen."""
        self._ledger.begin_epoch()
        owner.count_epochs(self._run, self.epochs_begun)
        if self.step is not None:
            self.step.reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add what has been spent so far to the numbers of the epoch."""
        if logs is not None:
            if self._plan.noise_multiplier:
                logs["epsilon"] = self.epsilon
            if self.step is not None and self._plan.adaptive_clip_quantile is not None:
                logs["l2_norm_clip"] = float(self.step.clip.numpy())

    def conclude(self, model: keras.Model) -> None:
        """Write privacy.json and the numbers of metrics.json."""
        content = statement.statement(
            self._plan,
            steps=self.epochs_begun * self._plan.steps_per_epoch,
            optimizer=type(model.optimizer).__name__,
        )
        content["in_words"] = statement.paragraph(content)
        files.write_json(self._run.path / runs.PRIVACY, content)
        owner.spend(self._run, epsilon=content["epsilon"] if content["private"] else None)
        # What is not private has no epsilon, though a secret seed would have given one.
        claimed = (
            ("epsilon", "delta", "noise_multiplier") if content["private"] else ("delta", "noise_multiplier")
        )
        self._run.record({f"privacy/{name}": content[name] for name in claimed})
        if not content["private"]:
            self._run.note("This training is NOT PRIVATE: privacy.json says why.")

    def _claim(self, steps: int) -> float | None:
        spent = self._plan.epsilon(steps)
        return spent if math.isfinite(spent) and not self._plan.deterministic_noise else None


class _Saved(tf.train.experimental.PythonState):
    """What a backup holds of the account, written with the weights: it tells whose weights they are.

    Attributes:
      restored: identity and epochs begun of the account when the backup was made; None: none was restored.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.restored: tuple[str, int] | None = None

    def serialize(self) -> str:
        """Return the identity and the epochs begun."""
        return json.dumps([self._ledger.identity, self._ledger.epochs_begun])

    def deserialize(self, string_value: Any) -> None:
        """Take them from a backup."""
        identity, begun = json.loads(string_value)
        self.restored = str(identity), int(begun)
