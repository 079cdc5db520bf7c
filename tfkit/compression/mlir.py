"""Write models in MLIR, the form in which TensorFlow's compilers hold them, to see what they made of a model.

A .tflite file becomes a module of the dialect `tfl`, the exported model of a run one of StableHLO, which XLA compiles.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfkit.compression.convert import run_in_converter
from tfkit.compression.inspect import inspect, operation_table
from tfkit.environment import files, packages, stack
from tfkit.environment.foreign import flatbuffer_to_mlir
from tfkit.errors import CheckError, DataError, UsageError
from tfkit.run import SAVED_MODEL, TFLITE, VARIANTS, Run

SUFFIX = ".mlir"


def tflite_module(path: Path) -> str:
    """Return a .tflite file as an MLIR module of the dialect `tfl`.

    It is read in a process of its own, since a damaged file may end that.

    Args:
      path: of the file.

    Raises:
      DataError: it is no .tflite file, or MLIR cannot read it.

    Source: TensorFlow's flatbuffer importer, see `tfkit.environment.foreign.flatbuffer_to_mlir`.
    """
    inspect(path)
    try:
        text = str(run_in_converter(flatbuffer_to_mlir, str(path), what=path.name))
    except Exception as err:  # whatever the native code raises, or what it dies of
        raise DataError(f"MLIR cannot read {path}: {packages.first_line(err)}.") from err
    if not text:  # the importer's way to fail
        raise DataError(f"MLIR cannot read {path}: TensorFlow's importer found it damaged.")
    return text


def stablehlo_module(model: Any) -> str:
    """Return the exported model of a run as a StableHLO module for one example; its weights are arguments.

    Args:
      model: see `tfkit.run.Run.model`; of texts its part behind the tokenizer, since XLA has no strings.

    Raises:
      CheckError: XLA cannot compile it.

    Source: `tf.function.experimental_get_compiler_ir`.
    """
    tf = stack.tf
    function = getattr(model, "device_ids", model.classify)
    specs = tf.nest.flatten(function.concrete_functions[0].structured_input_signature)
    if any(spec.dtype == tf.string for spec in specs):
        raise CheckError("The model takes strings, and its tokenizer is not tfkit's: XLA cannot compile it.")
    example = [tf.TensorSpec([size or 1 for size in spec.shape], spec.dtype) for spec in specs]
    jit_function = tf.function(lambda *inputs: function(*inputs), jit_compile=True, autograph=False)
    try:
        return str(jit_function.experimental_get_compiler_ir(*example)(stage="stablehlo"))
    except (ValueError, TypeError, tf.errors.OpError) as err:
        raise CheckError(f"XLA cannot compile the model: {packages.first_line(err)}.") from err


def command(arguments: argparse.Namespace) -> int:
    """Print what `python -m tfkit inspect` was asked for; returns the exit code."""
    path, run = Path(arguments.model), None
    paths = [path]
    if path.is_file():
        inventory = inspect(path)
        print(f"{path}: {inventory.size_bytes:,} bytes; {inventory.summary}")
        for title, tensors in (("takes", inventory.inputs), ("gives", inventory.outputs)):
            print(*(f"{title}  {spec.name}: {spec.dtype} {list(spec.shape)}" for spec in tensors), sep="\n")
        print(*inventory.notes, _to_text(operation_table({path.name: inventory.op_counts})), sep="\n")
    else:
        run = Run.open(path)
        if not (run.path / VARIANTS).is_file() and not arguments.mlir:
            raise UsageError(
                f"{run.path} has no .tflite files yet.\n  Make them: python -m recipes.compress_tflite --from-run"
                f" {run.path}; or add --mlir to see its model in StableHLO."
            )
        variants = run.read(VARIANTS)
        if operations := variants.get("operations"):
            print(_to_text(operations))
        paths = [run.path / TFLITE / f"{row['name']}.tflite" for row in variants.get("variants", ())]
    for target, text in _build_modules(paths, run) if arguments.mlir else ():
        files.write_text(target, text)
        print(f"written to   {target}  ({len(text):,} characters)", flush=True)
    return 0


def _to_text(table: dict[str, Any]) -> str:
    import pandas as pd

    return str(pd.DataFrame.from_dict(table["rows"], orient="index", columns=table["columns"]).to_string())


def _build_modules(paths: list[Path], run: Run | None) -> Iterator[tuple[Path, str]]:
    for path in paths:
        yield path.with_suffix(SUFFIX), tflite_module(path)
    if run is not None:
        yield run.path / f"{SAVED_MODEL}.stablehlo{SUFFIX}", stablehlo_module(run.model)
