"""Bytes to plain text: packed files, encodings, HTML, control characters."""

from __future__ import annotations

import bz2
import codecs
import gzip
import html
import io
import itertools
import lzma
import math
import random
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from tfkit.data.splits import listed
from tfkit.errors import DataError

TABLE_ENDINGS = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet", ".pq")
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
PACKED_ENDINGS = (*_OPENERS, ".zip")
_PIECE = 1 << 18
_MIN_LIMIT = 1 << 30
_RATIO = 100
# RuntimeError is zipfile's, for a password and what it cannot unpack.
_UNPACK_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, RuntimeError)


def short(value: str, length: int = 60) -> str:
    """Return a value for a message, on one line."""
    line = " ".join(value[: 4 * length].split())
    return line if len(line) <= length and len(value) <= 4 * length else f"{line[:length]}..."


def packed_ending(path: Path) -> str:
    """Return the ending, in lower case, of what is in the file: of mails.csv.gz it is ".csv".

    Raises:
      DataError: it is a .zip without a table, or with several.
    """
    ending = path.suffix.lower()
    if ending == ".zip":
        return PurePosixPath(_find_table(path)).suffix.lower()
    return Path(path.stem).suffix.lower() if ending in _OPENERS else ending


def open_bytes(path: Path) -> IO[bytes]:
    """Open the file, to be unpacked as it is read."""
    if path.suffix.lower() == ".zip":
        return zipfile.ZipFile(path).open(_find_table(path))
    return _OPENERS.get(path.suffix.lower(), Path.open)(path, "rb")


def open_text(path: Path, encoding: Encoding, *, newline: str) -> io.TextIOWrapper:
    """Open the file as text; see `open` for `newline`."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding.name, errors=encoding.errors, newline=newline)


def pieces(path: Path) -> Iterator[bytes]:
    """Yield all bytes, unpacked, a quarter of a megabyte at a time.

    Raises:
      DataError: it cannot be unpacked, or unpacks to far more than a table would.
    """
    packed_size, total = path.stat().st_size, 0
    limit = max(_MIN_LIMIT, _RATIO * packed_size) if path.suffix.lower() in PACKED_ENDINGS else math.inf
    try:
        with open_bytes(path) as file:
            while total <= limit and (piece := file.read(_PIECE)):
                total += len(piece)
                yield piece
    except _UNPACK_ERRORS as err:
        raise DataError(f"{path} cannot be unpacked: {str(err)[:100] or type(err).__name__}.") from err
    if total > limit:
        raise DataError(
            f"{path} ({packed_size:,} bytes) unpacks to more than {limit:,} bytes: no table does.\n"
            "  If it is right, unpack it first and give what is in it."
        )


def _find_table(path: Path) -> str:
    """Return the one table in an archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [
                name for name in archive.namelist() if not re.match(r"__MACOSX/|(.*/)?\.[^/]*$|.*/$", name)
            ]
    except _UNPACK_ERRORS as err:
        raise DataError(f"{path} is no zip archive that can be read: {str(err)[:100]}.") from err
    tables = [name for name in names if name.lower().endswith(TABLE_ENDINGS)]
    if len(tables) == 1:
        return tables[0]
    raise DataError(
        f"{path} holds {len(tables) or 'no'} tables: {listed([repr(name[:80]) for name in tables or names])}.\n"
        "  Unpack it (unzip) and give one table, or the folder of texts or images that is in it."
    )


_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LATIN_ENCODINGS = ("cp1252", "cp1250")
_OTHER_SCRIPTS = [
    "cp1251", "koi8_r", "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5", "euc_kr"
]  # fmt: skip
_SAMPLE_LINES, _SAMPLE_LINE, _SAMPLE_BYTES = 1000, 2000, 1 << 16

# A binary file has these and more of them; a text has a stray NUL or bell at most.
_CONTROL_BYTES = bytes(set(range(32)) - set(b"\t\n\r\f\v\x1b"))
# Of zip (.xlsx, .docx), old Office files, PDF, gzip, Parquet, PNG, JPEG, SQLite.
_SIGNATURES = (
    b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF", b"\x1f\x8b", b"PAR1", b"\x89PNG", b"\xff\xd8\xff", b"SQLite format"
)  # fmt: skip


