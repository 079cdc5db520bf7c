"""`python -m tfkit launch`, and `tfkit.distribution.launch(fn)`: a job in several processes, run to its end.

TensorFlow's collectives cannot take back a single worker, so a death ends the whole attempt, and the next one
goes on from the last checkpoint, which the program itself makes and finds (`tfkit.fit` does).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tfkit import cli
from tfkit.distribution import guard, network, worker_process
from tfkit.distribution.worker_process import Screen, Signals, Task, Worker, describe_exit
from tfkit.environment import cluster, files, heartbeat, process
from tfkit.environment.cluster import split
from tfkit.environment.heartbeat import AGAIN, INTERRUPTED, PEER_LOST
from tfkit.errors import ConfigError, WorkerError
from tfkit.run import RESTARTED_VARIABLE
from tfkit.settings import fields
from tfkit.settings.parse import EXIT_CODES, add_flags

T = TypeVar("T")
_Seconds = Annotated[float, fields.Range(ge=0)]
# The settings that have flags, by their group.
WHERE = ("task_index", "parameter_servers", "pin")
PATIENCE = ("max_restarts", "grace_seconds", "hang_seconds", "join_seconds")
SERVER = ("-c", "from tfkit.distribution.replicas import serve; serve()")
_LOOK_SECONDS = 0.2
# A worker's death ends the others within moments: so long the launcher collects deaths before it names one.
_SETTLE_SECONDS = 1.0
# An error so soon, before any step: a wrong path or import, and the same the next time.
_EARLY_SECONDS = 60.0
_SILENT_SECONDS = 3.0
# Who waits in vain for another worker says so itself, after --join-seconds; then TensorFlow connects all.
_JOIN_SECONDS = 30.0
# For the last words of a process that has ended, and for what it has started to end by itself.
_DRAIN_SECONDS = 1.0
# After a death there is nothing that the others could save together.
_AFTER_DEATH_SECONDS = 2.0
# After so much training a restart is forgotten: --max-restarts is about a job that does not get on.
_FORGET_SECONDS = 3600.0
# On several hosts: until the others have noticed the death, whose old workers would confuse the new one.
_HOSTS_PAUSE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class Job:
    """Describe what to run, in how many processes, and how patient to be with them.

    Raises:
      ConfigError: a number is out of range, or the hosts cannot be what was meant.
    """

    words: tuple[str, ...]
    """Words after `python`: ("-m", "recipes.train_distributed", ...) or ("script.py", ...)."""

    workers: fields.Count = 2
    """Processes on this machine, or of Ray's cluster; with --hosts their number is that of the hosts."""

    hosts: tuple[str, ...] = ()
    """HOST:PORT of every worker, the same list for each launcher; empty: all on this machine."""

    task_index: fields.NonNegativeInt = 0
    """Number of this machine among --hosts: 0, 1, ..."""

    parameter_servers: fields.NonNegativeInt = 0
    """Processes that keep the weights, beside --workers and a chief that runs the program."""

    pin: bool = True
    """Each worker keeps to cores of its own."""

    max_restarts: fields.NonNegativeInt = 3
    """Deaths in a row after which to give up; an hour of training begins the count anew."""

    grace_seconds: _Seconds = 30.0
    """Time that workers have to save and stop on SIGTERM or Ctrl-C; after a death there is nothing to save
    together: 2 at most."""

    hang_seconds: Annotated[float, fields.Range(ge=3)] = 300.0  # a worker sends a heartbeat once a second
    """Silence, or training without a step, after which a worker counts as dead."""

    join_seconds: _Seconds = 300.0
    """Time that workers wait for each other; then the absent one is named."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """More variables for the workers."""

    title: str = ""
    """Name of the program; "python" and the words when left out."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is started."""
        if not self.words or (self.words[0] in ("-m", "-c") and len(self.words) < 2):
            example = "python -m tfkit launch --workers 2 -- -m recipes.train_distributed --epochs 5"
            raise ConfigError(f"What to run is missing, as after `python` and after two dashes:\n  {example}")
        if problems := fields.problems(self, ("workers", *WHERE, *PATIENCE), label=fields.flag):
            raise ConfigError("\n  ".join(problems))
        if self.hosts:
            task = {"type": "worker", "index": self.task_index}
            try:
                cluster.parse({"cluster": {"worker": list(self.hosts)}, "task": task})
            except ValueError as error:
                example = "Such as host1:2222,10.0.0.2:2222"
                raise ConfigError(f"--hosts, --task-index: {error}.\n  {example}") from error

    def share(self) -> tuple[int, int]:
        """Return the place of this launcher's first process among those of this machine, and their number."""
        if not self.hosts:
            return 0, self.workers + self.parameter_servers + bool(self.parameter_servers)
        names = [split(address)[0] for address in self.hosts]
        host = names[self.task_index]
        return names[: self.task_index].count(host), names.count(host)

    def tasks(self) -> list[Task]:
        """Return the processes to start here, the chief or the own one first; the ports are new at every call.

        Raises:
          ConfigError: a port of --hosts is taken, or the workers are more than this machine can serve.
        """
        if self.hosts:
            address = self.hosts[self.task_index]
            fix = "Give the workers of --hosts another port, or end that process."
            network.listen(split(address)[1], fix=fix).close()
            jobs, local_tasks = {"worker": list(self.hosts)}, [("worker", self.task_index)]
        else:
            count, most = self.share()[1], max(64, 4 * (os.cpu_count() or 1))
            if count > most:
                raise ConfigError(
                    f"--workers {self.workers} are more than this machine can serve, {most}. For several machines:"
                    " --hosts host1:2222,host2:2222,... --task-index I on each."
                )
            addresses = [f"127.0.0.1:{port}" for port in network.free_ports(count)]
            jobs, cut = {"worker": addresses}, 1 + self.workers
            if self.parameter_servers:
                jobs = {"chief": addresses[:1], "worker": addresses[1:cut], "ps": addresses[cut:]}
            local_tasks = [(role, index) for role, members in jobs.items() for index in range(len(members))]
        tasks = []
        for role, index in local_tasks:
            name = "chief" if role == "chief" else f"{role} {index}"
            serves = self.parameter_servers > 0 and role != "chief"
            config = {"TF_CONFIG": json.dumps({"cluster": jobs, "task": {"type": role, "index": index}})}
            is_alone = jobs == {"worker": [jobs[role][index]]}
            words = SERVER if serves else self.words
            tasks.append(Task(name, jobs[role][index], words, {} if is_alone else config, serves))
        return tasks


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Say how an attempt ended.

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
        """Say what failed, for a person."""
        return f"{self.what.removesuffix('.')}." + (f"\n  {self.details}" if self.details else "")


