"""One real thing that each package of the stack is asked to do, in a process that may die of it.

    python -m tfkit.environment.doctor_checks tensorflow-hub tensorflow-text

prints a JSON object for each: "package", "ok", "detail" (what was done, or what was found), "command" (what
repairs it), "seconds"; and a last one for what TensorFlow runs on: "devices", "keras", "malloc_is_tuned".
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from tfkit.environment import packages, stack
from tfkit.environment.process import quiet
from tfkit.errors import CheckError, StackError


def run(package: str) -> dict[str, Any]:
    """Return what became of a package's check; whatever it raises is a finding."""
    start = time.perf_counter()
    try:
        detail, check = CHECKS[package]
        found, wanted = check()
        if not (abs(found - wanted) <= 0.01 if isinstance(found, float) else found == wanted):
            raise CheckError(f"a package that {detail} gives {wanted}; this one gave {found}")
        result = {"ok": True, "detail": detail, "command": None}
    except StackError as err:
        cause, _, repair = str(err).partition(packages.REPAIR)
        detail = "; ".join(line.strip().rstrip(".") for line in cause.splitlines())
        result = {"ok": False, "detail": detail, "command": repair or None}
    except Exception as err:
        detail = f"{type(err).__name__}: {packages.first_line(err)}"
        result = {"ok": False, "detail": detail, "command": packages.command(package, reinstall=True)}
    return {"package": package, **result, "seconds": round(time.perf_counter() - start, 2)}


def describe() -> dict[str, Any]:
    """Return what TensorFlow runs on and under which Keras; empty where it does not run."""
    try:
        from tfkit.environment.stack import tf
    except StackError:  # its own check says why
        return {}
    in_force = tf.keras.Model.__module__.split(".")[0]
    return {
        "devices": stack.devices(),
        "keras": f"{in_force} {packages.version(in_force)}",
        "malloc_is_tuned": stack.malloc_is_tuned(),
    }


def _tensorflow() -> tuple[Any, Any]:
    from tfkit.environment.stack import tf

    return float(tf.reduce_sum(tf.matmul(tf.ones((64, 3)), tf.ones((3, 64))))), 64.0 * 64 * 3


def _tf_keras() -> tuple[Any, Any]:
    from tfkit.environment.stack import keras, tf

    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros", input_shape=(2,))])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    losses = model.fit(tf.ones((8, 2)), tf.ones((8, 1)), epochs=2, verbose=0).history["loss"]
    return (tf.keras.Model is keras.Model, losses[0], losses[1] < losses[0]), (True, 1.0, True)


def _tensorflow_hub() -> tuple[Any, Any]:
    from tfkit.environment.stack import tf, tf_hub

    module = tf.train.Checkpoint()
    module.factor = tf.Variable(3.0)
    signature = [tf.TensorSpec([None, 2], tf.float32)]
    module.__call__ = tf.function(lambda x: x * module.factor, input_signature=signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder)
        return float(tf.reduce_sum(tf_hub.KerasLayer(folder)(tf.ones((1, 2))))), 6.0


def _setuptools() -> tuple[Any, Any]:
    if found := packages.problems("setuptools"):
        raise StackError(f"{found[0].found}{packages.REPAIR}{found[0].command}")
    return True, True


def _tensorflow_text() -> tuple[Any, Any]:
    from tfkit.environment.stack import tf, tf_text

    vocabulary = ["[UNK]", "word", "##piece", "##s"]
    tokenizer = tf_text.FastWordpieceTokenizer(vocabulary, token_out_type=tf.int32)
    return tokenizer.tokenize(["wordpieces"]).to_list(), [[1, 2, 3]]


def _tensorflow_model_optimization() -> tuple[Any, Any]:
    from tfkit.environment.stack import keras, tf, tfmot

    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    pruning = tfmot.sparsity.keras
    pruned = pruning.prune_low_magnitude(model, pruning.ConstantSparsity(0.5, begin_step=0, frequency=1))
    pruned.compile("sgd", "mse")
    pruned.fit(tf.ones((8, 8)), tf.ones((8, 8)), verbose=0, callbacks=[pruning.UpdatePruningStep()])
    kernel = pruning.strip_pruning(pruned).layers[0].kernel
    return float(tf.reduce_mean(tf.cast(tf.equal(kernel, 0.0), tf.float32))), 0.5


