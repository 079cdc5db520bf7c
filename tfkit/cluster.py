"""Which process of a distributed job this is, as TF_CONFIG says; TensorFlow is not asked."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

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
    """What TF_CONFIG says; a cluster of one where it is not set.

    Raises:
      ConfigError: it is set and cannot be understood.
    """
    text = os.environ.get(VARIABLE, "")
    if not text.strip():
        return Cluster()
    try:
        content = json.loads(text)
        addresses = content.get("cluster", {})
        task = content.get("task", {"type": "worker", "index": 0})
        role, index = str(task["type"]), int(task["index"])
        chiefs, workers = tuple(addresses.get("chief", ())), tuple(addresses.get("worker", ()))
        servers = tuple(addresses.get("ps", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{VARIABLE} in the environment cannot be understood ({type(error).__name__}: {error}): {text[:200]}"
            '\n  Expected {"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker",'
            ' "index": 0}}; `python -m tfkit launch` sets it.'
        ) from error
    if chiefs and not servers and role in ("chief", "worker"):
        # The older way to write a cluster of equals: the chief is the first of the workers.
        index += role == "worker"
        workers, role, chiefs = (*chiefs, *workers), "worker", ()
    known = {"worker": workers, "ps": servers, "chief": chiefs}
    if content.get("cluster") and (role not in known or not 0 <= index < len(known[role])):
        raise ConfigError(
            f"{VARIABLE} says that this process is {role} {index}, and the cluster has"
            f" {', '.join(f'{len(found)} {name}' for name, found in known.items())}."
        )
    return Cluster(workers=workers, index=index, parameter_servers=servers, role=role)


def is_loss_of_peer(error: BaseException) -> bool:
    """Whether this is what TensorFlow raises in one of several workers when another one is gone."""
    kind = type(error)
    return kind.__module__.startswith("tensorflow") and kind.__name__ in _OF_PEERS and current().size > 1
