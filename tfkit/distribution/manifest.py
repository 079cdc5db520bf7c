"""`python -m tfkit manifest KIND`: a training job for Slurm or Kubernetes, written as their own file.

Each kind is a template beside this module: a batch script for Slurm (one worker a node, all started again after a
death, requeued after a preemption), and objects of Kubernetes for the training operator (TFJob), for JobSet and for
Kubeflow Trainer (TrainJob).
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from tfkit.distribution.slurm import HIGHEST_PORT, LOWEST_PORT
from tfkit.environment import files
from tfkit.errors import ConfigError, RunError
from tfkit.run import Run
from tfkit.settings import fields
from tfkit.settings.parse import add_flags, flag_value, flags

KINDS = {
    "slurm": "a batch script for Slurm's sbatch",
    "tfjob": "Kubernetes: a TFJob for Kubeflow's training operator",
    "jobset": "Kubernetes: a JobSet",
    "trainjob": "Kubernetes: a TrainJob and its runtime for Kubeflow Trainer",
}
_LABEL, _RULE = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", "of lower-case letters, digits and hyphens (RFC 1123)"
# A pod's name has 63 characters, of which "-worker-0-1234-abcde" follows that of the job.
_NAME = fields.Pattern(rf"(?=[a-z])(?!.{{44}}){_LABEL}", f"{_RULE}, at most 43, a letter first")
# What Slurm's manual page of sbatch lists for --time.
_TIME = fields.Pattern(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}", "of hours:minutes:seconds or days-hours")
_SOURCES = ("data-dir", "data-file", "dataset")
_PODS = ("image", "namespace", "shared_claim", "shared_mount")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduledJob:
    """Describe what runs, and on how much; which flags there are follows from the fields."""

    words: tuple[str, ...]
    """Words after `python`: ("-m", "recipes.train_distributed", "--data-dir", ...)."""

    workers: fields.Count = 2
    """Processes that train together, a machine or pod each."""

    name: Annotated[str, _NAME] = "tfkit"
    """Of the job: lower-case letters, digits, hyphens."""

    cpus: fields.Count = 4
    """Cores of a worker."""

    memory: Annotated[str, fields.Pattern("[1-9][0-9]*[MGT]i", "of a whole number and Mi, Gi or Ti")] = "8Gi"
    """Of a worker, in Mi, Gi or Ti."""

    gpus: fields.NonNegativeInt = 0
    """Of a worker."""

    max_restarts: fields.NonNegativeInt = 3
    """Times that all workers are started again after a death."""

    image: Annotated[str, fields.Pattern(r"[^\s-]\S*", "that names a container image")] = ""
    """Container image with Python, tfkit and the recipes."""

    namespace: Annotated[str, fields.Pattern(f"(?!.{{64}}){_LABEL}", _RULE)] = "default"
    """Of Kubernetes."""

    shared_claim: Annotated[str, fields.Pattern(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", _RULE)] = ""
    """PersistentVolumeClaim that all pods can write to (ReadWriteMany), for run folder and data."""

    shared_mount: Annotated[str, fields.Pattern("/.*[^/].*", "with an absolute path")] = "/runs"
    """Folder of the claim in a pod."""

    time: Annotated[str, _TIME] = "08:00:00"
    """Slurm's limit."""

    def check(self, kind: str) -> None:
        """Refuse what no scheduler could run.

        Raises:
          ConfigError: it names all that is wrong at once.
        """
        problems = fields.problems(self, ("words", *_list_flags(kind)), label=fields.flag)
        run_dir = flag_value(self.words, "run-dir")
        if len(self.words) < 2 or self.words[0] != "-m" or not run_dir:
            problems.append(
                "What is to run is missing: --from-run RUN, or at the end -- -m recipes.train_distributed"
                " --data-dir DATA --run-dir RUN; --run-dir on storage that all workers share."
            )
        elif kind != "slurm" and not PurePosixPath(run_dir).is_relative_to(self.shared_mount):
            problems.append(f"--run-dir {run_dir} is not under --shared-mount {self.shared_mount}.")
        if kind != "slurm" and "--overwrite" in self.words:
            problems.append("--overwrite: each new pod would begin anew. Give a new --run-dir instead.")
        if "-m" in self.words[2:]:
            problems.append("Two programs: with --from-run, only flags that change it follow --.")
        if problems:
            raise ConfigError("This job cannot be described:\n  " + "\n  ".join(problems))