def _tensorflow_privacy() -> tuple[Any, Any]:
    accounting = stack.tf_privacy("analysis.compute_dp_sgd_privacy_lib")
    stack.tf_privacy("optimizers.dp_optimizer_keras")
    training = {"number_of_examples": 60_000, "batch_size": 256, "num_epochs": 15, "noise_multiplier": 1.1}
    statement = accounting.compute_dp_sgd_privacy_statement(**training, delta=1e-5, used_microbatching=False)
    epsilon = re.search(r"Poisson sampling[^:]*:\s*([\d.]+)", statement)
    return float(epsilon[1]) if epsilon else statement, 1.28


def _tensorflow_empirical_privacy() -> tuple[Any, Any]:
    import numpy as np

    attacks = "privacy_tests.membership_inference_attack."
    attack = stack.tf_privacy(attacks + "membership_inference_attack")
    structures = stack.tf_privacy(attacks + "data_structures")
    losses = structures.AttackInputData(loss_train=np.linspace(0, 1, 20), loss_test=np.linspace(2, 3, 20))
    result = attack.run_attacks(losses, attack_types=[structures.AttackType.THRESHOLD_ATTACK])
    return float(result.single_attack_results[0].get_auc()), 1.0


def _dp_accounting() -> tuple[Any, Any]:
    import dp_accounting

    step = dp_accounting.PoissonSampledDpEvent(256 / 60_000, dp_accounting.GaussianDpEvent(1.1))
    return float(dp_accounting.rdp.RdpAccountant().compose(step, 3516).get_epsilon(1e-5)), 1.28


def _ai_edge_litert() -> tuple[Any, Any]:
    import numpy as np

    from tfkit.environment.stack import keras, litert, tf

    model = keras.Sequential([keras.layers.Dense(4, input_shape=(3,))])
    with quiet():
        content = tf.lite.TFLiteConverter.from_keras_model(model).convert()
        interpreter = litert.Interpreter(model_content=content)
        interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ones((1, 3), np.float32))
    interpreter.invoke()
    output = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return bool(np.abs(output - model(tf.ones((1, 3))).numpy()).max() < 1e-5), True


def _tensorboard() -> tuple[Any, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from tfkit.environment.stack import tf

    with tempfile.TemporaryDirectory() as folder:
        with tf.summary.create_file_writer(folder).as_default():
            tf.summary.scalar("loss", 0.25, step=1)
        events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
        return float(tf.make_ndarray(events.Tensors("loss")[0].tensor_proto)), 0.25


CHECKS: dict[str, tuple[str, Callable[[], tuple[Any, Any]]]] = {
    "tensorflow": ("multiplies matrices", _tensorflow),
    "tf-keras": ("trains, and is tf.keras", _tf_keras),
    "setuptools": ("has pkg_resources, which tensorflow-hub imports", _setuptools),
    "tensorflow-hub": ("loads a SavedModel as a layer", _tensorflow_hub),
    "tensorflow-text": ("splits a word into its pieces", _tensorflow_text),
    "tensorflow-model-optimization": ("prunes half of a kernel", _tensorflow_model_optimization),
    "tensorflow-privacy": ("states epsilon 1.28 where it should", _tensorflow_privacy),
    "tensorflow-empirical-privacy": ("tells members from others (AUC 1.00)", _tensorflow_empirical_privacy),
    "dp-accounting": ("composes 3,516 steps to epsilon 1.28", _dp_accounting),
    "ai-edge-litert": ("runs a converted model as Keras does", _ai_edge_litert),
    "tensorboard": ("reads back what a summary wrote", _tensorboard),
}
"""Package to what its check shows, and the check: it returns what it found and what that should be (floats: +-0.01)."""


def main() -> None:
    """Run the checks that the command line names, then describe the machine."""
    # Libraries print; what they print must not come between the lines of the answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        print(json.dumps(run(name)), file=answers, flush=True)
    print(json.dumps(describe()), file=answers, flush=True)


if __name__ == "__main__":
    main()
