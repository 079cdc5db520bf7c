"""Clustering leaves as few distinct weights as were asked for, and keeps zeros where it is told to."""

import pytest

from tfkit.compression import Cluster, Prune, inspect
from tfkit.errors import CheckError, ConfigError
from tfkit.litert import to_tflite


@pytest.mark.slow
def test_few_distinct_weights_in_keras_and_in_the_file(digits):
    stage = Cluster(number_of_clusters=8)
    weights = digits.model.get_weights()
    before, after, _ = digits.train(stage)
    found = stage.measure(before, after)
    assert found["distinct_weights"] == 8
    assert found["kernels_changed"] == 1.0
    # The original still converts: the wrappers took a clone.
    assert len(to_tflite(before, input_shape=[1, 8, 8, 1])) > 1000
    assert all((one == other).all() for one, other in zip(weights, before.get_weights(), strict=True))
    with pytest.raises(CheckError, match="more than 4 distinct weights"):
        Cluster(number_of_clusters=4).measure(before, after)


@pytest.mark.slow
def test_zeros_stay_zero(digits):
    _, pruned, _ = digits.train(Prune(final_sparsity=0.6))
    stage = Cluster(number_of_clusters=8, preserve_sparsity=True)
    before, after, _ = digits.train(stage, pruned)
    found = stage.measure(before, after)
    assert found["sparsity"] > 0.57
    assert inspect(to_tflite(after, input_shape=[1, 8, 8, 1])).sparsity > 0.57


def test_one_cluster_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        Cluster(number_of_clusters=1)
