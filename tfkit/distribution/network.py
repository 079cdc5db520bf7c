"""The network of a distributed job: its ports, who reaches them, and how all workers meet before TensorFlow starts.

TensorFlow itself waits for absent workers inside of native code, which holds Python's lock and says nothing. So each
worker first listens on its own port with a few lines of Python, and asks the others for their number: an absent one is
named, and two hosts with different lists of workers are found out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from tfkit.environment import files, heartbeat
from tfkit.environment.cluster import Cluster, split
from tfkit.errors import ConfigError, UsageError
from tfkit.settings import fields

SECONDS_VARIABLE = "TFKIT_JOIN_SECONDS"
_PRIVATE = "TFKIT_PRIVATE_NETWORK"
_TRY_SECONDS = 0.2
_ANSWER_SECONDS = 2.0
_LINGER_SECONDS = 3.0
_REPORT_SECONDS = 20.0


class AbsentError(UsageError):
    """A worker of the cluster is not there, or has another list of workers."""


def free_ports(count: int) -> list[int]:
    """Return ports on which nothing listens, on any interface; all different."""
    with contextlib.ExitStack() as contexts:
        sockets = [contexts.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("", 0))
        return [sock.getsockname()[1] for sock in sockets]


def listen(port: int, *, host: str = "", fix: str) -> socket.socket:
    """Listen on a port of this machine; refuse one that is taken, which TensorFlow would share with whoever has it.

    A connection of an earlier job that is still fading away does not count; a listener does.

    Args:
      port: of this worker.
      host: the interface; "" is every one of IPv4.
      fix: what to do about it, for the message.

    Raises:
      ConfigError: something listens there, or only root may.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        where = f"Port {port} of {host or socket.gethostname()}, this worker's,"
        who = f"Who has it: ss -ltnp 'sport = :{port}'"
        raise ConfigError(f"{where} is taken or not allowed ({error.strerror}).\n  {who}. {fix}") from error


def warning(addresses: Sequence[str], *, hosts: Sequence[str]) -> list[str]:
    """Return what to say of TensorFlow's ports, which no setting binds to one interface.

    Args:
      addresses: of the processes that are started here.
      hosts: of all, where they are on several machines; empty where all are here.
    """
    if is_private():
        return ["Private network: nobody else reaches these ports, and the workers nothing (no downloads)."]
    ports = ", ".join(str(split(address)[1]) for address in addresses)
    lines = [
        f"Warning: TensorFlow listens on port{'s' * (len(addresses) > 1)} {ports} of EVERY network interface,"
        " without a password and unencrypted:",
        "  whoever reaches them can run code here. No setting of TensorFlow closes them; a firewall does:",
    ]
    loop = "    for tables in iptables ip6tables; do $tables"  # it listens on IPv6 too
    if hosts:
        rule = f"-I INPUT -p tcp --dport {ports}"
        names = dict.fromkeys(split(host)[0] for host in hosts)
        rules = (f"    ip{'6' * (':' in name)}tables {rule} -s {name} -j ACCEPT" for name in names)
        return [*lines, f"{loop} {rule} -j DROP; done", *rules]
    port_range = "$(tr '\\t' : < /proc/sys/net/ipv4/ip_local_port_range)"  # at each start
    return [
        *lines,
        f"{loop} -I INPUT ! -i lo -p tcp --syn --dport {port_range} -j DROP; done",
        "  or `python -m tfkit launch --private-network`: the workers have a network of their own (and no other).",
    ]


def is_private() -> bool:
    """Return whether this process runs in a network of its own."""
    return os.environ.get(_PRIVATE) == "1"


