"""`python -m tfkit doctor [--json]`: every package does one real thing, or has a command that repairs it."""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import re
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tfkit.environment import files, packages, process, stack
from tfkit.environment.timeline import doing
from tfkit.errors import CheckError, StackError, UsageError


def diagnose(tell: Callable[[dict[str, Any]], None] = lambda row: None) -> dict[str, Any]:
    """Examine this environment, which takes half a minute.

    All checks run in one process, for TensorFlow takes seconds to start. Should a package bring that down, that is its
    result, and the rest go on in another.

    Args:
      tell: called with each check as it is done, and with each optional package.

    Returns:
      "ok"; "versions" (of `packages.versions`); "checks", a list of "package", "version", "ok", "detail",
      "command" (what repairs it, or None), "seconds"; "optional", a list of "package", "version" (or None),
      "purpose", "command"; "machine": "devices", "keras", "malloc_is_tuned"; "start": "compiled" and "command"
      (what makes TensorFlow start sooner, or None); "cache": "path", "ok", "detail", "bytes" and those of
      its "folders". Ready for JSON.
    """
    cache, checks, optional, pool = _describe_cache(), [], [], None
    with tempfile.NamedTemporaryFile() as noise:
        for package in CHECKS:
            pool = pool or ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _mute, (noise.name,))
            try:
                with doing(f"Trying {package}"):
                    row = pool.submit(run, package).result()
            except BrokenProcessPool:
                pool, last_line = None, Path(noise.name).read_text(errors="replace").strip().splitlines()[-1:]
                detail = ": ".join(["brought its process down", *last_line])
                row = _to_row(package, detail, packages.command(package, reinstall=True))
            checks.append(row)
            tell(row)
        machine = pool.submit(describe).result() if pool else {}
    for name, purpose in packages.OPTIONAL.items():
        row = {"package": name, "version": packages.version(name)}
        optional.append(row | {"purpose": purpose, "command": packages.command(name)})
        tell(optional[-1])
    return {
        "ok": cache["ok"] and all(check["ok"] for check in checks),
        "versions": packages.versions(),
        "checks": checks,
        "optional": optional,
        "machine": machine,
        "start": _describe_start(),
        "cache": cache,
    }


def _mute(name: str) -> None:
    """Send all that is printed in this process to a file."""
    noise = os.open(name, os.O_WRONLY | os.O_APPEND)
    os.dup2(noise, 1)
    os.dup2(noise, 2)


def _to_row(package: str, detail: str, command: str | None, **result: Any) -> dict[str, Any]:
    row = {"package": package, "version": packages.version(package), "ok": False, "seconds": None}
    return {**row, "detail": detail, "command": command or None, **result}


def _describe_start() -> dict[str, Any]:
    """Return whether Python has kept TensorFlow's modules compiled, which the checks have just imported."""
    origin = getattr(importlib.util.find_spec("tensorflow"), "origin", None)
    if origin is None or Path(importlib.util.cache_from_source(origin)).is_file():
        return {"compiled": origin is not None, "command": None}
    command = [sys.executable, "-m", "compileall", "-qq", "-j", "0", str(Path(origin).parents[1])]
    return {"compiled": False, "command": shlex.join(command)}


def _describe_cache() -> dict[str, Any]:
    """Return whether the cache folder can be written to, and how much is in it."""
    cache: dict[str, Any] = {"path": str(files.cache_root()), "ok": True, "detail": "writable", "bytes": None}
    cache["folders"] = Counter[str]()
    try:
        folder = files.cache_dir()
        with tempfile.TemporaryFile(dir=folder):
            for file in filter(Path.is_file, folder.rglob("*")):
                cache["folders"][file.relative_to(folder).parts[0]] += file.stat().st_size
            cache["bytes"] = cache["folders"].total()
    except (OSError, UsageError) as err:
        detail = f"{str(err).splitlines()[0]} Name another folder: export {files.CACHE_VARIABLE}=FOLDER"
        cache |= {"ok": False, "detail": detail}
    return cache


