"""python -m tfkit launch: the launcher's command line."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from tfkit import cli
from tfkit.distribution import launcher
from tfkit.distribution.job import Job, enter_private, parse_hosts
from tfkit.errors import ConfigError

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
    """The parser of what stands before the two dashes."""
    made = cli.Parser(
        prog="python -m tfkit launch",
        usage="%(prog)s [options] -- (-m MODULE | SCRIPT.py) [its options]",
        description="Run a program in several processes that train together. Each gets its TF_CONFIG; when one"
        " dies, all are started again, and the program goes on from its last backup.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    where = made.add_argument_group("where")
    where.add_argument(
        "--workers", type=int, metavar="N", help="processes on this machine (2), or of Ray's cluster"
    )
    where.add_argument(
        "--hosts",
        metavar="HOST:PORT,...",
        help="every worker of the job, the same list on each host; this command starts one of them",
    )
    where.add_argument("--task-index", type=int, metavar="I", help="which of --hosts this is: 0, 1, ...")
    where.add_argument(
        "--parameter-servers",
        type=int,
        default=0,
        metavar="M",
        help="M processes that keep the weights, beside --workers and a chief that runs the program (0)",
    )
    where.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="who starts the processes (%(default)s)"
    )
    where.add_argument(
        "--private-network",
        action="store_true",
        help="workers in a network of their own (Linux: unshare): nobody reaches their ports, and they reach nobody",
    )
    where.add_argument(
        "--pin",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="each worker keeps to cores of its own (on)",
    )
    when = made.add_argument_group("when something goes wrong")
    when.add_argument(
        "--max-restarts",
        type=int,
        default=3,
        metavar="N",
        help="deaths in a row after which to give up; an hour of training begins the count anew (%(default)s)",
    )
    when.add_argument(
        "--grace-seconds",
        type=float,
        default=30,
        metavar="S",
        help="how long the workers may take to save and stop on SIGTERM or Ctrl-C (%(default)s);"
        " after a death there is nothing to save together: 2 at most",
    )
    when.add_argument(
        "--hang-seconds",
        type=float,
        default=300,
        metavar="S",
        help="silence, or training without a step, after which a worker counts as dead (%(default)s)",
    )
    when.add_argument(
        "--join-seconds",
        type=float,
        default=300,
        metavar="S",
        help="how long the workers wait for each other; then the absent one is named (%(default)s)",
    )
    return made


def main(arguments: Sequence[str]) -> int:
    """Read the line, run the job; returns the exit code.

    Raises:
      ConfigError: what was asked cannot be done.
    """
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    chosen = parser().parse_args(words[:cut])
    program = tuple(words[cut + 1 :])
    _check(chosen)
    if chosen.private_network:
        enter_private([sys.executable, "-m", "tfkit", "launch", *words])
    if chosen.engine == "ray":
        ray_engine = importlib.import_module("tfkit.distribution.ray")
        return int(
            ray_engine.launch(
                program,
                workers=chosen.workers or 2,
                max_restarts=chosen.max_restarts,
                grace_seconds=chosen.grace_seconds,
            )
        )
    job = Job(
        words=program,
        workers=2 if chosen.workers is None else chosen.workers,
        hosts=parse_hosts(chosen.hosts or ""),
        task_index=chosen.task_index or 0,
        parameter_servers=chosen.parameter_servers,
        max_restarts=chosen.max_restarts,
        grace_seconds=chosen.grace_seconds,
        hang_seconds=chosen.hang_seconds,
        join_seconds=chosen.join_seconds,
        pin=chosen.pin,
    )
    return launcher.launch(job)


def _check(chosen: argparse.Namespace) -> None:
    """What contradicts itself."""
    if chosen.engine == "ray":
        defaults = parser().parse_args([])
        names = ("parameter_servers", "hang_seconds", "join_seconds", "pin")
        ours = [name for name in names if getattr(chosen, name) != getattr(defaults, name)]
        if ours:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in ours)
            raise ConfigError(
                f"{flags}: of the local launcher; with --engine ray, Ray places the workers and waits for them,"
                " and one that is silent for 60 s counts as dead. Leave it out."
            )
    if chosen.hosts is None:
        if chosen.task_index is not None:
            raise ConfigError(
                "--task-index says which of --hosts this is, and --hosts is missing: --hosts host1:2222,host2:2222"
            )
        return
    if not parse_hosts(chosen.hosts):
        raise ConfigError("--hosts is empty. Expected: --hosts host1:2222,host2:2222")
    if chosen.task_index is None:
        raise ConfigError("--hosts needs --task-index: which of them this machine is (0, 1, ...).")
    for flag, given in (
        ("--workers", chosen.workers is not None),
        ("--engine ray", chosen.engine == "ray"),
        ("--private-network", chosen.private_network),
    ):
        if given:
            raise ConfigError(f"{flag} does not go with --hosts, which says where each worker is.")
