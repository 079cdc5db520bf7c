"""`python -m tfkit manifest KIND`: a training job for Slurm or Kubernetes, written as their own file."""

from __future__ import annotations

import argparse
import dataclasses
import re
import textwrap
from pathlib import Path, PurePosixPath
from typing import Any

from tfkit import files
from tfkit.errors import ConfigError
from tfkit.schedulers import jobs, kubernetes, sbatch
from tfkit.schedulers.jobs import Job

KINDS = {
    "slurm": "a batch script for Slurm's sbatch",
    "tfjob": "Kubernetes: a TFJob for Kubeflow's training operator",
    "jobset": "Kubernetes: a JobSet",
    "trainjob": "Kubernetes: a TrainJob and its runtime for Kubeflow Trainer",
}
_DESCRIBE = {"tfjob": kubernetes.tfjob, "jobset": kubernetes.jobset, "trainjob": kubernetes.trainjob}
_PORT_REMARK = (
    "TensorFlow's gRPC port asks nobody who they are. The NetworkPolicy lets only this job's pods reach its pods,"
    " where the cluster's network plug-in enforces such policies."
)


def manifest(kind: str, job: Job) -> str:
    """The text to give to `sbatch` or to `kubectl apply -f`.

    Args:
      kind: `slurm`, `tfjob`, `jobset` or `trainjob`.
      job: what runs, and on how much.

    Raises:
      ConfigError: what is asked cannot be; all problems are named.

    Example: manifest("jobset", Job(words=("-m", "recipes.train_distributed", "--run-dir", "/runs/a"), workers=4,
      image="registry/tfkit:1", shared_claim="runs"))
    """
    import yaml

    if kind == "slurm":
        return sbatch.script(job)
    if kind not in _DESCRIBE:
        raise ConfigError(f"A manifest of kind {kind!r} is not known. Use one of: {', '.join(KINDS)}.")
    job.check(kubernetes=True)
    objects, remarks = _DESCRIBE[kind](job)
    told = (_PORT_REMARK, *remarks, *job.remarks_about_pods())
    comments = "\n".join(
        textwrap.fill(remark, 110, initial_indent="# ", subsequent_indent="# ") for remark in told
    )
    return f"{comments}\n" + yaml.dump_all(objects, Dumper=_plain_dumper(), sort_keys=False, width=110)


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `manifest` to the commands of `python -m tfkit`."""
    parser = commands.add_parser("manifest", help="write a training job as a file for Slurm or Kubernetes")
    kinds = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for kind, meaning in KINDS.items():
        one = kinds.add_parser(
            kind,
            help=meaning,
            usage="%(prog)s [options] (--from-run RUN [-- FLAG ...] | -- -m recipes.NAME FLAG ...)",
        )
        _add_options(one, kubernetes=kind != "slurm")
        one.set_defaults(run=write)


def write(chosen: argparse.Namespace) -> int:
    """Do what the command line asked for; returns the exit code."""
    words: tuple[str, ...] = tuple(chosen.words)
    name = chosen.name
    if chosen.from_run is not None:
        name = name or _name_of(chosen.from_run)
        words = _words_of(chosen, name)
    fields = {field.name for field in dataclasses.fields(Job)}
    given = {key: value for key, value in vars(chosen).items() if key in fields and value is not None}
    job = Job(**{**given, "words": words, "name": name or Job.name})
    text = manifest(chosen.kind, job)
    if chosen.output is None:
        print(text, end="")
    else:
        files.write_text(chosen.output, text)
        apply = "sbatch" if chosen.kind == "slurm" else "kubectl apply -f"
        print(f"{chosen.output}: {KINDS[chosen.kind]}. Start it: {apply} {chosen.output}")
    return 0


def _plain_dumper() -> type[Any]:
    """Two equal parts are written twice: an alias is YAML that few expect in a manifest."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Dumper


def _add_options(parser: argparse.ArgumentParser, *, kubernetes: bool) -> None:
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="WORD",
        help="after --: what follows `python`, or flags that change --from-run",
    )
    add("--from-run", type=Path, metavar="RUN", help="ask for what this run was asked for (its config.yaml)")
    add("--workers", type=int, metavar="N", help=f"processes, a machine each; left out: {Job.workers}")
    add("--name", help="of the job: lower-case letters, digits, hyphens")
    add("--cpus", type=int, metavar="N", help=f"cores of a worker; left out: {Job.cpus}")
    add("--memory", metavar="AMOUNT", help=f"of a worker, in Mi, Gi or Ti; left out: {Job.memory}")
    add("--gpus", type=int, metavar="N", help="of a worker; left out: none")
    add("--max-restarts", type=int, metavar="N", help=f"after deaths; left out: {Job.max_restarts}")
    add("--output", type=Path, metavar="FILE", help="write it there; left out: on the screen")
    if kubernetes:
        add("--image", help="container image with Python, tfkit and the recipes")
        add("--namespace", help=f"left out: {Job.namespace}")
        add(
            "--shared-claim",
            metavar="PVC",
            help="PersistentVolumeClaim (ReadWriteMany) for run folder and data",
        )
        add("--shared-mount", metavar="PATH", help=f"where it appears in a pod; left out: {Job.shared_mount}")
    else:
        add("--time", dest="time_limit", metavar="TIME", help=f"Slurm's limit; left out: {Job.time_limit}")


def _name_of(run_dir: Path) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", run_dir.resolve().name.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"run-{plain}".strip("-")


def _words_of(chosen: argparse.Namespace, name: str) -> tuple[str, ...]:
    if chosen.words[:1] == ["-m"]:
        raise ConfigError(
            f"Both --from-run {chosen.from_run} and {' '.join(chosen.words[:2])} say what is to run."
            "\n  With --from-run, only flags that change what the run asked for follow --."
        )
    changes = list(chosen.words)
    if not any(word.partition("=")[0] == "--run-dir" for word in changes):
        # A new folder: the run that was asked for may be whole, and is not to be overwritten.
        if chosen.kind == "slurm":
            parent = str(chosen.from_run.resolve().parent)
        else:
            parent = chosen.shared_mount or Job.shared_mount
        changes += [
            "--run-dir",
            str(PurePosixPath(parent) / f"{name}-{chosen.workers or Job.workers}-workers"),
        ]
    return jobs.words_of(chosen.from_run, changes=changes)
