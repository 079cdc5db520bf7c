"""compare says of a broken file that it is broken, whatever its outputs are, and asks every example of its own."""

import json
import re

import numpy as np
import pytest

from tfkit.compression import compare, convert, inspect
from tfkit.compression.compare import all_examples
from tfkit.compression.sources import saved
from tfkit.environment.stack import keras, tf
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.litert import ParallelInterpreter

CHANCE = np.random.default_rng(0)
X = CHANCE.normal(size=(200, 8)).astype(np.float32)
BAD = X[:100] / 100  # as when pixels were scaled twice: the int8 file cuts nearly everything
LAYERS = keras.layers


def network(units, activation=None, loss=None):
    keras.utils.set_random_seed(0)
    last = LAYERS.Dense(units, activation, bias_initializer="normal")
    model = keras.Sequential([keras.Input([8]), LAYERS.Dense(16, "relu"), last])
    if loss is not None:
        model.compile("adam", loss)
    return model


def both(model, **options):
    """The table, what Keras says, and what the broken int8 file says."""
    table = compare(
        model, inputs=X, variants=("float32", "int8"), representative_dataset=BAD, threads=(1,), **options
    )
    assert not table.failed
    with ParallelInterpreter(table.models["int8"]) as interpreter:
        return table, model.predict(X, verbose=0), interpreter(X)


@pytest.mark.slow
def test_a_broken_file_of_one_sigmoid():
    model = network(1, "sigmoid")
    yes = model.predict(X, verbose=0)[:, 0] > 0.5
    table, keras_says, file_says = both(model, labels=yes, class_names=["no", "yes"])
    same = np.mean((file_says > 0.5) == (keras_says > 0.5))
    assert table["int8"].agreement == table["int8"].accuracy == same < 0.9
    assert table["float32"].accuracy == 1.0
    assert set(table["int8"].class_drop) == {"no", "yes"}
    assert "sigmoid" in table.notes[0]


@pytest.mark.slow
def test_a_broken_file_of_a_regression():
    table, keras_says, file_says = both(network(1, loss="mse"))
    broken = table["int8"]
    error = np.sqrt(np.mean((file_says - keras_says) ** 2) / keras_says.var())
    assert broken.error == pytest.approx(error, rel=1e-3)
    assert broken.error > 0.3 > table["float32"].error
    assert (broken.accuracy, broken.drop_name) == (None, "1 - R2 against the original")
    assert "accuracy" not in str(table)
    plain = json.loads(json.dumps(broken.as_dict(), allow_nan=False))
    assert plain["accuracy_drop"] is None
    assert plain["error"] == broken.error


def test_a_file_that_gives_nan_is_no_variant():
    """Its largest score would be the first class, which is the right one of most examples here."""
    inputs = keras.Input([8])
    shares = inputs / (tf.reduce_sum(inputs, axis=1, keepdims=True) + 1e-9)  # 0 / 0 where 1e-9 is a float16
    first = LAYERS.Dense(2, "softmax", bias_initializer=lambda shape, dtype: tf.constant([0.1, 0.0]))
    model, x = keras.Model(inputs, first(LAYERS.Dense(64)(shares))), np.abs(X)
    x[:150] = 0
    table = compare(model, inputs=x, variants=("float32", "float16"), threads=(1,))
    assert [one.name for one in table.variants] == [*table.models] == ["float32"]
    assert "NaN) for 150 of 200 examples" in table.failed["float16"]


@pytest.mark.slow
def test_two_inputs_by_name_and_in_a_dataset_with_labels():
    zeta, alpha = (keras.Input([None, 4], name=name) for name in ("zeta", "alpha"))
    pooled = [LAYERS.GlobalAveragePooling1D()(one) for one in (zeta, alpha)]
    model = keras.Model([zeta, alpha], LAYERS.Dense(3, "softmax")(LAYERS.Concatenate()(pooled)))
    z, a = (CHANCE.normal(size=(60, length, 4)).astype(np.float32) for length in (5, 3))
    labels = model.predict([z, a], verbose=0).argmax(1)
    shapes = {"alpha": (1, 3, 4), "zeta": (1, 5, 4)}
    data = tf.data.Dataset.from_tensor_slices(({"alpha": a, "zeta": z}, labels)).batch(7)
    asked = {"representative_dataset": [z, a], "input_shape": shapes, "threads": ()}
    table = compare(model, inputs=data, variants=("float32", "int8"), **asked)
    assert table["float32"].accuracy == 1.0
    assert table["float32"].max_difference < 1e-5
    assert table["int8"].accuracy > 0.9
    with pytest.raises(UsageError, match=r"(?s)'zeta'.*input_shape=\{'zeta'"):
        convert(model)


RECURRENT = keras.Sequential([keras.Input([6, 4]), LAYERS.LSTM(5), LAYERS.Dense(3, "softmax")])


