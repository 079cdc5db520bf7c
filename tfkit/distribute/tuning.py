"""What two workers cost more than one, and how stock TensorFlow is told to cost less.

Measured by `benchmarks/scaling.py` with two processes on a core each, beside one process on one core, on a small
convolutional net whose step takes 40 ms: what took time beyond the step itself, and what of it can be avoided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfkit.stack import keras, tf


def options() -> tf.distribute.experimental.CommunicationOptions:
    """How the gradients travel: all of a step's in one message, by whatever means TensorFlow finds.

    This is TensorFlow's default, written down because what else there is was measured with two workers and gains
    nothing: RING takes the same time, and packs of 128 KiB (`bytes_per_pack`), of which the first could travel
    during the backward pass, take 0.6 ms more. An all-reduce over gRPC costs about 0.8 ms of a step before it has
    moved a byte, so there should be few of them.
    """
    from tfkit.stack import tf

    return tf.distribute.experimental.CommunicationOptions()


def sum_metrics_once_an_epoch(model: keras.Model) -> None:
    """Let the metrics be summed over the workers when an epoch ends, and not in each of its steps.

    Keras returns every metric's value from every step, and under a multi-worker strategy reads each of its variables
    across all workers for that, and then sums what is the sum already: loss and accuracy are six all-reduces of one
    number each (and the logs of a batch show twice the loss where there are two workers). They were 5.2 ms of a step
    of 49 ms, the gradients 4.3. With this, a step returns this worker's own values; and `fit` and `evaluate`, which
    ask the model for its metrics again when all steps are done, get those of all workers: the logs of an epoch, the
    history and the result of `evaluate` are what they were.

    What changes are the logs of a single batch. A callback that decides by them would decide differently on
    different workers, and the others would wait for the one that has stopped: keras.callbacks.TerminateOnNaN is one.

    Args:
      model: compiled, not yet trained; its `get_metrics_result` is replaced, on this object alone.
    """
    from tfkit.stack import tf

    of_all_workers = model.get_metrics_result

    def get_metrics_result() -> dict[str, Any]:
        if tf.executing_eagerly():
            return of_all_workers()
        found: dict[str, Any] = {}
        for metric in model.metrics:
            # What Keras wrapped into a read across all replicas.
            value = metric.result.__wrapped__()
            found.update(value if isinstance(value, dict) else {metric.name: value})
        return found

    model.get_metrics_result = get_metrics_result
    # Left to itself, Keras would sum over the workers what the steps return.
    model.distribute_reduction_method = "first"
    model.train_function = model.test_function = None  # made for what was there before
