"""Which recipe made a run, with which settings: for recipes that go on from one."""

from __future__ import annotations

from tfkit.errors import RunError
from tfkit.run import CONFIG, Run
from tfkit.settings.options import DataConfig
from tfkit.settings.parse import parse


def config_of(run: Run, *, instead: str, also_distributed: bool = False) -> DataConfig:
    """The settings of the recipe that made the run.

    Args:
      run: of a recipe.
      instead: what does the job for other runs: a call of Python, or flags.
      also_distributed: whether a run of `train_distributed` will do.

    Raises:
      RunError: none of these recipes made it.
    """
    from recipes import train_distributed, train_private, transfer_image, transfer_text

    config_classes: dict[str, type[DataConfig]] = {
        "transfer_image": transfer_image.Config,
        "transfer_text": transfer_text.Config,
        "train_private": train_private.Config,
    }
    if also_distributed:
        config_classes["train_distributed"] = train_distributed.Config
    _ = run.config  # which names a malformed file as every reader of a run does
    recipe = run.provenance.get("recipe", {}).get("name")
    if recipe not in config_classes:
        raise RunError(
            f"{run.path} was made by {recipe or 'no recipe'}; this takes runs of {' and '.join(config_classes)}."
            f"\n  For others: {instead}."
        )
    return parse(config_classes[recipe], ["--config", str(run.path / CONFIG)], prog=recipe, description="")
