"""Bytes that are not UTF-8 are read as what they are, and it is said."""

from __future__ import annotations

import pytest

from tfkit.data import encodings, load_texts
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
    assert encodings.decode(text.encode(encoding))[0] == text
    rows = "".join(
        f'"{text} {number}",class {number % 2}\n"plain {number}",class 0\n' for number in range(10)
    )
    path = tmp_path / "a.csv"
    path.write_bytes(f"text,label\n{rows}".encode(encoding))
    splits = load_texts(path)
    assert splits.source.raw(0) == f"{text} 0"
    assert any("Latin-1" in note for note in splits.notes) == (encoding in ("cp1252", "latin-1"))
    assert any("UTF-8" in note for note in splits.notes) == (
        encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
    )


def test_the_end_of_a_large_file_counts(tmp_path):
    path = tmp_path / "a.csv"
    plain = b"".join(b"%s %d,a\nother words %d,b\n" % (b"some words" * 99, n, n) for n in range(2_500))
    path.write_bytes(b"text,label\n" + plain + "Größe,a\n".encode("latin-1"))
    assert path.stat().st_size > 2 * 2**20
    splits = load_texts(path)
    assert splits.source.raw(5_000) == "Größe"


def test_lines_of_another_encoding_in_a_file_of_utf8(tmp_path):
    path = tmp_path / "a.csv"
    lines = [
        f"{GERMAN.replace(',', '')} {n},{'ab'[n % 2]}\n".encode("utf-8" if n % 5 else "cp1252")
        for n in range(50)
    ]
    path.write_bytes(b"text,label\n" + b"".join(lines))
    splits = load_texts(path)
    assert [splits.source.raw(n) for n in range(50)] == [f"{GERMAN.replace(',', '')} {n}" for n in range(50)]
    assert any("but for 10 of 50 lines" in note for note in splits.notes)


def test_every_byte_has_a_character():
    content = bytes(set(range(256)) - set(range(32))) * 3
    assert len(encodings.decode("Grüße".encode() * 9 + b"\n" + content)[0]) > 224


def test_files_that_are_no_text():
    assert encodings.binary_kind(b"a text with a \x00 in it, and more of it") == ""
    assert encodings.binary_kind("in two bytes each".encode("utf-16")) == ""
    assert encodings.binary_kind(b"%PDF-1.7 and so on") == "a PDF"
    assert encodings.binary_kind(bytes(range(256))) == "a binary file"
    with pytest.raises(DataError, match=r"gunzip --keep mails\.csv"):
        encodings.check_text(b"\x1f\x8b\x08", "mails.csv")
