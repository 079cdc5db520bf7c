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
    """What became of a package's check; whatever it raises is a finding."""
    start = time.perf_counter()
    try:
        result = {"ok": True, "detail": CHECKS[package](), "command": None}
    except StackError as err:
        found, _, repair = str(err).partition(packages.REPAIR)
        detail = "; ".join(line.strip().rstrip(".") for line in found.splitlines())
        result = {"ok": False, "detail": detail, "command": repair or None}
    except Exception as err:
        detail = f"{type(err).__name__}: {packages.first_line(err)}"
        result = {"ok": False, "detail": detail, "command": packages.command(package, reinstall=True)}
    return {"package": package, **result, "seconds": round(time.perf_counter() - start, 2)}


def describe() -> dict[str, Any]:
    """What TensorFlow runs on and under which Keras; empty where it does not run."""
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


def _tensorflow() -> str:
    from tfkit.environment.stack import tf

    product = tf.matmul(tf.ones((64, 3)), tf.ones((3, 64)))
    _expect(float(tf.reduce_sum(product)), 64 * 64 * 3, "the sum of a product of matrices")
    return "multiplies matrices"


def _tf_keras() -> str:
    from tfkit.environment.stack import keras, tf

    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros", input_shape=(2,))])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    losses = model.fit(tf.ones((8, 2)), tf.ones((8, 1)), epochs=2, verbose=0).history["loss"]
    if tf.keras.Model is not keras.Model or not losses[1] < losses[0] == 1.0:
        raise CheckError(f"tf.keras is {tf.keras.__name__}, and two epochs gave the losses {losses}")
    return f"trains (loss {losses[0]:.2f} to {losses[1]:.2f}), and is tf.keras"


def _tensorflow_hub() -> str:
    from tfkit.environment.stack import tf, tf_hub

    module = tf.train.Checkpoint()
    module.factor = tf.Variable(3.0)
    module.__call__ = tf.function(
        lambda x: x * module.factor, input_signature=[tf.TensorSpec([None, 2], tf.float32)]
    )
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder)
        layer = tf_hub.KerasLayer(folder)
        _expect(float(tf.reduce_sum(layer(tf.ones((1, 2))))), 6.0, "the output of a saved layer")
    return "loads a SavedModel as a layer"


def _setuptools() -> str:
    found = packages.problems("setuptools")
    if found:
        raise StackError(f"{found[0].found}{packages.REPAIR}{found[0].command}")
    return "has pkg_resources, which tensorflow-hub imports"


def _tensorflow_text() -> str:
    from tfkit.environment.stack import tf, tf_text

    vocabulary = ["[UNK]", "word", "##piece", "##s"]
    tokenizer = tf_text.FastWordpieceTokenizer(vocabulary, token_out_type=tf.int32)
    ids = tokenizer.tokenize(["wordpieces"]).to_list()
    _expect(ids, [[1, 2, 3]], "the tokens of 'wordpieces'")
    return "splits a word into its pieces"


def _tensorflow_model_optimization() -> str:
    from tfkit.environment.stack import keras, tf, tfmot

    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    pruning = tfmot.sparsity.keras
    pruned = pruning.prune_low_magnitude(model, pruning.ConstantSparsity(0.5, begin_step=0, frequency=1))
    pruned.compile("sgd", "mse")
    pruned.fit(tf.ones((8, 8)), tf.ones((8, 8)), verbose=0, callbacks=[pruning.UpdatePruningStep()])
    kernel = pruning.strip_pruning(pruned).layers[0].kernel
    sparsity = float(tf.reduce_mean(tf.cast(tf.equal(kernel, 0.0), tf.float32)))
    _expect(sparsity, 0.5, "the sparsity after a step of pruning")
    return f"prunes (sparsity {sparsity:.2f} after a step)"


def _tensorflow_privacy() -> str:
    accounting = stack.tf_privacy("analysis.compute_dp_sgd_privacy_lib")
    stack.tf_privacy("optimizers.dp_optimizer_keras")
    statement = accounting.compute_dp_sgd_privacy_statement(
        number_of_examples=60_000,
        batch_size=256,
        num_epochs=15,
        noise_multiplier=1.1,
        delta=1e-5,
        used_microbatching=False,
    )
    epsilon = re.search(r"Poisson sampling[^:]*:\s*([\d.]+)", statement)
    _expect(float(epsilon[1]) if epsilon else statement, 1.28, "epsilon", within=0.01)
    return "states epsilon 1.28 where it should"


def _tensorflow_empirical_privacy() -> str:
    import numpy as np

    attacks = "privacy_tests.membership_inference_attack."
    attack = stack.tf_privacy(attacks + "membership_inference_attack")
    structures = stack.tf_privacy(attacks + "data_structures")
    losses = structures.AttackInputData(loss_train=np.linspace(0, 1, 20), loss_test=np.linspace(2, 3, 20))
    result = attack.run_attacks(losses, attack_types=[structures.AttackType.THRESHOLD_ATTACK])
    area = float(result.single_attack_results[0].get_auc())
    _expect(area, 1.0, "the area under the curve of an attack that cannot fail")
    return "tells members from others (AUC 1.00)"


def _dp_accounting() -> str:
    import dp_accounting

    step = dp_accounting.PoissonSampledDpEvent(256 / 60_000, dp_accounting.GaussianDpEvent(1.1))
    accountant = dp_accounting.rdp.RdpAccountant().compose(step, 3516)
    _expect(accountant.get_epsilon(1e-5), 1.28, "epsilon", within=0.01)
    return "composes 3,516 steps to epsilon 1.28"


def _ai_edge_litert() -> str:
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
    difference = float(np.abs(output - model(tf.ones((1, 3))).numpy()).max())
    _expect(difference, 0.0, "the difference between Keras and TFLite", within=1e-5)
    return "runs a converted model as Keras does"


def _tensorboard() -> str:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from tfkit.environment.stack import tf

    with tempfile.TemporaryDirectory() as folder:
        with tf.summary.create_file_writer(folder).as_default():
            tf.summary.scalar("loss", 0.25, step=1)
        events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
        _expect(
            float(tf.make_ndarray(events.Tensors("loss")[0].tensor_proto)), 0.25, "a scalar written and read"
        )
    return "reads back what a summary wrote"


def _expect(found: Any, wanted: Any, what: str, *, within: float = 1e-6) -> None:
    equal = abs(found - wanted) <= within if isinstance(found, float) else found == wanted
    if not equal:
        raise CheckError(f"{what} is {found}, not {wanted}")


CHECKS: dict[str, Callable[[], str]] = {
    "tensorflow": _tensorflow,
    "tf-keras": _tf_keras,
    "setuptools": _setuptools,
    "tensorflow-hub": _tensorflow_hub,
    "tensorflow-text": _tensorflow_text,
    "tensorflow-model-optimization": _tensorflow_model_optimization,
    "tensorflow-privacy": _tensorflow_privacy,
    "tensorflow-empirical-privacy": _tensorflow_empirical_privacy,
    "dp-accounting": _dp_accounting,
    "ai-edge-litert": _ai_edge_litert,
    "tensorboard": _tensorboard,
}


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