def command(arguments: argparse.Namespace) -> int:
    """Print a diagnosis, line by line as it comes or as JSON; return the exit code: 1 if something is broken."""
    if arguments.json:
        with process.muted():
            diagnosis = diagnose()
        print(json.dumps(diagnosis, indent=2))
        return int(not diagnosis["ok"])
    info = packages.versions()
    where = f"Python {info['python']}, {info['cpu']}, {info['cores']} cores, {info['platform']}"
    print(f"tfkit {info['tfkit']} on {where}\n")
    diagnosis = diagnose(_print_row)
    machine, start, cache, checks = (diagnosis[name] for name in ("machine", "start", "cache", "checks"))
    print()
    if machine:
        print("Devices ", ", ".join(f"{len(names)} {kind}" for kind, names in machine["devices"].items()))
        print(f"Keras    {machine['keras']} is tf.keras")
        print("Memory  ", "glibc malloc is tuned" if machine["malloc_is_tuned"] else "malloc is as it comes")
    if start["command"]:
        text = "each process compiles TensorFlow's modules anew: Python may not keep them. To mend that:"
        print(f"Start    {text}\n{'':10}{start['command']}")
    size = "" if cache["bytes"] is None else f", {cache['bytes'] / 1e6:,.0f} MB"
    print(f"Cache    {cache['path']}: {cache['detail']}{size}")
    for name, of in cache["folders"].most_common(5):
        print(f"{'':10}{of / 1e6:,.0f} MB in {name}/")
    print()
    broken = [check for check in checks if not check["ok"]]
    if broken:
        print(f"{len(broken)} of {len(checks)} are broken.")
    elif diagnosis["ok"]:
        print("Everything works.")
    if commands := dict.fromkeys(check["command"] for check in broken if check["command"]):
        print(f"To repair all of it:\n\n    {' && '.join(commands)}")
    return int(not diagnosis["ok"])


def _print_row(row: dict[str, Any]) -> None:
    mark = "optional" if "purpose" in row else "ok" if row["ok"] else "BROKEN"
    text = row.get("detail") or ("" if row["version"] else "not installed: ") + row["purpose"]
    print(f"{mark:<9} {row['package']:<32} {row['version'] or '-':<8} {text}", flush=True)
    if row["command"] and (mark == "BROKEN" or not row["version"]):
        print(f"{'':10}{row['command']}", flush=True)


def run(package: str) -> dict[str, Any]:
    """Return what became of a package's check; whatever it raises is a finding."""
    start, ok, command = time.perf_counter(), False, None
    detail, check = CHECKS[package]
    try:
        value, expected = check()
        ok = abs(value - expected) <= 0.01 if isinstance(value, float) else value == expected
        if not ok:
            raise CheckError(f"a package that {detail} gives {expected}; this one gave {value}")
    except StackError as err:
        cause, _, command = str(err).partition(packages.REPAIR)
        detail = "; ".join(line.strip().rstrip(".") for line in cause.splitlines())
    except Exception as err:
        detail = f"{type(err).__name__}: {packages.first_line(err)}"
        command = packages.command(package, reinstall=True)
    return _to_row(package, detail, command, ok=ok, seconds=round(time.perf_counter() - start, 2))


def describe() -> dict[str, Any]:
    """Return what TensorFlow runs on and under which Keras; empty where it does not run."""
    try:
        package = stack.tf.keras.Model.__module__.split(".")[0]
    except StackError:  # its own check says why
        return {}
    keras = f"{package} {packages.version(package)}"
    return {"devices": stack.devices(), "keras": keras, "malloc_is_tuned": process.tune_malloc()}


def _raise_first(problems: list[packages.Problem]) -> tuple[Any, Any]:
    for problem in problems:
        raise StackError(f"{problem.cause}{packages.REPAIR}{problem.command}")
    return True, True


def _check_tensorflow() -> tuple[Any, Any]:
    tf = stack.tf
    return float(tf.reduce_sum(tf.matmul(tf.ones((64, 3)), tf.ones((3, 64))))), 64.0 * 64 * 3


def _check_tf_keras() -> tuple[Any, Any]:
    keras, tf = stack.keras, stack.tf
    model = keras.Sequential([keras.layers.Dense(1, kernel_initializer="zeros", input_shape=(2,))])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    losses = model.fit(tf.ones((8, 2)), tf.ones((8, 1)), epochs=2, verbose=0).history["loss"]
    return (tf.keras.Model is keras.Model, losses[0], losses[1] < losses[0]), (True, 1.0, True)


def _check_hub() -> tuple[Any, Any]:
    tf = stack.tf
    module = tf.train.Checkpoint()
    module.factor = tf.Variable(3.0)
    signature = [tf.TensorSpec([None, 2], tf.float32)]
    module.__call__ = tf.function(lambda x: x * module.factor, input_signature=signature)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder)
        return float(tf.reduce_sum(stack.tf_hub.KerasLayer(folder)(tf.ones((1, 2))))), 6.0


def _check_text() -> tuple[Any, Any]:
    vocabulary = ["[UNK]", "word", "##piece", "##s"]
    tokenizer = stack.tf_text.FastWordpieceTokenizer(vocabulary, token_out_type=stack.tf.int32)
    return tokenizer.tokenize(["wordpieces"]).to_list(), [[1, 2, 3]]


