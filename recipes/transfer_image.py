"""Fine-tune an image classifier from TF Hub on a folder of photos.

Examples:
    python -m recipes.transfer_image                                   (embedded digits and backbone, offline)
    python -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
    python -m recipes.transfer_image --data-dir photos/ --fine-tune-epochs 5 --augment standard
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from tfkit import cli
from tfkit.config import TransferConfig, as_dict, run_dir
from tfkit.errors import ConfigError
from tfkit.run import Run


@dataclass(frozen=True, kw_only=True)
class Config(TransferConfig):
    """What to train on, from which backbone, for how long."""

    data_dir: Path | None = None
    """Folder with one subfolder a class, or with train/, validation/ and test/ of such. Left out: --dataset."""

    dataset: str = "digits"
    """Where there is no --data-dir: digits or mnist5k (embedded), or tfds:NAME (tensorflow-datasets)."""

    strict: bool = False
    """Make an unreadable image an error instead of skipping it."""

    model_handle: str = "efficientnet-lite0"
    """TF Hub or Kaggle model URL, gs:// or local SavedModel folder, .tar.gz, or a bundled name
    (python -m tfkit models lists them)."""

    sha256: str | None = None
    """What the downloaded archive must hash to."""

    input_range: tuple[float, float] | None = None
    """What the model expects for black and white. Left out: what is known of it, else 0 1 (TF Hub's convention)."""

    image_size: int | None = None
    """Side in pixels. Left out: what the model was made for, or 96 for images smaller than that."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ConfigError(
                f"--data-dir {self.data_dir} is not a folder. Expected {self.data_dir}/<class>/<image>."
            )
        if self.image_size is not None and not 16 <= self.image_size <= 1024:
            raise ConfigError(f"--image-size is {self.image_size}; a side of 16 to 1024 pixels is expected.")


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
    from tfkit import data, hub, report, stack, transfer

    began = time.monotonic()
    backbone = hub.resolve(config.model_handle, sha256=config.sha256, input_range=config.input_range).check(
        image_size=config.image_size, trainable=bool(config.fine_tune_epochs)
    )
    splits = data.load_images(
        config.data_dir or config.dataset,
        image_size=config.image_size or (backbone.native_size if backbone.fixed_size else None),
        native_size=backbone.native_size,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        strict=config.strict,
    )
    run.versions = stack.versions()
    transfer.describe(run, backbone, splits, recipe="transfer_image")
    classifier = transfer.train(run, backbone, splits, config)
    transfer.conclude(run, classifier, splits)
    run.record({"time/total_seconds": time.monotonic() - began})
    report.write_report(run)


if __name__ == "__main__":
    cli.main(Config, run)
