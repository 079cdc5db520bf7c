"""Train an image classifier on all the devices and machines there are.

Examples:
    python -m recipes.train_distributed --strategy mirrored --logical-cpus 2          (a rehearsal on one machine)
    python -m tfkit launch --workers 2 -- -m recipes.train_distributed --data-dir photos/ --run-dir runs/photos
    python -m tfkit launch --hosts host1:2222,host2:2222 --task-index 0 -- -m recipes.train_distributed ...
    srun -N 4 python -m recipes.train_distributed --cluster slurm --run-dir SHARED/photos
"""

from __future__ import annotations

from tfkit import cli
from tfkit.run import Run
from tfkit.settings.options import WholeModelSettings
from tfkit.transfer.train import train_classifier

Config = WholeModelSettings


def run(config: Config) -> Run:
    """Train, measure and export the classifier.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return train_classifier(config, recipe="train_distributed")


if __name__ == "__main__":
    cli.main(Config, run)
