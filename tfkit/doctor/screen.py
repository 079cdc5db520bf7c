"""A diagnosis as one screen of text."""

from __future__ import annotations

import json
from typing import Any

from tfkit import packages
from tfkit.doctor import diagnose

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