def diagnose(job: Job, workers: Sequence[Worker]) -> Outcome | None:
    """Return how an attempt has ended, by the first that died, hangs or does not come; None while it goes on."""
    now = time.monotonic()
    running = [worker for worker in workers if worker.ended is None]
    ended = [worker for worker in workers if worker.ended is not None]
    for worker in ended:
        if worker.code in (1, 2) and worker.beat.gave_up:
            what = f"{worker.name} gave up: {worker.beat.gave_up}"
            return Outcome(kind="failed", code=worker.code, what=what)
    if workers[0].code == 0:
        return _check_end(job, workers[0], [worker for worker in workers[1:] if not worker.task.serves], now)
    for worker in ended:
        if worker.code == INTERRUPTED:
            return Outcome(kind="interrupted", code=INTERRUPTED, what=f"{worker.name} saved and stopped")
    step = max(worker.beat.step for worker in workers)
    where = f" at step {step}" if step else " before the first step"
    if dead := [worker for worker in ended if worker.code or worker.task.serves]:
        return _diagnose_death(dead, running, any(worker.beat.trained for worker in workers), where, now)
    return _diagnose_hang(job, running, where, now)


def _check_end(job: Job, chief: Worker, workers: Sequence[Worker], now: float) -> Outcome | None:
    late = tuple(worker for worker in workers if worker.ended is None)
    if late and now - (chief.ended or now) < job.hang_seconds:
        return None
    ends = [f"{worker.name} died ({describe_exit(worker.code)})" for worker in workers if worker.code]
    ends += [f"{worker.name} did not end within {job.hang_seconds:g} s, and was stopped" for worker in late]
    what = f"{'; '.join(ends)}, and {chief.name} has finished: the job is done." if ends else ""
    return Outcome(kind="done", code=0, what=what, hanging=late)


