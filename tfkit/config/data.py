"""What to train on, from which model: common to images and texts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfkit.config.base import RecipeConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig(RecipeConfig):
    """Which examples, and which pretrained model."""

    data_dir: Path | None = None
    """Folder with one subfolder a class, or with train/, validation/ and test/ of such. Left out: --dataset."""

    dataset: str = "digits"
    """Where there is no --data-dir: digits or mnist5k (embedded), or tfds:NAME (tensorflow-datasets)."""

    strict: bool = False
    """Make an example that cannot be read an error instead of skipping it."""

    model_handle: str = "efficientnet-lite0"
    """TF Hub or Kaggle model URL, gs:// or local SavedModel folder, .tar.gz, or a bundled name
    (python -m tfkit models lists them). A SavedModel is a program: run a stranger's in a sandbox."""

    sha256: str | None = None
    """What the downloaded archive must hash to. Left out: it is not checked."""

    @property
    def unused(self) -> tuple[str, ...]:
        """The name of a set, where the data are a folder or a file."""
        given = self.data_dir is not None or getattr(self, "data_file", None) is not None
        return ("dataset",) if given else ()
