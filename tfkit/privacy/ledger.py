"""The account of a private training, beside its backups: weights without their account are not trained further."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from tfkit import files
from tfkit import run as runs
from tfkit.errors import RunError
from tfkit.privacy.mechanism import Plan
from tfkit.run import Run

LEDGER, MEAN = "ledger.json", "mean.npy"
ACCOUNTED = (
    "noise_multiplier", "gradient_noise_multiplier", "count_noise", "release_noise", "sampler", "sampling_probability",
    "steps_per_epoch", "delta", "l2_norm_clip",
)  # fmt: skip
"""Of a plan: what one epsilon of all epochs takes for granted, also of those that an earlier process took."""


class Ledger:
    """How many epochs were ever begun in one stage of a run.

    Args:
      run: of the training.
      stage: names the folder of its backups.

    Raises:
      RunError: the account is lost, damaged or of another training; other stages were trained in this run.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self._run = run
        self._folder = run.backup / stage
        self.path = self._folder / LEDGER
        self.epochs_begun = 0
        self.identity = secrets.token_hex(16)
        self._plan: dict[str, Any] | None = None
        _refuse_other_stages(run.backup, stage)
        if self.path.is_file():
            self._read()
        else:
            self._refuse_lost()

    def check_plan(self, plan: Plan) -> None:
        """Raise where the epochs that were begun before were accounted otherwise."""
        wanted = {name: getattr(plan, name) for name in ACCOUNTED}
        if self._plan is not None and self._plan != wanted:
            changed = [
                f"{name} {self._plan.get(name)} there, {wanted[name]} now"
                for name in ACCOUNTED
                if self._plan.get(name) != wanted[name]
            ]
            raise self._wrong(f"is of another plan ({'; '.join(changed)})")
        self._plan = wanted

    def check_weights(self, *, epoch: int, saved: tuple[str, int] | None) -> None:
        """Raise where these are not the account of the weights that were restored.

        Args:
          epoch: that the weights begin.
          saved: identity and epochs begun of the account when they were saved; None: nothing was restored.
        """
        if saved is not None and saved[0] != self.identity:
            raise self._wrong("is the account of another training than the backups beside it")
        begun = max(epoch, saved[1] if saved else 0)
        if self.epochs_begun < begun:
            raise self._wrong(f"tells of {self.epochs_begun} epochs, and the backups beside it of {begun}")

    def begin_epoch(self) -> None:
        """Count an epoch, before anything of it can be seen. Of several workers each counts, and one writes."""
        self.epochs_begun += 1
        if self._run.is_chief:
            mean = self._folder / MEAN
            files.write_json(
                self.path,
                {
                    "epochs_begun": self.epochs_begun,
                    "training": self.identity,
                    "mean": files.digest(mean) if mean.is_file() else None,
                    "plan": self._plan,
                },
            )

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            self.epochs_begun, self._plan = content["epochs_begun"], dict(content["plan"])
            self.identity, mean = str(content["training"]), content["mean"]
            if type(self.epochs_begun) is not int or self.epochs_begun < 1:
                raise ValueError(f"epochs_begun {self.epochs_begun!r}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._wrong(f"is damaged ({type(error).__name__}: {error})") from error
        beside = self._folder / MEAN
        if mean is not None and not (beside.is_file() and files.digest(beside) == mean):
            raise RunError(
                f"{beside}, which was released from the training examples for the epochs that {LEDGER} counts, is"
                f" missing or another: to release it once more is not accounted.\n  {self._way_out}"
            )

    def _refuse_lost(self) -> None:
        of_training = [
            *sorted(self._folder.glob("[0-9]*")),
            self._run.shared / runs.PRIVACY,
            self._run.shared / runs.HISTORY,
            self._run.shared / runs.LOGS / "train",
        ]
        found = next((path for path in of_training if path.exists()), None)
        if found is not None:
            raise self._wrong(f"is missing, and {found} shows that this training had begun")

    def _wrong(self, what: str) -> RunError:
        return RunError(
            f"{self.path} {what}: nobody can tell what was spent, and an epsilon stated from it might be too small."
            f"\n  {self._way_out}"
        )

    @property
    def _way_out(self) -> str:
        return (
            f"Bring {self._folder} back as a whole, and give data and settings as they were; or begin anew with"
            " --overwrite (tfkit.fit: resume=False), which spends again on the same people."
        )


def _refuse_other_stages(backup: Path, stage: str) -> None:
    others = [path.name for path in sorted(backup.glob("*")) if path.is_dir() and path.name != stage]
    if others:
        raise RunError(
            f"{backup} holds what {' and '.join(others)} left, trained in this run before {stage}, and the epsilon of"
            f" {stage} would not cover it.\n  Train in a run folder of its own, on weights that do not come from the"
            " private examples."
        )


def refuse_after_private(run: Run) -> None:
    """Raise where a training without privacy would follow a private one in the same run.

    Raises:
      RunError: privacy.json would claim an epsilon for what it does not cover.
    """
    found = next(iter(sorted(run.backup.glob(f"*/{LEDGER}"))), None)
    if found is not None:
        raise RunError(
            f"{found} shows that this run was trained privately: training without privacy on the same examples would"
            " leave its epsilon untrue.\n  Train in a run folder of its own."
        )
