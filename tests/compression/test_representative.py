"""Inputs in every form in which Keras takes them, none mixed up; a sample of all that is given."""

import numpy as np
import pytest

from tfkit.compression import representative
from tfkit.compression.representative import MOST_READ, Inputs
from tfkit.data import from_arrays
from tfkit.environment.stack import keras, tf
from tfkit.errors import DataError

CHANCE = np.random.default_rng(0)
Z, A, Y = CHANCE.random((12, 4)), CHANCE.random((12, 4)), np.arange(12) % 3
SHAPES = {"zeta": ((1, 4), "float32"), "alpha": ((1, 4), "float32")}
TWO = Inputs(shapes=SHAPES, aliases={"left": "zeta", "right": "alpha"})
ONE = Inputs(shapes={"x": ((1, 4), "float32")})


class Batches(keras.utils.Sequence):
    """Keras's own; iterated, it would never end."""

    def __len__(self):
        return 3

    def __getitem__(self, place):
        part = slice(4 * place, 4 * place + 4)
        return [Z[part], A[part]], Y[part]


def tensors(structure, size=5):
    return tf.data.Dataset.from_tensor_slices(structure).batch(size)


@pytest.mark.parametrize(
    "data",
    [
        {"zeta": Z, "alpha": A}, {"alpha": A, "zeta": Z}, {"right": A, "left": Z}, {"zeta:0": Z, "alpha:0": A},
        {"alpha": A, "more": Y, "zeta": Z},
        [Z, A], (Z, A), ([Z, A], Y), ((Z, A), Y, np.ones(12)), ({"alpha": A, "zeta": Z}, Y),
        tensors({"alpha": A, "zeta": Z}), tensors((Z, A)), tensors(((Z, A), Y)), tensors(({"right": A, "left": Z}, Y)),
        tensors(((Z, A), Y, np.ones(12))), tensors({"alpha": A, "zeta": Z}).unbatch(), tensors(((Z, A), Y)).unbatch(),
        lambda: ([z[None], a[None]] for z, a in zip(Z, A, strict=True)),
        lambda: ({"zeta": z, "alpha": a} for z, a in zip(Z, A, strict=True)),
        Batches(),
    ],
)  # fmt: skip
def test_two_inputs(data):
    batches = list(TWO.batches(data))
    np.testing.assert_array_equal(np.concatenate([part["zeta"] for part, _ in batches]), np.asarray(Z, "f8"))
    np.testing.assert_array_equal(np.concatenate([part["alpha"] for part, _ in batches]), A)
    assert all(len(labels) == len(part["zeta"]) for part, labels in batches if labels is not None)


@pytest.mark.parametrize(
    "data",
    [Z, [Z], {"x": Z}, (Z, Y), tensors(Z), tensors((Z, Y)), tensors((Z, Y, Y)), tensors(({"x": Z}, Y)),
     list(Z), iter(Z), lambda: ([z[None]] for z in Z), tf.constant(Z), Z.tolist()],
)  # fmt: skip
def test_one_input(data):
    np.testing.assert_array_equal(np.concatenate([part["x"] for part, _ in ONE.batches(data)]), Z)


@pytest.mark.parametrize(
    "data",
    [(Z, Y), tensors((Z, Y)), tensors((Z, Y)).unbatch(), tensors((Z, Y, Y)),
     lambda: iter([[Z[:5], Y[:5]], [Z[5:], Y[5:]]])],
)  # fmt: skip
def test_labels_beside_them(data):
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in ONE.batches(data)]), Y)


@pytest.mark.parametrize(
    ("data", "culprit"),
    [
        ({"zeta": Z}, r"lack alpha; .*zeta \[n, 4\], alpha \[n, 4\]"),
        ({"zeta": Z, "alpha": A[:5]}, r"'alpha': 5"),
        ([Z, A, A], "shape|holds"),
        ({"zeta": Z, "alpha": A[:, :3]}, r"'alpha' the shape \[12, 3\]"),
        (Z, r"1 arrays; the model takes 2.*\(\(a, b\), labels\)"),
        ("photos/", "A str is no"),
    ],
)
def test_what_does_not_fit_is_named(data, culprit):
    with pytest.raises(DataError, match=f"(?s){culprit}"):
        list(TWO.batches(data))


def test_a_list_is_not_guessed_where_nothing_has_an_order():
    with pytest.raises(DataError, match="by name"):
        list(Inputs(shapes=SHAPES, ordered=False).batches([Z, A]))


INPUTS = Inputs(shapes={"x": ((1, 2), "float32")})
LARGE = Inputs(shapes={"x": ((1, 224, 224, 3), "float32")})
CLASSES = np.repeat([0, 1, 2], [9000, 900, 100])  # class after class
ROWS = np.array([[0, 1], [10, 11], [20, 21]], np.float32)[CLASSES]


def counts(sample):
    return np.bincount((sample["x"][:, 0] / 10).astype(int), minlength=3).tolist()


@pytest.mark.parametrize(
    "data", [ROWS, lambda: iter(ROWS), list(ROWS[:, None]), tensors(ROWS, 33), {"x": ROWS}]
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


def test_images_unlike_those_of_training_are_told():
    rng = np.random.default_rng(0)
    photos = rng.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    splits = from_arrays(photos, np.arange(60) % 2, image_size=8)
    assert representative.compare_colours(photos[:20].astype(np.float32), splits) == ""
    assert "mean colour" in representative.compare_colours(photos[:20] / np.float32(255), splits)
    reddish = photos.astype(np.float32) * [1, 0.3, 0.3]
    assert "mean colour" in representative.compare_colours(reddish, splits)
