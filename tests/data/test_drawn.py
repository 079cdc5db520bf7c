"""A sample is drawn from all, and a rare class is in it."""

import numpy as np

from tfkit.data.splits import draw


def test_a_sample_is_of_all_and_the_same_again():
    chosen = draw(10_000, 200)
    assert len(np.unique(chosen)) == 200
    assert abs(chosen.mean() - 5000) < 1000
    np.testing.assert_array_equal(chosen, draw(10_000, 200))
    assert (chosen != draw(10_000, 200, seed=1)).any()
    np.testing.assert_array_equal(draw(3, 200), [0, 1, 2])


def test_each_class_has_as_many_as_can_be():
    classes = np.array(["usual"] * 900 + ["other"] * 90 + ["rare"] * 10)
    names, counts = np.unique(classes[draw(1000, 100, classes=classes)], return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {"usual": 45, "other": 45, "rare": 10}
