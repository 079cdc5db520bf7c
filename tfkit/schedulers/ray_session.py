"""Ray, connected for as long as a job runs; what was started for it is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfkit import packages
from tfkit.errors import ConfigError

# Ray takes them for itself; whoever uses it here has its own handlers.
SIGNALS = (signal.SIGTERM, signal.SIGINT)

_END_SECONDS = 10.0

# Ray reads them as it starts. It must not report home, nor gather what nobody looks at; and a death is to be
# noticed within a second.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Under `uv run` every worker would be started by `uv run` in a copy of this folder, and install all anew.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
# Of a Ray that this process starts on this machine: it asks for a secret, which is not to land in the home folder.
_LOCAL_ENVIRONMENT = {"RAY_AUTH_MODE": "token", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}


@contextlib.contextmanager
def connected(workers: int) -> Iterator[None]:
    """Ray, while the block runs: the one that this process is connected to, that of RAY_ADDRESS, or one of its own.

    One of its own listens on loopback alone, asks for a secret, and is gone afterwards: processes and files.

    Args:
      workers: for how many there must be room.

    Raises:
      ConfigError: Ray does not start, or does not answer.
    """
    address = os.environ.get("RAY_ADDRESS")
    with contextlib.ExitStack() as stack:
        _set(_ENVIRONMENT if address else {**_ENVIRONMENT, **_LOCAL_ENVIRONMENT}, stack)
        import ray

        if ray.is_initialized():
            yield
            return
        settings: dict[str, Any] = {"address": address}
        if not address:
            secret = secrets.token_hex(32)
            _set({"RAY_AUTH_TOKEN": secret}, stack)
            settings = {
                "address": "local",
                "include_dashboard": False,
                "num_cpus": max(workers, os.cpu_count() or 1),
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": _temporary(stack),
            }
            stack.callback(_await_end, secret)
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        stack.callback(ray.shutdown)
        try:
            ray.init(**settings, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"at RAY_ADDRESS={address}" if address else "on this machine"
            raise ConfigError(f"Ray {where} does not answer: {packages.first_line(error)}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    signal.signal(number, handler)
        yield


def _set(variables: dict[str, str], stack: contextlib.ExitStack) -> None:
    """Set those environment variables that the user has not set, until the stack closes."""
    for name, value in variables.items():
        if name not in os.environ:
            os.environ[name] = value
            stack.callback(os.environ.pop, name, None)


def _temporary(stack: contextlib.ExitStack) -> str:
    """A folder for Ray's sockets and logs, whose path leaves room for theirs: Unix allows 107 characters."""
    roomy = len(tempfile.gettempdir()) < 20
    folder = tempfile.mkdtemp(prefix="tfkit-ray-", dir=None if roomy else "/tmp")
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _await_end(secret: str) -> None:
    """Wait until every process of this Ray has ended, and kill those that do not; the secret tells which."""
    mark, ending = f"RAY_AUTH_TOKEN={secret}".encode(), []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in environment.read_bytes():
                ending.append(os.pidfd_open(int(environment.parent.name)))
    deadline = time.monotonic() + _END_SECONDS
    for process in ending:
        # A pidfd becomes readable when its process ends, and can never mean another one.
        if not select.select([process], [], [], max(deadline - time.monotonic(), 0))[0]:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(process, signal.SIGKILL)
            select.select([process], [], [], 1)
        os.close(process)
