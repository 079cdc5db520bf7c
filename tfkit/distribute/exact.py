"""The gradient of a batch's mean, however unevenly its examples are dealt to the replicas."""

from __future__ import annotations

from typing import Any

from tfkit.stack import keras, tf


def weigh_replicas(model: keras.Model) -> None:
    """Make each replica count by its examples; to be called in the strategy's scope, on a compiled model.

    Keras adds up the means of the replicas and divides by their number, so that in a batch that does not divide by
    the replicas an example counts more on a replica that has fewer. Here the loss that is differentiated is
    multiplied by (examples of this replica) x (replicas) / (examples of all). What is logged stays as it is: Keras
    weighs that by examples itself. A replica whose only example has weight 0 (`tfkit.data.pipeline.Share`) counts as
    one without examples, in the loss and in the metrics; batch normalisation does see that example.

    A loss that is a sum, and not a mean, over the batch is right already and its gradient is left alone.
    """
    losses = [loss for loss in tf.nest.flatten(model.loss) if loss is not None]
    is_sum = any(getattr(loss, "reduction", None) == keras.losses.Reduction.SUM for loss in losses)
    compute_loss, compute_metrics = model.compute_loss, model.compute_metrics

    def weighed(x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None) -> Any:
        y, y_pred, sample_weight = _real(y, y_pred, sample_weight)
        loss = compute_loss(x, y, y_pred, sample_weight)
        if is_sum or loss is None:
            return loss
        replicas = tf.distribute.get_replica_context()
        own = tf.cast(tf.shape(tf.nest.flatten(y)[0])[0], loss.dtype)
        everybody = replicas.all_reduce(tf.distribute.ReduceOp.SUM, own)
        return loss * own * replicas.num_replicas_in_sync / everybody

    def counted(x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        return compute_metrics(x, *_real(y, y_pred, sample_weight))

    model.compute_loss, model.compute_metrics = weighed, counted


def _real(y: Any, y_pred: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """The same without a lone example of weight 0."""
    if sample_weight is None:
        return y, y_pred, sample_weight
    weights = tf.nest.flatten(sample_weight)[0]
    count = tf.shape(weights)[0]
    kept = tf.where((count == 1) & (weights[0] == 0), 0, count)
    return tuple(
        tf.nest.map_structure(lambda value: value[:kept], part) for part in (y, y_pred, sample_weight)
    )
