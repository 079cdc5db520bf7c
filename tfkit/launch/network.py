"""Ports: free ones, who listens, who else may reach them, and a network that nobody else can reach."""

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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from tfkit.cluster import split
from tfkit.errors import ConfigError

_PRIVATE = "TFKIT_PRIVATE_NETWORK"


def free_ports(count: int) -> list[int]:
    """Ports on which nothing listens, on any interface; all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in sockets]


def unresolved(address: str) -> str:
    """Why the name of a host leads to no address; empty where it does."""
    try:
        socket.getaddrinfo(*split(address), type=socket.SOCK_STREAM)
    except OSError as error:
        return str(error)
    return ""


def silent(addresses: Sequence[str]) -> list[str]:
    """Those at which nothing answers within a second; all are asked at once."""

    def answers(address: str) -> bool:
        try:
            socket.create_connection(split(address), timeout=1).close()
        except OSError:
            return False
        return True

    with ThreadPoolExecutor(max_workers=32) as pool:
        return [
            address
            for address, found in zip(addresses, pool.map(answers, addresses), strict=True)
            if not found
        ]


def check_own(address: str) -> None:
    """Refuse a port that is taken: TensorFlow would share it with whoever has it, and both would fail.

    Raises:
      ConfigError: something listens there.
    """
    port = split(address)[1]
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            reason = (
                "is in use" if error.errno == errno.EADDRINUSE else "is not for ordinary users (below 1024)"
            )
            raise ConfigError(
                f"Port {port} of this machine {reason}, and --hosts gives it to the worker here ({address})."
                f"\n  Who has it: ss -ltnp 'sport = :{port}'. Give the workers another port, or end that process."
            ) from error


def warning(addresses: Sequence[str], *, hosts: Sequence[str]) -> list[str]:
    """What to say of the ports of TensorFlow, which no setting binds to one interface.

    Args:
      addresses: of the processes that are started here.
      hosts: of all, where they are on several machines; empty where all are here.
    """
    if is_private():
        return [
            "Private network: nobody else reaches these ports, and the workers reach no network (no downloads)."
        ]
    ports = ", ".join(str(split(address)[1]) for address in addresses)
    several = len(addresses) > 1
    lines = [
        f"Warning: TensorFlow listens on port{'s' if several else ''} {ports} of EVERY network interface, without"
        " a password and unencrypted:",
        "  whoever reaches them can run code here. No setting of TensorFlow closes them; a firewall does:",
    ]
    if hosts:
        names = dict.fromkeys(split(host)[0] for host in hosts)
        port = split(addresses[0])[1]
        lines += [
            f"    iptables -I INPUT -p tcp --dport {port} -j DROP",
            *(f"    iptables -I INPUT -p tcp --dport {port} -s {name} -j ACCEPT" for name in names),
        ]
        return lines
    low, high = _ephemeral()
    return [
        *lines,
        f"    iptables -I INPUT ! -i lo -p tcp --syn --dport {low}:{high} -j DROP"
        "   # each start draws new ports from this range",
        "  or `python -m tfkit launch --private-network`: the workers have a network of their own (and no other).",
    ]


def _ephemeral() -> tuple[int, int]:
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    except (OSError, ValueError):
        return 1024, 65535
    return int(low), int(high)


def is_private() -> bool:
    """Whether this launcher runs in a network of its own."""
    return os.environ.get(_PRIVATE) == "1"


def enter_private(command: Sequence[str]) -> None:
    """Go on in a network that has nothing but a loopback interface; returns once this process is in it.

    Args:
      command: that starts this program again, in the new network.

    Raises:
      ConfigError: this system does not let its users do so.
    """
    if is_private():
        _raise_loopback()
        return
    _start_again(command)


def _start_again(command: Sequence[str]) -> NoReturn:
    program = shutil.which("unshare")
    if program is None:
        raise ConfigError(
            "--private-network needs the program `unshare` (Linux, package util-linux); it is not here."
        )
    # Not root: in a user namespace too, where this user counts as root.
    alone = [program, *([] if os.getuid() == 0 else ["-r"]), "-n"]
    tried = subprocess.run([*alone, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise ConfigError(
            f"--private-network: this system does not permit `{' '.join(['unshare', *alone[1:]])}`:"
            f" {tried.stderr.strip()}"
            "\n  A container often forbids it (docker run --cap-add SYS_ADMIN allows it), and so does"
            " kernel.unprivileged_userns_clone=0 or AppArmor."
            "\n  Close the ports by a firewall instead: without --private-network, the launcher prints the lines."
        )
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, [*alone, *command], {**os.environ, _PRIVATE: "1"})


def _raise_loopback() -> None:
    """What `ip link set lo up` does, which is not on every machine."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(control, get_flags, request))[1]
        fcntl.ioctl(control, set_flags, struct.pack("16sH14x", b"lo", flags | up))
