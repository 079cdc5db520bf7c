"""The network of a distributed job: its ports, who reaches them, and how all workers meet before TensorFlow starts.

TensorFlow itself waits for absent workers inside of native code, which holds Python's lock and says nothing. So each
worker first listens on its own port with a few lines of Python, and asks the others for their number: an absent one is
named, and two hosts with different lists of workers are found out.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tfkit.environment import files
from tfkit.environment.cluster import Cluster, split
from tfkit.errors import ConfigError, StackError, UsageError

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
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def check_free(port: int, *, fix: str) -> None:
    """Refuse a port that is taken: TensorFlow would share it with whoever has it, and both would fail.

    Args:
      port: of this machine, on any interface.
      fix: what to do about it, for the message.

    Raises:
      ConfigError: something listens there, or only root may.
    """
    with socket.socket() as probe:
        # A connection of an earlier job that is still fading away does not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            raise ConfigError(
                f"Port {port} of {socket.gethostname()}, which is this worker's, is taken or not allowed"
                f" ({error.strerror}).\n  Who has it: ss -ltnp 'sport = :{port}'. {fix}"
            ) from error


def is_known(address: str) -> bool:
    """Return whether the host's name resolves."""
    try:
        socket.getaddrinfo(*split(address), type=socket.SOCK_STREAM)
    except OSError:
        return False
    return True


def is_reachable(address: str) -> bool:
    """Return whether something answers there within a second."""
    try:
        socket.create_connection(split(address), timeout=1).close()
    except OSError:
        return False
    return True


def unknown_hosts(addresses: Sequence[str]) -> list[str]:
    """Return the addresses whose names do not resolve; all are asked at once."""
    with ThreadPoolExecutor(max_workers=32) as pool:
        return [
            address
            for address, known in zip(addresses, pool.map(is_known, addresses), strict=True)
            if not known
        ]


def warning(addresses: Sequence[str], *, hosts: Sequence[str]) -> list[str]:
    """Return what to say of TensorFlow's ports, which no setting binds to one interface.

    Args:
      addresses: of the processes that are started here.
      hosts: of all, where they are on several machines; empty where all are here.
    """
    if is_private():
        return [
            "Private network: nobody else reaches these ports, and the workers reach no network (no downloads)."
        ]
    ports = [str(split(address)[1]) for address in addresses]
    lines = [
        f"Warning: TensorFlow listens on port{'s' * (len(ports) > 1)} {', '.join(ports)} of EVERY network interface,"
        " without a password and unencrypted:",
        "  whoever reaches them can run code here. No setting of TensorFlow closes them; a firewall does:",
    ]
    if hosts:
        rule = f"    iptables -I INPUT -p tcp --dport {ports[0]}"
        names = dict.fromkeys(split(host)[0] for host in hosts)
        return [*lines, f"{rule} -j DROP", *(f"{rule} -s {name} -j ACCEPT" for name in names)]
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        low, high = "1024", "65535"
    return [
        *lines,
        f"    iptables -I INPUT ! -i lo -p tcp --syn --dport {low}:{high} -j DROP"
        "   # each start draws new ports from this range",
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
        # What `ip link set lo up` does, which is not on every machine.
        get_flags, set_flags, up = 0x8913, 0x8914, 0x1
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            request = struct.pack("16sH14x", b"lo", 0)
            flags = struct.unpack("16sH14x", fcntl.ioctl(control, get_flags, request))[1]
            fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", flags | up))
        return
    # Not root: in a user namespace too, where this user counts as root.
    unshare = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "-n"]
    program = shutil.which("unshare")
    trial = program and subprocess.run([*unshare, "true"], capture_output=True, text=True, check=False)
    if not program or not trial or trial.returncode:
        reason = trial.stderr.strip() if trial else "unshare (Linux, package util-linux) is not installed"
        raise ConfigError(
            f"--private-network: this system does not permit `{' '.join(unshare)}`: {reason}"
            "\n  A container often forbids it (docker run --cap-add SYS_ADMIN allows it), and so does"
            " kernel.unprivileged_userns_clone=0 or AppArmor."
            "\n  Close the ports by a firewall instead: without --private-network, the launcher prints the lines."
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, [*unshare, *command], {**os.environ, _PRIVATE: "1"})


