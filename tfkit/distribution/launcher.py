"""Run a job to its end: start all its processes, and start all again when one of them dies.

TensorFlow's collectives cannot take back a single worker, so a death ends the whole attempt, and the next one
goes on from the last backup, which the program itself makes and finds (`tfkit.fit` does).

What has become of a job: done, interrupted, beyond repair, or dead, and whose fault that is.

One start of all processes of a job, until none of them is left.
"""

from __future__ import annotations

import dataclasses
import os
import selectors
import shlex
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfkit.distribution import guard
from tfkit.distribution.job import Job, Plan, Task, describe, unreachable_hosts, warning
from tfkit.distribution.worker_process import (
    LOST_A_PEER,
    SAVED,
    Screen,
    Signals,
    Worker,
    allowed,
    core_shares,
    gpu_shares,
    listening,
    named,
    threads_environment,
)
from tfkit.environment import process
from tfkit.environment.heartbeat import AGAIN

# A worker's death ends the others within moments: so long the launcher collects deaths before it names one.
_SETTLE_SECONDS = 1.0
# An error so soon, before any step: a wrong path or import, and the same the next time.
_EARLY_SECONDS = 60.0
_STALE_SECONDS = 3.0
_MENTION_SECONDS = 20.0
_MENTION_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended.

    Attributes:
      kind: `done`; `interrupted` (saved, to be gone on with); `failed` (a restart would not mend it); `died`.
      code: the exit code of the launcher, if there is no restart.
      what: a phrase for a person, which begins with the name of the worker: "worker 1 died (SIGKILL) at step 120".
      details: the last lines that the worker printed, and the like.
      hanging: names of workers that do not answer.
      when: when it was seen, in seconds of `time.monotonic()`.
    """

    kind: Literal["done", "interrupted", "failed", "died"]
    code: int
    what: str = ""
    details: str = ""
    hanging: tuple[str, ...] = ()
    when: float


def told_to_stop(by: str) -> Ending:
    """The launcher itself got a signal."""
    return Ending(kind="interrupted", code=SAVED, what=f"told to stop by {by}", when=time.monotonic())


class Judge:
    """Watches the workers of one attempt."""

    def __init__(self, job: Job, plan: Plan, workers: Sequence[Worker], *, screen: Screen) -> None:
        self.job = job
        self.plan = plan
        self.workers = workers
        self._screen = screen
        self._looked, self._awake = time.monotonic(), 0.0
        self._mentioned = -_MENTION_AGAIN_SECONDS
        self._mute_mentioned = False
        self._heard: float | None = None
        self._forgiven: set[str] = set()

    def ending(self) -> Ending | None:
        """How the attempt has ended; None while it goes on."""
        now = time.monotonic()
        if now - self._looked > _STALE_SECONDS:
            self._awake = now  # this process was itself stopped: nobody is judged by what it missed
        self._looked = now
        return self._ended(now) or self._hung(now) or self._absent(now)

    def _ended(self, now: float) -> Ending | None:
        ended = sorted(
            (worker for worker in self.workers if worker.ended is not None),
            key=lambda worker: worker.ended or 0,
        )
        for worker in ended:
            if worker.gave_up:
                what = f"{worker.name} gave up: {worker.gave_up}"
                return Ending(kind="failed", code=worker.code or 1, what=what, when=now)
        for worker in ended:
            if worker.code == SAVED and self.workers[0].code != 0:
                return Ending(
                    kind="interrupted", code=SAVED, what=f"{worker.name} saved and stopped", when=now
                )
        return self._done(ended, now) or self._died(ended, now)

    def _done(self, ended: Sequence[Worker], now: float) -> Ending | None:
        chief = self.workers[0]
        if chief.code != 0 or chief.ended is None:
            return None
        others = [worker for worker in self.workers[1:] if not worker.task.serves]
        for worker in others:
            if worker.code and worker.name not in self._forgiven:
                self._forgiven.add(worker.name)
                self._screen.say(
                    f"{worker.name} died ({worker.how_it_ended()}), and {chief.name} has finished: the job is done."
                )
        late = [worker.name for worker in others if worker.ended is None]
        if late and now - chief.ended < self.job.hang_seconds:
            return None
        if late:
            self._screen.say(
                f"{', '.join(late)} did not end within {self.job.hang_seconds:g} s of {chief.name}; stopped."
            )
        return Ending(kind="done", code=0, hanging=tuple(late), when=now)

    def _died(self, ended: Sequence[Worker], now: float) -> Ending | None:
        if self.workers[0].code == 0:
            return None
        dead = [worker for worker in ended if worker.code or worker.task.serves]
        running = [worker for worker in self.workers if worker.ended is None]
        if not dead or (running and now - (dead[0].ended or now) < _SETTLE_SECONDS):
            return None
        when = dead[0].ended or now
        culprit = min(dead, key=lambda worker: _blame(worker, since=when))
        silent = [worker for worker in running if self._stale(worker, now, _STALE_SECONDS)]
        if culprit.code == LOST_A_PEER and silent:
            return self._hang_of(silent, "stopped answering", when)
        return self._death_of(culprit, when)

    def _death_of(self, worker: Worker, when: float) -> Ending:
        code = worker.code or 0
        trained = any(each.said and each.said.trained is not None for each in self.workers)
        early = not trained and worker.phase == "starting" and when - worker.started < _EARLY_SECONDS
        if code in (1, 2) and early:
            what = f"{worker.name} failed as it started ({worker.how_it_ended()})"
            details = f"{worker.quoted()}\n  It would the next time too, so nothing is started again."
            return Ending(kind="failed", code=code, what=what, details=details, when=when)
        what = f"{worker.name} died ({worker.how_it_ended()}){self._at_step()}"
        details = worker.quoted()
        if code == -signal.SIGKILL:
            details += (
                "\n  SIGKILL that nobody sent is often the kernel's, for want of memory: dmesg | grep -i oom"
            )
        return Ending(kind="died", code=1, what=what, details=details, when=when)

    def _at_step(self) -> str:
        step = max((worker.said.step for worker in self.workers if worker.said), default=0)
        return f" at step {step}" if step else " before the first step"

    def _stale(self, worker: Worker, now: float, seconds: float) -> bool:
        return worker.said is not None and now - worker.said.beat > seconds

    def _hung(self, now: float) -> Ending | None:
        if now - self._awake < 2 * _STALE_SECONDS:
            return None
        limit = self.job.hang_seconds
        running = [worker for worker in self.workers if worker.ended is None]
        silent = [worker for worker in running if self._stale(worker, now, limit)]
        if silent:
            return self._hang_of(silent, f"has not answered for {limit:g} s (--hang-seconds)", now)
        stuck = [
            worker
            for worker in running
            if worker.said and worker.said.phase == "training" and now - worker.said.progressed > limit
        ]
        if stuck:
            first = min(stuck, key=lambda worker: worker.said.progressed if worker.said else now)
            # Who is stopped keeps the others waiting: its beat is the one that is old.
            quiet = [worker for worker in running if self._stale(worker, now, _STALE_SECONDS)]
            if quiet:
                return self._hang_of(quiet, "stopped answering", now)
            elsewhere = "; it may wait for another host" if self.job.hosts else ""
            how = f"has made no step for {limit:g} s (--hang-seconds{elsewhere})"
            return self._hang_of([first], how, now)
        return None

    def _hang_of(self, workers: Sequence[Worker], how: str, when: float) -> Ending:
        names = ", ".join(worker.name for worker in workers)
        return Ending(
            kind="died",
            code=1,
            what=f"{names} {how}{self._at_step()}",
            details=workers[0].quoted(),
            hanging=tuple(worker.name for worker in workers),
            when=when,
        )

    def _absent(self, now: float) -> Ending | None:
        running = [worker for worker in self.workers if worker.ended is None and not worker.task.serves]
        mute = [worker for worker in running if worker.said is None]
        heard = [worker for worker in running if worker.said is not None]
        waiting = [worker for worker in running if worker.phase == "joining"]
        if heard and self._heard is None:
            self._heard = now
        # Counted from the first word of another: a program that is slow to start is slow in all of them.
        if mute and heard and now - (self._heard or now) > self.job.join_seconds:
            return self._never_came(mute, heard[0], now)
        if mute and not heard and now - mute[0].started > self.job.join_seconds and not self._mute_mentioned:
            self._mute_mentioned = True
            self._screen.say(
                "The program has no heartbeat (tfkit.environment.heartbeat.start): only deaths are seen, not hangs."
            )
        if not waiting:
            return None
        since = min(worker.said.progressed for worker in waiting if worker.said)
        waited = now - since
        if waited > self.job.join_seconds:
            if mute:
                return self._never_came(mute, waiting[0], now)
            return self._not_joined(running, waiting, now)
        if waited > _MENTION_SECONDS and now - self._mentioned > _MENTION_AGAIN_SECONDS:
            self._mentioned = now
            absent = self._missing(running)
            if absent:
                self._screen.say(f"Waiting for {', '.join(absent)}: not there after {waited:.0f} s.")
        return None

    def _missing(self, running: Sequence[Worker]) -> list[str]:
        """Names of the processes that have not come to where the others wait."""
        missing = [
            f"{worker.name} ({worker.task.address})" for worker in running if worker.phase == "starting"
        ]
        if self.job.hosts:
            silent = set(unreachable_hosts(self.job.hosts))
            missing += [
                f"worker {index} ({address})"
                for index, address in enumerate(self.job.hosts)
                if index != self.job.task_index and address in silent
            ]
        return missing

    def _never_came(self, mute: Sequence[Worker], other: Worker, now: float) -> Ending:
        names = ", ".join(f"{worker.name} ({worker.task.address})" for worker in mute)
        what = (
            f"{names} has not said a word {self.job.join_seconds:g} s (--join-seconds) after {other.name} has"
        )
        details = f"{mute[0].quoted()}\n  It would not the next time either, so nothing is started again."
        hanging = tuple(worker.name for worker in mute)
        return Ending(kind="failed", code=1, what=what, details=details, hanging=hanging, when=now)

    def _not_joined(self, running: Sequence[Worker], waiting: Sequence[Worker], now: float) -> Ending:
        missing = self._missing(running)
        seconds = f"{self.job.join_seconds:g} s (--join-seconds)"
        here = [worker for worker in running if worker.phase == "starting"]
        if not missing:
            # All are there and do not find each other: a port that somebody else took, an old worker.
            return self._hang_of(waiting, f"found no way to join the others in {seconds}", now)
        what = f"{', '.join(missing)} did not join in {seconds}"
        if here:
            hanging = tuple(worker.name for worker in here)
            return Ending(kind="died", code=1, what=what, details=here[0].quoted(), hanging=hanging, when=now)
        details = (
            "Nothing answers there: is its launcher running, and does a firewall let this machine in?"
            f"\n  {AGAIN.replace('command', 'command, on every host,')}"
        )
        return Ending(kind="failed", code=1, what=what, details=details, when=now)


def _blame(worker: Worker, *, since: float) -> tuple[bool, int, int]:
    """Least for the worker that died first and not for want of another.

    Of those that were seen to be dead at the same look, one that was killed comes first; one that aborted
    (as TensorFlow does when it loses a peer) last.
    """
    looks = int(((worker.ended or since) - since) / 0.2)
    rank = {-signal.SIGKILL: 0, -signal.SIGABRT: 2}.get(worker.code or 0, 1)
    return worker.code == LOST_A_PEER, looks, rank


_TICK_SECONDS = 0.2
_LOOK_SECONDS = 0.4
# For the last words of a process that has ended, and for what it has started to end by itself.
_DRAIN_SECONDS = 1.0
# After a death there is nothing that the others could save together.
_AFTER_DEATH_SECONDS = 2.0


class Attempt:
    """All processes of a job, started once.

    Attributes:
      workers: those that run on this machine; the first is the chief, or the only one.
      trained_seconds: how long it has trained: from its first step to its last look.
    """

    def __init__(
        self, job: Job, *, screen: Screen, signals: Signals, restarts: int, died: float | None
    ) -> None:
        """Prepare; `died`: when the attempt before it did."""
        self.job = job
        self.plan: Plan = job.plan()
        self.workers: list[Worker] = []
        self._screen = screen
        self._signals = signals
        self._restarts = restarts
        self._died = died
        self._token = uuid.uuid4().hex
        self._selector = selectors.DefaultSelector()
        self._looked = 0.0
        self._told_while_joining: list[Worker] = []

    @property
    def trained_seconds(self) -> float:
        """From the first step of the first worker until now; 0 before it."""
        said = self.workers[0].said if self.workers else None
        return time.monotonic() - said.trained if said and said.trained is not None else 0.0

    def run(self) -> Ending:
        """Start them, watch them to their end, and leave nothing behind."""
        # In memory where that can be: a full disk must not look like a worker that does not answer.
        shared = Path("/dev/shm")
        where = shared if shared.is_dir() and os.access(shared, os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="tfkit-launch-", dir=where))
        guarding = guard.Guard(self._token, folder)
        try:
            self._start(folder, guarding)
            ending = self._watch()
            self._stop(ending)
            return self._final(ending)
        finally:
            self._clear()
            guarding.close()

    def _start(self, folder: Path, guarding: guard.Guard) -> None:
        count, place = self.job.here
        usable = allowed()
        shares = core_shares(usable, count) if self.job.pin else ()
        gpus = gpu_shares(count)
        rows: list[dict[str, Any]] = []
        for number, task in enumerate(self.plan.tasks, place):
            own = shares[number] if shares else None
            threads = len(own) if own else max(1, len(usable) // count)
            where = named(own) if own else "any core"
            if gpus:
                own_gpus = ", ".join(map(str, gpus[number]))
                where += f", GPU {own_gpus}" if own_gpus else ", no GPU (there are fewer than workers)"
            rows.append({"place": where, "threads": threads})
            variables = threads_environment(threads)
            if gpus:
                variables["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus[number]))
            worker = Worker(
                task, environment=self._environment(task, variables), own_cores=own, folder=folder
            )
            self.workers.append(worker)
            guarding.watch([each.process.pid for each in self.workers])
            for pipe in worker.pipes:
                self._selector.register(pipe, selectors.EVENT_READ, worker)
        self._announce(rows, crowded=self.job.pin and not shares and len(usable) < count)

    def _environment(self, task: Task, variables: Mapping[str, str]) -> dict[str, str]:
        malloc = process.malloc_environment()
        if any(name in os.environ for name in malloc):
            malloc = {}  # the user's own setting
        environment = {
            **os.environ,
            **malloc,
            **variables,
            **self.job.environment,
            "PYTHONUNBUFFERED": "1",
            # So that --overwrite, which the words may hold, removes nothing at a restart.
            "TFKIT_RESTARTED": str(self._restarts),
            # Longer than the launcher's own patience: it can say who is absent.
            "TFKIT_JOIN_SECONDS": str(self.job.join_seconds + 30),
            guard.VARIABLE: self._token,
        }
        environment.pop("TF_CONFIG", None)
        config = self.plan.tf_config(task)
        return environment if config is None else {**environment, "TF_CONFIG": config}

    def _announce(self, rows: list[dict[str, Any]], *, crowded: bool) -> None:
        if self._restarts:
            return
        for line in describe(self.job, self.plan, rows):
            self._screen.say(line)
        if crowded:
            self._screen.say(
                f"  Not pinned: {len(rows)} processes share {len(allowed())} core(s), so none has its own."
            )
        listening = [task.address for task in self.plan.tasks if self.plan.tf_config(task)]
        for line in warning(listening, hosts=self.job.hosts) if listening else ():
            self._screen.say(line)

    def _watch(self) -> Ending:
        judge = Judge(self.job, self.plan, self.workers, screen=self._screen)
        while True:
            self._pump()
            if self._signals.count:
                return told_to_stop(self._signals.name)
            if self._look():
                ending = judge.ending()
                if ending is not None:
                    return ending

    def _pump(self, timeout: float = _TICK_SECONDS) -> None:
        """Pass on what the workers print."""
        if not self._selector.get_map():
            time.sleep(timeout)
            return
        for key, _ in self._selector.select(timeout):
            worker: Worker = key.data
            pipe = key.fileobj
            assert not isinstance(pipe, int)
            error = pipe is worker.process.stderr

            def show(line: str, worker: Worker = worker, error: bool = error) -> None:
                self._screen.line(worker.name, line, first=worker is self.workers[0], error=error)

            if not worker.read(pipe, show):  # type: ignore[arg-type]
                self._selector.unregister(pipe)

    def _look(self) -> bool:
        """Read the pulses and see who has ended, every 0.4 s; returns whether it did."""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        for worker in self.workers:
            worker.look()
        said = self.workers[0].said
        if said is not None:
            self._screen.progress(said, restarts=self._restarts)
            if said.trained is not None and self._died is not None:
                self._screen.say(f"Training again after {said.trained - self._died:.1f} s.")
                self._died = None
        return True

    def _stop(self, ending: Ending) -> None:
        """Let the workers end by themselves if they can, and make them if they cannot."""
        if ending.kind == "interrupted":
            self._save_and_stop(tell=bool(self._signals.count))
            return
        for worker in self.workers:
            # One that hangs would not answer; servers have nothing to save.
            hangs = worker.name in ending.hanging
            worker.tell(signal.SIGKILL if hangs else signal.SIGTERM)
        patience = 0.0 if ending.kind == "done" else min(_AFTER_DEATH_SECONDS, self.job.grace_seconds)
        self._wait(self.workers, patience)

    def _final(self, ending: Ending) -> Ending:
        """One who was told to stop may have come to the end all the same."""
        finished = all(worker.code == 0 for worker in self.workers if not worker.task.serves)
        if ending.kind == "interrupted" and finished:
            return dataclasses.replace(ending, kind="done", code=0)
        return ending

    def _save_and_stop(self, *, tell: bool) -> None:
        asked = [worker for worker in self.workers if not worker.task.serves]
        if tell:
            seconds = self.job.grace_seconds
            self._screen.say(
                f"{self._signals.name}: the workers have {seconds:g} s to save and stop; again: at once."
            )
            for worker in asked:
                worker.look()
                worker.tell(signal.SIGTERM)
                if worker.phase == "joining":
                    self._told_while_joining.append(worker)
        if not self._wait(asked, self.job.grace_seconds):
            late = ", ".join(worker.name for worker in asked if worker.ended is None)
            self._screen.say(
                f"Killed, for it did not stop in time: {late}. What it had saved before is whole."
            )

    def _wait(self, workers: list[Worker], seconds: float) -> bool:
        """Wait for their end; returns whether it came. A second signal from outside ends the patience."""
        deadline = time.monotonic() + seconds
        while any(worker.ended is None for worker in workers):
            if time.monotonic() > deadline or self._signals.count > 1:
                return False
            self._pump()
            for worker in workers:
                worker.look()
            for worker in [worker for worker in self._told_while_joining if worker.phase != "joining"]:
                # While TensorFlow joins the workers it has a handler of its own, which swallows the signal.
                worker.tell(signal.SIGTERM)
                self._told_while_joining.remove(worker)
        return True

    def _clear(self) -> None:
        """No process of the job is left after this, whatever happened before."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        alive = [worker for worker in self.workers if worker.process.poll() is None]
        if not alive:
            # A moment for what they have started to end by itself, and its last words.
            while self._selector.get_map() and time.monotonic() < deadline:
                self._pump()
        guard.kill_all([worker.process.pid for worker in self.workers], self._token)
        for worker in self.workers:
            worker.process.wait()
            worker.look()
        while self._selector.get_map() and time.monotonic() < deadline:
            self._pump()
        self._selector.close()
        for worker in self.workers:
            for pipe in worker.pipes:
                pipe.close()


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
    with listening() as signals:
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
