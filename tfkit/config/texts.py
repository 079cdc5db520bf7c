"""Which texts, and how to train a classifier of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tfkit.config import fields
from tfkit.config.data import DataConfig
from tfkit.config.transfer import TransferConfig
from tfkit.errors import ConfigError

ENCODER, EMBEDDED = "minilm-l6-v2", "docstrings"
_IMAGES = {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp"}
_TEXTS = {".txt", ".text", ".md", ".html", ".htm"}
LIGHT = "light"
"""The model handle that stands for a small model trained from scratch, on a vocabulary of its own."""


@dataclass(frozen=True, kw_only=True)
class TextColumns(DataConfig):
    """Where texts and labels are in a file, and what is made of the texts."""

    data_file: Path | None = None
    """CSV, TSV, JSON, JSONL (also .gz, .zip) or Parquet with a row a text, instead of --data-dir."""

    text_column: str | None = None
    """The column of the texts. Left out: found by its name where that is plain."""

    label_column: str | None = None
    """The column of the classes. Left out: found by its name where that is plain."""

    language_column: str | None = None
    """A column of languages: accuracy is then reported for each of them too. Left out: for all together."""

    preprocessor: str | None = None
    """Handle of the model that makes ids of strings. Left out: the one that belongs to the encoder."""

    max_length: Annotated[int, fields.Range(ge=4, le=512)] | None = None
    """Tokens of a text at most; what is longer is cut off. Left out: what the encoder was made for."""

    @property
    def of_texts(self) -> bool:
        """Whether the data are texts, where they could be images too."""
        if self.data_dir is None:
            return self.data_file is not None or self.dataset == EMBEDDED
        # Of classes, and of splits of classes.
        found = itertools.chain(self.data_dir.glob("*/*.*"), self.data_dir.glob("*/*/*.*"))
        endings = {path.suffix.lower() for path in found}
        return bool(endings & _TEXTS) and not endings & _IMAGES

    @property
    def encoder_handle(self) -> str:
        """The model for texts; the bundled one where the handle is that of images which nobody changed."""
        return ENCODER if self.model_handle == DataConfig.model_handle else self.model_handle

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.data_file is not None and self.data_dir is not None:
            raise ConfigError("--data-file and --data-dir are both given: the texts come from one of them.")
        if self.data_file is not None and not self.data_file.is_file():
            raise ConfigError(
                f"--data-file {self.data_file} is not a file. For a folder with one subfolder a class: --data-dir."
            )


@dataclass(frozen=True, kw_only=True)
class TextConfig(TextColumns):
    """Which texts, and which model made for texts."""

    data_dir: Path | None = None
    """Folder with one subfolder a class and a .txt file a text, instead of --data-file."""

    dataset: str = EMBEDDED
    """Where there is neither: docstrings (embedded: of installed packages, by package)."""

    model_handle: str = ENCODER
    """TF Hub or Kaggle model URL, local SavedModel folder, .tar.gz, a bundled name (python -m tfkit models lists
    them), or light: a small model trained from scratch. A SavedModel is a program: run a stranger's in a sandbox."""

    @property
    def of_texts(self) -> bool:
        """All of these are."""
        return True

    @property
    def encoder_handle(self) -> str:
        """The model as it was asked for."""
        return self.model_handle

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.data_dir is not None and not self.data_dir.is_dir():
            kind = "a file: give it as --data-file" if self.data_dir.is_file() else "not a folder"
            raise ConfigError(
                f"--data-dir {self.data_dir} is {kind}. Expected {self.data_dir}/<class>/<text>.txt."
            )


@dataclass(frozen=True, kw_only=True)
class TextTransferConfig(TransferConfig):
    """How to train a classifier of texts on a pretrained encoder: first its head, then perhaps all of it."""

    learning_rate: fields.Positive = 1e-3
    """Of the head: the peak, after warm-up and before cosine decay."""

    fine_tune_epochs: fields.Whole | None = None
    """Of the whole model after that, at most. Left out: 3 on a GPU, and on a CPU where an epoch is a matter of
    half a minute (with the bundled encoder 20,000 tokens); else 0."""

    fine_tune_learning_rate: fields.Positive = 5e-5
    """Of the whole model: the peak, for its last layer and the head."""

    layer_decay: Annotated[float, fields.Range(gt=0, le=1)] = 0.85
    """In fine-tuning each layer learns at this share of the rate of the layer above it; 1: all alike."""
