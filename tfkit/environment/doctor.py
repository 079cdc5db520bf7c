"""`python -m tfkit doctor [--json]`: every package does one real thing, or has a command that repairs it."""

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
    optional = [
        {
            "package": name,
            "version": packages.version(name),
            "purpose": purpose,
            "command": packages.command(name),
        }
        for name, purpose in packages.OPTIONAL.items()
    ]
    return {
        "ok": cache["ok"] and all(check["ok"] for check in checks),
        "versions": packages.versions(),
        "checks": checks,
        "optional": optional,
        "machine": machine,
        "start": _start(),
        "cache": cache,
    }


def _answers() -> Iterator[dict[str, Any]]:
    """Yield what `tfkit.environment.doctor_checks` prints, with each package's version.

    All checks run in one process, for TensorFlow takes seconds to start. Should a package bring that down, that
    is its result, and the rest go on in another.
    """
    waiting = list(CHECKS)
    while waiting:
        with tempfile.TemporaryFile("w+") as noise:
            command = [sys.executable, "-m", "tfkit.environment.doctor_checks", *waiting]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=noise, text=True) as child:
                for line in child.stdout or ():
                    answer = json.loads(line)
                    if "package" in answer:
                        answer["version"] = packages.version(waiting.pop(0))
                    yield answer
            if waiting:
                package = waiting.pop(0)
                noise.seek(0)
                end = [
                    f"ended its process with exit code {child.returncode}",
                    *noise.read().strip().splitlines()[-1:],
                ]
                yield {
                    "package": package, "ok": False, "detail": ": ".join(end), "seconds": None,
                    "command": packages.command(package, reinstall=True), "version": packages.version(package),
                }  # fmt: skip


def _start() -> dict[str, Any]:
    """Return whether Python has kept TensorFlow's modules compiled, which the checks have just imported."""
    origin = getattr(importlib.util.find_spec("tensorflow"), "origin", None)
    compiled = origin is not None and Path(importlib.util.cache_from_source(origin)).is_file()
    command = None
    if origin is not None and not compiled:
        folder = str(Path(origin).parents[1])
        command = shlex.join([sys.executable, "-m", "compileall", "-qq", "-j", "0", folder])
    return {"compiled": compiled, "command": command}


def _cache() -> dict[str, Any]:
    """Return whether the cache folder can be written to, and how much is in it."""
    try:
        folder = files.cache_dir()
        with tempfile.TemporaryFile(dir=folder):
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return {"path": str(folder), "ok": True, "detail": "writable", "bytes": size}
    except (OSError, UsageError) as err:
        detail = f"{str(err).splitlines()[0]} Name another folder: export {files.CACHE_VARIABLE}=FOLDER"
        return {"path": str(files.cache_root()), "ok": False, "detail": detail, "bytes": None}


def show(*, as_json: bool = False) -> int:
    """Print a diagnosis, line by line as it comes or as JSON; return the exit code: 1 if something is broken."""
    if as_json:
        diagnosis = diagnose()
        print(json.dumps(diagnosis, indent=2))
    else:
        versions = packages.versions()
        print(
            f"tfkit {versions['tfkit']} on Python {versions['python']}, {versions['cpu']}, {versions['cores']} cores,"
            f" {versions['platform']}\n"
        )
        diagnosis = diagnose(_print_check)
        _print_rest(diagnosis)
    return 0 if diagnosis["ok"] else 1


def _print_check(check: dict[str, Any]) -> None:
    _print_package("ok" if check["ok"] else "BROKEN", check, check["detail"], check["command"])


def _print_package(mark: str, row: dict[str, Any], text: str, command: str | None) -> None:
    print(f"{mark:<9} {row['package']:<32} {row['version'] or '-':<8} {text}", flush=True)
    if command:
        print(f"{'':10}{command}", flush=True)


def _print_rest(diagnosis: dict[str, Any]) -> None:
    for row in diagnosis["optional"]:
        there = row["version"] is not None
        text = row["purpose"] if there else f"not installed: {row['purpose']}"
        _print_package("optional", row, text, None if there else row["command"])
    machine, cache, start = diagnosis["machine"], diagnosis["cache"], diagnosis["start"]
    print()
    if machine:
        print("Devices ", ", ".join(f"{len(names)} {kind}" for kind, names in machine["devices"].items()))
        print(f"Keras    {machine['keras']} is tf.keras")
        print("Memory  ", "glibc malloc is tuned" if machine["malloc_is_tuned"] else "malloc is as it comes")
    if start["command"]:
        print("Start    each process compiles TensorFlow's modules anew: Python may not keep them here")
        print(
            "         (PYTHONDONTWRITEBYTECODE, or a folder that is read-only). Some seconds less, from now on:"
        )
        print(f"{'':10}{start['command']}")
    size = "" if cache["bytes"] is None else f", {cache['bytes'] / 1e6:,.0f} MB"
    print(f"Cache    {cache['path']}: {cache['detail']}{size}\n")
    broken = [check for check in diagnosis["checks"] if not check["ok"]]
    if broken:
        print(f"{len(broken)} of {len(diagnosis['checks'])} are broken.")
        if repair := _joined([check["command"] for check in broken if check["command"]]):
            print(f"To repair all of it:\n\n    {repair}")
    elif diagnosis["ok"]:
        print("Everything works.")


def _joined(commands: list[str]) -> str:
    """Return one command for all, without those that are the beginning of another."""
    distinct = list(dict.fromkeys(commands))
    return " && ".join(
        command for command in distinct if not any(other.startswith(f"{command} ") for other in distinct)
    )