def _diagnose_death(
    dead: Sequence[Worker], running: Sequence[Worker], has_trained: bool, where: str, now: float
) -> Outcome | None:
    """Name the one that died by itself, as soon as those that its death takes along have had their time."""
    when = min(worker.ended or now for worker in dead)
    if running and now - when < _SETTLE_SECONDS:
        return None
    # TensorFlow ends a worker that loses a peer by an error or by an abort: that is not the first that died.
    victims = (PEER_LOST, -signal.SIGABRT)
    first = min(dead, key=lambda worker: (worker.code in victims, worker.ended))
    silent = [worker for worker in running if worker.is_silent(_SILENT_SECONDS)]
    if first.code == PEER_LOST and silent:
        return _describe_hang(silent, f"stopped answering{where}")
    cause = describe_exit(first.code)
    is_early = first.beat.phase == "starting" and when - first.started < _EARLY_SECONDS
    if first.code in (1, 2) and is_early and not has_trained:
        what = f"{first.name} failed as it started ({cause}), and would the next time"
        return Outcome(kind="failed", code=first.code, what=what, details=first.quoted())
    hint = "\n  SIGKILL that nobody sent is often the kernel's, for want of memory: dmesg | grep -i oom"
    details = first.quoted() + hint * (first.code == -signal.SIGKILL)
    return Outcome(kind="died", what=f"{first.name} died ({cause}){where}", details=details, when=when)


def _describe_hang(workers: Sequence[Worker], how: str) -> Outcome:
    what = f"{', '.join(worker.name for worker in workers)} {how}"
    return Outcome(kind="died", what=what, details=workers[0].quoted(), hanging=tuple(workers))


def _diagnose_hang(job: Job, running: Sequence[Worker], where: str, now: float) -> Outcome | None:
    limits = {
        "training": (job.hang_seconds, "has made no step", "--hang-seconds"),
        "joining": (job.join_seconds + _JOIN_SECONDS, "found no way to join the others", "--join-seconds"),
    }
    silent = [worker for worker in running if worker.is_silent(_SILENT_SECONDS)]
    busy = [worker for worker in running if worker.beat.phase in limits]
    stuck_workers = [worker for worker in busy if now - worker.beat.progressed > limits[worker.beat.phase][0]]
    # Who is stopped keeps the others waiting: its heartbeat is the one that is old.
    if silent and (stuck_workers or any(worker.is_silent(job.hang_seconds) for worker in silent)):
        return _describe_hang(silent, f"stopped answering{where} (--hang-seconds {job.hang_seconds:g})")
    if not stuck_workers:
        return None
    slowest = min(stuck_workers, key=lambda worker: worker.beat.progressed)
    limit, how, flag = limits[slowest.beat.phase]
    elsewhere = "; it may wait for another host" if job.hosts else ""
    return _describe_hang([slowest], f"{how} for {limit:g} s ({flag}{elsewhere}){where}")


