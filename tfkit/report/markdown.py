"""Strangers' words in a Markdown file: shown as they are on GitHub and elsewhere, never read as markup."""

from __future__ import annotations

import re

from tfkit.tensorboard.figures import printable

_MARKUP = str.maketrans({"\\": "&#92;", "|": "&#124;", **{mark: f"\\{mark}" for mark in "`*_[]<>~&$"}})
_AT_BEGIN = re.compile(r"^(\d*)([-+.)](?=\s|[-+]|$)|[#=:])")
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)


class Safe(str):
    """Markdown of ours, or a stranger's words made harmless: it goes into the file as it is."""

    __slots__ = ()


def prose(text: object) -> Safe:
    r"""Words in a sentence or a cell of a table: one line, nothing of it a link, a picture, a mention or HTML.

    An empty comment stands in what GitHub would make a link of: there is no other way to keep it from that. Bars and
    backslashes are written as numbers: the cells of a table are cut before backslashes are read.

    >>> print(prose("see [x](javascript:1) | *now*"))
    see \[x\](javascript:1) &#124; \*now\*
    >>> print(prose("https://example.org"))
    https:<!-- -->//example.org
    """
    if isinstance(text, Safe):
        return text
    line = _AT_BEGIN.sub(r"\1\\\2", printable(str(text)).translate(_MARKUP))
    return Safe(_LINKED.sub("<!-- -->", line))


def code(text: object) -> Safe:
    """A name, as code: one line, and no character of it means anything.

    >>> print(code("a `b`"))
    `` a `b` ``
    """
    line = printable(str(text))
    # A table is cut at its bars before anything else is read, and code knows no other way to write one.
    if not line or "|" in line:
        return prose(line or "–")
    return _fenced(line)


def _fenced(line: str) -> Safe:
    longest = max(map(len, re.findall(r"`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return Safe(f"{fence}{pad}{line}{pad}{fence}")


def block(lines: str) -> Safe:
    """Lines to be copied, as a block of code."""
    longest = max(map(len, re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return Safe(f"{fence}\n{lines}\n{fence}")
