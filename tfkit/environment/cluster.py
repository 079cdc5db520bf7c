"""This process's place in a distributed job, read from TF_CONFIG without TensorFlow."""

from __future__ import annotations

import json
import os
import re
import reprlib
from dataclasses import dataclass
from typing import Any

from tfkit.errors import ConfigError

VARIABLE = "TF_CONFIG"
_ROLES = ("chief", "worker", "ps", "evaluator")  # there is no use for the last: the first worker evaluates

# What TensorFlow raises in a worker when another one is gone, or says nothing any more.
_PEER_LOSS = ("UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError", "InternalError")


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
        """Return how many processes train: 1 where this one is alone."""
        return max(len(self.workers), 1)

    @property
    def is_chief(self) -> bool:
        """Return whether this process is the one that writes."""
        return self.role == ("chief" if self.parameter_servers else "worker") and self.index == 0

    @property
    def name(self) -> str:
        """Return the name of this process for a message: "worker 1 (host2:2222)"."""
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
        return parse(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{VARIABLE} in the environment cannot be meant: {error}.\n"
            '  Such as {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}:\n'
            f"  `python -m tfkit launch` sets it. For one process: unset {VARIABLE}"
        ) from error


def or_alone() -> Cluster:
    """Return what `current` does; a cluster of one where TF_CONFIG cannot be understood, which others say."""
    try:
        return current()
    except ConfigError:
        return Cluster()


def parse(content: Any) -> Cluster:
    """Return what the content of TF_CONFIG says.

    Raises:
      ValueError: it cannot be meant.
    """
    try:
        addresses, task = content.get("cluster") or {}, content.get("task") or {}
        role, index = task.get("type", "worker"), task.get("index", None if addresses else 0)
        jobs = _parse_addresses(addresses)
        peers = jobs.get(role, ())
    except (AttributeError, TypeError):
        raise ValueError(f'{reprlib.repr(content)} is no object with objects "cluster" and "task"') from None
    if isinstance(index, str) and index.isdecimal():
        index = int(index)  # templates of Kubernetes put it into quotes, and TensorFlow reads it
    if not addresses and role in ("worker", "chief", "master") and type(index) is int and index == 0:
        return Cluster()
    if type(index) is not int or not 0 <= index < len(peers):
        counts = ", ".join(f"{len(hosts)} {job}" for job, hosts in jobs.items())
        raise ValueError(f'"task" is {role} {reprlib.repr(index)}, and "cluster" has {counts}')
    if jobs["ps"] and not (jobs["chief"] and jobs["worker"]):
        raise ValueError('"cluster" has parameter servers ("ps"), which need a chief and workers')
    if jobs["chief"] and not jobs["ps"]:
        # The older way to write a cluster of equals: the chief is the first of the workers.
        return Cluster(workers=jobs["chief"] + jobs["worker"], index=index + (role == "worker"))
    return Cluster(workers=jobs["worker"], index=index, parameter_servers=jobs["ps"], role=role)


def split(address: str) -> tuple[str, int]:
    """Return host and port of "host:port" or "[::1]:port"; ("", 0) where it is neither.

    >>> split("host1:2222"), split("[::1]:80"), split("host1"), split("http://host1:80")
    (('host1', 2222), ('::1', 80), ('', 0), ('', 0))
    """
    parts = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([\w.-]+)):([0-9]{1,5})", address, re.ASCII)
    if not parts or not 0 < int(parts[3]) < 65536:
        return "", 0
    return parts[1] or parts[2], int(parts[3])


def _parse_addresses(addresses: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the addresses by role; what TensorFlow would wait for in vain is refused."""
    names: dict[str, str] = {}
    for role, hosts in addresses.items():
        if role not in _ROLES:
            raise ValueError(f'"cluster" has a job "{role}"; known are {", ".join(_ROLES)}')
        if not isinstance(hosts, list):
            raise ValueError(f'"{role}" is {reprlib.repr(hosts)}, not a list of addresses')
        for number, address in enumerate(hosts):
            if not isinstance(address, str) or split(address) == ("", 0):
                form = "HOST:PORT with a port of 1 to 65535, without blanks and http://; IPv6 as [::1]:2222"
                raise ValueError(f"the address of {role} {number} is {reprlib.repr(address)}, not {form}")
            if address in names:
                raise ValueError(f"{names[address]} and {role} {number} have the same address, {address}")
            names[address] = f"{role} {number}"
    if len(addresses.get("chief", ())) > 1:
        raise ValueError('"chief" has more than one address')
    return {role: tuple(addresses.get(role, ())) for role in _ROLES[:3]}


def is_loss_of_peer(error: BaseException) -> bool:
    """Return whether this is what TensorFlow raises in one of several workers when another one is gone."""
    kind = type(error)
    return kind.__module__.startswith("tensorflow") and kind.__name__ in _PEER_LOSS and current().size > 1
