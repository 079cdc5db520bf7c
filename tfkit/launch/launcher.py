"""Run a job to its end: start all its processes, and start all again when one of them dies.

TensorFlow's collectives cannot take back a single worker, so a death ends the whole attempt, and the next one
goes on from the last backup, which the program itself makes and finds (`tfkit.fit` does).
"""

from __future__ import annotations

import shlex
import sys
import time

from tfkit.launch import signals as signals_
from tfkit.launch.attempt import Attempt
from tfkit.launch.job import Job
from tfkit.launch.output import Screen
from tfkit.launch.signals import Signals
from tfkit.launch.verdict import Ending, told_to_stop
from tfkit.stopping import AGAIN

INTERRUPTED = 3

# After so much training a restart is forgotten: --max-restarts is about a job that does not get on.
_FORGET_SECONDS = 3600.0
# On several hosts: until the others have noticed the death, whose old workers would confuse the new one.
_HOSTS_PAUSE_SECONDS = 10.0


def launch(job: Job) -> int:
    """Run a program in several processes that train together, and say on stderr how that goes.

        launch(Job(words=("-m", "recipes.train_distributed", "--epochs", "5"), workers=2))

    Returns:
      The exit code: 0 all done; 1 given up after the last restart, or a check failed; 2 what was asked cannot
      be done; 3 interrupted: the same call goes on from there.

    Raises:
      ConfigError: a port that the job names is taken.
    """
    ending = run(job, screen=Screen())
    if ending.kind == "interrupted":
        print(f"Interrupted. {AGAIN}", file=sys.stderr)
    elif ending.kind != "done":
        print(explain(ending), file=sys.stderr)
    return ending.code


def run(job: Job, *, screen: Screen) -> Ending:
    """Start the job, and again after each death, until it is done or nothing more can be done."""
    restarts, died = 0, None
    with signals_.listening() as signals:
        screen.say(_headline(job))
        while True:
            attempt = Attempt(job, screen=screen, signals=signals, restarts=restarts, died=died)
            try:
                ending = attempt.run()
            finally:
                screen.close()
            if ending.kind != "died":
                return ending
            if signals.count:
                return told_to_stop(signals.name)
            if attempt.trained_seconds > _FORGET_SECONDS:
                restarts = 0
            if restarts >= job.max_restarts:
                return _used_up(ending, job)
            restarts, died = restarts + 1, ending.when
            screen.say(f"{ending.what}; starting all again (restart {restarts} of {job.max_restarts})")
            if job.hosts:
                _pause(signals, screen)
                if signals.count:
                    return told_to_stop(signals.name)


def explain(ending: Ending) -> str:
    """The error of a job that has failed, for a person."""
    return f"WorkerError: {ending.what.removesuffix('.')}." + (
        f"\n  {ending.details}" if ending.details else ""
    )


def _used_up(ending: Ending, job: Job) -> Ending:
    count = job.max_restarts
    used = f"all {count} restarts (--max-restarts) are used up" if count else "--max-restarts is 0"
    return Ending(
        kind="failed",
        code=1,
        what=f"{ending.what}, and {used}",
        details=f"{ending.details}\n  {AGAIN}",
        when=ending.when,
    )


def _headline(job: Job) -> str:
    if job.hosts:
        what = f"Launching worker {job.task_index} of {len(job.hosts)}"
    elif job.parameter_servers:
        what = f"Launching a chief, {job.workers} worker(s) and {job.parameter_servers} parameter server(s)"
    else:
        what = f"Launching {job.workers} worker{'s' if job.workers > 1 else ''}"
    return f"{what}: {job.title or f'python {shlex.join(job.words)}'}"


def _pause(signals: Signals, screen: Screen) -> None:
    screen.say(f"In {_HOSTS_PAUSE_SECONDS:g} s, when the other hosts have noticed too.")
    deadline = time.monotonic() + _HOSTS_PAUSE_SECONDS
    while time.monotonic() < deadline and not signals.count:
        time.sleep(0.1)
