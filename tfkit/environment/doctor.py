"""What works here and what does not: every package is asked to do one real thing.

python -m tfkit doctor [--json]

A diagnosis as one screen of text.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfkit.environment import files, packages
from tfkit.environment.doctor_checks import CHECKS
from tfkit.errors import UsageError


def diagnose(tell: Callable[[dict[str, Any]], None] = lambda check: None) -> dict[str, Any]:
    """Examine this environment, which takes half a minute.

    Args:
      tell: called with each check as it is done.

    Returns:
      "ok"; "versions" (of `packages.versions`); "checks", a list of "package", "version", "ok", "detail",
      "command" (what repairs it, or None), "seconds"; "optional", a list of "package", "version" (or None),
      "purpose", "command"; "machine": "devices", "keras", "malloc_is_tuned"; "start": "compiled" and "command"
      (what makes TensorFlow start sooner, or None); "cache": "path", "ok", "detail", "bytes". Ready for JSON.
    """
    checks = []
    machine: dict[str, Any] = {}
    for answer in _answers():
        if "package" in answer:
            checks.append(answer)
            tell(answer)
        else:
            machine = answer
    cache = _cache()
    return {
        "ok": cache["ok"] and all(check["ok"] for check in checks),
        "versions": packages.versions(),
        "checks": checks,
        "optional": [
            {
                "package": package,
                "version": packages.version(package),
                "purpose": purpose,
                "command": packages.command(package),
            }
            for package, purpose in packages.OPTIONAL.items()
        ],
        "machine": machine,
        "start": _start(),
        "cache": cache,
    }


def _answers() -> Iterator[dict[str, Any]]:
    """What `tfkit.environment.doctor_checks` prints, with each package's version.

    All checks run in one process, for TensorFlow takes seconds to start. Should a package bring that down, that
    is its result, and the rest go on in another.
    """
    waiting = list(CHECKS)
    while waiting:
        with tempfile.TemporaryFile("w+") as noise:
            command = [sys.executable, "-m", "tfkit.environment.doctor_checks", *waiting]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    answer = json.loads(line)
                    if "package" in answer:
                        answer["version"] = packages.version(waiting.pop(0))
                    yield answer
            if waiting:
                package = waiting.pop(0)
                noise.seek(0)
                last_words = noise.read().strip().splitlines()[-1:]
                yield {
                    "package": package,
                    "ok": False,
                    "detail": ": ".join(
                        [f"ended its process with exit code {child.returncode}", *last_words]
                    ),
                    "command": packages.command(package, reinstall=True),
                    "seconds": None,
                    "version": packages.version(package),
                }


def _start() -> dict[str, Any]:
    """Whether Python has kept TensorFlow's modules compiled, which the checks have just imported."""
    found = importlib.util.find_spec("tensorflow")
    if (
        found is None
        or found.origin is None
        or Path(importlib.util.cache_from_source(found.origin)).is_file()
    ):
        return {"compiled": found is not None, "command": None}
    packages_folder = str(Path(found.origin).parents[1])
    return {
        "compiled": False,
        "command": shlex.join([sys.executable, "-m", "compileall", "-qq", "-j", "0", packages_folder]),
    }


def _cache() -> dict[str, Any]:
    """Whether the cache folder can be written to, and how much is in it."""
    try:
        folder = files.cache_dir()
        with tempfile.TemporaryFile(dir=folder):
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return {"path": str(folder), "ok": True, "detail": "writable", "bytes": size}
    except (OSError, UsageError) as err:
        detail = f"{str(err).splitlines()[0]} Name another folder: export {files.CACHE_VARIABLE}=FOLDER"
        return {"path": str(files.cache_root()), "ok": False, "detail": detail, "bytes": None}


_INDENT = " " * 10


def show(*, as_json: bool = False) -> int:
    """Print a diagnosis, line by line as it comes or as JSON; returns the exit code: 1 if something is broken."""
    if as_json:
        diagnosis = diagnose()
        print(json.dumps(diagnosis, indent=2))
    else:
        print(_heading(packages.versions()), end="\n\n")
        diagnosis = diagnose(lambda check: print(_check(check), flush=True))
        print("\n".join(_closing(diagnosis)))
    return 0 if diagnosis["ok"] else 1


def _heading(versions: dict[str, Any]) -> str:
    return (
        f"tfkit {versions['tfkit']} on Python {versions['python']}, {versions['cpu']}, "
        f"{versions['cores']} cores, {versions['platform']}"
    )


def _line(mark: str, package: str, version: str, text: str) -> str:
    return f"{mark:<9} {package:<32} {version:<8} {text}"


def _check(check: dict[str, Any]) -> str:
    line = _line("ok" if check["ok"] else "BROKEN", check["package"], check["version"] or "", check["detail"])
    return f"{line}\n{_INDENT}{check['command']}" if check["command"] else line


def _closing(diagnosis: dict[str, Any]) -> list[str]:
    lines = []
    for package in diagnosis["optional"]:
        if package["version"]:
            lines.append(_line("optional", package["package"], package["version"], package["purpose"]))
        else:
            lines.append(_line("optional", package["package"], "-", f"not installed: {package['purpose']}"))
            lines.append(f"{_INDENT}{package['command']}")
    machine, cache = diagnosis["machine"], diagnosis["cache"]
    lines.append("")
    if machine:
        seen = ", ".join(f"{len(names)} {kind}" for kind, names in machine["devices"].items())
        lines.append(f"Devices  {seen}")
        lines.append(f"Keras    {machine['keras']} is tf.keras")
        lines.append(
            f"Memory   {'glibc malloc is tuned' if machine['malloc_is_tuned'] else 'malloc is as it comes'}"
        )
    if diagnosis["start"]["command"]:
        lines.append(
            "Start    each process compiles TensorFlow's modules anew: Python may not keep them here"
        )
        lines.append(
            "         (PYTHONDONTWRITEBYTECODE, or a folder that is read-only). Some seconds less, from now on:"
        )
        lines.append(f"{_INDENT}{diagnosis['start']['command']}")
    size = "" if cache["bytes"] is None else f", {cache['bytes'] / 1e6:,.0f} MB"
    lines.append(f"Cache    {cache['path']}: {cache['detail']}{size}")
    broken = [check for check in diagnosis["checks"] if not check["ok"]]
    lines.append("")
    if broken:
        lines.append(f"{len(broken)} of {len(diagnosis['checks'])} are broken.")
        repair = _together([check["command"] for check in broken if check["command"]])
        if repair:
            lines.append(f"To repair all of it:\n\n    {repair}")
    elif diagnosis["ok"]:
        lines.append("Everything works.")
    return lines


def _together(commands: list[str]) -> str:
    """One command for all, without those that are the beginning of another."""
    distinct = list(dict.fromkeys(commands))
    needed = [one for one in distinct if not any(other.startswith(f"{one} ") for other in distinct)]
    return " && ".join(needed)
