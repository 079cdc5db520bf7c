"""Texts and labels as they are stored."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tfkit.data import markup

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


class Cleaner:
    """Texts as they are stored; counts what it changes."""

    def __init__(self) -> None:
        self._html = self._long = self._control = self._undecoded = 0

    def __call__(self, text: str) -> str:
        """Without control characters, which no tokenizer keeps; of HTML what its reader sees."""
        if _CONTROL.search(text):
            self._control += 1
            text = _CONTROL.sub("", text)
        self._undecoded += "\ufffd" in text
        if markup.is_html(text):
            self._html += 1
            self._long += len(text) > markup.MAX_MARKUP
            text = markup.plain_text(text)
        return text

    def notes(self) -> Iterator[str]:
        """What was changed."""
        if self._html:
            yield (
                f"{self._html} texts are HTML: what a reader of them sees is taken. The model is to be given such text"
                " too: tfkit.data.plain_text(html)."
            )
        if self._long:
            yield f"Of {self._long} HTML texts the first {markup.MAX_MARKUP:,} characters are read, with their marks."
        if self._control:
            yield f"Control characters are left out of {self._control} texts."
        if self._undecoded:
            yield f"{self._undecoded} texts hold \ufffd where a sign could not be read: look at its encoding."