class Encoding(NamedTuple):
    """Say how the bytes of a file are read."""

    name: str
    errors: str = "strict"
    """The `errors` of `open`, for bytes that are not of the encoding."""

    note: str = ""
    """A remark for the user; none for UTF-8."""

    size: int = 0
    """Bytes of the file, unpacked."""

    def notes_on(self, path: Path) -> list[str]:
        """Return the remark on a file, if there is one."""
        return [f"{path.name}: {self.note}"] if self.note else []


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


MIXED = "tfkit-windows-1252"
"""An error handler: bytes that are no UTF-8 are Windows-1252, as in tables put together from several sources."""
codecs.register_error(MIXED, _as_cp1252)


def detect_encoding(path: Path) -> Encoding:
    """Return how to read a file; it is read once as a whole, in pieces.

    Raises:
      DataError: it is no text in one of its parts.
    """
    size, is_utf8, unicode_name = 0, True, ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for piece in itertools.chain(pieces(path), [b""]):
        if not size:
            unicode_name = _detect_unicode(piece)
            check_text(piece, str(path))
        elif not unicode_name and len(piece) > _SAMPLE_LINE and _has_controls(piece):
            raise DataError(
                f"{path} is text at first, but no longer from about byte {size:,} on (UTF-16, or damage).\n"
                "  Take that part out, or write all of it in one encoding: iconv -f ENCODING -t UTF-8"
            )
        try:
            decoder.decode(piece, final=not piece)
        except UnicodeDecodeError:
            is_utf8 = False
            decoder.reset()
        size += len(piece)
    if unicode_name not in ("", "utf-8-sig"):
        return Encoding(unicode_name, "replace", f"It is in {unicode_name.upper()}.", size)
    if is_utf8:
        return Encoding(unicode_name or "utf-8", size=size)
    if unicode_name:
        note = "It is marked as UTF-8; what is not UTF-8 in it is read as cp1252 (Windows, Latin-1)."
        return Encoding(unicode_name, MIXED, note, size)
    with open_bytes(path) as file:
        lines = (line for piece in iter(lambda: file.readline(_PIECE), b"") for line in piece.splitlines())
        return _detect_legacy(lines)._replace(size=size)


def decode(content: bytes) -> tuple[str, str]:
    """Return a whole document as text, and the name of its encoding."""
    if unicode_name := _detect_unicode(content):
        return content.decode(unicode_name, "replace"), unicode_name
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        encoding = _detect_legacy(content.splitlines())
        name = f"{encoding.name}, partly cp1252" if encoding.errors == MIXED else encoding.name
        return content.decode(encoding.name, encoding.errors), name


UNREAD = "cannot be read"


def read_document(path: Path) -> tuple[str, str]:
    """Return the text of a file, and the name of its encoding.

    Raises:
      DataError: it cannot be read or is no text; the reason alone.
    """
    try:
        content = path.read_bytes()
    except OSError as err:
        raise DataError(f"{UNREAD} ({err.strerror})") from err
    if is_binary(content[: 1 << 20]):
        raise DataError("is no text, but a binary file")
    return decode(content)


def is_binary(head: bytes) -> bool:
    """Return whether a file is no text, by its first bytes."""
    return head.startswith(_SIGNATURES) or (not _detect_unicode(head) and _has_controls(head))


def _has_controls(content: bytes) -> bool:
    """Return whether there are more control characters than a text has."""
    return len(content) - len(content.translate(None, _CONTROL_BYTES)) > 0.05 * len(content)


_READERS = {".feather": "read_feather", ".arrow": "read_feather", ".orc": "read_orc", ".dta": "read_stata",
            ".sav": "read_spss", ".sas7bdat": "read_sas", ".pkl": "read_pickle"}  # fmt: skip
"""Of pandas, by the ending of tables that are no text."""


