"""Which process of a distributed job this is, as TF_CONFIG says; TensorFlow is not asked."""

from __future__ import annotations

import difflib
import json
import os
import re
from dataclasses import dataclass
from typing import Any

from tfkit.errors import ConfigError

VARIABLE = "TF_CONFIG"


# What TensorFlow raises in a worker when another one is gone, or says nothing any more.
_OF_PEERS = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError", "InternalError")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The processes that train one model together.

    Attributes:
      workers: their addresses, "host:port", in the order of their index; empty where this process is alone.
      index: of this process among them.
      parameter_servers: addresses of the processes that only keep weights.
      role: `worker`, `chief` (that leads parameter servers) or `ps`.
    """

    workers: tuple[str, ...] = ()
    index: int = 0
    parameter_servers: tuple[str, ...] = ()
    role: str = "worker"

    @property
    def size(self) -> int:
        """How many processes train: 1 where this one is alone."""
        return max(len(self.workers), 1)

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that writes."""
        return self.role == "chief" or (self.role == "worker" and self.index == 0)

    @property
    def name(self) -> str:
        """Of this process, for a message: "worker 1 (host2:2222)"."""
        addresses = {"worker": self.workers, "ps": self.parameter_servers}.get(self.role, ())
        where = f" ({addresses[self.index]})" if self.index < len(addresses) else ""
        return f"{self.role} {self.index}{where}"


def current() -> Cluster:
    """Return what TF_CONFIG says; a cluster of one where it is not set.

    Raises:
      ConfigError: it is set and cannot be understood, or cannot be meant.
    """
    text = os.environ.get(VARIABLE, "")
    if not text.strip():
        return Cluster()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        quotes = " (JSON has double quotes: json.dumps writes them, str does not)" if "'" in text else ""
        raise _wrong(f"it is no JSON, {error}{quotes}") from error
    _check(isinstance(content, dict), "it", content, "an object")
    addresses, task = content.get("cluster") or {}, content.get("task") or {}
    _check(isinstance(addresses, dict), '"cluster"', addresses, "an object")
    _check(isinstance(task, dict), '"task"', task, "an object")
    known = _known(addresses)
    if addresses and "index" not in task:
        raise _wrong('"task" has no "index": nothing says which of them this process is')
    role, index = task.get("type", "worker"), task.get("index", 0)
    if isinstance(index, str) and index.isdecimal():
        index = int(index)  # templates of Kubernetes put it into quotes, and TensorFlow reads it
    _check(type(index) is int, 'the "index" of "task"', index, "a number from 0")
    if not addresses:
        if (role, index) not in (("worker", 0), ("chief", 0), ("master", 0)):
            raise _wrong(f'this process is {role} {index}, and "cluster" names nobody')
        return Cluster()
    if role == "evaluator":
        raise _wrong("this process is an evaluator, which tfkit has no use for: the first worker evaluates")
    if role not in known or not 0 <= index < len(known[role]):
        counts = ", ".join(f"{len(listed)} {job}" for job, listed in known.items())
        raise _wrong(f'this process is {_shown(role).strip(chr(34))} {index}, and "cluster" has {counts}')
    if known["ps"] and not (known["chief"] and known["worker"]):
        lacking = "chief, which leads" if not known["chief"] else "worker, which computes"
        raise _wrong(f'"cluster" has parameter servers ("ps") and no {lacking}')
    if known["chief"] and not known["ps"]:
        # The older way to write a cluster of equals: the chief is the first of the workers.
        return Cluster(workers=known["chief"] + known["worker"], index=index + (role == "worker"))
    return Cluster(workers=known["worker"], index=index, parameter_servers=known["ps"], role=role)


def split(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[::1]:port"; ("", 0) where it is neither.

    >>> split("host1:2222"), split("[::1]:80"), split("host1"), split("http://host1:80")
    (('host1', 2222), ('::1', 80), ('', 0), ('', 0))
    """
    parts = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([\w.-]+)):([0-9]{1,5})", address, re.ASCII)
    if not parts or not 0 < int(parts[3]) < 65536:
        return "", 0
    return parts[1] or parts[2], int(parts[3])


def _known(addresses: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the addresses by role; what TensorFlow would wait for in vain is refused."""
    roles = ("chief", "worker", "ps", "evaluator")
    names: dict[str, str] = {}
    for role, listed in addresses.items():
        if role not in roles:
            near = ["chief"] if role == "master" else difflib.get_close_matches(role, roles, n=1)
            raise _wrong(f'"cluster" has a job "{role}" (did you mean "{(near or ["worker"])[0]}"?)')
        _check(isinstance(listed, list), f'"{role}"', listed, "a list of addresses")
        for number, address in enumerate(listed):
            form = "HOST:PORT with a port of 1 to 65535, without blanks and http://; IPv6 as [::1]:2222"
            is_address = isinstance(address, str) and split(address) != ("", 0)
            _check(is_address, f"the address of {role} {number}", address, form)
            if address in names:
                raise _wrong(f"{names[address]} and {role} {number} have the same address, {address}")
            names[address] = f"{role} {number}"
    if len(addresses.get("chief", ())) > 1:
        raise _wrong('"chief" has more than one address')
    return {role: tuple(addresses.get(role, ())) for role in roles[:3]}


def _check(is_right: bool, what: str, value: Any, expected: str) -> None:
    if not is_right:
        raise _wrong(f"{what} is {_shown(value)}, not {expected}")


def _wrong(what: str) -> ConfigError:
    return ConfigError(
        f"{VARIABLE} in the environment cannot be meant: {what}.\n"
        '  Expected {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}};\n'
        f"  `python -m tfkit launch` sets it. For one process: unset {VARIABLE}"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def is_loss_of_peer(error: BaseException) -> bool:
    """Return whether this is what TensorFlow raises in one of several workers when another one is gone."""
    kind = type(error)
    return kind.__module__.startswith("tensorflow") and kind.__name__ in _OF_PEERS and current().size > 1
