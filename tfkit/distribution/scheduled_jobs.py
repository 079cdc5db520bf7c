"""A job for somebody else's scheduler: what it runs, on how much, and what is wrong with that."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tfkit.errors import ConfigError, RunError
from tfkit.run import Run
from tfkit.settings.parse import flags

PORT = 2222
# Behind the name of a job, in the name of a pod: "-worker-0-" and 5 letters by which pods of one worker differ.
_LONGEST_NAME = 63 - len("-worker-0-") - len("-abcde")


@dataclass(frozen=True, kw_only=True)
class Job:
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

    def check(self, *, kubernetes: bool) -> None:
        """Refuse what no scheduler could run.

        Raises:
          ConfigError: it names all that is wrong at once.
        """
        problems = [
            *self._problems(),
            *(self._problems_of_pods() if kubernetes else self._problems_of_slurm()),
        ]
        if problems:
            raise ConfigError("This job cannot be described:\n  " + "\n  ".join(problems))

    def _problems(self) -> list[str]:
        label = r"[a-z]([-a-z0-9]*[a-z0-9])?"
        found = []
        room = _LONGEST_NAME - len(str(max(self.workers, 1) - 1))
        if not re.fullmatch(label, self.name) or len(self.name) > room:
            found.append(
                f"--name {self.name!r}: at most {room} lower-case letters, digits and hyphens are expected, a letter"
                " first (workers are addressed by it)."
            )
        for flag, value, least in (
            ("--workers", self.workers, 1),
            ("--cpus", self.cpus, 1),
            ("--gpus", self.gpus, 0),
            ("--max-restarts", self.max_restarts, 0),
        ):
            if value < least:
                found.append(f"{flag} is {value}; it must be at least {least}.")
        if not re.fullmatch(r"[1-9][0-9]*[MGT]i", self.memory):
            found.append(
                f"--memory {self.memory!r}: a whole number and Mi, Gi or Ti is expected, such as 8Gi."
            )
        if len(self.words) < 2 or self.words[0] != "-m":
            found.append(
                "What is to run is not said: --from-run RUN, or at the end"
                " -- -m recipes.train_distributed --data-dir DATA --run-dir RUN."
            )
        elif _value(self.words, "--run-dir") is None:
            found.append("--run-dir is not said after --; it must be on storage that all workers share.")
        return found

    def _problems_of_slurm(self) -> list[str]:
        # What Slurm's manual page of sbatch lists for --time.
        if re.fullmatch(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}", self.time_limit):
            return []
        return [f"--time {self.time_limit!r}: hours:minutes:seconds or days-hours is expected."]

    def _problems_of_pods(self) -> list[str]:
        found = []
        if not self.image:
            found.append("--image is not said: the container image with Python, tfkit and the recipes.")
        elif re.search(r"\s", self.image) or self.image.startswith("-"):
            found.append(f"--image {self.image!r} is not the name of an image.")
        for flag, value, pattern, longest in (
            ("--namespace", self.namespace, r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", 63),
            ("--shared-claim", self.shared_claim or "claim", r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", 253),
        ):
            if not re.fullmatch(pattern, value) or len(value) > longest:
                found.append(
                    f"{flag} {value!r}: lower-case letters, digits and hyphens are expected (RFC 1123)."
                )
        if not self.shared_claim:
            found.append(
                "--shared-claim is not said: the run folder must outlive the pods, on a PersistentVolumeClaim"
                " that all of them can write to (ReadWriteMany)."
            )
        mount = PurePosixPath(self.shared_mount)
        run_dir = _value(self.words, "--run-dir")
        if not mount.is_absolute() or mount == PurePosixPath("/"):
            found.append(
                f"--shared-mount {self.shared_mount!r}: an absolute path is expected, such as /runs."
            )
        elif run_dir is not None and not PurePosixPath(run_dir).is_relative_to(mount):
            found.append(f"--run-dir {run_dir} is not under {mount}, where the shared claim is mounted.")
        if "--overwrite" in self.words:
            found.append(
                "--overwrite is among the words: each new pod would obey it and remove the backup from which it is to"
                " go on, and Kubernetes does not tell a pod that it is not the first. Leave it out, and give a new"
                " --run-dir."
            )
        return found

    def remarks_about_pods(self) -> list[str]:
        """What may be meant and may be a mistake: data that the pods see only if the image holds it."""
        data_dir = _value(self.words, "--data-dir")
        if data_dir is None or PurePosixPath(data_dir).is_relative_to(self.shared_mount):
            return []
        return [f"--data-dir {data_dir} is not under {self.shared_mount}: the image must hold it."]


def words_of(run_dir: Path, *, changes: Sequence[str] = ()) -> tuple[str, ...]:
    """What follows `python` in the command line that asks for what a run was asked for, on whatever machines.

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


def _value(words: Sequence[str], flag: str) -> str | None:
    """The last value of a flag, written `--flag value` or `--flag=value`; the last one counts."""
    found = None
    for position, word in enumerate(words):
        if word.startswith(f"{flag}="):
            found = word.partition("=")[2]
        elif word == flag and position + 1 < len(words):
            found = words[position + 1]
    return found
