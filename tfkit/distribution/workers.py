"""All workers are there before TensorFlow starts: one that is absent is named, instead of waited for in silence.

TensorFlow itself waits inside of native code, which holds Python's lock and says nothing. So each worker first
listens on its own port with a few lines of Python, and asks the others for their number. What they say is also
how two hosts with different lists of workers are found out.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator

from tfkit.environment import files
from tfkit.environment.cluster import Cluster, split
from tfkit.errors import ConfigError, StackError, UsageError

SECONDS_VARIABLE = "TFKIT_JOIN_SECONDS"
SECONDS = 300.0
_SAY_AFTER = 3.0
_SAY_AGAIN_AFTER = 20.0
_BETWEEN_TRIES = 0.2
_ANSWER_SECONDS = 2.0
_LINGER_SECONDS = 3.0


class AbsentError(UsageError):
    """A worker of the cluster is not there, or has another list of workers."""


def wait(cluster: Cluster, *, seconds: float | None = None) -> None:
    """Return when every worker of the cluster is there.

    Args:
      cluster: with this process's own number in it.
      seconds: after which it is an error; None: TFKIT_JOIN_SECONDS, else 300.

    Raises:
      AbsentError: one did not come, or was started with another list of workers.
      StackError: this worker's own port is taken.
    """
    seconds = _seconds() if seconds is None else seconds
    if cluster.size == 1:
        return
    began = time.monotonic()
    say_at = began + _SAY_AFTER
    absent = [index for index in range(cluster.size) if index != cluster.index]
    with _answering(cluster) as asked:
        while True:
            try:
                absent = [index for index in absent if not _is_there(cluster, index)]
            except AbsentError:
                time.sleep(_LINGER_SECONDS)  # until the other one has found it out too
                raise
            if not absent:
                _linger(cluster, asked)
                return
            now = time.monotonic()
            if now - began > seconds:
                raise AbsentError(
                    f"{_names(cluster, absent)} did not come within {seconds:.0f} s; {cluster.name} waited.\n"
                    "  Look whether it was started there, and whether its port is reachable from here (a firewall,\n"
                    f"  a name that resolves to 127.0.1.1). {SECONDS_VARIABLE} or --join-seconds makes it wait longer."
                )
            if now > say_at:
                waits = f"{cluster.name} waits for {_names(cluster, absent)}"
                print(f"{waits}, {seconds - (now - began):.0f} s at most.", file=sys.stderr, flush=True)
                say_at = now + _SAY_AGAIN_AFTER
            time.sleep(_BETWEEN_TRIES)


def _seconds() -> float:
    text = os.environ.get(SECONDS_VARIABLE, str(SECONDS))
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(
            f"{SECONDS_VARIABLE} in the environment is {text!r}; expected seconds, such as 300."
        ) from error


@contextlib.contextmanager
def _answering(cluster: Cluster) -> Iterator[set[bytes]]:
    """While the block runs, tell everyone who asks at this worker's port which worker it is; yields who has asked."""
    host, port = split(cluster.workers[cluster.index])
    # A name may stand for an address of loopback on its own host: others come by another one.
    bound = host if host.startswith("127.") else ""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((bound, port), family=family, backlog=cluster.size)
    except OSError as error:
        raise StackError(
            f"Port {port} of {host}, where {cluster.name} is to listen, is not free: {error.strerror}.\n"
            "  Another job uses it, or a worker of an earlier one is still running. End that, or choose another port."
        ) from error

    asked: set[bytes] = set()

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(_ANSWER_SECONDS)
                    connection.sendall(_token(cluster))
                    asked.add(connection.recv(256))

    threading.Thread(target=answer, daemon=True).start()
    try:
        yield asked
    finally:
        # Closing alone would leave the port open until the thread's accept returns.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _linger(cluster: Cluster, asked: set[bytes]) -> None:
    """Stay until the others have asked too; not for long, since they will find TensorFlow's server here."""
    others = {_token(cluster, index) for index in range(cluster.size) if index != cluster.index}
    deadline = time.monotonic() + _LINGER_SECONDS
    while not others <= asked and time.monotonic() < deadline:
        time.sleep(_BETWEEN_TRIES / 4)


def _is_there(cluster: Cluster, index: int) -> bool:
    try:
        connection = socket.create_connection(split(cluster.workers[index]), timeout=_ANSWER_SECONDS)
    except OSError:
        return False
    with connection:
        try:
            connection.sendall(_token(cluster))
            answer = connection.recv(256)
        except TimeoutError:
            answer = b""
        except OSError:
            return False
    if not answer.startswith(b"tfkit "):
        # Once it has seen all the others it makes room for TensorFlow's server, which speaks otherwise.
        return True
    if answer != _token(cluster, index):
        raise AbsentError(
            f"At {cluster.workers[index]}, where worker {index} should be, there is another one, or one that was\n"
            f"  started with another list of workers than {','.join(cluster.workers)}.\n"
            "  Give the same list, in the same order, on every host, and each host its own number."
        )
    return True


def _token(cluster: Cluster, index: int | None = None) -> bytes:
    number = cluster.index if index is None else index
    return f"tfkit {number} {files.digest_of(cluster.workers)}\n".encode()


def _names(cluster: Cluster, indices: list[int]) -> str:
    return ", ".join(
        f"worker {index} ({cluster.workers[index]}{_unknown(cluster.workers[index])})" for index in indices
    )


def _unknown(address: str) -> str:
    try:
        socket.getaddrinfo(*split(address), type=socket.SOCK_STREAM)
    except OSError:
        return ", a name that this machine does not know"
    return ""
