"""The command line of the launcher: python -m tfkit launch."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any

from tfkit import cli
from tfkit.distribution import launcher, network, ray
from tfkit.distribution.launcher import PATIENCE, WHERE, Job
from tfkit.errors import ConfigError
from tfkit.settings import fields
from tfkit.settings.parse import add_flags, from_words

_EXAMPLES = """
examples:
  python -m tfkit launch --workers 2 -- -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
  python -m tfkit launch --hosts host1:2222,host2:2222 --task-index 0 -- -m recipes.train_distributed
  python -m tfkit launch --private-network -- script.py

exit codes:
  0 done    1 given up, or a check failed    2 what was asked cannot be done
  3 interrupted (SIGTERM, Ctrl-C, a peer's): saved; the same command goes on. What a scheduler requeues on.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the two dashes."""
    command = cli.Parser(
        prog="python -m tfkit launch",
        usage="%(prog)s [options] -- (-m MODULE | SCRIPT.py) [its options]",
        description="Run a program in several processes that train together. Each gets its TF_CONFIG; when one"
        " dies, all are started again, and the program goes on from its last backup.",
        epilog=_EXAMPLES,
        argument_default=argparse.SUPPRESS,
    )
    where = command.add_argument_group("where")
    add_flags(where, Job, ["workers"])
    all_hosts = "every worker of the job, the same list on each host; this command starts one of them"
    where.add_argument("--hosts", metavar="HOST:PORT,...", help=all_hosts)
    add_flags(where, Job, WHERE)
    where.add_argument("--engine", choices=("local", "ray"), help="who starts the processes (default: local)")
    alone = "workers in a network of their own (Linux: unshare): nobody reaches their ports, and they reach nobody"
    where.add_argument("--private-network", action="store_true", help=alone)
    add_flags(command.add_argument_group("when something goes wrong"), Job, PATIENCE)
    return command


def main(arguments: Sequence[str]) -> int:
    """Read the line, run the job; returns the exit code.

    Raises:
      ConfigError: what was asked cannot be done.
    """
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = vars(parser().parse_args(words[:cut]))
    _check_flags(options)
    if options.pop("private_network", False):
        network.enter_private([sys.executable, "-m", "tfkit", "launch", *words])
    engine = options.pop("engine", "local")
    job = Job(**from_words(Job, options), words=tuple(words[cut + 1 :]))
    return launcher.launch(job) if engine == "local" else ray.launch(job)


def _check_flags(options: dict[str, Any]) -> None:
    """Split the hosts; refuse flags that contradict each other."""
    has_hosts, listed = "hosts" in options, re.split(r"[\s,]+", options.pop("hosts", ""))
    hosts = [host for host in listed if host]
    if not has_hosts == bool(hosts) == ("task_index" in options):
        raise ConfigError(
            "--hosts (every worker) and --task-index (which of them this machine is: 0, 1, ...) go together:"
            " --hosts host1:2222,host2:2222 --task-index 0"
        )
    wrong = options.keys() & {"workers", "engine", "private_network"} if hosts else set()
    reason = "--hosts, which says where each worker is"
    if options.get("engine") == "ray" and "parameter_servers" in options:
        wrong, reason = {"parameter_servers"}, "--engine ray"
    if wrong:
        flags = ", ".join(map(fields.flag, sorted(wrong)))
        raise ConfigError(f"{flags} does not go with {reason}. Leave it out.")
    if hosts:
        options["hosts"] = hosts
