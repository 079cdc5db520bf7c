"""Texts and their lengths in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfkit.tensorboard.figures import printable
from tfkit.tensorboard.summaries import event_writer

LONGEST = 300


def write_texts(logdir: Path, name: str, texts: Sequence[str], *, captions: Sequence[str]) -> None:
    """A table of texts in the text dashboard; one of this name that is there is replaced.

    Args:
      logdir: the folder of the whole run.
      name: of the table, such as "worst_mistakes".
      texts: shown from their beginning; for none nothing is written.
      captions: one a text: a class name, or "true → predicted (93 %)" as of `Evaluation.mistake`.
    """
    rows = [f"| {_cell(caption)} | {_cell(text)} |" for caption, text in zip(captions, texts, strict=True)]
    with event_writer(logdir / "texts", kind=name) as tf:
        if rows:
            tf.summary.text(name, "\n".join(["| class | text |", "| --- | --- |", *rows]), step=0)


def write_statement(logdir: Path, sentences: Sequence[str]) -> None:
    """What holds for the privacy of the training, in words, in the text dashboard; an earlier one is replaced.

    Args:
      logdir: of the run.
      sentences: one paragraph each.
    """
    with event_writer(logdir, kind="privacy") as tf:
        tf.summary.text("privacy", "\n\n".join(map(_escaped, sentences)), step=0)


def write_lengths(logdir: Path, name: str, lengths: np.ndarray) -> None:
    """How long texts are, int [n], in the histograms dashboard.

    Args:
      logdir: of the run.
      name: of the histogram.
      lengths: in tokens or characters, int [n].
    """
    with event_writer(logdir / "texts", kind=name) as tf:
        tf.summary.histogram(name, lengths, step=0, buckets=min(50, max(1, int(np.ptp(lengths)))))


def _cell(text: str) -> str:
    """Text of a stranger in a cell of Markdown: nothing in it is markup."""
    return _escaped(printable(text[: 2 * LONGEST], longest=LONGEST))


def _escaped(line: str) -> str:
    for character in ("\\", "|", "`", "*", "_", "[", "]", "<", ">", "#", "~", "!", "$"):
        line = line.replace(character, f"&#{ord(character)};")
    return line
