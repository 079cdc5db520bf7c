"""What every recipe takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfkit.config import fields


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What every recipe takes."""

    config: Path | None = None
    """YAML file with any of these settings (a run's config.yaml replays it); flags override it.
    Left out: flags alone."""

    run_dir: Path | None = None
    """Folder for all that the run makes. Left out: runs/ and a name made of the recipe and its settings."""

    overwrite: bool = False
    """Replace what an earlier run left in the run folder."""

    json: bool = False
    """Print one JSON object at the end, and everything else to stderr: run_dir, metrics, files, exit_code; or error."""

    quiet: bool = False
    """Print the closing lines and warnings alone."""

    debug: bool = False
    """Show the traceback of an error."""

    seed: fields.Seed = 0
    """Of the splits, the initial weights, the order, the augmentation and the dropout."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        fields.check(self, label=lambda name: f"--{name.replace('_', '-')}")

    @property
    def unused(self) -> tuple[str, ...]:
        """Settings that the others leave without a meaning: no part of what was asked."""
        return ()