class Attempt:
    """All processes of a job, started once, until none of them is left."""

    def __init__(self, job: Job, screen: Screen, signals: Signals, restarts: int, end: float | None) -> None:
        """Prepare; `end`: when the attempt before it did."""
        self.job, self._screen, self._signals = job, screen, signals
        self._restarts, self._death = restarts, end
        self.workers: list[Worker] = []
        self._token = uuid.uuid4().hex

    def run(self) -> Outcome:
        """Start the workers, watch them to their end, and leave nothing behind."""
        # In memory where that can be: a full disk must not look like a worker that does not answer.
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = Path(tempfile.mkdtemp(prefix="tfkit-launch-", dir=shared))
        with guard.start(self._token, folder) as watchdog:
            try:
                self._start(folder, watchdog)
                outcome = self._watch()
                self._stop(outcome)
            finally:
                self._clear()
        # One that was to stop may have come to the end all the same.
        has_finished = all(worker.code == 0 for worker in self.workers if not worker.task.serves)
        return Outcome(kind="done", code=0) if outcome.kind == "interrupted" and has_finished else outcome

    def _start(self, folder: Path, watchdog: subprocess.Popen[bytes]) -> None:
        (place, count), usable = self.job.share(), process.usable_cores()
        cores = worker_process.shares(usable, count) if self.job.pin else ()
        # Ray has given this worker its own.
        gpus = () if "CUDA_VISIBLE_DEVICES" in self.job.environment else worker_process.gpu_shares(count)
        tasks = self.job.tasks()
        lines = []
        for number, task in enumerate(tasks, start=place):
            ids = cores[number] if cores else ()
            threads = len(ids) or max(1, len(usable) // count)
            where = f"core{'s' * (threads > 1)} {', '.join(map(str, ids))}" if ids else "any core"
            environment = {
                **process.malloc_environment(),
                **worker_process.threads_environment(threads),
                **os.environ,
                "PYTHONUNBUFFERED": "1",
                # So that --overwrite, which the words may hold, removes nothing at a restart.
                RESTARTED_VARIABLE: str(self._restarts),
                network.SECONDS_VARIABLE: str(self.job.join_seconds),
                guard.VARIABLE: self._token,
            }
            if gpus:
                visible = environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[number])
                where += f", GPU {visible or 'none: there are fewer than workers'}"
            lines.append(f"  {task.name:<9}{task.address if task.environment else ''}  {where}")
            environment.pop("TF_CONFIG", None)
            environment |= {**self.job.environment, **task.environment}
            worker = Worker(task, environment=environment, cores=ids, folder=folder, screen=self._screen)
            self.workers.append(worker)
            guard.watch(watchdog, [member.process.pid for member in self.workers])
        if self._restarts:
            return
        if self.job.pin and not cores:
            lines.append(f"  Not pinned: {count} processes share {len(usable)} core(s), so none has its own.")
        if tasks[0].environment:
            lines += network.warning([task.address for task in tasks], hosts=self.job.hosts)
        self._screen.report("\n".join(lines))

    def _watch(self) -> Outcome:
        is_mute = False
        while not self._signals.count:
            self._poll()
            first = self.workers[0]
            self._screen.progress(first.beat, restarts=self._restarts)
            if first.beat.trained is not None and self._death is not None:
                self._screen.report(f"Training again after {first.beat.trained - self._death:.1f} s.")
                self._death = None
            if outcome := diagnose(self.job, self.workers):
                return outcome
            is_late = time.monotonic() - first.started > self.job.join_seconds
            if is_late and not is_mute and all(worker.beat.beat == math.inf for worker in self.workers):
                is_mute, how = True, "tfkit.environment.heartbeat.start"
                self._screen.report(f"The program has no heartbeat ({how}): only deaths are seen, not hangs.")
        return _make_interrupted(self._signals)

    def _poll(self) -> None:
        began = time.monotonic()
        time.sleep(_LOOK_SECONDS)
        if time.monotonic() - began > _SILENT_SECONDS:
            # This process was itself stopped, the workers perhaps too: let them beat.
            time.sleep(_SILENT_SECONDS)
        for worker in self.workers:
            worker.look()

    def _stop(self, outcome: Outcome) -> None:
        """Let the workers end by themselves if they can, and make them if they cannot."""
        grace, is_interrupted = self.job.grace_seconds, outcome.kind == "interrupted"
        # Servers have nothing to save.
        workers = [worker for worker in self.workers if not (is_interrupted and worker.task.serves)]
        if is_interrupted and self._signals.count:
            what = f"the workers have {grace:g} s to save and stop; again: at once."
            self._screen.report(f"{self._signals.name}: {what}")
        if self._signals.count or not is_interrupted:  # else they have told each other
            for worker in workers:
                worker.look()
                worker.send(signal.SIGKILL if worker in outcome.hanging else signal.SIGTERM)
        patience = {"interrupted": grace, "done": 0.0}.get(outcome.kind, min(_AFTER_DEATH_SECONDS, grace))
        late = self._wait(workers, patience)
        if late and is_interrupted:
            names = ", ".join(worker.name for worker in late)
            self._screen.report(f"Killed, for not stopping in time: {names}. What was saved before is whole.")

    def _wait(self, workers: Sequence[Worker], seconds: float) -> list[Worker]:
        """Wait for their end; returns those that did not come to it. A second signal ends the patience."""
        deadline = time.monotonic() + seconds
        while late := [worker for worker in workers if worker.ended is None]:
            if time.monotonic() > deadline or self._signals.count > 1:
                break
            self._poll()
            for worker in late:
                # While TensorFlow joins the workers it has a handler of its own, which swallows the signal.
                if worker.signal_phase == "joining" != worker.beat.phase:
                    worker.send(signal.SIGTERM)
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


