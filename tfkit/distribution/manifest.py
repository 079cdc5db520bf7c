"""`python -m tfkit manifest KIND`: a training job for Slurm or Kubernetes, written as their own file.

Each kind is a template beside this module: a batch script for Slurm (one worker a node, all started again after a
death, requeued after a preemption), and objects of Kubernetes for the training operator (TFJob), for JobSet and for
Kubeflow Trainer (TrainJob).
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

from tfkit.distribution.slurm import HIGHEST_PORT, LOWEST_PORT
from tfkit.environment import files
from tfkit.errors import ConfigError, RunError
from tfkit.run import Run
from tfkit.settings.parse import flags

PORT = 2222
KINDS = {
    "slurm": "a batch script for Slurm's sbatch",
    "tfjob": "Kubernetes: a TFJob for Kubeflow's training operator",
    "jobset": "Kubernetes: a JobSet",
    "trainjob": "Kubernetes: a TrainJob and its runtime for Kubeflow Trainer",
}
# Behind the name of a job, in the name of a pod: "-worker-0-" and 5 letters by which pods of one worker differ.
_LONGEST_NAME = 63 - len("-worker-0-") - len("-abcde")


@dataclass(frozen=True, kw_only=True)
class ScheduledJob:
    """What runs, and on how much.

    Attributes:
      words: what follows `python`: ("-m", "recipes.train_distributed", "--data-dir", ...).
      workers: processes, each on a machine (or in a pod) of its own.
      name: lower-case letters, digits and hyphens; a letter first.
      cpus: cores of each worker.
      memory: of each worker: "8Gi" or "512Mi".
      gpus: of each worker.
      max_restarts: how often all workers are started again after a death.
      image: of the container that has Python, tfkit and the recipes (Kubernetes).
      namespace: Kubernetes'.
      shared_claim: PersistentVolumeClaim that all pods can write to at once (ReadWriteMany).
      shared_mount: where the claim appears in the pods.
      time_limit: Slurm's, "hours:minutes:seconds" or "days-hours".
    """

    words: tuple[str, ...]
    workers: int = 2
    name: str = "tfkit"
    cpus: int = 4
    memory: str = "8Gi"
    gpus: int = 0
    max_restarts: int = 3
    image: str | None = None
    namespace: str = "default"
    shared_claim: str | None = None
    shared_mount: str = "/runs"
    time_limit: str = "08:00:00"

    def check(self, kind: str) -> None:
        """Refuse what no scheduler could run.

        Raises:
          ConfigError: it names all that is wrong at once.
        """
        problems: list[str] = []

        def expect(pattern: str, text: str | None, problem: str) -> None:
            if not re.fullmatch(pattern, text or ""):
                problems.append(problem)

        label, time = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}"
        room = _LONGEST_NAME - len(str(max(self.workers, 1) - 1))
        rule = "lower-case letters, digits and hyphens are expected"
        name = f"(?=[a-z])(?!.{{{room + 1}}}){label}"
        expect(name, self.name, f"--name {self.name!r}: at most {room} {rule}, a letter first.")
        memory = f"--memory {self.memory!r}: a whole number and Mi, Gi or Ti is expected, such as 8Gi."
        expect(r"[1-9][0-9]*[MGT]i", self.memory, memory)
        for field, least in (("workers", 1), ("cpus", 1), ("gpus", 0), ("max_restarts", 0)):
            if getattr(self, field) < least:
                flag = f"--{field.replace('_', '-')}"
                problems.append(f"{flag} is {getattr(self, field)}; it must be at least {least}.")
        run_dir = _value(self.words, "--run-dir")
        if len(self.words) < 2 or self.words[0] != "-m" or not run_dir:
            problems.append(
                "What is to run is not said: --from-run RUN, or at the end -- -m recipes.train_distributed"
                " --data-dir DATA --run-dir RUN; --run-dir on storage that all workers share."
            )
        if kind == "slurm":
            expected = "hours:minutes:seconds or days-hours is expected"
            # What Slurm's manual page of sbatch lists for --time.
            expect(time, self.time_limit, f"--time {self.time_limit!r}: {expected}.")
        else:
            image = "the container image with Python, tfkit and the recipes is expected"
            expect(r"[^\s-]\S*", self.image, f"--image {self.image!r}: {image}.")
            namespace = f"--namespace {self.namespace!r}: {rule} (RFC 1123)."
            expect(f"(?!.{{64}}){label}", self.namespace, namespace)
            claim = "a PersistentVolumeClaim that all pods can write to (ReadWriteMany): the run folder outlives them"
            claim_problem = f"--shared-claim {self.shared_claim!r}: {claim}; {rule} (RFC 1123)."
            expect(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", self.shared_claim, claim_problem)
            mount = PurePosixPath(self.shared_mount)
            if len(mount.parts) < 2 or not mount.is_absolute():
                problems.append(f"--shared-mount {mount}: an absolute path is expected, such as /runs.")
            elif run_dir and not PurePosixPath(run_dir).is_relative_to(mount):
                problems.append(
                    f"--run-dir {run_dir} is not under {mount}, where the shared claim is mounted."
                )
            if "--overwrite" in self.words:
                problems.append(
                    "--overwrite: each new pod would obey it and remove the backup that it is to go on from, and"
                    " Kubernetes does not tell a pod that it is not the first. Give a new --run-dir instead."
                )
        if problems:
            raise ConfigError("This job cannot be described:\n  " + "\n  ".join(problems))


def manifest(kind: str, job: ScheduledJob) -> str:
    """Return the text to give to `sbatch` or to `kubectl apply -f`.

    Args:
      kind: `slurm`, `tfjob`, `jobset` or `trainjob`.
      job: what runs, and on how much.

    Raises:
      ConfigError: what is asked cannot be; all problems are named.

    Example: manifest("jobset", ScheduledJob(words=("-m", "recipes.train_distributed", "--run-dir", "/runs/a"),
      workers=4, image="registry/tfkit:1", shared_claim="runs"))
    """
    import jinja2

    if kind not in KINDS:
        raise ConfigError(f"A manifest of kind {kind!r} is not known. Use one of: {', '.join(KINDS)}.")
    job.check(kind)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["quoted"] = _quoted
    if kind == "slurm":
        clustered = _value(job.words, "--cluster") is not None
        words = shlex.join([*job.words, *([] if clustered else ["--cluster", "slurm"])])
        ports = (LOWEST_PORT, HIGHEST_PORT)
        return templates.get_template("slurm.sh.j2").render(job=job, words=words, ports=ports)
    text = templates.get_template(f"{kind}.yaml.j2").render(job=job, port=PORT)
    lines = [line for line in text.splitlines() if line.strip()]
    data_dir = _value(job.words, "--data-dir")
    if data_dir is not None and not PurePosixPath(data_dir).is_relative_to(job.shared_mount):
        lines.insert(
            0, f"# --data-dir {_quoted(data_dir)} is not under {job.shared_mount}: the image must hold it."
        )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a string of YAML in double quotes, on one line."""
    import yaml

    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).strip()


