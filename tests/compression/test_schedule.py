"""The schedule prunes, or says that it would not."""

import numpy as np
import pytest

from tfkit.compression.pruning import last_update, plan_schedule
from tfkit.errors import ConfigError


@pytest.mark.parametrize("steps", [2, 5, 58, 400, 100_000])
def test_what_is_left_out_follows_from_the_steps(steps):
    plan = plan_schedule(steps, final_sparsity=0.8)
    assert plan.get_config()["class_name"] == "PolynomialDecay"
    last = last_update(steps, begin_step=plan.begin_step, end_step=plan.end_step, frequency=plan.frequency)
    assert last == plan.end_step
    assert plan.end_step <= steps


def test_the_frequency_that_tfmot_has_by_default_is_refused_where_it_would_prune_nothing():
    with pytest.raises(ConfigError, match=r"(?s)would not reach 0\.8 in 58 steps.*frequency=1 do") as caught:
        plan_schedule(58, final_sparsity=0.8, begin_step=1, end_step=58, frequency=100)
    assert "stay at 0.00, silently" in str(caught.value)


def test_a_schedule_that_ends_after_training_is_refused():
    with pytest.raises(ConfigError, match="would not reach"):
        plan_schedule(100, final_sparsity=0.8, begin_step=0, end_step=1000, frequency=10)


def test_it_counts_as_tfmot_does():
    from tfkit.environment.stack import tfmot

    for begin, end, frequency in ((0, 10, 3), (4, 20, 7), (5, 9, 100)):
        theirs = tfmot.sparsity.keras.ConstantSparsity(0.5, begin, end, frequency)
        updates = [step for step in range(1, 31) if bool(theirs(np.int64(step))[0])]
        found = last_update(30, begin_step=begin, end_step=end, frequency=frequency)
        assert found == (updates[-1] if updates else None)
