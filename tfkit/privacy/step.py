"""The private training step, which takes the place of `train_step` on a stock tf_keras model, and its session in a run.

Clipped gradients are summed over the replicas, with the noise that was accounted.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfkit import run
from tfkit.data.splits import Splits
from tfkit.environment import files
from tfkit.environment.packages import first_line
from tfkit.environment.stack import keras, tf
from tfkit.errors import PrivacyError
from tfkit.privacy import sampling
from tfkit.privacy.clipping import Clipped, clipped_sum, per_example_loss, weight_penalties
from tfkit.privacy.ledger import Ledger, count_epochs, spend
from tfkit.privacy.plan import Plan
from tfkit.privacy.statement import paragraph, statement
from tfkit.privacy.validation import check
from tfkit.run import Run

QUANTILES = {"gradient_norm_p50": 0.5, "gradient_norm_p90": 0.9, "gradient_norm_max": 1.0}


def attach(model: keras.Model, plan: Plan, *, secret: bytes) -> PrivateStep:
    """Make `model.fit` train privately, on what `tfkit.privacy.sampling.dataset` yields.

    Args:
      model: compiled and built; call this inside the scope of the strategy that it was made in.
      plan: what is accounted.
      secret: 16 bytes or more that nobody knows; the noise follows from them, the replica and the step.

    Returns:
      The step; its `clip` belongs into a backup.
    """
    step = PrivateStep(model, plan, secret=secret)
    model.train_step = step
    model.train_function = None  # made for the step that was there before
    return step


class PrivateStep:
    """One step of DP-SGD (Abadi et al. 2016, arXiv:1607.00133), with whatever optimizer was compiled.

    On each replica: the sum of its examples' clipped gradients, plus its share of the noise. The shares are
    independent, so that their sum over n replicas has the standard deviation z * C when each has z * C / sqrt(n).
    The sum is divided by the *expected* batch size: the true size of a Poisson sample is private.

    Attributes:
      clip: float32 scalar variable, the clipping norm C; it moves with adaptive clipping only.
    """

    def __init__(self, model: keras.Model, plan: Plan, *, secret: bytes) -> None:
        self._model = model
        self._plan = plan
        self._loss = per_example_loss(model)
        self._penalties = weight_penalties(model)
        # A variable and not a constant: constants are part of every graph that is written or printed.
        self._seed = tf.Variable(np.frombuffer(secret[:16], np.int64), trainable=False, name="noise_seed")
        self.clip = tf.Variable(
            plan.l2_norm_clip, trainable=False, aggregation=tf.VariableAggregation.MEAN, name="l2_norm_clip"
        )
        self._watched = Diagnostics(model) if plan.diagnostics else None

    def __call__(self, data: Any) -> dict[str, Any]:
        """Take one step; Keras calls this in place of `train_step`, in replica context.

        Args:
          data: features [k, m, ...], labels [k, m], weights float32 [k, m]: k microbatches of this replica.

        Returns:
          Nothing about the examples, unless the plan says so.
        """
        features, labels, weights = data
        replicas = tf.distribute.get_replica_context()
        sums, unclipped = self._over_microbatches(features, labels, weights)
        noisy = self._with_noise([*sums, unclipped], replicas)
        *gradients, count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, noisy)
        gradients = [gradient / self._plan.expected_batch_size for gradient in gradients]
        variables = self._model.trainable_variables
        self._apply([*zip(self._with_penalties(gradients, variables), variables, strict=True)])
        if self._plan.adaptive_clip_quantile is not None:
            # Andrew et al. 2021 (arXiv:1905.03871): each example says +1/2 or -1/2.
            share = count / self._plan.expected_batch_size + 0.5
            rate = self._plan.clip_learning_rate * (share - self._plan.adaptive_clip_quantile)
            self.clip.assign(self.clip * tf.exp(-rate))
        return self._watched.results() if self._watched else {}

    def reset(self) -> None:
        """Begin the diagnostics anew, as at the start of an epoch."""
        if self._watched:
            self._watched.reset()

    def _over_microbatches(
        self, features: Any, labels: Any, weights: Any
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Sum of clipped gradients, and of +1/2 for each example that was not clipped and -1/2 for each other."""

        def one(index: Any) -> tuple[list[tf.Tensor], tf.Tensor]:
            weight = weights[index]
            clipped = clipped_sum(
                self._model,
                tf.nest.map_structure(lambda value: value[index], features),
                labels[index],
                weight,
                per_example_loss=self._loss,
                l2_norm_clip=self.clip,
            )
            if self._watched:
                self._watched.update(clipped, labels[index], weight, self.clip)
            votes = tf.where(clipped.norms <= self.clip, 0.5, -0.5)
            return clipped.gradients, tf.reduce_sum(tf.where(weight > 0, votes, 0.0))

        if weights.shape[0] == 1:
            return one(0)
        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in self._model.trainable_variables]

        def add(index: tf.Tensor, sums: list[tf.Tensor], unclipped: tf.Tensor) -> Any:
            more, votes = one(index)
            return index + 1, [total + new for total, new in zip(sums, more, strict=True)], unclipped + votes

        _, sums, unclipped = tf.while_loop(
            lambda index, *_: index < tf.shape(weights)[0], add, (0, zeros, 0.0), parallel_iterations=1
        )
        return sums, unclipped

    def _with_noise(self, sums: list[tf.Tensor], replicas: Any) -> list[tf.Tensor]:
        """Add this replica's share of the noise to the gradients, and to the count, which comes last."""
        plan = self._plan
        seed = tf.random.fold_in(self._seed.read_value(), replicas.replica_id_in_sync_group)
        seeds = tf.random.split(tf.random.fold_in(seed, self._model.optimizer.iterations), len(sums))
        share = 1.0 / np.sqrt(replicas.num_replicas_in_sync)
        of_gradients = plan.gradient_noise_multiplier * share * self.clip
        deviations = [of_gradients] * (len(sums) - 1) + [plan.count_noise * share]
        return [
            value + deviation * tf.random.stateless_normal(value.shape, seed)
            for value, deviation, seed in zip(sums, deviations, tf.unstack(seeds), strict=True)
        ]

    def _with_penalties(self, gradients: list[tf.Tensor], variables: list[Any]) -> list[tf.Tensor]:
        """Add the gradients of the weights' regularisers: they know nothing of the data."""
        if not self._penalties:
            return gradients
        with tf.GradientTape() as tape:
            penalty = tf.add_n([penalty() for penalty in self._penalties])
        of_penalty = tape.gradient(penalty, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [gradient + more for gradient, more in zip(gradients, of_penalty, strict=True)]

    def _apply(self, pairs: list[tuple[tf.Tensor, Any]]) -> None:
        optimizer = self._model.optimizer
        if isinstance(optimizer, keras.optimizers.legacy.Optimizer):
            optimizer.apply_gradients(pairs, experimental_aggregate_gradients=False)
        else:
            optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


class Diagnostics:
    """Noise-free numbers about the training examples, for those who may see them: they are not private."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        names = ("loss", "clipped_fraction", *QUANTILES)
        self._means = {name: keras.metrics.Mean(name=name) for name in names}

    def update(self, clipped: Clipped, labels: Any, weights: tf.Tensor, clip: Any) -> None:
        """Take in one microbatch; examples of weight 0 are padding."""
        real = tf.cast(weights > 0, tf.float32)
        self._means["loss"].update_state(tf.math.divide_no_nan(clipped.losses, weights), weights)
        self._means["clipped_fraction"].update_state(tf.cast(clipped.norms > clip, tf.float32), real)
        count = tf.reduce_sum(real)
        norms = tf.sort(tf.where(real > 0, clipped.norms, 0.0), direction="DESCENDING")
        for name, quantile in QUANTILES.items():
            place = tf.cast(tf.math.floor((1.0 - quantile) * tf.maximum(count - 1.0, 0.0)), tf.int32)
            self._means[name].update_state(norms[place], count)
        self._model.compiled_metrics.update_state(labels, clipped.outputs, weights)

    def results(self) -> dict[str, tf.Tensor]:
        """Return means over the microbatches since the last reset; a quantile is the mean of the microbatches' ones."""
        metrics = {metric.name: metric for metric in self._model.compiled_metrics.metrics} | self._means
        return {name: metric.result() for name, metric in metrics.items()}

    def reset(self) -> None:
        """Forget what was taken in."""
        for mean in self._means.values():
            mean.reset_state()


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
        self._secret = secrets.token_bytes(32)
        if plan.deterministic_noise:
            self._secret = bytes.fromhex(files.digest_of("deterministic noise", seed))
        self.step: PrivateStep | None = None

    @property
    def epochs_begun(self) -> int:
        """How many epochs have been begun, by this process and by those before it."""
        return self._ledger.epochs_begun

    @property
    def state(self) -> tf.train.Checkpoint:
        """What a checkpoint must hold besides model and optimizer."""
        assert self.step is not None, "prepare() comes first"
        return tf.train.Checkpoint(clip=self.step.clip, account=self._saved)

    def prepare(self, model: keras.Model, splits: Splits, callbacks: Sequence[Any]) -> None:
        """Check that the epsilon would hold for this model, and make its step the private one.

        Raises:
          PrivacyError: it would not; all reasons at once.
        """
        check(model, plan=self._plan, callbacks=callbacks, example_spec=splits.spec)
        self.step = attach(model, self._plan, secret=self._secret[:16])

    def begin(self, first: int) -> None:
        """Make sure that the account is that of the weights, which begin at this epoch, before more is spent.

        Raises:
          RunError: it is not.
        """
        self._ledger.check_weights(epoch=first, saved=self._saved.restored)
        count_epochs(self._run, self.epochs_begun)
        if not self.epochs_begun:
            spent = self._plan.epsilon(self._plan.steps)
            private = math.isfinite(spent) and not self._plan.deterministic_noise
            spend(self._run, epsilon=spent if private else None)

    def batches(self, splits: Splits, *, strategy: tf.distribute.Strategy, first: int, last: int) -> Any:
        """Return what `model.fit` gets for the epochs [first, last)."""
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
        count_epochs(self._run, self.epochs_begun)
        if self.step is not None:
            self.step.reset()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Add what has been spent so far to the numbers of the epoch."""
        if logs is not None:
            if self._plan.noise_multiplier:
                logs["epsilon"] = self._plan.epsilon(self._steps)
            if self.step is not None and self._plan.adaptive_clip_quantile is not None:
                logs["l2_norm_clip"] = float(self.step.clip.numpy())

    def conclude(self, model: keras.Model) -> None:
        """Write privacy.json and the numbers of metrics.json."""
        content = statement(self._plan, steps=self._steps, optimizer=type(model.optimizer).__name__)
        content["in_words"] = paragraph(content)
        files.write_json(self._run.path / run.PRIVACY, content)
        spend(self._run, epsilon=content["epsilon"] if content["private"] else None)
        # What is not private has no epsilon, though a secret seed would have given one.
        claimed = [*(["epsilon"] if content["private"] else []), "delta", "noise_multiplier"]
        self._run.record({f"privacy/{name}": content[name] for name in claimed})
        if not content["private"]:
            self._run.note("This training is NOT PRIVATE: privacy.json says why.")

    @property
    def _steps(self) -> int:
        """All that were ever begun."""
        return self.epochs_begun * self._plan.steps_per_epoch


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
