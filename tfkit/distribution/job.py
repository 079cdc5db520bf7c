"""What the launcher is asked to run: how many processes, where, and how patient to be with them.

Ports: free ones, who listens, who else may reach them, and a network that nobody else can reach.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tfkit.environment import cluster
from tfkit.environment.cluster import split
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


def unreachable_hosts(addresses: Sequence[str]) -> list[str]:
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


SERVER = ("-m", "tfkit.distribution.parameter_servers")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One process of a job.

    Attributes:
      role: `worker`, `chief` or `ps`, as TF_CONFIG has it.
      index: among those of its role.
      address: "host:port" where it listens; empty where it is alone.
      words: what follows `python`.
      serves: whether it only serves the chief, which runs the user's program.
    """

    role: str
    index: int
    address: str = ""
    words: tuple[str, ...]
    serves: bool = False

    @property
    def name(self) -> str:
        """For a person: "worker 1"."""
        return "chief" if self.role == "chief" else f"{self.role} {self.index}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The processes to start here, and the TF_CONFIG of each; made anew at every start, for its ports."""

    tasks: tuple[Task, ...]
    addresses: Mapping[str, Sequence[str]]

    def tf_config(self, task: Task) -> str | None:
        """The value of TF_CONFIG for a task; None where a process is alone, which needs none."""
        if sum(map(len, self.addresses.values())) < 2:
            return None
        return json.dumps({"cluster": self.addresses, "task": {"type": task.role, "index": task.index}})


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to run, in how many processes, and how patient to be with them.

    Attributes:
      words: what follows `python`: ("-m", "recipes.train_distributed", ...) or ("script.py", ...).
      workers: processes on this machine; with `hosts`, their number is that of the hosts.
      hosts: "host:port" of every worker, the same list for each launcher; empty: all on this machine.
      task_index: which of the hosts this launcher is on.
      parameter_servers: processes that keep the weights, beside `workers` that serve one chief.
      max_restarts: after how many deaths in a row to give up; an hour of training begins the count anew.
      grace_seconds: how long the workers may take to save when they are told to stop.
      hang_seconds: how long a worker may be silent, or in training without a step.
      join_seconds: how long the workers wait for each other.
      pin: whether each worker keeps to cores of its own.
      environment: more variables for the workers.
      title: what to call the program; "python" and the words when left out.

    Raises:
      ConfigError: a number is out of range, or the hosts cannot be what was meant.
    """

    words: tuple[str, ...]
    workers: int = 2
    hosts: tuple[str, ...] = ()
    task_index: int = 0
    parameter_servers: int = 0
    max_restarts: int = 3
    grace_seconds: float = 30
    hang_seconds: float = 300
    join_seconds: float = 300
    pin: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)
    title: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is started."""
        _check_words(self.words)
        for name, least in (("workers", 1), ("parameter_servers", 0), ("max_restarts", 0)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be {least} or more."
                )
        if not self.hosts and self.workers + self.parameter_servers > (
            most := max(64, 4 * (os.cpu_count() or 1))
        ):
            raise ConfigError(
                f"--workers {self.workers} are more processes than this machine can serve (at most {most}).\n"
                "  For several machines: --hosts host1:2222,host2:2222,... --task-index I on each."
            )
        for name in ("grace_seconds", "join_seconds"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 or more."
                )
        if not self.hang_seconds >= 3:
            raise ConfigError(
                f"--hang-seconds is {self.hang_seconds}; a worker speaks once a second: 3 or more."
            )
        if self.hosts:
            _check_hosts(self.hosts, self.task_index)
            if self.parameter_servers:
                raise ConfigError("--parameter-servers is for one machine (--workers), not with --hosts.")

    def plan(self) -> Plan:
        """Choose the ports and say who is who."""
        if self.hosts:
            check_own(self.hosts[self.task_index])
            own = Task(
                role="worker",
                index=self.task_index,
                address=self.hosts[self.task_index],
                words=self.words,
            )
            return Plan(tasks=(own,), addresses={"worker": list(self.hosts)})
        count = self.workers + self.parameter_servers + bool(self.parameter_servers)
        found = [f"127.0.0.1:{port}" for port in free_ports(count)]
        if not self.parameter_servers:
            words = self.words
            tasks = [
                Task(role="worker", index=index, address=address, words=words)
                for index, address in enumerate(found)
            ]
            return Plan(tasks=tuple(tasks), addresses={"worker": found})
        addresses = {
            "chief": found[:1],
            "worker": found[1 : 1 + self.workers],
            "ps": found[1 + self.workers :],
        }
        servers = [
            Task(role=role, index=index, address=address, words=SERVER, serves=True)
            for role in ("worker", "ps")
            for index, address in enumerate(addresses[role])
        ]
        chief = Task(role="chief", index=0, address=found[0], words=self.words)
        return Plan(tasks=(chief, *servers), addresses=addresses)

    @property
    def here(self) -> tuple[int, int]:
        """How many processes share this machine, and the place of this launcher's first one among them."""
        if not self.hosts:
            return self.workers + self.parameter_servers + bool(self.parameter_servers), 0
        names = [cluster.split(address)[0] for address in self.hosts]
        own = names[self.task_index]
        return names.count(own), names[: self.task_index].count(own)


