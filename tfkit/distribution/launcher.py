"""`python -m tfkit launch`: run a program in several processes that train together, to its end.

TensorFlow's collectives cannot take back a single worker, so a death ends the whole attempt, and the next one
goes on from the last checkpoint, which the program itself makes and finds (`tfkit.fit` does).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import shlex
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tfkit import cli
from tfkit.distribution import guard, network, worker_process
from tfkit.distribution.worker_process import LOST_A_PEER, SAVED, Screen, Signals, Task, Worker
from tfkit.environment import process
from tfkit.environment.cluster import split
from tfkit.environment.heartbeat import AGAIN
from tfkit.errors import ConfigError

SERVER = ("-m", "tfkit.distribution.parameter_servers")
_LOOK_SECONDS = 0.2
# A worker's death ends the others within moments: so long the launcher collects deaths before it names one.
_SETTLE_SECONDS = 1.0
# An error so soon, before any step: a wrong path or import, and the same the next time.
_EARLY_SECONDS = 60.0
_SILENT_SECONDS = 3.0
# For the last words of a process that has ended, and for what it has started to end by itself.
_DRAIN_SECONDS = 1.0
# After a death there is nothing that the others could save together.
_AFTER_DEATH_SECONDS = 2.0
# After so much training a restart is forgotten: --max-restarts is about a job that does not get on.
_FORGET_SECONDS = 3600.0
# On several hosts: until the others have noticed the death, whose old workers would confuse the new one.
_HOSTS_PAUSE_SECONDS = 10.0


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
      grace_seconds: how long the workers may take to save when they are to stop.
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
        least = {"workers": 1, "parameter_servers": 0, "max_restarts": 0}
        # A worker sends a heartbeat once a second.
        least |= {"grace_seconds": 0, "join_seconds": 0, "hang_seconds": 3}
        for name, lowest in least.items():
            if not getattr(self, name) >= lowest:
                raise ConfigError(
                    f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be {lowest} or more."
                )
        if self.hosts:
            _check_hosts(self.hosts, self.task_index)
            if self.parameter_servers:
                raise ConfigError("--parameter-servers is for one machine (--workers), not with --hosts.")
        elif self.count > (most := max(64, 4 * (os.cpu_count() or 1))):
            raise ConfigError(
                f"--workers {self.workers} are more processes than this machine can serve (at most {most}).\n"
                "  For several machines: --hosts host1:2222,host2:2222,... --task-index I on each."
            )

    @property
    def count(self) -> int:
        """The processes that share this machine."""
        if self.hosts:
            names = [split(address)[0] for address in self.hosts]
            return names.count(names[self.task_index])
        return self.workers + self.parameter_servers + bool(self.parameter_servers)

    @property
    def place(self) -> int:
        """The place of this launcher's first process among those of this machine."""
        names = [split(address)[0] for address in self.hosts]
        return names[: self.task_index].count(names[self.task_index]) if names else 0

    def tasks(self) -> list[Task]:
        """Return the processes to start here, the chief or the own one first; the ports are new at every call."""
        if self.hosts:
            own = self.hosts[self.task_index]
            network.check_free(
                split(own)[1], fix="Give the workers of --hosts another port, or end that process."
            )
            cluster = {"worker": list(self.hosts)}
            return [self._task(cluster, "worker", self.task_index)]
        addresses = [f"127.0.0.1:{port}" for port in network.free_ports(self.count)]
        if not self.parameter_servers:
            return [self._task({"worker": addresses}, "worker", index) for index in range(self.workers)]
        cut = 1 + self.workers
        cluster = {"chief": addresses[:1], "worker": addresses[1:cut], "ps": addresses[cut:]}
        return [
            self._task(cluster, role, index)
            for role, listed in cluster.items()
            for index in range(len(listed))
        ]

    def _task(self, cluster: dict[str, list[str]], role: str, index: int) -> Task:
        serves = "ps" in cluster and role != "chief"
        alone = sum(map(len, cluster.values())) == 1
        config = json.dumps({"cluster": cluster, "task": {"type": role, "index": index}})
        return Task(
            name="chief" if role == "chief" else f"{role} {index}",
            address=cluster[role][index],
            words=SERVER if serves else self.words,
            tf_config=None if alone else config,
            serves=serves,
        )