def enter_private(command: Sequence[str]) -> None:
    """Go on in a network that has nothing but a loopback interface; returns once this process is in it.

    Args:
      command: that starts this program again, in the new network.

    Raises:
      ConfigError: this system does not let its users do so.
    """
    if is_private():
        # What `ip link set lo up` does, which is not on every machine: SIOCSIFFLAGS, IFF_UP.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 0x1))
        return
    # Not root: in a user namespace too, where this user counts as root.
    unshare = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
    try:
        subprocess.run([*unshare, "true"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            f"--private-network: `{' '.join(unshare)}` fails: {getattr(error, 'stderr', None) or error}\n  A container"
            " often forbids it (docker run --cap-add SYS_ADMIN allows it), and so do AppArmor and"
            " kernel.unprivileged_userns_clone=0.\n  Without this flag the launcher prints the lines of a firewall."
        ) from error
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe("unshare", [*unshare, *command], {**os.environ, _PRIVATE: "1"})


def wait_for_workers(cluster: Cluster, *, seconds: float | None = None) -> None:
    """Return when every worker of the cluster is there.

    Args:
      cluster: with this process's own number in it.
      seconds: after which it is an error; None: TFKIT_JOIN_SECONDS, else 300.

    Raises:
      AbsentError: one did not come, or was started with another list of workers.
      ConfigError: this worker's own port is taken; TFKIT_JOIN_SECONDS is no number.
    """
    if cluster.size == 1:
        return
    if seconds is None:
        value = os.environ.get(SECONDS_VARIABLE, "300")
        seconds = fields.fit(value, float, name=f"{SECONDS_VARIABLE} in the environment")
    deadline, where = time.monotonic() + seconds, cluster.workers
    report = time.monotonic() + _LINGER_SECONDS
    absent = {index: "" for index in range(cluster.size) if index != cluster.index}
    with _answering(cluster) as visitors:
        while absent := {index: why for index in absent if (why := _find_absence(cluster, index))}:
            wait = deadline - time.monotonic()
            names = ", ".join(f"worker {index} ({where[index]}: {why})" for index, why in absent.items())
            if wait < 0:
                raise _give_up(
                    f"{names} did not come within {seconds:.0f} s; {cluster.name} waited.\n  Was it started, and is its"
                    " port reachable from here (a firewall, a name that resolves to 127.0.1.1)?"
                    f" --join-seconds or {SECONDS_VARIABLE} makes it wait longer."
                )
            if time.monotonic() > report:
                print(f"{cluster.name} waits for {names}, {wait:.0f} s at most.", file=sys.stderr, flush=True)
                report = time.monotonic() + _REPORT_SECONDS
            time.sleep(_TRY_SECONDS)
        # Stay until the others have asked too; not for long, since they will find TensorFlow's server here.
        tokens = {_make_token(cluster, index) for index in range(cluster.size) if index != cluster.index}
        deadline = time.monotonic() + _LINGER_SECONDS
        while not tokens <= visitors and time.monotonic() < deadline:
            time.sleep(_TRY_SECONDS / 4)


@contextlib.contextmanager
def _answering(cluster: Cluster) -> Iterator[set[bytes]]:
    """Tell everyone who asks at this worker's port which worker it is; yields the tokens of those who have asked."""
    host, port = split(cluster.workers[cluster.index])
    # A name may stand for an address of loopback on its own host: others come by another one.
    interface = host if host.startswith("127.") or ":" in host else ""
    fix = "End that, or a worker of an earlier job that is still running, or choose another port."
    listener, visitors = listen(port, host=interface, fix=fix), set[bytes]()

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(_ANSWER_SECONDS)
                    connection.sendall(_make_token(cluster, cluster.index))
                    visitors.add(connection.recv(256))

    threading.Thread(target=answer, daemon=True).start()
    try:
        yield visitors
    finally:
        # Closing alone would leave the port open until the thread's accept returns.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _find_absence(cluster: Cluster, index: int) -> str:
    """Return why a worker cannot be asked; nothing where it is there."""
    address, answer = cluster.workers[index], b""
    try:
        with socket.create_connection(split(address), timeout=_ANSWER_SECONDS) as connection:
            connection.sendall(_make_token(cluster, cluster.index))
            with contextlib.suppress(TimeoutError):
                answer = connection.recv(256)
    except OSError as error:
        return error.strerror or "no answer"
    # Once it has seen all the others it makes room for TensorFlow's server, which speaks otherwise.
    if answer.startswith(b"tfkit ") and answer != _make_token(cluster, index):
        time.sleep(_LINGER_SECONDS)  # until the other one has found it out too
        raise _give_up(
            f"At {address}, where worker {index} should be, is another one, or one with another list of workers than\n"
            f"  {','.join(cluster.workers)}. Give each host the same list, in one order, and a number of its own."
        )
    return ""


def _give_up(message: str) -> AbsentError:
    """Return the error, and let a launcher know that a restart would not mend it."""
    heartbeat.give_up(message)
    return AbsentError(message)


def _make_token(cluster: Cluster, index: int) -> bytes:
    return f"tfkit {index} {files.digest_of(cluster.workers)}\n".encode()
