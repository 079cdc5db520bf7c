"""Train an image classifier with differential privacy, on features of a public TF Hub model.

Examples:
    python -m recipes.train_private --target-epsilon 3                (embedded digits and backbone, offline)
    python -m recipes.train_private --data-dir scans/ --target-epsilon 3 --delta 1e-5 --run-dir runs/private
    python -m recipes.train_private --data-dir scans/ --noise-multiplier 1.1 --no-features     (all layers)
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tfkit import cli
from tfkit.config import ImageConfig, PrivateConfig, as_dict, run_dir
from tfkit.run import Run


@dataclass(frozen=True, kw_only=True)
class Config(ImageConfig, PrivateConfig):
    """What to train on, from which backbone, and how private."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The finished run: its folder holds the model, privacy.json, the numbers, the logs and the report.

    Raises:
      TfkitError: see `tfkit.errors`; PrivacyError where no epsilon would hold.
    """
    folder = run_dir(config, recipe="train_private")
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
        config, global_batch_size=config.global_batch_size or 1, trainable=not config.features
    )
    run.versions = stack.versions()
    transfer.describe(run, backbone, splits, recipe="train_private", show_examples=False)
    classifier = transfer.train_private(run, backbone, splits, config)
    transfer.conclude(run, classifier, splits, show_examples=False)
    run.record({"time/total_seconds": time.monotonic() - began})
    report.write_report(run)


if __name__ == "__main__":
    cli.main(Config, run)
