"""One stack: what is imported, under which Keras, what is said when it cannot be, and what is kept silent."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest

from tfkit.environment import stack
from tfkit.environment.foreign import modules
from tfkit.environment.packages import versions
from tfkit.environment.stack import keras, tf, tf_hub, tfmot

pytestmark = pytest.mark.stack


def python(
    code: str, *, arguments: tuple[str, ...] = (), **variables: str | None
) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh process; a variable that is None is not set."""
    ours = ("TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL", "TFKIT_QUIET")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {name: value for name, value in variables.items() if value is not None}
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("cells", [1, 2])
def test_layers_that_keep_masks_of_dropout_are_listed(cells):
    """TensorFlow's own list of what a trained recurrent model holds ends in an error."""
    dropped = [keras.layers.GRUCell(3, dropout=0.5, recurrent_dropout=0.5) for _ in range(cells)]
    model = keras.Sequential([keras.Input([4, 2]), keras.layers.RNN(dropped if cells > 1 else dropped[0])])
    model.compile("sgd", "mse")
    model.fit(tf.ones([2, 4, 2]), tf.ones([2, 3]), verbose=0)
    with pytest.raises(ValueError, match="_dropout_mask_cache"):
        list(model.submodules)
    assert {*map(id, dropped)} <= {*map(id, modules(model))}


# Runs other programs in forks of its own: in a process that has imported TensorFlow, and nothing of tfkit.
FORKS = """
import json, os, sys
import tensorflow
for name, program in json.loads(sys.argv[1]).items():
    if not os.fork():
        for number, kind in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[2]}/{name}.{kind}", os.O_WRONLY | os.O_CREAT), number)
        break
    os.wait()
else:
    sys.exit()
exec(program)
"""


@pytest.fixture(scope="module")
def after_tensorflow(tmp_path_factory):
    """What these programs print, each in a process in which TensorFlow was imported first, by itself."""
    folder = tmp_path_factory.mktemp("forks")
    python(FORKS, arguments=(json.dumps(AFTER_TENSORFLOW), str(folder))).check_returncode()
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_every_package_uses_the_same_keras():
    assert tf.keras.Model is keras.Model
    assert issubclass(tf_hub.KerasLayer, keras.layers.Layer)
    assert isinstance(tfmot.sparsity.keras.prune_low_magnitude(keras.layers.Dense(1)), keras.layers.Layer)
    optimizers = stack.tf_privacy("optimizers.dp_optimizer_keras")
    private = optimizers.DPKerasSGDOptimizer(l2_norm_clip=1.0, noise_multiplier=1.0, learning_rate=0.1)
    assert isinstance(private, keras.optimizers.legacy.Optimizer)


def test_keras_3_can_be_had_beside_it_and_tf_keras_stays():
    assert stack.keras_3.__version__.startswith("3.")
    assert stack.keras_3.backend.backend() == "tensorflow"
    assert tf.keras.Model is keras.Model is not stack.keras_3.Model


PRIVATE = """
optimizers.dp_optimizer_keras_vectorized keras_models.dp_keras_model fast_gradient_clipping.clip_grads
fast_gradient_clipping.layer_registry analysis.compute_dp_sgd_privacy_lib analysis.compute_noise_from_budget_lib
privacy_tests.membership_inference_attack.membership_inference_attack privacy_tests.epsilon_lower_bound
privacy_tests.secret_sharer.exposures
"""


@pytest.mark.parametrize("submodule", PRIVATE.split())
def test_privacy_modules_import(submodule):
    assert stack.tf_privacy(submodule).__name__ == f"tensorflow_privacy.privacy.{submodule}"


# What TensorFlow Privacy's own __init__ names, and does not import on TensorFlow 2.16 and later.
NAMES = """
import sys
{before}
import tfkit
assert "tensorflow" not in sys.modules or {begun}
import tensorflow_privacy as tfp
from tensorflow_privacy import DPKerasAdamOptimizer, DPModel, restart_query
import tf_keras
assert isinstance(tfp.DPKerasSGDOptimizer(1.0, 1.0, learning_rate=0.1), tf_keras.optimizers.legacy.SGD)
assert issubclass(DPModel, tf_keras.Model) and DPModel is tfp.privacy.keras_models.dp_keras_model.DPModel
assert issubclass(tfp.v1.DPAdamOptimizer, tfp.privacy.optimizers.dp_optimizer.AdamOptimizer)
import tensorflow_privacy.privacy.privacy_tests.membership_inference_attack.membership_inference_attack
assert not hasattr(tfp, "no_such_name")
print(*(name for name in dir(tfp) if not hasattr(tfp, name)))
"""


