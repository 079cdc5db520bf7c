"""Bytes to text: UTF-8 unless the bytes say otherwise, and then what was taken instead."""

from __future__ import annotations

import codecs
import random
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tfkit.data import packed
from tfkit.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LATIN = ("cp1252", "cp1250")
_BLOCK = 1 << 16
_SAMPLE = 64 * 1024
_SAMPLE_LINES, _SAMPLE_LINE = 1000, 2000

# A binary file has these and more of them; a text has a stray NUL or bell at most.
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f\v\x1b"))
_BINARY_SHARE = 0.05
_SIGNATURES = {
    b"PK\x03\x04": "a zip archive, as .xlsx and .docx are",
    b"\xd0\xcf\x11\xe0": "an old Office file, as .xls and .doc are",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "compressed by gzip",
    b"PAR1": "Parquet",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"SQLite format": "a SQLite database",
}


class Encoding(NamedTuple):
    """How the bytes of a file are read."""

    name: str
    errors: str = "strict"
    """What `open` does with bytes that are not of the encoding."""

    note: str = ""
    """What a user should know about it; empty for UTF-8."""

    size: int = 0
    """Bytes of the file, unpacked."""


def _western(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return _windows(error.object[error.start : error.end]), error.end


MIXED = "tfkit-windows-1252"
"""An error handler: bytes that are no UTF-8 are Windows-1252, as in tables put together from several sources."""
codecs.register_error(MIXED, _western)


def of_file(path: Path) -> Encoding:
    """How to read a file; it is read once as a whole, in pieces.

    Raises:
      DataError: it is empty, or no text.
    """
    size, head, utf8 = 0, b"", True
    decoder = codecs.getincrementaldecoder("utf-8")()
    odd: list[int] = []
    for piece in packed.pieces(path):
        if not size:
            head = piece
            check_text(head[:_BLOCK], str(path))
        if not _marked(head):
            blocks = ((size + at, piece[at : at + _BLOCK]) for at in range(0, len(piece), _BLOCK))
            odd += [at for at, block in blocks if len(block) > _SAMPLE_LINE and _controls(block)]
        try:
            decoder.decode(piece)
        except UnicodeDecodeError:
            utf8 = False
            decoder.reset()
        size += len(piece)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        utf8 = False
    if not head.strip():
        raise DataError(f"{path} is empty.")
    marked = _marked(head)
    if marked not in ("", "utf-8-sig"):
        return Encoding(marked, "replace", f"It is in {marked.upper()}.", size)
    found = Encoding(marked or "utf-8") if utf8 else _guess(_lines(path))
    if marked and not utf8 and found.name in ("utf-8", *_LATIN):
        found = Encoding(marked, MIXED, f"It is marked as UTF-8, but read in part as cp1252. {found.note}")
    if odd:
        note = f"It is text at first, but no longer from about byte {odd[0]:,} on (UTF-16, or damage): look at it."
        found = found._replace(note=f"{found.note} {note}".strip())
    return found._replace(size=size)


def decode(content: bytes) -> tuple[str, str]:
    """A whole document, and the name of its encoding."""
    if marked := _marked(content):
        return content.decode(marked, "replace"), marked
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        found = _guess(content.splitlines())
        name = f"{found.name}, partly cp1252" if found.errors == MIXED else found.name
        return content.decode(found.name, found.errors), name


def binary_kind(head: bytes) -> str:
    """What a file is by its first bytes; empty for text."""
    for start, kind in _SIGNATURES.items():
        if head.startswith(start):
            return kind
    return "a binary file" if not _marked(head) and _controls(head) else ""


def _controls(content: bytes) -> bool:
    """Return whether there are more control characters than a text has."""
    return len(content) - len(content.translate(None, _CONTROL)) > _BINARY_SHARE * len(content)


def check_text(head: bytes, what: str) -> None:
    """Refuse what is no text by its first bytes.

    Raises:
      DataError: it is a file of another kind.
    """
    kind = binary_kind(head)
    if not kind:
        return
    advice = {
        "a zip": "\n  A spreadsheet: save it as CSV, or pandas.read_excel(PATH).to_csv('mails.csv', index=False).",
        "an old": "\n  A spreadsheet: save it as CSV, or pandas.read_excel(PATH).to_csv('mails.csv', index=False).",
        "compre": "\n  Unpack it first: gunzip --keep PATH",
        "Parque": "\n  Give it the ending .parquet.",
    }
    raise DataError(
        f"{what} is no text: it is {kind}.{advice.get(kind[:6].strip(), '')}".replace("PATH", what)
    )


def _marked(head: bytes) -> str:
    """Return what a mark at the beginning says, or zeros in every second place (UTF-16 without a mark); else empty."""
    if mark := next((name for mark, name in _BOMS if head.startswith(mark)), ""):
        return mark
    head = head[:4096]
    low, high = (head[at::2].count(0) / max(1, len(head) // 2) for at in (0, 1))
    return "utf-16-le" if high > 0.1 and low < 0.01 else "utf-16-be" if low > 0.1 and high < 0.01 else ""


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file, whatever ends them; a very long one in parts."""
    rest = b""
    for piece in packed.pieces(path):
        *lines, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
        yield from lines
        if len(rest) > 2 * len(piece):
            yield rest
            rest = b""
    yield rest


def _guess(lines: Iterable[bytes]) -> Encoding:
    """The encoding of bytes that are not UTF-8 as a whole."""
    sample: list[bytes] = []
    chance = random.Random(0)
    good = bad = 0
    for line in lines:
        if line.isascii():
            continue
        if _is_utf8(line):
            good += 1
            continue
        bad += 1
        # Of all lines alike: a table may have Polish behind its German.
        place = len(sample) if len(sample) < _SAMPLE_LINES else chance.randrange(bad)
        if place < _SAMPLE_LINES:
            first = next(at for at, byte in enumerate(line) if byte >= 0x80)
            sample[place : place + 1] = [line[max(0, first - 50) : first + _SAMPLE_LINE]]
    chance.shuffle(sample)
    # Many lines by chance are no UTF-8: each accented letter would have to be followed by a rare symbol.
    if good >= 0.2 * (good + bad):
        return Encoding(
            "utf-8",
            MIXED,
            f"It is in UTF-8, but for {bad} of {good + bad} lines with other letters than ASCII's: what is not UTF-8"
            " in them is read as cp1252 (Windows, Latin-1).",
        )
    content = b"".join(line + b"\n" for line in sample)
    name = _other_script(content) or min(_LATIN, key=lambda name: _misfits(content, name))
    label = "cp1252 (Windows, Latin-1)" if name == "cp1252" else name
    return Encoding(
        name,
        "replace",
        f"It is not in UTF-8: it is read as {label}, by the look of it. If letters come out wrong, convert it: "
        "iconv -f ENCODING -t UTF-8",
    )


def _other_script(content: bytes) -> str:
    """The encoding if its letters are mostly not Latin ones; empty otherwise.

    charset-normalizer tells scripts apart, but takes a Western text for an Eastern European one, and Japanese, which is
    known by its kana, for Korean.
    """
    high = sum(byte >= 0x80 for byte in content)
    letters = sum(chr(byte).isalpha() for byte in content if byte < 0x80)
    if high < 0.4 * (high + letters):
        return ""
    for name in ("cp932", "euc_jp"):
        found = [character for character in content.decode(name, "replace") if ord(character) >= 0x80]
        if sum("\u3040" <= character <= "\u30ff" for character in found) > 0.3 * len(found):
            return name
    from charset_normalizer import from_bytes

    best = from_bytes(content[:_SAMPLE]).best()
    if best is None:
        return ""
    found = [character for character in str(best) if ord(character) >= 0x80 and character.isalpha()]
    latin = sum(unicodedata.name(character, "").startswith("LATIN") for character in found)
    return best.encoding if latin < 0.5 * max(1, len(found)) else ""


def _misfits(content: bytes, name: str) -> int:
    """Signs that stand within words, and bytes that the encoding does not have."""
    text = content.decode(name, "replace")
    return len(re.findall(r"(?<=[^\W\d_])[^\w\s\x00-\x7f’‘´–—­](?=[^\W\d_])", text)) + text.count("\ufffd")


def _windows(content: bytes) -> str:
    """Windows-1252, and Latin-1 for the five bytes that it does not have."""
    return "".join(
        bytes([byte]).decode("cp1252", "ignore") or bytes([byte]).decode("latin-1") for byte in content
    )