def _list_flags(kind: str) -> list[str]:
    absent = ("words", *(_PODS if kind == "slurm" else ("time",)))
    return [field.name for field in dataclasses.fields(ScheduledJob) if field.name not in absent]


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

    job.check(kind)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True)
    templates.filters["quoted"] = _to_yaml
    if kind == "slurm":
        line = shlex.join(job.words) + ("" if flag_value(job.words, "cluster") else " --cluster slurm")
        ports = (LOWEST_PORT, HIGHEST_PORT)
        return f"{templates.get_template('slurm.sh.j2').render(job=job, line=line, ports=ports)}\n"
    text = templates.get_template(f"{kind}.yaml.j2").render(job=job)
    for name in ("data-dir", "data-file", "continue-from"):
        place = flag_value(job.words, name)
        if place is not None and not PurePosixPath(place).is_relative_to(job.shared_mount):
            text = f"# --{name} {_to_yaml(place)} is not under {job.shared_mount}: the image must hold it.\n{text}"
    return re.sub(r"\n\s*\n", "\n", f"{text.strip()}\n")


def _to_yaml(text: str) -> str:
    """Return a string of YAML in double quotes, on one line."""
    import yaml

    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf")).strip()


def words_of(run_dir: Path, changes: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what follows `python` in the command line that asks for what a run was asked for, on whatever machines.

    Args:
      run_dir: of a run that a recipe made or began; its config.yaml, and so what is returned, has no `--run-dir`.
      changes: flags that follow; where they name data, the run's own are left out.

    Raises:
      RunError: no recipe made that folder.
    """
    run = Run.open(run_dir)
    recipe = run.provenance.get("recipe", {}).get("name")
    if not recipe or not recipe.isidentifier():
        raise RunError(f"{run_dir} was made by no recipe. Say what is to run: -- -m recipes.NAME ...")
    sources = {*_SOURCES} if any(flag_value(changes, name) for name in _SOURCES) else set()
    settings = {name: value for name, value in run.config.items() if name.replace("_", "-") not in sources}
    return ("-m", f"recipes.{recipe}", *flags(settings))


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `manifest` to the commands of `python -m tfkit`."""
    parser = commands.add_parser("manifest", help="write a training job as a file for Slurm or Kubernetes")
    kinds = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for kind, meaning in KINDS.items():
        usage = "%(prog)s [options] (--from-run RUN [-- FLAG ...] | -- -m recipes.NAME FLAG ...)"
        sub = kinds.add_parser(kind, help=meaning, usage=usage)
        sub.set_defaults(run=write)
        words_help = "after --: what follows `python`, or flags that change --from-run"
        sub.add_argument("words", nargs="*", metavar="WORD", help=words_help)
        add_flags(sub, ScheduledJob, _list_flags(kind))
        run_help = "ask for what this run was asked for (its config.yaml)"
        sub.add_argument("--from-run", type=Path, metavar="RUN", help=run_help)
        sub.add_argument("--output", type=Path, metavar="FILE", help="write it there, and not on the screen")


def write(options: argparse.Namespace) -> int:
    """Do what the command line asks for; returns the exit code."""
    settings = {name: getattr(options, name) for name in _list_flags(options.kind) if name in options}
    words = options.words
    if options.from_run is not None:
        folder = options.from_run.resolve()
        slug = re.sub(r"[^a-z0-9]+", "-", folder.name.lower()).strip("-")
        settings.setdefault("name", slug if slug[:1].isalpha() else f"run-{slug}".strip("-"))
        if flag_value(words, "run-dir") is None:
            # A new folder: the run that was asked for may be whole, and is not to be overwritten.
            job = ScheduledJob(words=(), **settings)
            parent = folder.parent if options.kind == "slurm" else PurePosixPath(job.shared_mount)
            words = [*words, "--run-dir", str(parent / f"{job.name}-{job.workers}-workers")]
        words = [*words_of(options.from_run, words), *words]
    text = manifest(options.kind, ScheduledJob(words=tuple(words), **settings))
    if options.output is None:
        print(text, end="")
    else:
        files.write_text(options.output, text)
        command = "sbatch" if options.kind == "slurm" else "kubectl apply -f"
        print(f"{KINDS[options.kind]}. Start it: {command} {options.output}")
    return 0