def _make_interrupted(signals: Signals) -> Outcome:
    return Outcome(kind="interrupted", code=INTERRUPTED, what=f"interrupted by {signals.name}")


def run(job: Job, *, screen: Screen) -> Outcome:
    """Start the job, and again after each death, until it is done or nothing more can be done."""
    restarts, death = 0, None
    with worker_process.counting_signals() as signals:
        of_hosts = f"worker {job.task_index} of {', '.join(job.hosts)}"
        which = of_hosts if job.hosts else f"{job.share()[1]} processes"
        screen.report(f"Launching {which}: {job.title or f'python {shlex.join(job.words)}'}")
        while True:
            attempt = Attempt(job, screen, signals, restarts, death)
            try:
                outcome = attempt.run()
            finally:
                screen.close()
            if outcome.kind == "done" and outcome.what:
                screen.report(outcome.what)
            if outcome.kind != "died" or signals.count:
                return _make_interrupted(signals) if outcome.kind == "died" else outcome
            if outcome.when - (attempt.workers[0].beat.trained or outcome.when) > _FORGET_SECONDS:
                restarts = 0
            if restarts >= job.max_restarts:
                what = f"{outcome.what}, and all {job.max_restarts} restarts (--max-restarts) are used up"
                return Outcome(kind="failed", what=what, details=f"{outcome.details}\n  {AGAIN}")
            restarts, death = restarts + 1, outcome.when
            again = f"starting all again (restart {restarts} of {job.max_restarts})"
            screen.report(f"{outcome.what}; {again}" + " when the other hosts have noticed" * bool(job.hosts))
            for _ in range(_HOSTS_PAUSE_SECONDS * 10 if job.hosts else 0):
                if not signals.count:
                    time.sleep(0.1)
            if signals.count:
                return _make_interrupted(signals)


_PROGRAM = "import sys; from tfkit.distribution.launcher import work; sys.exit(work(sys.argv[1]))"
_FUNCTION, _RESULT = "function.pickle", "result.pickle"