def wait_for_workers(cluster: Cluster, *, seconds: float | None = None) -> None:
    """Return when every worker of the cluster is there.

    Args:
      cluster: with this process's own number in it.
      seconds: after which it is an error; None: TFKIT_JOIN_SECONDS, else 300.

    Raises:
      AbsentError: one did not come, or was started with another list of workers.
      StackError: this worker's own port is taken.
      ConfigError: TFKIT_JOIN_SECONDS is no number.
    """
    if cluster.size == 1:
        return
    if seconds is None:
        text = os.environ.get(SECONDS_VARIABLE, "300")
        try:
            seconds = float(text)
        except ValueError as error:
            raise ConfigError(f"{SECONDS_VARIABLE} is {text!r}; expected seconds, such as 300.") from error
    deadline = time.monotonic() + seconds
    report = time.monotonic() + _LINGER_SECONDS
    absent = [index for index in range(cluster.size) if index != cluster.index]
    with _answering(cluster) as visitors:
        while True:
            try:
                absent = [index for index in absent if not _is_there(cluster, index)]
            except AbsentError:
                time.sleep(_LINGER_SECONDS)  # until the other one has found it out too
                raise
            if not absent:
                break
            if time.monotonic() > min(deadline, report):
                names = _names(cluster, absent)
                if time.monotonic() > deadline:
                    raise AbsentError(
                        f"{names} did not come within {seconds:.0f} s; {cluster.name} waited.\n"
                        "  Look whether it was started there, and whether its port is reachable from here (a firewall,"
                        f"\n  a name that resolves to 127.0.1.1). {SECONDS_VARIABLE} or --join-seconds makes it wait"
                        " longer."
                    )
                left = deadline - time.monotonic()
                print(f"{cluster.name} waits for {names}, {left:.0f} s at most.", file=sys.stderr, flush=True)
                report = time.monotonic() + _REPORT_SECONDS
            time.sleep(_TRY_SECONDS)
        # Stay until the others have asked too; not for long, since they will find TensorFlow's server here.
        others = {_token(cluster, index) for index in range(cluster.size) if index != cluster.index}
        deadline = time.monotonic() + _LINGER_SECONDS
        while not others <= visitors and time.monotonic() < deadline:
            time.sleep(_TRY_SECONDS / 4)


@contextlib.contextmanager
def _answering(cluster: Cluster) -> Iterator[set[bytes]]:
    """Tell everyone who asks at this worker's port which worker it is; yields the tokens of those who have asked."""
    host, port = split(cluster.workers[cluster.index])
    # A name may stand for an address of loopback on its own host: others come by another one.
    bound = host if host.startswith("127.") else ""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((bound, port), family=family, backlog=cluster.size)
    except OSError as error:
        raise StackError(
            f"Port {port} of {host}, where {cluster.name} is to listen, is not free: {error.strerror}.\n"
            "  Another job uses it, or a worker of an earlier one is still running. End that, or choose another port."
        ) from error
    visitors: set[bytes] = set()

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(_ANSWER_SECONDS)
                    connection.sendall(_token(cluster, cluster.index))
                    visitors.add(connection.recv(256))

    threading.Thread(target=answer, daemon=True).start()
    try:
        yield visitors
    finally:
        # Closing alone would leave the port open until the thread's accept returns.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _is_there(cluster: Cluster, index: int) -> bool:
    address = cluster.workers[index]
    try:
        with socket.create_connection(split(address), timeout=_ANSWER_SECONDS) as connection:
            connection.sendall(_token(cluster, cluster.index))
            try:
                answer = connection.recv(256)
            except TimeoutError:
                answer = b""
    except OSError:
        return False
    # Once it has seen all the others it makes room for TensorFlow's server, which speaks otherwise.
    if answer.startswith(b"tfkit ") and answer != _token(cluster, index):
        raise AbsentError(
            f"At {address}, where worker {index} should be, there is another one, or one that was\n"
            f"  started with another list of workers than {','.join(cluster.workers)}.\n"
            "  Give the same list, in the same order, on every host, and each host its own number."
        )
    return True


def _token(cluster: Cluster, index: int) -> bytes:
    return f"tfkit {index} {files.digest_of(cluster.workers)}\n".encode()


def _names(cluster: Cluster, indices: Iterable[int]) -> str:
    addresses = {index: cluster.workers[index] for index in indices}
    return ", ".join(
        f"worker {index} ({address}{'' if is_known(address) else ', a name that this machine does not know'})"
        for index, address in addresses.items()
    )