def _value(words: Sequence[str], flag: str) -> str | None:
    """Return the last value of a flag, written `--flag value` or `--flag=value`."""
    value = None
    for word, following in zip(words, (*words[1:], None), strict=True):
        if word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        elif word == flag and following is not None:
            value = following
    return value


def words_of(run_dir: Path, *, changes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what follows `python` in the command line that asks for what a run was asked for, on whatever machines.

    Args:
      run_dir: of a run that a recipe made or began.
      changes: flags that override what the run's config.yaml says. `--run-dir` belongs here: config.yaml has none.

    Raises:
      RunError: no recipe made that folder.
    """
    run = Run.open(run_dir)
    recipe = run.provenance.get("recipe", {}).get("name")
    if not recipe or not recipe.isidentifier():
        raise RunError(
            f"{run_dir} was made by no recipe: its provenance.json names none."
            "\n  Say what is to run: ... -- -m recipes.train_distributed --run-dir RUN"
        )
    return ("-m", f"recipes.{recipe}", *flags(run.config), *changes)


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `manifest` to the commands of `python -m tfkit`."""
    parser = commands.add_parser("manifest", help="write a training job as a file for Slurm or Kubernetes")
    kinds = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for kind, meaning in KINDS.items():
        usage = "%(prog)s [options] (--from-run RUN [-- FLAG ...] | -- -m recipes.NAME FLAG ...)"
        _add_options(kinds.add_parser(kind, help=meaning, usage=usage), kind)


def _add_options(parser: argparse.ArgumentParser, kind: str) -> None:
    add, job = parser.add_argument, ScheduledJob
    parser.set_defaults(run=write)
    add(
        "words",
        nargs="*",
        metavar="WORD",
        help="after --: what follows `python`, or flags that change --from-run",
    )
    add("--from-run", type=Path, metavar="RUN", help="ask for what this run was asked for (its config.yaml)")
    add("--workers", type=int, metavar="N", help=f"processes, a machine each; left out: {job.workers}")
    add("--name", help="of the job: lower-case letters, digits, hyphens")
    add("--cpus", type=int, metavar="N", help=f"cores of a worker; left out: {job.cpus}")
    add("--memory", metavar="AMOUNT", help=f"of a worker, in Mi, Gi or Ti; left out: {job.memory}")
    add("--gpus", type=int, metavar="N", help="of a worker; left out: none")
    add("--max-restarts", type=int, metavar="N", help=f"after deaths; left out: {job.max_restarts}")
    add("--output", type=Path, metavar="FILE", help="write it there; left out: on the screen")
    if kind == "slurm":
        add("--time", dest="time_limit", metavar="TIME", help=f"Slurm's limit; left out: {job.time_limit}")
        return
    add("--image", help="container image with Python, tfkit and the recipes")
    add("--namespace", help=f"left out: {job.namespace}")
    claim = "PersistentVolumeClaim (ReadWriteMany) for run folder and data"
    add("--shared-claim", metavar="PVC", help=claim)
    add("--shared-mount", metavar="PATH", help=f"where it appears in a pod; left out: {job.shared_mount}")


def write(options: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit code."""
    names = {field.name for field in fields(ScheduledJob)}
    given = {key: value for key, value in vars(options).items() if key in names and value is not None}
    given["words"] = tuple(options.words)
    if options.from_run is not None:
        if options.words[:1] == ["-m"]:
            raise ConfigError(
                f"Both --from-run {options.from_run} and {' '.join(options.words[:2])} say what is to run."
                "\n  With --from-run, only flags that change what the run asked for follow --."
            )
        folder = options.from_run.resolve()
        plain = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
        name = given.setdefault("name", plain if plain[:1].isalpha() else f"run-{plain}".strip("-"))
        if _value(options.words, "--run-dir") is None:
            # A new folder: the run that was asked for may be whole, and is not to be overwritten.
            mount = given.get("shared_mount", ScheduledJob.shared_mount)
            parent = folder.parent if options.kind == "slurm" else PurePosixPath(mount)
            workers = given.get("workers", ScheduledJob.workers)
            options.words += ["--run-dir", str(parent / f"{name}-{workers}-workers")]
        given["words"] = words_of(options.from_run, changes=options.words)
    text = manifest(options.kind, ScheduledJob(**given))
    if options.output is None:
        print(text, end="")
    else:
        files.write_text(options.output, text)
        apply = "sbatch" if options.kind == "slurm" else "kubectl apply -f"
        print(f"{options.output}: {KINDS[options.kind]}. Start it: {apply} {options.output}")
    return 0
