"""One start of all processes of a job, until none of them is left."""

from __future__ import annotations

import dataclasses
import os
import selectors
import signal
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkit import process
from tfkit.launch import cores, guard, network, verdict
from tfkit.launch.job import Job, Plan, Task, describe
from tfkit.launch.output import Screen
from tfkit.launch.signals import Signals
from tfkit.launch.verdict import Ending
from tfkit.launch.worker import Worker

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
        usable = cores.allowed()
        shares = cores.shares(usable, count) if self.job.pin else ()
        gpus = cores.gpu_shares(count)
        rows: list[dict[str, Any]] = []
        for number, task in enumerate(self.plan.tasks, place):
            own = shares[number] if shares else None
            threads = len(own) if own else max(1, len(usable) // count)
            where = cores.named(own) if own else "any core"
            if gpus:
                own_gpus = ", ".join(map(str, gpus[number]))
                where += f", GPU {own_gpus}" if own_gpus else ", no GPU (there are fewer than workers)"
            rows.append({"place": where, "threads": threads})
            variables = cores.threads_environment(threads)
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
                f"  Not pinned: {len(rows)} processes share {len(cores.allowed())} core(s), so none has its own."
            )
        listening = [task.address for task in self.plan.tasks if self.plan.tf_config(task)]
        for line in network.warning(listening, hosts=self.job.hosts) if listening else ():
            self._screen.say(line)

    def _watch(self) -> Ending:
        judge = verdict.Judge(self.job, self.plan, self.workers, screen=self._screen)
        while True:
            self._pump()
            if self._signals.count:
                return verdict.told_to_stop(self._signals.name)
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
