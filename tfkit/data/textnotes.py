"""What there is to say about texts that were read."""

from __future__ import annotations

from collections.abc import Iterator

from tfkit.data.textsource import Groups
from tfkit.data.textstore import TextStore

_REASONS = 6
"""So many are listed, the most frequent ones."""


def skipped_text(store: TextStore, noun: str) -> str:
    """How many examples cannot be used, with the first of each kind; empty if all can.

    Args:
      store: of the others.
      noun: what an example is: "rows", "files".
    """
    parts = []
    reasons = sorted(store.entry["reasons"].items(), key=lambda item: -item[1])
    for reason, count in reasons[:_REASONS]:
        places = [one.path for one in store.skipped if one.reason == reason][:3]
        more = ", ..." if count > len(places) else ""
        parts.append(f"{reason}: {count} ({', '.join(places)}{more})")
    if len(reasons) > _REASONS:
        parts.append(f"other reasons: {sum(count for _, count in reasons[_REASONS:])}")
    total = sum(store.entry["reasons"].values())
    return f"{total} {noun} that cannot be used: {'; '.join(parts)}" if parts else ""


def notes(store: TextStore, groups: Groups, where: str, noun: str) -> Iterator[str]:
    """One sentence for each thing that was found out about a table or folder."""
    if skipped := skipped_text(store, noun):
        yield f"{where} has {skipped}."
    yield from store.entry["notes"]
    if groups.repeated:
        yield (
            f"{groups.repeated} {noun} have a text that is there more than once, but for white space: "
            "those of one text are in one split."
        )
    if groups.contradicting:
        yield (
            f"{groups.contradicting} {noun} have a text that is there with another label too: "
            "no classifier can have both right."
        )
