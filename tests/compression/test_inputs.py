"""Inputs in every form in which Keras takes them, and none mixed up."""

import numpy as np
import pytest

from tfkit.compression.representative import Inputs
from tfkit.compression.sources import shapes_by_name
from tfkit.environment.stack import keras, tf
from tfkit.errors import DataError, UsageError

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
    [Z, Z.tolist(), [Z], {"x": Z}, (Z, Y), tensors(Z), tensors((Z, Y)), tensors((Z, Y, Y)), tensors(({"x": Z}, Y)),
     list(Z), iter(Z), lambda: ([z[None]] for z in Z), lambda: ([z[None], 1] for z in Z), tf.constant(Z)],
)  # fmt: skip
def test_one_input(data):
    np.testing.assert_array_equal(np.concatenate([part["x"] for part, _ in ONE.batches(data)]), Z)


@pytest.mark.parametrize("data", [(Z, Y), tensors((Z, Y)), tensors((Z, Y)).unbatch(), tensors((Z, Y, Y))])
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


def test_open_lengths_of_several_inputs():
    names = ["zeta", "alpha"]
    assert shapes_by_name({"right": (1, 3), "zeta": (1, 2)}, names, TWO.aliases) == {
        "alpha": [1, 3],
        "zeta": [1, 2],
    }
    assert shapes_by_name([(1, 2), (None, 3)], names, {}) == {"zeta": [1, 2], "alpha": [None, 3]}
    for wrong in ((1, 2), [(1, 2)], {"other": (1, 2)}):
        with pytest.raises(UsageError, match="zeta, alpha"):
            shapes_by_name(wrong, names, {})
