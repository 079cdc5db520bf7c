"""Bytes become the text that a reader sees, and what was guessed is said."""

from __future__ import annotations

import bz2
import gzip
import lzma
import time
import zipfile

import pytest

from tests.data.mails import texts
from tfkit.data import load_texts, plain_text, text_decoding
from tfkit.data.text_decoding import check_text, decode, is_binary, is_html
from tfkit.errors import DataError

GERMAN = "Grüße aus München: schöne Größe für 5 €, „Straße“."
POLISH = "Zażółć gęślą jaźń, proszę o szybką odpowiedź w sprawie zamówienia"
RUSSIAN = "Добрый день, прошу прислать счёт за прошлый месяц"
JAPANESE = "こんにちは、請求書を送ってください。よろしくお願いします。"
GREEK = "Καλημέρα, παρακαλώ στείλτε το τιμολόγιο"
CHINESE = "您好，请在周五之前发送发票。谢谢您的帮助。"

CASES = [
    (GERMAN, "cp1252"),
    ("Les élèves français étaient à l'école.", "latin-1"),
    (POLISH, "cp1250"),
    (RUSSIAN, "cp1251"),
    (RUSSIAN, "koi8_r"),
    (GREEK, "cp1253"),
    (JAPANESE, "cp932"),
    (JAPANESE, "euc_jp"),
    (CHINESE, "gb18030"),
    (GERMAN + RUSSIAN + CHINESE, "utf-8"),
    (GERMAN + RUSSIAN + CHINESE, "utf-8-sig"),
    (GERMAN + RUSSIAN + CHINESE, "utf-16"),
    (GERMAN + RUSSIAN + CHINESE, "utf-32"),
]


@pytest.mark.parametrize(("text", "encoding"), CASES)
def test_a_document_and_a_table_are_read_as_written(tmp_path, text, encoding):
    assert decode(text.encode(encoding))[0] == text
    rows = "".join(f'"{text} {n}",class {n % 2}\n"plain {n}",class 0\n' for n in range(10))
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{rows}".encode(encoding))
    splits = load_texts(path)
    assert splits.source.raw(0) == f"{text} 0"
    assert any("Latin-1" in note for note in splits.notes) == (encoding in ("cp1252", "latin-1"))
    assert any("UTF-8" in note for note in splits.notes) == (not encoding.startswith("utf"))


def test_lines_of_another_encoding_in_a_file_of_utf8(tmp_path):
    path = tmp_path / "a.csv"
    expected = [f"{GERMAN.replace(',', '')} {n}" for n in range(50)]
    rows = enumerate(f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(expected))
    content = b"".join(row.encode("utf-8" if n % 5 else "cp1252") for n, row in rows)
    path.write_bytes(b"text,label\n" + content)
    splits = load_texts(path)
    assert texts(splits) == expected
    assert any("but for 10 of 50 lines" in note for note in splits.notes)


def test_every_byte_has_a_character():
    content = bytes(set(range(256)) - set(range(32))) * 3
    assert len(decode("Grüße".encode() * 9 + b"\n" + content)[0]) > 224


def test_files_that_are_no_text():
    assert not is_binary(b"a text with a \x00 in it, and more of it")
    assert not is_binary("in two bytes each".encode("utf-16"))
    assert is_binary(b"%PDF-1.7 and so on")
    assert is_binary(bytes(range(256)))
    with pytest.raises(DataError, match=r"gunzip --keep mails\.csv"):
        check_text(b"\x1f\x8b\x08", "mails.csv")


def lines(count, text="plain {}"):
    return "".join(f"{text.format(n)},{'ab'[n % 2]}\n" for n in range(count))


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "cp1251"])
def test_what_follows_a_long_head_of_ascii(tmp_path, encoding):
    """The first 300 kB say nothing about the encoding."""
    text = RUSSIAN.replace(",", "") if encoding == "cp1251" else "Größe schön {}"
    path = tmp_path / "a.csv"
    head = "text,label\n" + lines(25_000)
    path.write_bytes(head.encode() + lines(50, text).encode(encoding))
    assert len(head) > 300_000
    splits = load_texts(path)
    assert texts(splits)[25_000:] == [text.format(n) for n in range(50)]
    assert any("not in UTF-8" in note for note in splits.notes) == (encoding != "utf-8")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{lines(40, 'Größe {}')}".encode(encoding))
    assert texts(load_texts(path)) == [f"Größe {n}" for n in range(40)]
    assert decode(f"Größe {RUSSIAN}".encode(encoding))[0] == f"Größe {RUSSIAN}"


def test_files_put_together(tmp_path):
    """A mark in the middle, a repeated line of names, another encoding behind a mark, mixed ends of lines."""
    path = tmp_path / "a.csv"
    first = f"text,label\r\n{lines(40, 'Größe {}')}".encode("utf-8-sig")
    second = f"text,label\r{lines(40, 'schöne {}')}".replace("\n", "\r").encode("utf-8-sig")
    third = lines(20, "Süße {}").encode("cp1252")
    path.write_bytes(first + second + third)
    splits = load_texts(path)
    words = [("Größe", 40), ("schöne", 40), ("Süße", 20)]
    assert texts(splits) == [f"{word} {n}" for word, count in words for n in range(count)]
    assert [tuple(one) for one in splits.skipped] == [("a.csv:42", "repeats the line of names")]
    assert any("marked as UTF-8" in note and "cp1252" in note for note in splits.notes)