def _check_words(words: Sequence[str]) -> None:
    if not words or (words[0] in ("-m", "-c") and len(words) < 2):
        raise ConfigError(
            "What to run is missing. It comes after two dashes, as it would come after `python`:"
            "\n  python -m tfkit launch --workers 2 -- -m recipes.train_distributed --epochs 5"
            "\n  python -m tfkit launch --workers 2 -- script.py --epochs 5"
        )
    if not words[0].startswith("-") and not Path(words[0]).exists():
        hint = "Leave it out: what follows it is run by this Python." if words[0].startswith("python") else ""
        raise ConfigError(
            f"After the two dashes: {words[0]!r} is not a file. Expected `-m MODULE ...` or `SCRIPT.py ...`. {hint}"
        )


def _check_hosts(hosts: Sequence[str], task_index: int) -> None:
    wrong = [address for address in hosts if cluster.split(address) == ("", 0)]
    if wrong:
        raise ConfigError(
            f"--hosts: {', '.join(map(repr, wrong))} is not HOST:PORT with a port of 1 to 65535."
            "\n  Expected: --hosts host1:2222,host2:2222"
        )
    twice = sorted({address for address in hosts if hosts.count(address) > 1})
    if twice:
        raise ConfigError(
            f"--hosts names {', '.join(twice)} more than once. Workers on one host need ports of their own:"
            " --hosts host1:2222,host1:2223"
        )
    if not 0 <= task_index < len(hosts):
        raise ConfigError(
            f"--task-index is {task_index}, and --hosts has {len(hosts)}: 0 to {len(hosts) - 1}, on each host"
            " its own place in the list."
        )
    with ThreadPoolExecutor(max_workers=16) as pool:
        unknown = [
            address for address, error in zip(hosts, pool.map(unresolved, hosts), strict=True) if error
        ]
    if unknown:
        raise ConfigError(
            f"--hosts: this machine does not know where {', '.join(unknown)} is (name resolution failed)."
            "\n  Use names of DNS or /etc/hosts, or addresses: --hosts 10.0.0.1:2222,10.0.0.2:2222"
        )


def parse_hosts(text: str) -> tuple[str, ...]:
    """The addresses of --hosts, which are separated by commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def describe(job: Job, plan: Plan, rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines that say what is about to be run.

    Args:
      rows: for each task of the plan: `place`, the cores and GPUs in words, and `threads`, a number.
    """
    lines = []
    for task, row in zip(plan.tasks, rows, strict=True):
        threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}"
        address = f"  {task.address}" if plan.tf_config(task) else ""
        lines.append(f"  {task.name:<9}{address}  {row['place']}, {threads}")
    if job.hosts:
        lines.append(f"  {len(job.hosts) - 1} more on: {', '.join(_others(job))}")
    return lines


def _others(job: Job) -> list[str]:
    return [address for place, address in enumerate(job.hosts) if place != job.task_index]
