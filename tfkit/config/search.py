"""Which documents are searched, and for what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tfkit.config import fields
from tfkit.config.base import RecipeConfig
from tfkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class SearchConfig(RecipeConfig):
    """Which documents, which encoder, which questions."""

    data_dir: Path | None = None
    """Folder of .txt, .md, .rst or .html files, at any depth. Left out: --data-file, or what --run-dir holds."""

    data_file: Path | None = None
    """CSV, TSV, JSON, JSONL (also .gz, .zip) or Parquet with a document a row, instead of --data-dir."""

    text_column: str | None = None
    """The column of the documents. Left out: found by its name where that is plain."""

    dataset: str = "docstrings"
    """Where there is neither: docstrings (embedded: of installed packages)."""

    model_handle: str | None = None
    """TF Hub or Kaggle model URL, local SavedModel folder, .tar.gz, or a bundled name (python -m tfkit models lists
    them). A SavedModel is a program: run a stranger's in a sandbox. Left out: minilm-l6-v2, or the one of the index
    that is there."""

    preprocessor: str | None = None
    """Handle of the model that makes ids of strings. Left out: the one that belongs to the encoder."""

    max_length: Annotated[int, fields.Range(ge=4, le=512)] | None = None
    """Tokens of a passage at most. Left out: what the encoder was made for."""

    query: tuple[str, ...] = ()
    """Questions, in words; an index that is there answers them without reading documents. Left out: --queries-file, or
    none: the index alone is made."""

    queries_file: Path | None = None
    """A file with a question a line, instead of --query."""

    top: fields.Count = 5
    """Documents that are shown for each question."""

    @property
    def unused(self) -> tuple[str, ...]:
        """The name of a set, where the documents are a folder or a file."""
        return ("dataset",) if self.names_documents else ()

    @property
    def names_documents(self) -> bool:
        """Whether it says which documents are meant."""
        return self.data_dir is not None or self.data_file is not None

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.data_file is not None and self.data_dir is not None:
            raise ConfigError("--data-file and --data-dir are both given: documents come from one of them.")
        if self.data_dir is not None and not self.data_dir.is_dir():
            kind = "a file: give it as --data-file" if self.data_dir.is_file() else "not a folder"
            raise ConfigError(f"--data-dir {self.data_dir} is {kind}.")
        if self.data_file is not None and not self.data_file.is_file():
            raise ConfigError(f"--data-file {self.data_file} is not a file. For a folder: --data-dir.")
        if self.queries_file is not None and not self.queries_file.is_file():
            raise ConfigError(f"--queries-file {self.queries_file} is not a file.")
        if self.text_column is not None and self.data_file is None:
            raise ConfigError("--text-column is of a table: give it as --data-file.")
        if self.dataset != "docstrings":
            raise ConfigError(f"--dataset is {self.dataset!r}; docstrings is the one that is embedded.")
