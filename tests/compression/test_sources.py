"""Models of every kind are taken; of those that cannot be it is said what to do."""

import json
import zipfile

import numpy as np
import pytest

from tfkit.compression import convert
from tfkit.compression.sources import read, with_known_sizes
from tfkit.environment.stack import keras, keras_3, tf
from tfkit.errors import DataError, TfkitError, UsageError
from tfkit.litert import ParallelInterpreter, opened

X = np.random.default_rng(0).random((5, 4), np.float32)


def network(library, *more):
    return library.Sequential([library.Input((4,)), *more, library.layers.Dense(3, activation="softmax")])


@pytest.mark.parametrize("library", [keras, keras_3])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_a_file_of_each_keras(library, ending, tmp_path):
    model = network(library)
    model.compile("sgd", "mse")
    model.save(tmp_path / f"model{ending}")
    loaded = read(tmp_path / f"model{ending}")
    assert isinstance(loaded, library.Model)
    with ParallelInterpreter(convert(str(tmp_path / f"model{ending}"))) as interpreter:
        np.testing.assert_allclose(interpreter(X), model(X), atol=1e-5)


@pytest.mark.parametrize("library", [keras, keras_3])
@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_code_in_a_file_is_not_run(library, ending, tmp_path):
    flag = tmp_path / "it_ran"

    def code(x, flag=flag):
        flag.touch()
        return x

    model = network(library, library.layers.Lambda(lambda x: code(x)))
    model.save(tmp_path / f"model{ending}")
    flag.unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"(?s)Lambda.*safe_mode=False"):
        convert(tmp_path / f"model{ending}")
    assert not flag.exists()


def test_files_of_other_kinds(tmp_path):
    model = network(keras)
    model.save_weights(tmp_path / "model.weights.h5")
    model.save_weights(tmp_path / "checkpoint" / "c")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n and no more")
    (tmp_path / "text.keras").write_text("no model")
    (tmp_path / "some.tflite").write_bytes(b"\x1c\0\0\0TFL3....")
    (tmp_path / "frozen.pb").write_bytes(b"\n\x05graph")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07onnx")
    for name, inside in (("archive.zip", "m/saved_model.pb"), ("torch.pt", "archive/data.pkl")):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(inside, b"")
    with zipfile.ZipFile(tmp_path / "damaged.keras", "w") as file:
        file.writestr("metadata.json", "{}")
        file.writestr("config.json", "{}")
    with zipfile.ZipFile(tmp_path / "custom.keras", "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        file.writestr("config.json", json.dumps({"class_name": "Own", "config": {}, "module": "own"}))
    (tmp_path / "run" / "saved_model").mkdir(parents=True)
    (tmp_path / "run" / "saved_model" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "part" / "variables").mkdir(parents=True)
    for name, says in (
        ("model.weights.h5", "model that you build"),
        ("checkpoint", "no saved_model.pb"),
        ("checkpoint/c.index", "Weights alone"),
        ("cut.h5", "damaged"),
        ("text.keras", "no whole model of Keras"),
        ("some.tflite", "converted already"),
        ("frozen.pb", "wrap_function"),
        ("model.onnx", "onnx2tf"),
        ("archive.zip", "archive the folder"),
        ("torch.pt", "PyTorch"),
        ("damaged.keras", "damaged"),
        ("custom.keras", "custom_objects"),
        ("run", "Give one: .*saved_model"),
        ("run/saved_model/saved_model.pb", "SavedModel or an archive the folder"),
        ("part", "A part of one"),
        ("missing.keras", "from "),
    ):
        with pytest.raises(TfkitError, match=f"(?s){name}.*{says}"):
            convert(tmp_path / name)


def test_graphs_of_tensorflow_1_by_the_function_that_the_errors_name(tmp_path):
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, [1, 4], name="x")
        tf.identity(x * 2.0, name="y")
        graph = session.graph.as_graph_def()
        builder = v1.saved_model.Builder(str(tmp_path / "v1"))
        builder.add_meta_graph_and_variables(session, ["serve"])
        builder.save()
    with pytest.raises(UsageError, match=r"(?s)TensorFlow 1.*prune\("):
        convert(tmp_path / "v1")
    frozen = v1.wrap_function(lambda: tf.graph_util.import_graph_def(graph, name=""), [])
    for graph in (frozen, tf.saved_model.load(str(tmp_path / "v1"))):
        function = graph.prune("x:0", "y:0")
        with ParallelInterpreter(convert(function)) as interpreter:
            np.testing.assert_array_equal(interpreter(X), 2 * X)


def test_open_lengths_of_several_inputs():
    open_length = tf.TensorSpec([None, None], tf.float32)
    specs, keys = dict.fromkeys(["zeta", "alpha"], open_length), {"left": "zeta", "right": "alpha"}
    for given in ({"right": (1, 3), "zeta": (1, 2)}, [(1, 2), (None, 3)]):
        found = with_known_sizes(specs, given, keys)
        assert {name: spec.shape.as_list() for name, spec in found.items()} == {
            "zeta": [1, 2],
            "alpha": [1, 3],
        }
    for wrong in ((1, 2), [(1, 2)], {"other": (1, 2)}):
        with pytest.raises(UsageError, match="zeta, alpha"):
            with_known_sizes(specs, wrong, {})


BEFORE = network(keras)
W = tf.Variable(np.random.default_rng(1).random((4, 3), np.float32), name="outside")


class Called(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, 4]), {"ids": tf.TensorSpec([None, 2], tf.int32)}])
    def __call__(self, x, more):
        return x @ W + tf.cast(tf.reduce_sum(more["ids"]), tf.float32)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs["x"] @ W + tf.cast(tf.reduce_sum(inputs["ids"], axis=1, keepdims=True), tf.float32)


def subclassed():
    model = Subclassed()
    model.predict({"x": X, "ids": IDS}, verbose=0)
    return model


IDS = np.arange(10, dtype=np.int32).reshape(5, 2)
SPECS = [tf.TensorSpec([None, 4]), tf.TensorSpec([1, 2], tf.int32)]


@pytest.mark.parametrize(
    ("function", "shape"),
    [
        (lambda x: BEFORE(x) * 0 + x @ W, (1, 4)),  # what comes after a model
        (lambda inputs: inputs[0] @ W + tf.reduce_sum(inputs[1]), [(1, 4), (1, 2)]),
        (
            tf.function(lambda x, i: x @ W + tf.cast(tf.reduce_sum(i), tf.float32), input_signature=SPECS),
            None,
        ),
        (tf.function(lambda x, flag=True: x @ W).get_concrete_function(SPECS[0]), None),
        (Called(), None),
        (Called().__call__, None),
        (subclassed(), None),
    ],
    ids=["model", "list", "signature", "concrete", "module", "method", "subclassed"],
)
def test_functions_know_their_inputs_and_their_variables(function, shape):
    run = opened(convert(function, input_shape=shape), threads=1).get_signature_runner()
    given = {
        name: (IDS if "int" in str(one["dtype"]) or tuple(one["shape"]) == (1, 2) else X)[1:2].astype(
            one["dtype"]
        )
        for name, one in run.get_input_details().items()
    }
    (found,) = run(**given).values()
    np.testing.assert_allclose(found, X[1:2] @ W.numpy() + (IDS[1].sum() if len(given) > 1 else 0), atol=1e-5)