# An estimator: the one name that cannot be had.
MISSING = ["DNNClassifier"]
OTHERS = """
import tensorflow as tf, tfkit, tensorflow_hub, tensorflow_text, tensorflow_model_optimization
import ai_edge_litert.interpreter, tf_keras
print(issubclass(tensorflow_hub.KerasLayer, tf_keras.layers.Layer), tf.keras.Model is tf_keras.Model)
"""
KERAS_3 = """
import tensorflow as tf
model = tf.keras.Model
from tfkit.errors import StackError
try:
    from tfkit.environment.stack import keras
except StackError as err:
    print(err)
"""
AFTER_TENSORFLOW = {
    "it failed before": NAMES.format(
        before="import contextlib\nwith contextlib.suppress(ImportError): import tensorflow_privacy",
        begun=True,
    ),
    "its switch before": NAMES.format(
        before="sys.skip_tf_privacy_import = True\nimport tensorflow_privacy", begun=True
    ),
    "others": OTHERS,
    "keras 3": KERAS_3,
}


@pytest.mark.slow
def test_tensorflow_privacy_imports_by_its_own_name():
    done = python(NAMES.format(before="", begun=False))
    assert done.stdout.split() == MISSING, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("before", ["it failed before", "its switch before"])
def test_tensorflow_privacy_imports_also_where_it_was_imported_before(after_tensorflow, before):
    assert after_tensorflow[f"{before}.out"].split() == MISSING, after_tensorflow[f"{before}.err"]


@pytest.mark.slow
def test_the_other_packages_import_by_their_own_names(after_tensorflow):
    """Also where TensorFlow was imported first, while its Keras is not used."""
    assert after_tensorflow["others.out"] == "True True\n", after_tensorflow["others.err"]


def test_devices_are_those_of_tensorflow():
    found = stack.devices()
    assert set(found) == {"CPU", "GPU", "TPU"}
    assert found["CPU"] == ["/physical_device:CPU:0"]
    assert stack.has_gpu() is bool(tf.config.list_physical_devices("GPU"))


@pytest.mark.slow
def test_keras_3_in_the_same_process_is_one_error_that_says_what_to_do(after_tensorflow):
    said = after_tensorflow["keras 3.out"]
    assert said.startswith(f"tf.keras is Keras {importlib.metadata.version('keras')} in this process")
    assert "Restart Python" in said
    assert "TF_USE_LEGACY_KERAS=1" in said


def test_a_setting_that_asks_for_keras_3_is_an_error():
    done = python("from tfkit.environment.stack import tf", TF_USE_LEGACY_KERAS="0")
    assert "StackError: TF_USE_LEGACY_KERAS=0 in the environment makes tf.keras Keras 3" in done.stderr


# Starts everything that speaks up on its own: all imports, the search for devices, the first op, a step of training,
# a SavedModel written and loaded by hub, a conversion, an interpreter. Then it does what TensorFlow warns of.
NOISY = """
import os, sys, tempfile
from tfkit.environment import stack
from tfkit.environment.stack import tf, keras, tf_hub, tf_text, tfmot, litert
stack.tf_privacy("keras_models.dp_keras_model")
model = keras.Sequential([keras.layers.Dense(1, input_shape=(2,))])
model.compile("sgd", "mse")
model.fit(tf.ones((4, 2)), tf.ones((4, 1)), verbose=0)
with tempfile.TemporaryDirectory() as folder:
    tf.saved_model.save(model, folder)
    tf_hub.KerasLayer(folder)(tf.ones((1, 2)))
with stack.quiet():
    content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
    litert.Interpreter(model_content=content).allocate_tensors()
print("started", file=sys.stderr, flush=True)
next(iter(tf.data.Dataset.range(9).cache().take(1)))
with stack.quiet():
    next(iter(tf.data.Dataset.range(9).cache().take(2)))
tf.get_logger().warning("said by TensorFlow in Python")
"""


@pytest.mark.slow
def test_starting_is_silent_and_warnings_are_not():
    started, _, after = python(NOISY).stderr.partition("started\n")
    assert all(line.startswith("Importing ") for line in started.splitlines()), started
    assert after.count("did not fully read the dataset being cached") == 2
    assert "said by TensorFlow in Python" in after


def test_versions_are_those_of_the_packages_and_their_own():
    found = versions()
    assert found["python"] == sys.version.split()[0]
    assert found["cores"] >= 1
    assert found["cpu"]
    for package in ("tensorflow", "tf-keras", "numpy", "protobuf", "tfkit-tensorflow"):
        assert found["packages"][package] == importlib.metadata.version(package)
