"""What has become of a job: done, interrupted, beyond repair, or dead, and whose fault that is."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tfkit.launch import network
from tfkit.launch.job import Job, Plan
from tfkit.launch.output import Screen
from tfkit.launch.worker import LOST_A_PEER, SAVED, Worker
from tfkit.stopping import AGAIN

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
                "The program does not say how it is (tfkit.pulse.start() would): deaths are seen, hangs are not."
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
            silent = set(network.silent(self.job.hosts))
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
