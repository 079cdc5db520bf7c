"""Fine-tune an image classifier from TF Hub on a folder of photos.

Examples:
    python -m recipes.transfer_image                                   (embedded digits and backbone, offline)
    python -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
    python -m recipes.transfer_image --data-dir photos/ --fine-tune-epochs 5 --augment standard
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tfkit import cli
from tfkit.config import ImageConfig, TransferConfig, as_dict, run_dir
from tfkit.run import Run


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig, TransferConfig):
    """What to train on, from which backbone, for how long."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    folder = run_dir(config, recipe="transfer_image")
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            print(f"{run.path} holds the finished run of this very config; --overwrite would do it again.")
        else:
            _train(config, run)
    return run


def _train(config: Config, run: Run) -> None:
    from tfkit import report, stack, transfer

    began = time.monotonic()
    backbone, splits = transfer.load(
        config, global_batch_size=config.global_batch_size, trainable=bool(config.fine_tune_epochs)
    )
    run.versions = stack.versions()
    transfer.describe(run, backbone, splits, recipe="transfer_image")
    classifier = transfer.train(run, backbone, splits, config)
    transfer.conclude(run, classifier, splits)
    run.record({"time/total_seconds": time.monotonic() - began})
    report.write_report(run)


if __name__ == "__main__":
    cli.main(Config, run)
