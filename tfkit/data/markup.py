"""HTML to the text that a reader of it sees."""

from __future__ import annotations

import re
from html.parser import HTMLParser

MAX_MARKUP = 1 << 20
"""Characters of a page that are looked at; what follows is left out."""

_DOCUMENT = re.compile(r"\s*(<\?xml[^>]*>\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_CLOSING = re.compile(
    r"</(a|b|blockquote|body|center|div|em|font|h[1-6]|html|i|li|ol|p|pre|span|strong|style|table|tbody|td|tr|u|ul)\s*>",
    re.IGNORECASE,
)
_ENOUGH = 3
_UNSEEN = frozenset({"script", "style", "head", "template", "noscript"})
_BLOCKS = re.compile(
    "address|article|blockquote|br|center|dd|div|dl|dt|footer|form|h[1-6]|header|hr|li|ol|p|pre|section|table|td|th|"
    "title|tr|ul"
)


def is_html(text: str) -> bool:
    """Whether a text is HTML: it begins as a page does, or has three closing tags of those that e-mails have.

    Example:
      >>> is_html("<html><p>Hello"), is_html("a <b>word</b> and x < y")
      (True, False)
    """
    if "<" not in text:
        return False
    if _DOCUMENT.match(text):
        return True
    found = _CLOSING.finditer(text, 0, MAX_MARKUP)
    return sum(1 for _ in zip(range(_ENOUGH), found, strict=False)) == _ENOUGH


def plain_text(html: str) -> str:
    """The text of a page, one paragraph a line; scripts, styles and the head are left out.

    Example:
      >>> plain_text("<style>p {}</style><p>Dear&nbsp;all,</p><p>see <b>you</b> <i>soon</i></p>")
      'Dear all,\\nsee you soon'
    """
    reader = _Reader()
    reader.feed(html[:MAX_MARKUP])
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.pieces).split("\n"))
    return "\n".join(line for line in lines if line)


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._unseen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in _UNSEEN:
            self._unseen.append(tag)
        elif tag == "body":
            self._unseen.clear()  # whatever was left open before it
        elif _BLOCKS.fullmatch(tag):
            self.pieces.append("\n")

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        if _BLOCKS.fullmatch(tag):
            self.pieces.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._unseen:
            del self._unseen[self._unseen.index(tag) :]
        elif _BLOCKS.fullmatch(tag):
            self.pieces.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._unseen:
            # A line of the source is no line of the page.
            self.pieces.append(data.replace("\n", " "))