def _check_words(words: Sequence[str]) -> None:
    if not words or (words[0] in ("-m", "-c") and len(words) < 2):
        raise ConfigError(
            "What to run is missing. It comes after two dashes, as it would come after `python`:"
            "\n  python -m tfkit launch --workers 2 -- -m recipes.train_distributed --epochs 5"
        )
    if not words[0].startswith("-") and not Path(words[0]).exists():
        raise ConfigError(
            f"After the two dashes: {words[0]!r} is not a file. Expected `-m MODULE ...` or `SCRIPT.py ...`;"
            " leave `python` out."
        )


def _check_hosts(hosts: Sequence[str], task_index: int) -> None:
    wrong = [address for address in hosts if split(address) == ("", 0)]
    twice = sorted({address for address in hosts if hosts.count(address) > 1})
    if wrong:
        problem = f"{', '.join(map(repr, wrong))} is not HOST:PORT with a port of 1 to 65535"
    elif twice:
        problem = f"{', '.join(twice)} is named more than once; workers on one host need ports of their own"
    elif not 0 <= task_index < len(hosts):
        raise ConfigError(
            f"--task-index is {task_index}, and --hosts has {len(hosts)}: 0 to {len(hosts) - 1}, on each host"
            " its own place in the list."
        )
    elif unknown := network.unknown_hosts(hosts):
        problem = f"this machine does not know where {', '.join(unknown)} is (name resolution failed)"
    else:
        return
    raise ConfigError(
        f"--hosts: {problem}.\n  Expected names of DNS or /etc/hosts, or addresses:"
        " --hosts host1:2222,10.0.0.2:2222"
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended.

    Attributes:
      kind: `done`; `interrupted` (saved, to be gone on with); `failed` (a restart would not mend it); `died`.
      code: the exit code of the launcher, if there is no restart.
      what: a phrase for a person, which begins with the name of the worker: "worker 1 died (SIGKILL) at step 120".
      details: the last lines that the worker printed, and the like.
      hanging: workers that do not answer.
      when: when it was seen, in seconds of `time.monotonic()`.
    """

    kind: Literal["done", "interrupted", "failed", "died"]
    code: int = 1
    what: str = ""
    details: str = ""
    hanging: tuple[Worker, ...] = ()
    when: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        """The error of a job that has failed, for a person."""
        return f"{self.what.removesuffix('.')}." + (f"\n  {self.details}" if self.details else "")


class _Diagnosis:
    """What is wrong with the workers of one attempt: the first that died, hangs or does not come."""

    def __init__(self, job: Job, workers: Sequence[Worker], screen: Screen) -> None:
        self.job, self.workers, self._screen = job, workers, screen
        self._looked, self._awake = time.monotonic(), 0.0
        self._first_beat: float | None = None
        self._reported: set[str] = set()

    def outcome(self) -> Outcome | None:
        """Return how the attempt has ended; None while it goes on."""
        now = time.monotonic()
        if now - self._looked > _SILENT_SECONDS:
            self._awake = now  # this process was itself stopped: nobody is judged by what it missed
        self._looked = now
        running = [worker for worker in self.workers if worker.ended is None]
        ended = [worker for worker in self.workers if worker.ended is not None]
        for worker in ended:
            if worker.code in (1, 2) and worker.beat and worker.beat.gave_up:
                what = f"{worker.name} gave up: {worker.beat.gave_up}"
                return Outcome(kind="failed", code=worker.code, what=what)
        if self.workers[0].code == 0:
            return self._done(now)
        for worker in ended:
            if worker.code == SAVED:
                return Outcome(kind="interrupted", code=SAVED, what=f"{worker.name} saved and stopped")
        dead = [worker for worker in ended if worker.code or worker.task.serves]
        return (
            self._died(dead, running, now)
            or (self._hangs(running, now) if now - self._awake > 2 * _SILENT_SECONDS else None)
            or self._absent([worker for worker in running if not worker.task.serves], now)
        )

    def _report(self, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._screen.report(text)

    def _done(self, now: float) -> Outcome | None:
        chief, others = self.workers[0], [each for each in self.workers[1:] if not each.task.serves]
        for worker in others:
            if worker.code:
                text = f"{worker.name} died ({worker.cause}), and {chief.name} has finished: the job is done."
                self._report(text)
        late = tuple(worker for worker in others if worker.ended is None)
        if late and now - (chief.ended or now) < self.job.hang_seconds:
            return None
        if late:
            names = ", ".join(worker.name for worker in late)
            self._report(f"{names} did not end within {self.job.hang_seconds:g} s of {chief.name}; stopped.")
        return Outcome(kind="done", code=0, hanging=late)

    def _died(self, dead: Sequence[Worker], running: Sequence[Worker], now: float) -> Outcome | None:
        when = min((worker.ended or now for worker in dead), default=now)
        if not dead or (running and now - when < _SETTLE_SECONDS):
            return None
        # TensorFlow ends a worker that loses a peer by an error or by an abort: that is not the first that died.
        victims = (LOST_A_PEER, -signal.SIGABRT)
        first = min(dead, key=lambda worker: (worker.code in victims, worker.ended))
        silent = [worker for worker in running if worker.is_silent(_SILENT_SECONDS)]
        if first.code == LOST_A_PEER and silent:
            return self._hang(silent, "stopped answering")
        trained = any(worker.beat and worker.beat.trained is not None for worker in self.workers)
        early = not trained and first.phase == "starting" and when - first.started < _EARLY_SECONDS
        if early and first.code in (1, 2):
            what = f"{first.name} failed as it started ({first.cause}), and would the next time"
            return Outcome(kind="failed", code=first.code, what=what, details=first.quoted())
        hint = "\n  SIGKILL that nobody sent is often the kernel's, for want of memory: dmesg | grep -i oom"
        details = first.quoted() + hint * (first.code == -signal.SIGKILL)
        what = f"{first.name} died ({first.cause}){self._step()}"
        return Outcome(kind="died", what=what, details=details, when=when)

    def _step(self) -> str:
        step = max((worker.beat.step for worker in self.workers if worker.beat), default=0)
        return f" at step {step}" if step else " before the first step"

    def _hangs(self, running: Sequence[Worker], now: float) -> Outcome | None:
        limit = self.job.hang_seconds
        silent = [worker for worker in running if worker.is_silent(limit)]
        if silent:
            return self._hang(silent, f"has not answered for {limit:g} s (--hang-seconds)")
        training = [
            (worker.beat.progressed, worker)
            for worker in running
            if worker.phase == "training" and worker.beat
        ]
        since, stuck = min(training, key=lambda pair: pair[0], default=(now, None))
        if stuck is None or now - since <= limit:
            return None
        # Who is stopped keeps the others waiting: its heartbeat is the one that is old.
        if silent := [worker for worker in running if worker.is_silent(_SILENT_SECONDS)]:
            return self._hang(silent, "stopped answering")
        elsewhere = "; it may wait for another host" if self.job.hosts else ""
        return self._hang([stuck], f"has made no step for {limit:g} s (--hang-seconds{elsewhere})")

    def _hang(self, workers: Sequence[Worker], how: str) -> Outcome:
        names = ", ".join(worker.name for worker in workers)
        what = f"{names} {how}{self._step()}"
        return Outcome(kind="died", what=what, details=workers[0].quoted(), hanging=tuple(workers))

    def _absent(self, running: Sequence[Worker], now: float) -> Outcome | None:
        """Name those that have not come to where the others wait."""
        limit = self.job.join_seconds
        mute = [worker for worker in running if worker.beat is None]
        if len(mute) < len(running) and self._first_beat is None:
            self._first_beat = now
        waiting = [worker for worker in running if worker.phase == "joining"]
        waited = now - min((worker.progressed for worker in waiting), default=now)
        # Counted from the first heartbeat of another: a program that is slow to start is slow in all of them.
        if mute and self._first_beat and max(now - self._first_beat, waited) > limit:
            names = ", ".join(f"{worker.name} ({worker.task.address})" for worker in mute)
            what = f"{names} has sent no heartbeat {limit:g} s (--join-seconds) after another did"
            return Outcome(kind="failed", what=what, details=mute[0].quoted(), hanging=tuple(mute))
        if mute and not self._first_beat and now - mute[0].started > limit:
            how = "tfkit.environment.heartbeat.start"
            self._report(f"The program has no heartbeat ({how}): only deaths are seen, not hangs.")
        if waited <= limit:  # until then the workers themselves say for whom they wait
            return None
        here = [worker for worker in running if worker.phase == "starting"]
        missing = [f"{worker.name} ({worker.task.address})" for worker in here]
        missing += [
            f"worker {index} ({address})"
            for index, address in enumerate(self.job.hosts)
            if index != self.job.task_index and not network.is_reachable(address)
        ]
        if not missing:
            # All are there and do not find each other: a port that somebody else took, an old worker.
            return self._hang(waiting, f"found no way to join the others in {limit:g} s (--join-seconds)")
        what = f"{', '.join(missing)} did not join in {limit:g} s (--join-seconds)"
        if here:
            return Outcome(kind="died", what=what, details=here[0].quoted(), hanging=tuple(here))
        details = "Nothing answers there: is its launcher running, and does a firewall let this machine in?"
        return Outcome(kind="failed", what=what, details=f"{details}\n  On every host: {AGAIN}")


class _Attempt:
    """All processes of a job, started once, until none of them is left."""

    def __init__(self, job: Job, screen: Screen, signals: Signals, restarts: int, died: float | None) -> None:
        """Prepare; `died`: when the attempt before it did."""
        self.job, self._screen, self._signals = job, screen, signals
        self._restarts, self._died = restarts, died
        self.workers: list[Worker] = []
        self._token = uuid.uuid4().hex

    @property
    def trained_seconds(self) -> float:
        """From the first step of the first worker until now; 0 before it."""
        beat = self.workers[0].beat if self.workers else None
        return time.monotonic() - beat.trained if beat and beat.trained is not None else 0.0

    def run(self) -> Outcome:
        """Start the workers, watch them to their end, and leave nothing behind."""
        # In memory where that can be: a full disk must not look like a worker that does not answer.
        shared = Path("/dev/shm")
        where = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="tfkit-launch-", dir=where))
        watchdog = guard.Guard(self._token, folder)
        try:
            self._start(folder, watchdog)
            outcome = self._watch()
            self._stop(outcome)
            # One that was to stop may have come to the end all the same.
            finished = all(worker.code == 0 for worker in self.workers if not worker.task.serves)
            return Outcome(kind="done", code=0) if outcome.kind == "interrupted" and finished else outcome
        finally:
            self._clear()
            watchdog.close()

    def _start(self, folder: Path, watchdog: guard.Guard) -> None:
        count, usable = self.job.count, worker_process.usable_cores()
        cores = worker_process.shares(usable, count) if self.job.pin else ()
        gpus = worker_process.gpu_shares(count)
        tasks = self.job.tasks()
        lines = []
        for number, task in enumerate(tasks):
            own = cores[self.job.place + number] if cores else ()
            threads = len(own) or max(1, len(usable) // count)
            variables = worker_process.threads_environment(threads)
            where = worker_process.describe_cores(own) if own else "any core"
            if gpus:
                own_gpus = ",".join(map(str, gpus[self.job.place + number]))
                variables["CUDA_VISIBLE_DEVICES"] = own_gpus
                where += f", GPU {own_gpus}" if own_gpus else ", no GPU (there are fewer than workers)"
            address = f"  {task.address}" if task.tf_config else ""
            lines.append(f"  {task.name:<9}{address}  {where}, {threads} thread{'s' * (threads > 1)}")
            environment, show = (
                self._environment(task, variables),
                self._screen.lines_of(task.name, first=not number),
            )
            self.workers.append(Worker(task, environment=environment, cores=own, folder=folder, show=show))
            watchdog.watch([each.process.pid for each in self.workers])
        if self._restarts:
            return
        if self.job.hosts:
            others = [each for index, each in enumerate(self.job.hosts) if index != self.job.task_index]
            lines.append(f"  {len(others)} more on: {', '.join(others)}")
        if self.job.pin and len(usable) < count:
            lines.append(f"  Not pinned: {count} processes share {len(usable)} core(s), so none has its own.")
        if tasks[0].tf_config:
            lines += network.warning([task.address for task in tasks], hosts=self.job.hosts)
        for line in lines:
            self._screen.report(line)

    def _environment(self, task: Task, variables: Mapping[str, str]) -> dict[str, str]:
        environment = {
            **process.malloc_environment(),
            **os.environ,
            **variables,
            **self.job.environment,
            "PYTHONUNBUFFERED": "1",
            # So that --overwrite, which the words may hold, removes nothing at a restart.
            "TFKIT_RESTARTED": str(self._restarts),
            # Longer than the launcher's own patience: it can say who is absent.
            network.SECONDS_VARIABLE: str(self.job.join_seconds + 30),
            guard.VARIABLE: self._token,
        }
        environment.pop("TF_CONFIG", None)
        return environment | ({"TF_CONFIG": task.tf_config} if task.tf_config else {})

    def _watch(self) -> Outcome:
        diagnosis = _Diagnosis(self.job, self.workers, self._screen)
        while not self._signals.count:
            self._look()
            beat = self.workers[0].beat
            if beat is not None:
                self._screen.progress(beat, restarts=self._restarts)
                if beat.trained is not None and self._died is not None:
                    self._screen.report(f"Training again after {beat.trained - self._died:.1f} s.")
                    self._died = None
            if outcome := diagnosis.outcome():
                return outcome
        return _interrupted(self._signals)

    def _look(self) -> None:
        time.sleep(_LOOK_SECONDS)
        for worker in self.workers:
            worker.look()

    def _stop(self, outcome: Outcome) -> None:
        """Let the workers end by themselves if they can, and make them if they cannot."""
        if outcome.kind == "interrupted":
            self._save_and_stop()
            return
        for worker in self.workers:
            worker.send(signal.SIGKILL if worker in outcome.hanging else signal.SIGTERM)
        patience = 0.0 if outcome.kind == "done" else min(_AFTER_DEATH_SECONDS, self.job.grace_seconds)
        self._wait(self.workers, patience)

    def _save_and_stop(self) -> None:
        savers = [worker for worker in self.workers if not worker.task.serves]  # servers have nothing to save
        joining = []
        if self._signals.count:
            self._screen.report(
                f"{self._signals.name}: the workers have {self.job.grace_seconds:g} s to save and stop;"
                " again: at once."
            )
            for worker in savers:
                worker.look()
                worker.send(signal.SIGTERM)
            joining = [worker for worker in savers if worker.phase == "joining"]
        late = self._wait(savers, self.job.grace_seconds, joining)
        if late:
            names = ", ".join(worker.name for worker in late)
            self._screen.report(
                f"Killed, for it did not stop in time: {names}. What it had saved before is whole."
            )

    def _wait(
        self, workers: Sequence[Worker], seconds: float, joining: Sequence[Worker] = ()
    ) -> list[Worker]:
        """Wait for their end; returns those that did not come to it. A second signal ends the patience."""
        deadline = time.monotonic() + seconds
        joining = list(joining)
        while late := [worker for worker in workers if worker.ended is None]:
            if time.monotonic() > deadline or self._signals.count > 1:
                break
            self._look()
            for worker in [worker for worker in joining if worker.phase != "joining"]:
                # While TensorFlow joins the workers it has a handler of its own, which swallows the signal.
                worker.send(signal.SIGTERM)
                joining.remove(worker)
        return late

    def _clear(self) -> None:
        """Leave no process of the job behind, whatever happened before."""
        if all(worker.process.poll() is not None for worker in self.workers):
            # A moment for what they have started to end by itself, and its last words.
            for worker in self.workers:
                worker.drain(_DRAIN_SECONDS)
        guard.kill_all([worker.process.pid for worker in self.workers], self._token)
        for worker in self.workers:
            worker.process.wait()
            worker.look()
            worker.drain(_DRAIN_SECONDS)


def _interrupted(signals: Signals) -> Outcome:
    return Outcome(kind="interrupted", code=SAVED, what=f"interrupted by {signals.name}")


def run(job: Job, *, screen: Screen) -> Outcome:
    """Start the job, and again after each death, until it is done or nothing more can be done."""
    restarts, died = 0, None
    with worker_process.noting_signals() as signals:
        screen.report(_headline(job))
        while True:
            attempt = _Attempt(job, screen, signals, restarts, died)
            try:
                outcome = attempt.run()
            finally:
                screen.close()
            if outcome.kind != "died":
                return outcome
            if attempt.trained_seconds > _FORGET_SECONDS:
                restarts = 0
            if restarts >= job.max_restarts and not signals.count:
                what = f"{outcome.what}, and all {job.max_restarts} restarts (--max-restarts) are used up"
                return Outcome(kind="failed", what=what, details=f"{outcome.details}\n  {AGAIN}")
            restarts, died = restarts + 1, outcome.when
            if not signals.count:
                screen.report(
                    f"{outcome.what}; starting all again (restart {restarts} of {job.max_restarts})"
                )
            if job.hosts and not signals.count:
                screen.report(f"In {_HOSTS_PAUSE_SECONDS:g} s, when the other hosts have noticed too.")
                deadline = time.monotonic() + _HOSTS_PAUSE_SECONDS
                while time.monotonic() < deadline and not signals.count:
                    time.sleep(0.1)
            if signals.count:
                return _interrupted(signals)


def _headline(job: Job) -> str:
    what = f"Launching {job.workers} worker{'s' * (job.workers > 1)}"
    if job.hosts:
        what = f"Launching worker {job.task_index} of {len(job.hosts)}"
    elif job.parameter_servers:
        what = f"Launching a chief, {job.workers} worker(s) and {job.parameter_servers} parameter server(s)"
    return f"{what}: {job.title or f'python {shlex.join(job.words)}'}"


def launch(job: Job) -> int:
    """Run a program in several processes that train together, and report on stderr how that goes.

        launch(Job(words=("-m", "recipes.train_distributed", "--epochs", "5"), workers=2))

    Returns:
      The exit code: 0 all done; 1 given up after the last restart, or a check failed; 2 what was asked cannot
      be done; 3 interrupted: the same call goes on from there.

    Raises:
      ConfigError: a port that the job names is taken.
    """
    outcome = run(job, screen=Screen())
    if outcome.kind == "interrupted":
        print(f"Interrupted. {AGAIN}", file=sys.stderr)
    elif outcome.kind != "done":
        print(f"WorkerError: {outcome}", file=sys.stderr)
    return outcome.code


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
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = command.add_argument_group("where").add_argument
    add("--workers", type=int, metavar="N", help="processes on this machine (2), or of Ray's cluster")
    here = "every worker of the job, the same list on each host; this command starts one of them"
    add("--hosts", metavar="HOST:PORT,...", help=here)
    add("--task-index", type=int, metavar="I", help="which of --hosts this is: 0, 1, ...")
    servers = "M processes that keep the weights, beside --workers and a chief that runs the program (0)"
    add("--parameter-servers", type=int, default=0, metavar="M", help=servers)
    add("--engine", choices=("local", "ray"), default="local", help="who starts the processes (local)")
    alone = "workers in a network of their own (Linux: unshare): nobody reaches their ports, and they reach nobody"
    add("--private-network", action="store_true", help=alone)
    pin = argparse.BooleanOptionalAction
    add("--pin", action=pin, default=True, help="each worker keeps to cores of its own (on)")
    add = command.add_argument_group("when something goes wrong").add_argument
    deaths = "deaths in a row after which to give up; an hour of training begins the count anew (%(default)s)"
    add("--max-restarts", type=int, default=3, metavar="N", help=deaths)
    patience = {
        "grace": "how long the workers may take to save and stop on SIGTERM or Ctrl-C (%(default)s);"
        " after a death there is nothing to save together: 2 at most",
        "hang": "silence, or training without a step, after which a worker counts as dead (%(default)s)",
        "join": "how long the workers wait for each other; then the absent one is named (%(default)s)",
    }
    for name, meaning in patience.items():
        default = getattr(Job, f"{name}_seconds")
        add(f"--{name}-seconds", type=float, default=default, metavar="S", help=meaning)
    return command


def main(arguments: Sequence[str]) -> int:
    """Read the line, run the job; returns the exit code.

    Raises:
      ConfigError: what was asked cannot be done.
    """
    words = list(arguments)
    cut = words.index("--") if "--" in words else len(words)
    options = vars(parser().parse_args(words[:cut]))
    program = tuple(words[cut + 1 :])
    options["hosts"] = tuple(filter(None, re.split(r"[\s,]+", options["hosts"] or "")))
    _check_options(options)
    if options.pop("private_network"):
        network.enter_private([sys.executable, "-m", "tfkit", "launch", *words])
    engine = options.pop("engine")
    options = {name: value for name, value in options.items() if value is not None}
    if engine == "local":
        return launch(Job(words=program, **options))
    settings = {name: options[name] for name in options.keys() & {"workers", "max_restarts", "grace_seconds"}}
    return int(importlib.import_module("tfkit.distribution.ray").launch(program, **settings))


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse flags that contradict each other."""
    defaults = vars(parser().parse_args([])) | {"hosts": ()}
    flags = {f"--{name.replace('_', '-')}": name for name in options if options[name] != defaults[name]}
    local = {"--parameter-servers", "--hang-seconds", "--join-seconds", "--pin"}
    elsewhere = {"--workers", "--engine", "--private-network"}
    if ("--hosts" in flags) != (options["task_index"] is not None):
        raise ConfigError(
            "--hosts (every worker) and --task-index (which of them this machine is: 0, 1, ...) go together:"
            " --hosts host1:2222,host2:2222 --task-index 0"
        )
    for flag in flags:
        if "--engine" in flags and flag in local:
            raise ConfigError(
                f"{flag} is of the local launcher; with --engine ray, Ray places the workers and waits for them,"
                " and one that is silent for 60 s counts as dead. Leave it out."
            )
        if "--hosts" in flags and flag in elsewhere:
            raise ConfigError(f"{flag} does not go with --hosts, which says where each worker is.")
