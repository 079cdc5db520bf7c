"""Representative data are a sample of all that is given, whatever its form and its order."""

import numpy as np
import pytest

from tfkit.compression import representative
from tfkit.compression.representative import MOST_READ, Inputs
from tfkit.environment.stack import tf

INPUTS = Inputs(shapes={"x": ((1, 2), "float32")})
LARGE = Inputs(shapes={"x": ((1, 224, 224, 3), "float32")})
ROWS = np.repeat([[0.0, 1], [10, 11], [20, 21]], [9000, 900, 100], axis=0).astype(
    np.float32
)  # class after class
CLASSES = np.repeat([0, 1, 2], [9000, 900, 100])


def counts(sample):
    return np.bincount((sample["x"][:, 0] / 10).astype(int), minlength=3).tolist()


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        lambda: iter(ROWS),
        list(ROWS[:, None]),
        tf.data.Dataset.from_tensor_slices(ROWS).batch(33),
        {"x": ROWS},
    ],
)
def test_the_last_rows_are_in_it_as_well(data):
    found = counts(representative.collect_representative(data, INPUTS, count=500))
    assert sum(found) == 500
    assert found[0] > 400
    assert 25 < found[1] < 70
    assert found[2] > 0


@pytest.mark.parametrize("labels", [CLASSES, np.eye(3)[CLASSES], CLASSES.astype(str)])
@pytest.mark.parametrize("made", [tuple, lambda pair: tf.data.Dataset.from_tensor_slices(pair).batch(50)])
def test_each_class_has_its_share_where_labels_are_given(labels, made):
    found = counts(representative.collect_representative(made((ROWS, labels)), INPUTS, count=600))
    assert found == [250, 250, 100]


def test_labels_that_are_no_classes_are_passed_over():
    scores = np.linspace(0, 1, len(ROWS))
    assert sum(counts(representative.collect_representative((ROWS, scores), INPUTS, count=100))) == 100


def test_small_inputs_are_taken_in_thousands_and_the_same_ones_again():
    assert len(representative.collect_representative(ROWS, INPUTS)["x"]) == len(ROWS)
    assert representative.affordable(LARGE) == representative.EXAMPLES
    first, again = (representative.collect_representative(ROWS, INPUTS, count=50)["x"] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_what_has_no_end_is_read_within_a_bound():
    endless = tf.data.Dataset.from_tensor_slices(ROWS).batch(1000).repeat()
    with pytest.warns(UserWarning, match=f"{MOST_READ} examples"):
        found = counts(representative.collect_representative(endless, INPUTS, count=1000))
    assert found[2] > 0


def test_texts_keep_their_bytes():
    texts = np.array([b"a", b"longer\0", b"c"], object)
    found = representative.collect_representative(texts, Inputs(shapes={"texts": ((1,), "string")}))["texts"]
    assert found.tolist() == texts.tolist()