def check_text(head: bytes, path: str) -> None:
    """Refuse what is no text by its first bytes.

    Raises:
      DataError: it is a file of another kind.
    """
    if is_binary(head):
        ending = Path(path).suffix.lower()
        reader = f"{_READERS.get(ending, 'read_excel')}({path!r})"
        if head.startswith(b"SQLite format 3"):
            reader = f"read_sql('SELECT * FROM TABLE', sqlite3.connect({path!r}))"
        raise DataError(
            f"{path} is no text, but a binary file: unpack it (gunzip --keep {path}), give it the ending of what it is"
            f" (.parquet), or convert it:\n  pandas.{reader}.to_csv('texts.csv', index=False)"
        )


def _detect_unicode(head: bytes) -> str:
    """Return what a mark at the beginning says, or zeros in every second place (UTF-16 without a mark); else empty."""
    if mark := next((name for mark, name in _BOMS if head.startswith(mark)), ""):
        return mark
    head = head[:4096]
    low, high = (head[at::2].count(0) / max(1, len(head) // 2) for at in (0, 1))
    return "utf-16-le" if high > 0.1 and low < 0.01 else "utf-16-be" if low > 0.1 and high < 0.01 else ""


def _detect_legacy(lines: Iterable[bytes]) -> Encoding:
    """Return the encoding of bytes that are not UTF-8 as a whole."""
    sample: list[bytes] = []
    rng = random.Random(0)
    utf8_count = other_count = 0
    for line in lines:
        if line.isascii():
            continue
        try:
            line.decode()
            utf8_count += 1
        except UnicodeDecodeError:
            other_count += 1
            # Of all lines alike: a table may have Polish behind its German.
            place = len(sample) if len(sample) < _SAMPLE_LINES else rng.randrange(other_count)
            if place < _SAMPLE_LINES:
                start = next(position for position, byte in enumerate(line) if byte >= 0x80)
                sample[place : place + 1] = [line[max(0, start - 50) : start + _SAMPLE_LINE]]
    # Many lines by chance are no UTF-8: each accented letter would have to be followed by a rare symbol.
    if utf8_count >= 0.2 * (utf8_count + other_count):
        extent = f"{other_count} of {utf8_count + other_count} lines with other letters than ASCII's"
        note = f"It is in UTF-8, but for {extent}: the rest is read as cp1252 (Windows, Latin-1)."
        return Encoding("utf-8", MIXED, note)
    rng.shuffle(sample)
    name = _choose_code_page(b"\n".join(sample))
    note = f"It is not in UTF-8, but read as {known_as(name)}. If that is wrong, convert it: iconv -f ENCODING -t UTF-8"
    return Encoding(name, "replace", note)


def known_as(encoding: str) -> str:
    """Return what a user may know an encoding as."""
    return "cp1252 (Windows, Latin-1)" if encoding == "cp1252" else encoding


def _choose_code_page(content: bytes) -> str:
    """Return the code page of a text that is no UTF-8.

    charset-normalizer tells scripts apart, but takes a Western text for an Eastern European one, and Japanese, which is
    known by its kana, for Korean.
    """
    high = sum(byte >= 0x80 for byte in content)
    letters = sum(chr(byte).isalpha() for byte in content if byte < 0x80)
    if high < 0.4 * (high + letters):
        return min(_LATIN_ENCODINGS, key=lambda name: _count_misfits(content, name))
    from charset_normalizer import from_bytes

    matches = from_bytes(content[:_SAMPLE_BYTES], cp_isolation=_OTHER_SCRIPTS, threshold=0.3)
    kana = [match for match in matches if len(re.findall("[぀-ヿ]", str(match))) > 0.1 * high]
    best = kana[0] if kana else matches.best()
    return best.encoding if best else "cp1252"


def _count_misfits(content: bytes, name: str) -> int:
    """Count signs that stand within words, and bytes that the encoding does not have."""
    text = content.decode(name, "replace")
    return len(re.findall(r"(?<=[^\W\d_])[^\w\s\x00-\x7f’‘´–—­](?=[^\W\d_])", text)) + text.count("\ufffd")


MAX_MARKUP = 1 << 20
"""Characters of a page that are looked at; what follows is left out."""

_DOCUMENT_START = re.compile(r"\s*(<\?xml[^>]*>\s*)?<(!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_CLOSING_TAG = re.compile(
    r"</(a|b|blockquote|body|center|div|em|font|h[1-6]|html|i|li|ol|p|pre|span|strong|style|table|tbody|td|tr|u|ul)\s*>",
    re.IGNORECASE,
)
_MIN_CLOSING_TAGS = 3
# Each mark ends where the page does, if nowhere before: none is looked for twice.
_MARKUP = re.compile(
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|template|noscript|title)\b[^>]*(?:>|\Z).*?(?:</\1\b[^>]*(?:>|\Z)|\Z)"
    r"|</?(?:(address|article|blockquote|br|center|dd|div|dl|dt|footer|form|h[1-6]|header|hr|li|ol|p|pre|section|table"
    r"|td|th|title|tr|ul)(?![a-z0-9])|[a-z])[^>]*(?:>|\Z)"
    r"|<[!?/][^>]*(?:>|\Z)",
    re.IGNORECASE | re.DOTALL,
)


def is_html(text: str) -> bool:
    """Return whether a text is HTML: it begins as a page does, or has three closing tags of those that e-mails have.

    Example:
      >>> is_html("<html><p>Hello"), is_html("a <b>word</b> and x < y")
      (True, False)
    """
    if "<" not in text:
        return False
    if _DOCUMENT_START.match(text):
        return True
    tags = _CLOSING_TAG.finditer(text, 0, MAX_MARKUP)
    return sum(1 for _ in zip(range(_MIN_CLOSING_TAGS), tags, strict=False)) == _MIN_CLOSING_TAGS


def plain_text(page: str) -> str:
    """Return the text of an HTML page, one paragraph a line; scripts, styles, title and comments are left out.

    Every character is looked at a few times at most: html.parser takes minutes for a damaged page of 100 KB.

    Args:
      page: of it the first `MAX_MARKUP` characters are taken.

    Returns:
      Its paragraphs, one a line, with single spaces.

    Example:
      >>> plain_text("<style>p {}</style><p>Dear&nbsp;all,</p><p>see <b>you</b> <i>soon</i></p>")
      'Dear all,\\nsee you soon'
    """
    # A line of the source is no line of the page, but each mark of a block begins one.
    visible_text = _MARKUP.sub(lambda mark: "\n" if mark[2] else "", page[:MAX_MARKUP].replace("\n", " "))
    lines = (" ".join(line.split()) for line in html.unescape(visible_text).split("\n"))
    return "\n".join(filter(None, lines))


_CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff]")


_CHANGES = {
    "html": (
        "HTML texts: {}. They are converted to plain text. Convert the model's inputs too:"
        " tfkit.data.plain_text(html)."
    ),
    "long": f"HTML texts of which only the first {MAX_MARKUP:,} characters are read: {{}}.",
    "control": "Texts from which control characters are removed: {}.",
    "undecoded": "Texts with \ufffd, which stands for an unreadable character: {}. Check the encoding.",
}


class Cleaner:
    """Texts as they are stored; counts what it changes."""

    def __init__(self) -> None:
        self._change_counts: Counter[str] = Counter()

    def __call__(self, text: str) -> str:
        """Return it without control characters, which no tokenizer keeps; of HTML what its reader sees."""
        text, controls = _CONTROL_CHARACTERS.subn("", text)
        page = is_html(text)
        changes = {
            "html": page, "long": page and len(text) > MAX_MARKUP, "control": controls, "undecoded": "\ufffd" in text,
        }  # fmt: skip
        self._change_counts.update(change for change, is_present in changes.items() if is_present)
        return plain_text(text) if page else text

    def notes(self) -> Iterator[str]:
        """Yield what was changed."""
        for change, note in _CHANGES.items():
            if count := self._change_counts[change]:
                yield note.format(count)
