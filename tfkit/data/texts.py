"""load_texts: one call for whatever holds the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfkit.data.cut import check_fractions
from tfkit.data.splits import Splits
from tfkit.errors import DataError

EMBEDDED = ("docstrings",)


def load_texts(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    language_column: str | None = None,
    global_batch_size: int = 32,
    seed: int = 0,
    strict: bool = False,
    validation_fraction: float = 0.15,
    test_fraction: float = 0.15,
) -> Splits:
    """Splits of texts, each with one label.

    A table is read once, row by row, into a store in the cache; from then on a text is read when it is needed, so
    that a file may be larger than the memory. What had to be found out is in `Splits.notes`: the encoding where it
    is not UTF-8, the columns where they were not given, rows that cannot be used, texts that are there twice.

    Args:
      source: a .csv, .tsv, .json, .jsonl or .parquet file, the former also as .gz, .bz2, .xz or .zip; a folder with one
        subfolder a class and one .txt file a document,
        or with train/, validation/ and test/ of such folders; or an embedded set ("docstrings").
      text_column: of a table; left out, the one whose name says it.
      label_column: of a table; left out, the one whose name says it, or the other one of two.
      language_column: of a table; its values become `splits.source.languages`.
      global_batch_size: examples in a batch, over all replicas.
      seed: decides the splits and the order of training.
      strict: a row without text or label, or with a wrong number of fields, is an error, not skipped.
      validation_fraction: of each class.
      test_fraction: of each class.

    Returns:
      Splits of strings: (string [b], label int64 [b]). A text that is there several times, but for white space, is in
      one split.

    Raises:
      DataError: the texts cannot be found, or cannot serve to train a classifier.

    Example:
      >>> splits = load_texts("mails.csv", text_column="body", label_column="folder")  # doctest: +SKIP
      >>> splits.spec  # doctest: +SKIP
      TensorSpec(shape=(), dtype=tf.string, name=None)
    """
    options: dict[str, Any] = {
        "global_batch_size": global_batch_size,
        "seed": seed,
        "held_out": {"validation": validation_fraction, "test": test_fraction},
    }
    check_fractions(options["held_out"])
    if not isinstance(source, str | Path):
        raise DataError(
            f"load_texts reads files and folders, not a {type(source).__name__}.\n"
            "  A DataFrame: frame.to_parquet('texts.parquet'), or to_csv('texts.csv', index=False), and give that file."
        )
    path = Path(source)
    # A command line gives a Path, also for the name of a set; a file or folder of that name then goes first.
    if str(source) in EMBEDDED and (isinstance(source, str) or not path.exists()):
        from tfkit.data.docstrings import load_docstrings

        return load_docstrings(**options)
    if path.is_dir():
        if text_column or label_column or language_column:
            raise DataError(f"{path} is a folder: its subfolders are the classes, and it has no columns.")
        from tfkit.data.documents import load_documents

        return load_documents(path, strict=strict, **options)
    from tfkit.data.tabletexts import load_table

    return load_table(
        path,
        text_column=text_column,
        label_column=label_column,
        language_column=language_column,
        strict=strict,
        **options,
    )
