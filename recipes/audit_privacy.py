"""Attack the model of a finished run, to see whether it tells who was in its training data.

A SavedModel is a program, which can read and write files: attack a stranger's in a sandbox.

Examples:
    python -m recipes.audit_privacy --run-dir runs/private
    python -m recipes.audit_privacy --run-dir runs/private --shadows 16                     (LiRA too: minutes)
    python -m recipes.audit_privacy --run-dir runs/mails --canaries 10                     (codes among texts: a minute)
    python -m recipes.audit_privacy --run-dir runs/photos --attacks threshold logistic forest
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfkit import cli
from tfkit.errors import ConfigError
from tfkit.run import AUDIT, Run
from tfkit.settings import fields
from tfkit.settings.options import RecipeConfig
from tfkit.transfer.train import settings_of


@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """Which run, and with what. --run-dir names the run that is attacked; its model and settings stay as they are."""

    attacks: tuple[Literal["threshold", "logistic", "entropy", "forest", "mlp", "knn"], ...] = (
        "threshold",
        "logistic",
    )
    """Attackers: threshold (of the loss), logistic, entropy, forest, mlp, knn. The last three take minutes."""

    shadows: fields.Whole = 0
    """Shadow models for LiRA, trained as the run's head was: 16 give a strong attack. 0: no LiRA."""

    canaries: fields.Whole = 0
    """Of runs on texts: train the head anew with so many made-up codes once, as many 4 and as many 16 times among its
    texts, and measure their exposure: 10 tell enough. 0: none."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.run_dir is None:
            raise ConfigError("--run-dir is missing: the folder of the run that is to be attacked.")
        if self.shadows and (self.shadows < 4 or self.shadows % 2):
            raise ConfigError(f"--shadows is {self.shadows}; an even number of 4 or more is needed, or 0.")


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The run, with audit.json, metrics `audit/...`, pictures in TensorBoard, and its report written anew.

    Raises:
      CheckError: the claimed epsilon is refuted.
      TfkitError: see `tfkit.errors`.
    """
    from tfkit import auditing, reporting

    assert config.run_dir is not None, "__post_init__ sees to it"
    audited = Run.open(config.run_dir)
    audited.check_writable()
    its_config = settings_of(
        audited,
        recipes=("transfer_image", "transfer_text", "train_private"),
        otherwise="tfkit.auditing.audit(run, splits), with the splits that it was trained on",
    )
    try:
        auditing.audit_recipe(
            audited,
            its_config,
            attacks=config.attacks,
            shadows=config.shadows,
            canaries=config.canaries,
            seed=config.seed,
        )
    finally:
        if (audited.path / AUDIT).is_file():
            reporting.write_report(audited)
    return audited


def closing_lines(run: Run) -> list[str]:
    """What was found, and where it is."""

    found = run.read(AUDIT)
    return [
        "",
        found["verdict"],
        *([found["exposure"]["verdict"]] if found["exposure"] else []),
        f"audit        {run.path / 'audit.json'}",
        *cli.where_to_look(run),
    ]


if __name__ == "__main__":
    cli.main(Config, run, closing=closing_lines)