def test_what_cannot_be_decoded_is_said(tmp_path):
    (tmp_path / "b.csv").write_text(f"text,label\n{lines(40)}Gr\ufffdße,a\n", encoding="utf-8")
    assert any(
        note.startswith("Texts with \ufffd") and "1. Check" in note
        for note in load_texts(tmp_path / "b.csv").notes
    )
    broken = f"text,label\n{lines(20_000)}".encode() + lines(9000).encode("utf-16-le")
    (tmp_path / "c.csv").write_bytes(broken)
    with pytest.raises(DataError, match="no longer from about byte"):
        load_texts(tmp_path / "c.csv")


def test_the_sample_of_lines_is_of_the_whole_file(tmp_path):
    """64 kB of German and then Polish: what stands behind is looked at too."""
    path = tmp_path / "a.csv"
    german, polish = lines(300, "Grüße aus {}"), lines(20_000, POLISH.replace(",", "") + " {}")
    path.write_bytes(b"text,label\n" + (german + polish).replace("ß", "s").encode("cp1250"))
    assert texts(load_texts(path))[-1] == POLISH.replace(",", "") + " 19999"


def test_what_a_reader_sees():
    page = """<!DOCTYPE html><html><head><title>Not shown</title><style>td { color: red }</style></head>
    <body onload="x()"><script>if (a < b) { alert("<p>") }</script><!-- hidden -->
    <h1>Your order&nbsp;&#8364;&nbsp;5</h1>
    <p>Dear <b>all</b>,<br>it is
    here.<table><tr><td>one<td>two</tr></table> caf&eacute; &lt;ok&gt; 5 < 6 שלום</body></html>"""
    assert is_html(page)
    assert plain_text(page) == "Your order € 5\nDear all,\nit is here.\none\ntwo\ncafé <ok> 5 < 6 שלום"

    for text in ("a < b and c > d", "<3 you", "use <b>bold</b> here", "From: <me@example.com>\n<you@b.c>"):
        assert not is_html(text)
    assert plain_text("<html><head><style>p {}</style><body>seen</body>") == "seen"  # the head is not closed


@pytest.mark.parametrize(
    "piece",
    ["<", "<p", "<!--", "<!--a", "</", "&", "<a b='", "<![CDATA[", "<?x ", "<p>", "<script>", "<script></"],
)
def test_damaged_pages_take_no_minutes(piece):
    began = time.process_time()
    plain_text("<html>" + piece * (100_000 // len(piece)) + "end")
    assert time.process_time() - began < 4


CONTENT = ("text,label\n" + "".join(f"Größe {n},{'ab'[n % 2]}\n" for n in range(40))).encode()


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def packed_as(path):
    if path.suffix == ".zip":
        return zipped(path, {"data/a.csv": CONTENT, "__MACOSX/data/._a.csv": b"x", "data/README.txt": b"x"})
    compress = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[path.suffix]
    path.write_bytes(compress(CONTENT))
    return path


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv.bz2", "a.csv.xz", "a.csv.zip", "archive.zip"])
def test_one_table(tmp_path, name):
    splits = load_texts(packed_as(tmp_path / name))
    assert texts(splits) == [f"Größe {n}" for n in range(40)]
    assert splits.source.names[3] == f"{name}:5"


def test_what_cannot_be_read(tmp_path, monkeypatch):
    zipped(tmp_path / "two.zip", {"train.csv": CONTENT, "test.csv": CONTENT})
    zipped(tmp_path / "none.zip", {"a/1.jpg": b"x"})
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(CONTENT)[:-20])
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "not.csv.xz").write_bytes(CONTENT)
    (tmp_path / "hidden.csv").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "sheet.ods").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "frame.feather").write_bytes(b"ARROW1" + bytes(100))
    (tmp_path / "mails.db").write_bytes(b"SQLite format 3" + bytes(100))
    for name, message in {
        "two.zip": r"holds 2 tables: 'train\.csv', 'test\.csv'(?s:.*)unzip",
        "none.zip": r"holds no tables: 'a/1\.jpg'",
        "cut.csv.gz": "cannot be unpacked",
        "broken.zip": "no zip archive",
        "not.csv.xz": "cannot be unpacked",
        "hidden.csv": "gunzip",
        "sheet.ods": "read_excel",
        "frame.feather": "read_feather",
        "mails.db": "read_sql",
    }.items():
        with pytest.raises(DataError, match=message):
            load_texts(tmp_path / name)
    monkeypatch.setattr(text_decoding, "_MIN_LIMIT", 1 << 20)
    bomb = zipped(tmp_path / "bomb.zip", {"a.csv": b"text,label\n" + b"a,b\n" * (5 << 20)})
    with pytest.raises(DataError, match="no table does"):
        load_texts(bomb)