@pytest.mark.slow
def test_a_file_with_state_answers_each_example_by_itself():
    x = CHANCE.normal(size=(40, 6, 4)).astype(np.float32)
    table = compare(RECURRENT, inputs=x, variants=("float32",), threads=(1,))
    assert (table["float32"].agreement, table["float32"].max_difference < 1e-5) == (1.0, True)
    assert any("reset_all_variables" in note for note in table["float32"].notes)
    assert "reset_all_variables" in str(table)
    content = table.models["float32"]
    assert inspect(content).state == ("variables",)
    with ParallelInterpreter(content, cores=1) as interpreter:
        same = interpreter(np.repeat(x[:1], 5, axis=0))
    np.testing.assert_array_equal(same, np.repeat(same[:1], 5, axis=0))


def test_representative_data_on_another_scale_are_said():
    model = network(3, "softmax")
    for data, said in (
        (X * 255, "'.*' are from .* to .*, and those that are compared from"),
        (np.zeros_like(X), "are 0: no range"),
        (X[:2], "measured on 2 examples"),
    ):
        table = compare(model, inputs=X, representative_dataset=data, variants=("int8",), threads=(1,))
        assert re.search(said, str(table)), str(table)
    table = compare(model, inputs=X[1::2], representative_dataset=X[::2], variants=("int8",), threads=(1,))
    assert len(table.notes) == 1
    table = compare(
        model, inputs=X[: len(X) // 2], representative_dataset=X, variants=("int8",), threads=(1,)
    )
    assert any(f"{len(X) // 2} of {len(X) // 2} examples" in note for note in table.notes)
    with pytest.warns(UserWarning, match="measured on 2 examples"):
        convert(model, variant="int8", representative_dataset=X[:2])


class Counter(tf.Module):
    def __init__(self):
        super().__init__()
        self.count = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([1, 4], name="x")])
    def serve(self, x):
        return {"y": x + self.count.assign_add(1.0)}


def test_other_state_is_said_and_not_judged(tmp_path):
    module = Counter()
    tf.saved_model.save(module, str(tmp_path), signatures=module.serve)
    with pytest.warns(UserWarning, match="only a new interpreter begins anew"):
        content = convert(tmp_path)
    assert inspect(content).state == ("resources",)
    with ParallelInterpreter(content, cores=1) as interpreter:  # a new one for each example
        np.testing.assert_array_equal(interpreter(np.zeros((3, 4), np.float32)), np.ones((3, 4)))
    with pytest.raises(UsageError, match="asked again"):
        compare(tmp_path, inputs=X[:, :4], variants=("float32",))
    inputs = keras.Input([6, 4], batch_size=1)
    stateful = keras.Sequential([inputs, LAYERS.LSTM(5, stateful=True), LAYERS.Dense(3)])
    with pytest.raises(UsageError, match="stateful=False"):
        convert(stateful)


@pytest.mark.slow
def test_a_converter_that_crashes_on_a_loop_says_what_to_try():
    x = CHANCE.normal(size=(20, 6, 4)).astype(np.float32)

    def gru(**options):
        return keras.Sequential([keras.Input([6, 4]), LAYERS.GRU(5, **options), LAYERS.Dense(3)])

    with pytest.raises(
        CheckError, match=r"(?s)SIGSEGV at int8.*unroll=True.*'dynamic'(?!.*Extension modules)"
    ):
        convert(gru(), variant="int8", representative_dataset=x)
    assert inspect(convert(gru(unroll=True), variant="int8", representative_dataset=x)).macs == {"int8": 1.0}


def test_a_last_batch_of_one_number():
    x = np.linspace(0, 1, 33, dtype=np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, np.arange(33))).batch(32)
    with saved(keras.Sequential([keras.Input([1]), LAYERS.Dense(2)])) as source:
        arrays, labels = all_examples(source, data)
    np.testing.assert_array_equal(next(iter(arrays.values()))[:, 0], x)
    np.testing.assert_array_equal(labels, np.arange(33))


def test_what_cannot_be_compared_is_refused():
    model = network(3, "softmax")
    for options, error, culprit in (
        ({"inputs": X[:, :5]}, DataError, r"\[200, 5\]"),
        ({"inputs": np.full((3, 8), np.nan)}, DataError, "NaN"),
        ({"inputs": tf.data.Dataset.from_tensor_slices(X).repeat()}, DataError, r"take\(n\)"),
        ({"inputs": X, "labels": np.arange(5)}, DataError, r"labels are \[5\]"),
        ({"inputs": X, "output": "softmax"}, UsageError, "'softmax'[^\n]*\n.*'probabilities'.*'logits'"),
        ({"inputs": X, "labels": np.arange(200)}, DataError, "from 0 to 199"),
    ):
        with pytest.raises(error, match=culprit):
            compare(model, variants=("float32",), **options)
    two = keras.Model(model.inputs, [model.outputs[0], model.layers[0].output])
    with pytest.raises(UsageError, match=r"(?s)2 outputs.*keras\.Model"):
        compare(two, inputs=X, variants=("float32",))
