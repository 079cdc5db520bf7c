"""Attack the model of a finished run, to see whether it tells who was in its training data.

A SavedModel is a program, which can read and write files: attack a stranger's in a sandbox.

Examples:
    python -m recipes.audit_privacy --run-dir runs/private
    python -m recipes.audit_privacy --run-dir runs/private --shadows 16                     (LiRA too: minutes)
    python -m recipes.audit_privacy --run-dir runs/mails --canaries 10                     (codes among texts: a minute)
    python -m recipes.audit_privacy --run-dir runs/photos --attacks threshold logistic forest
"""

from __future__ import annotations

from tfkit import cli
from tfkit.run import AUDIT, Run
from tfkit.settings.jobs import AuditConfig

Config = AuditConfig


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
    from tfkit import auditing

    assert config.run_dir is not None, "__post_init__ sees to it"
    target = Run.open(config.run_dir)
    names = ("attacks", "shadows", "canaries", "seed")
    auditing.audit(target, **{name: getattr(config, name) for name in names})
    return target


def closing_lines(run: Run) -> list[str]:
    """Return what was found, and where it is."""
    audit = run.read(AUDIT)
    return [
        "",
        audit["verdict"],
        *([audit["exposure"]["verdict"]] if audit["exposure"] else []),
        f"audit        {run.path / 'audit.json'}",
        *([cli.took(run)] if run.times else []),
        *cli.where_to_look(run),
    ]


if __name__ == "__main__":
    cli.main(Config, run, closing=closing_lines)