def launch(fn: Callable[[], T], *, workers: int = 2, max_restarts: int = 0, **patience: Any) -> T:
    """Run a function in several processes that train together, and return what the first of them returns.

        def train():
            strategy = tfkit.distribution.strategy("multi_worker_mirrored")
            with strategy.scope():
                model = build()
            return model.fit(dataset, epochs=3).history

        history = tfkit.distribution.launch(train, workers=2)

    The function and what it refers to are copied into the workers, so it may be defined in a cell; it imports
    TensorFlow there. The first worker's output appears as it is printed. Interrupting the cell stops the
    workers: each gets SIGTERM first, to save.

    Args:
      fn: takes nothing; its value in the first worker must be picklable.
      workers: processes on this machine.
      max_restarts: how often to start all again after a death; for a function that goes on from a checkpoint.
      patience: `grace_seconds`, `hang_seconds`, `join_seconds` and `pin` of `Job`.

    Returns:
      What `fn` returned in the first worker; what it returned in the others is dropped.

    Raises:
      WorkerError: the function raised in a worker (the traceback is shown), or a worker died.
      ConfigError: the function cannot be copied, or a setting is out of range.
      KeyboardInterrupt: the cell was interrupted; no worker is left.
    """
    import cloudpickle

    name = getattr(fn, "__qualname__", str(fn))
    try:
        copy = cloudpickle.dumps(fn)
    except Exception as error:
        raise ConfigError(
            f"{name!r} cannot be copied into the workers: {type(error).__name__}: {error}\n  What belongs to this"
            " process (a model, a dataset, an open file) is to be made inside the function."
        ) from error
    # Readable by this user alone: a pickle runs code where it is read.
    with tempfile.TemporaryDirectory(prefix="tfkit-function-") as folder:
        Path(folder, _FUNCTION).write_bytes(copy)
        job = Job(
            words=("-c", _PROGRAM, folder),
            workers=workers,
            max_restarts=max_restarts,
            environment={"PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, sys.path)))},
            title=f"{name}()",
            **patience,
        )
        outcome = run(job, screen=Screen(only_first=True))
        if outcome.kind == "interrupted":
            raise KeyboardInterrupt(outcome.what)
        if outcome.kind != "done":
            raise WorkerError(str(outcome))
        result: T = pickle.loads(Path(folder, _RESULT).read_bytes())
        return result


def work(name: str) -> int:
    """Run the function of the folder in this worker; returns the exit code."""
    import cloudpickle

    heartbeat.start()
    try:
        result = pickle.loads(Path(name, _FUNCTION).read_bytes())()
        if cluster.current().is_chief:
            files.write_bytes(Path(name, _RESULT), cloudpickle.dumps(result))
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        if cluster.is_loss_of_peer(error):
            return PEER_LOST
        heartbeat.give_up(traceback.format_exc().rstrip())
        return 1
    return 0


_EXAMPLES = f"""
examples:
  python -m tfkit launch --workers 2 -- -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
  python -m tfkit launch --hosts host1:2222,host2:2222 --task-index 0 -- -m recipes.train_distributed
  python -m tfkit launch --private-network -- script.py

{EXIT_CODES}
"""


def parse(words: Sequence[str]) -> tuple[Job, str]:
    """Return the job that a command line describes, and the engine that is to run it: `local` or `ray`.

    Raises:
      ConfigError: what was asked cannot be done.
    """
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
    cut = words.index("--") if "--" in words else len(words)
    if programs := [place for place in range(cut) if words[place] == "-m" or words[place].endswith(".py")]:
        begin = programs[0]
        right = shlex.join(
            ["launch", *words[:begin], "--", *(word for word in words[begin:] if word != "--")]
        )
        raise ConfigError(f"The program, {words[begin]}, comes after two dashes:\n  python -m tfkit {right}")
    options = vars(command.parse_args(words[:cut]))
    _check_flags(options)
    if options.pop("private_network", False):
        network.enter_private([sys.executable, "-m", "tfkit", "launch", *words])
    engine = options.pop("engine", "local")
    return Job(**options, words=tuple(words[cut + 1 :])), engine


def _check_flags(options: dict[str, Any]) -> None:
    """Split the hosts; refuse flags that contradict each other."""
    value = options.pop("hosts", None)
    options["hosts"] = hosts = tuple(re.findall(r"[^\s,]+", value or ""))
    if not (value is not None) == bool(hosts) == ("task_index" in options):
        raise ConfigError(
            "--hosts (every worker) and --task-index (which of them this machine is: 0, 1, ...) go together:"
            " --hosts host1:2222,host2:2222 --task-index 0"
        )
    of_one_machine = {"workers", "engine", "private_network", "parameter_servers"}
    conflicts, reason = options.keys() & of_one_machine if hosts else set(), "--hosts"
    if options.get("engine") == "ray" and "parameter_servers" in options:
        conflicts, reason = {"parameter_servers"}, "--engine ray"
    if conflicts:
        flags = ", ".join(map(fields.flag, sorted(conflicts)))
        raise ConfigError(f"{flags} does not go with {reason}. Leave it out.")


def run_and_report(job: Job) -> int:
    """Run a job; say how it ended, and return the exit code."""
    outcome = run(job, screen=Screen())
    if outcome.kind != "done":
        text = f"Interrupted. {AGAIN}" if outcome.kind == "interrupted" else f"WorkerError: {outcome}"
        print(text, file=sys.stderr)
    return outcome.code
