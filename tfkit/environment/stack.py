"""One stack out of packages that do not work together as installed.

    from tfkit.environment.stack import tf, keras, tf_hub, tf_text, tfmot, litert

Each of these is imported when it is first asked for, so importing this module costs nothing. The rest of
tfkit asks here for TensorFlow and its companions, and contains no compatibility code of its own. Imported
by their own names after `import tfkit`, they work as well.
`python -m tfkit doctor` tries every one of them and says which command repairs it.

Environment variables: TFKIT_MALLOC=0 leaves glibc's allocator as it is, TFKIT_QUIET=0 lets through all that
native code prints, TF_CPP_MIN_LOG_LEVEL is respected.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

from tfkit.environment import packages, process, timeline
from tfkit.environment.packages import command
from tfkit.environment.process import quiet
from tfkit.errors import StackError

_BERT_VOCABULARY = "tensorflow_text.tools.wordpiece_vocab.bert_vocab_from_dataset"

# Name here -> module, the package that brings it, and what else must be right for it.
_LAZY = {
    "tf": ("tensorflow", "tensorflow"),
    "keras": ("tf_keras", "tf-keras"),
    "keras_3": ("keras", "keras"),  # for its functions on tensors; its models do not fit the others
    "tf_hub": ("tensorflow_hub", "tensorflow-hub", "setuptools"),
    "tf_text": ("tensorflow_text", "tensorflow-text"),
    "tf_text_vocabulary": (_BERT_VOCABULARY, "tensorflow-text"),
    "tfmot": ("tensorflow_model_optimization", "tensorflow-model-optimization"),
    "litert": ("ai_edge_litert.interpreter", "ai-edge-litert"),
    "litert_schema": ("ai_edge_litert.schema_py_generated", "ai-edge-litert"),  # of the .tflite format
    "quantizer": ("ai_edge_quantizer", "ai-edge-quantizer"),
    "optuna": ("optuna", "optuna"),
    "tfp": ("tensorflow_probability", "tensorflow-probability"),
    "tf_agents": ("tf_agents", "tf-agents", "gin-config", "gym", "pygame"),
}

# Import names that are not their package's name, among what the packages above import.
_PACKAGE_OF = {
    "absl": "absl-py",
    "attr": "attrs",
    "google": "protobuf",
    "PIL": "pillow",
    "pkg_resources": "setuptools",
    "sklearn": "scikit-learn",
    "tree": "dm-tree",
}

# Keras reads it when tf.keras is first used, which may be before tfkit is asked for anything.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

_is_started = False


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, *companions = _LAZY[name]
    globals()[name] = value = _load(module, *companions)
    return value


@functools.cache
def tf_privacy(submodule: str) -> Any:
    """Return a module of TensorFlow Privacy or Empirical Privacy, with an error that helps where it does not import.

    Args:
      submodule: its name below tensorflow_privacy.privacy, such as "analysis.compute_dp_sgd_privacy_lib".

    Returns:
      The module.

    Raises:
      StackError: one of the two packages is missing or does not import.
    """
    empirical = submodule.startswith("privacy_tests")
    companions = ["tensorflow-empirical-privacy", "scikit-learn"] if empirical else []
    return _load(f"tensorflow_privacy.privacy.{submodule}", "tensorflow-privacy", *companions)


@functools.cache
def tfmot_module(submodule: str) -> Any:
    """Return a module of TensorFlow Model Optimization that has no public name.

    Args:
      submodule: its name below tensorflow_model_optimization.python, such as "core.sparsity.keras.pruning_impl".

    Returns:
      The module.

    Raises:
      StackError: the package is missing or does not import.
    """
    return _load(f"tensorflow_model_optimization.python.{submodule}", "tensorflow-model-optimization")


def devices() -> dict[str, list[str]]:
    """Return the devices that TensorFlow sees: names by kind, "CPU", "GPU", "TPU".

    Returns:
      Such as {"CPU": ["/physical_device:CPU:0"], "GPU": [], "TPU": []}. TensorFlow starts for it.
    """
    from tfkit.environment.stack import tf

    kinds = ("CPU", "GPU", "TPU")
    return {kind: [device.name for device in tf.config.list_physical_devices(kind)] for kind in kinds}


def has_gpu() -> bool:
    """Return whether TensorFlow sees a GPU.

    Returns:
      False also where TensorFlow was built without CUDA.
    """
    return bool(devices()["GPU"])


@timeline.doing("Loading a SavedModel")
def load_saved_model(folder: str | os.PathLike[str]) -> Any:
    """Return `tf.saved_model.load(folder)`, whose call is traced once for inputs of all sizes.

    A restored function is traced anew for each shape that it gets, which takes half a second and 8 MB where it has
    the variables of a backbone; a trace of the open shape, made first, is found for each of them.

    Args:
      folder: of a SavedModel, whose `__call__` takes one tensor.

    Returns:
      What tf.saved_model.load returns; called on tensors of any shape that the model takes.
    """
    from tfkit.environment.stack import tf

    model = tf.saved_model.load(os.fspath(folder))
    function = model.__call__
    if function.input_signature:
        return model  # traced once as it is

    @functools.cache
    def trace(rank: int | None, dtype: Any, **mode: bool) -> None:
        shape = None if rank is None else [None] * rank
        function.get_concrete_function(tf.TensorSpec(shape, dtype), **mode)

    def call(inputs: Any, training: bool = False) -> Any:
        inputs = tf.convert_to_tensor(inputs)
        mode = {"training": True} if training else {}  # models of earlier versions have no such argument
        trace(inputs.shape.rank, inputs.dtype, **mode)
        return function(inputs, **mode)

    call.__wrapped__ = function  # type: ignore[attr-defined]
    model.__call__ = call
    return model


def _load(module: str, package: str, *companions: str) -> ModuleType:
    """Import a module; whatever is in its way becomes one StackError with the command that repairs it."""
    _require(package, *companions)
    with timeline.stage("import", f"Importing {package}"):
        if package != "ai-edge-litert":  # the one that does without TensorFlow
            _start_tensorflow()
        return _import(module, package)


def _require(*names: str) -> None:
    if problems := packages.problems(*names):
        causes = "\n".join(f"{problem.cause}." for problem in problems)
        raise StackError(f"{causes}{packages.REPAIR}{command(*(problem.package for problem in problems))}")


def _import(module: str, package: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
            # These two are about the packages' own code, which a user cannot change.
            warnings.simplefilter("ignore", SyntaxWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            return importlib.import_module(module)
    # A package of a wrong version fails with AttributeError, TypeError, NotFoundError, whatever comes first.
    except Exception as err:
        missing = (getattr(err, "name", None) or "").split(".")[0]
        is_other = isinstance(err, ModuleNotFoundError) and missing != module.split(".")[0]
        repair = command(_PACKAGE_OF.get(missing, missing)) if is_other else command(package, reinstall=True)
        name = f"{module} ({package} {packages.version(package)})"
        cause = f"{name} does not import: {packages.first_line(err)}"
        raise StackError(f"{cause}{packages.REPAIR}{repair}") from err


def _start_tensorflow() -> None:
    """Import TensorFlow under tf_keras, with the allocator tuned; every call but the first does nothing."""
    global _is_started
    if _is_started:
        return
    _require("tensorflow", "tf-keras")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    flag, cause = os.environ.get("TF_USE_LEGACY_KERAS"), ""
    if flag not in ("1", "true", "True"):
        cause = f"TF_USE_LEGACY_KERAS={flag} in the environment makes tf.keras Keras 3"
    elif "tensorflow" in sys.modules and _is_keras_3(sys.modules["tensorflow"]):
        cause = f"tf.keras is Keras {packages.version('keras')} in this process: it was used before tfkit was imported"
    if cause:
        raise StackError(
            f"{cause}.\n  TensorFlow Hub, Model Optimization and Privacy are of Keras 2: its models refuse them.\n"
            "  Set TF_USE_LEGACY_KERAS=1 in the environment, or `import tfkit` before tf.keras is used, and start again"
            " (Restart Python; a notebook: Runtime > Restart session)."
        )
    process.tune_malloc()
    with timeline.stage("import", "Importing tensorflow"), quiet(), _freezing_imports():
        tensorflow = _import("tensorflow", "tensorflow")
        if not process.has_accelerator():
            # The search for one complains once that there is none; let it do so here, where that is dropped.
            tensorflow.config.list_physical_devices()
    _is_started = True


@contextlib.contextmanager
def _freezing_imports() -> Iterator[None]:
    """Keep what imports make from the garbage collector, which need not look at it.

    Not while they are imported, nor in each of its later passes, of which the tracing of a graph has many.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