def _check_model_optimization() -> tuple[Any, Any]:
    pruning, keras, tf = stack.tfmot.sparsity.keras, stack.keras, stack.tf
    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    wrapped = pruning.prune_low_magnitude(model, pruning.ConstantSparsity(0.5, begin_step=0, frequency=1))
    wrapped.compile("sgd", "mse")
    wrapped.fit(tf.ones((8, 8)), tf.ones((8, 8)), verbose=0, callbacks=[pruning.UpdatePruningStep()])
    kernel = pruning.strip_pruning(wrapped).layers[0].kernel
    return float(tf.reduce_mean(tf.cast(tf.equal(kernel, 0.0), tf.float32))), 0.5


def _check_privacy() -> tuple[Any, Any]:
    accounting = stack.tf_privacy("analysis.compute_dp_sgd_privacy_lib")
    stack.tf_privacy("optimizers.dp_optimizer_keras")
    training = {"number_of_examples": 60_000, "batch_size": 256, "num_epochs": 15, "noise_multiplier": 1.1}
    statement = accounting.compute_dp_sgd_privacy_statement(**training, delta=1e-5, used_microbatching=False)
    epsilon = re.search(r"Poisson sampling[^:]*:\s*([\d.]+)", statement)
    return float(epsilon[1]) if epsilon else statement, 1.28


def _check_empirical_privacy() -> tuple[Any, Any]:
    import numpy as np

    attacks = "privacy_tests.membership_inference_attack."
    attack = stack.tf_privacy(attacks + "membership_inference_attack")
    structures = stack.tf_privacy(attacks + "data_structures")
    losses = structures.AttackInputData(loss_train=np.linspace(0, 1, 20), loss_test=np.linspace(2, 3, 20))
    result = attack.run_attacks(losses, attack_types=[structures.AttackType.THRESHOLD_ATTACK])
    return float(result.single_attack_results[0].get_auc()), 1.0


def _check_accounting() -> tuple[Any, Any]:
    import dp_accounting

    step = dp_accounting.PoissonSampledDpEvent(256 / 60_000, dp_accounting.GaussianDpEvent(1.1))
    return float(dp_accounting.rdp.RdpAccountant().compose(step, 3516).get_epsilon(1e-5)), 1.28


def _check_litert() -> tuple[Any, Any]:
    import numpy as np

    model = stack.keras.Sequential([stack.keras.layers.Dense(4, input_shape=(3,))])
    with process.quiet():
        content = stack.tf.lite.TFLiteConverter.from_keras_model(model).convert()
        runner = stack.litert.Interpreter(model_content=content).get_signature_runner()
    (output,) = runner(**dict.fromkeys(runner.get_input_details(), np.ones((1, 3), np.float32))).values()
    return bool(np.abs(output - model(np.ones((1, 3), np.float32)).numpy()).max() < 1e-5), True


def _check_tensorboard() -> tuple[Any, Any]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tf = stack.tf
    with tempfile.TemporaryDirectory() as folder:
        with tf.summary.create_file_writer(folder).as_default():
            tf.summary.scalar("loss", 0.25, step=1)
        events = EventAccumulator(folder, size_guidance={"tensors": 0}).Reload()
        return float(tf.make_ndarray(events.Tensors("loss")[0].tensor_proto)), 0.25


CHECKS: dict[str, tuple[str, Callable[[], tuple[Any, Any]]]] = {
    packages.DISTRIBUTION: ("is alone with its names", lambda: _raise_first(packages.namesakes())),
    "tensorflow": ("multiplies matrices", _check_tensorflow),
    "tf-keras": ("trains, and is tf.keras", _check_tf_keras),
    "setuptools": (
        "has pkg_resources, which tensorflow-hub imports",
        lambda: _raise_first(packages.problems("setuptools")),
    ),
    "tensorflow-hub": ("loads a SavedModel as a layer", _check_hub),
    "tensorflow-text": ("splits a word into its pieces", _check_text),
    "tensorflow-model-optimization": ("prunes half of a kernel", _check_model_optimization),
    "tensorflow-privacy": ("states epsilon 1.28 where it should", _check_privacy),
    "tensorflow-empirical-privacy": ("tells members from others (AUC 1.00)", _check_empirical_privacy),
    "dp-accounting": ("composes 3,516 steps to epsilon 1.28", _check_accounting),
    "ai-edge-litert": ("runs a converted model as Keras does", _check_litert),
    "tensorboard": ("reads back what a summary wrote", _check_tensorboard),
}
"""Package to what its check shows, and the check: it returns what it found and what that should be (floats: +-0.01)."""
