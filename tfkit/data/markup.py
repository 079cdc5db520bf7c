"""HTML to the text that a reader of it sees."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

MAX_MARKUP = 1 << 20
"""Characters of a page that are looked at; what follows is left out."""

_DOCUMENT = re.compile(r"\s*(<\?xml[^>]*>\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_CLOSING = re.compile(
    r"</(a|b|blockquote|body|center|div|em|font|h[1-6]|html|i|li|ol|p|pre|span|strong|style|table|tbody|td|tr|u|ul)\s*>",
    re.IGNORECASE,
)
_ENOUGH = 3
_UNSEEN = frozenset({"script", "style", "template", "noscript", "title"})
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)|[!?/]")
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


def plain_text(page: str) -> str:
    """The text of an HTML page, one paragraph a line; scripts, styles, title and comments are left out.

    Every character is looked at a few times at most: html.parser takes minutes for a damaged page of 100 KB.

    Args:
      page: of it the first `MAX_MARKUP` characters are taken.

    Returns:
      Its paragraphs, one a line, with single spaces.

    Example:
      >>> plain_text("<style>p {}</style><p>Dear&nbsp;all,</p><p>see <b>you</b> <i>soon</i></p>")
      'Dear all,\\nsee you soon'
    """
    # A line of the source is no line of the page.
    text = html.unescape("".join(_seen(page[:MAX_MARKUP].replace("\n", " "))))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _seen(page: str) -> Iterator[str]:
    """What stands outside of tags, and a line break for each tag of a block."""
    place = 0
    while (start := page.find("<", place)) >= 0:
        yield page[place:start]
        if page.startswith("<!--", start):
            end = page.find("-->", start + 4)
            place = len(page) if end < 0 else end + 3
            continue
        tag = _TAG.match(page, start) or (
            _TAG.match(page, start + 1) if page[start + 1 : start + 2] in "!?/" else None
        )
        if tag is None:
            yield "<"
            place = start + 1
            continue
        end = page.find(">", start)
        if end < 0:
            return
        place = end + 1
        name = (tag[1] or "").lower()
        if name in _UNSEEN and page[start + 1] != "/":
            closing = re.compile(f"</{name}\\b[^>]*>", re.IGNORECASE).search(page, place)
            place = closing.end() if closing else len(page)
        elif _BLOCKS.fullmatch(name):
            yield "\n"
    yield page[place:]