_PRIVACY = "tensorflow_privacy"


class PrivacyFinder(PathFinder):
    """Find TensorFlow Privacy without the estimators, which its top level imports and TensorFlow has no longer.

    Its own switch, sys.skip_tf_privacy_import, leaves its packages empty. Here each of their names is imported when it
    is used: `tensorflow_privacy.DPKerasSGDOptimizer`, `from tensorflow_privacy import DPModel`. Every other module is
    for the finders after this one.
    """

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the usual finder returns, with a loader of our own for packages."""
        if fullname.partition(".")[0] != _PRIVACY:
            return None
        spec = super().find_spec(fullname, path, target)
        if spec and spec.submodule_search_locations and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _PrivacyLoader(fullname, spec.loader.path)
        return spec


class _PrivacyLoader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == _PRIVACY:
            _start_tensorflow()
        sys.skip_tf_privacy_import = True  # type: ignore[attr-defined]
        super().exec_module(module)
        _name_lazily(module, self)


def _name_lazily(package: ModuleType, loader: SourceFileLoader) -> None:
    """Give a package its modules, and the names that its `__init__` imports without the switch, when they are used."""
    name = package.__name__
    sources = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(ast.parse(loader.get_source(name) or ""))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_PRIVACY}.")
        for alias in node.names
    }

    def get_attribute(key: str) -> Any:
        module, attribute_name = sources.get(key, (f"{name}.{key}", None))
        try:
            if key.startswith("__"):
                raise ImportError("the package does not define it")
            source = importlib.import_module(module)
        except ImportError as err:
            raise AttributeError(f"module {name!r} has no attribute {key!r}: {err}", name=key) from err
        value = getattr(source, attribute_name) if attribute_name else source
        setattr(package, key, value)
        return value

    package.__getattr__ = get_attribute  # type: ignore[method-assign]
    package.__dir__ = lambda: sorted({*vars(package), *sources})  # type: ignore[method-assign]


for _name in [name for name in sys.modules if name.partition(".")[0] == _PRIVACY]:
    del sys.modules[_name]  # it failed before, or is empty
sys.meta_path.insert(0, PrivacyFinder)


def _is_keras_3(tensorflow: ModuleType) -> bool:
    """Return whether tf.keras, settled at its first use in a process, is Keras 3 (TensorFlow 2.19 to 2.21)."""
    for name in ("keras", "losses", "metrics", "optimizers", "initializers"):
        # Not getattr on what is found: that would settle it.
        module = vars(vars(tensorflow).get(name, object))
        if module.get("_tfll_keras_version") == "keras_3" or module.get("__name__", "").startswith("keras."):
            return True
    return False
