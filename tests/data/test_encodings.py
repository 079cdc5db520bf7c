"""Bytes that are not UTF-8 are read as what they are, and it is said."""

from __future__ import annotations

import pytest

from tfkit.data import load_texts
from tfkit.data.text_decoding import binary_kind, check_text, decode
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
    assert len(decode("Grüße".encode() * 9 + b"\n" + content)[0]) > 224


def test_files_that_are_no_text():
    assert binary_kind(b"a text with a \x00 in it, and more of it") == ""
    assert binary_kind("in two bytes each".encode("utf-16")) == ""
    assert binary_kind(b"%PDF-1.7 and so on") == "a PDF"
    assert binary_kind(bytes(range(256))) == "a binary file"
    with pytest.raises(DataError, match=r"gunzip --keep mails\.csv"):
        check_text(b"\x1f\x8b\x08", "mails.csv")


def lines(count, text="plain {}"):
    return "".join(f"{text.format(n)},{'ab'[n % 2]}\n" for n in range(count))


def texts(splits):
    return [splits.source.raw(row) for row in range(len(splits.source.labels))]


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
    assert any("in part as cp1252" in note for note in splits.notes)


def test_what_cannot_be_decoded_is_said(tmp_path):
    (tmp_path / "b.csv").write_text(f"text,label\n{lines(40)}Gr\ufffdße,a\n", encoding="utf-8")
    assert any(note.startswith("1 texts hold \ufffd") for note in load_texts(tmp_path / "b.csv").notes)
    (tmp_path / "c.csv").write_bytes(
        f"text,label\n{lines(20_000)}".encode() + lines(9000).encode("utf-16-le")
    )
    with pytest.raises(DataError, match="no longer from about byte"):
        load_texts(tmp_path / "c.csv")


def test_the_sample_of_lines_is_of_the_whole_file(tmp_path):
    """64 kB of German and then Polish: what stands behind is looked at too."""
    path = tmp_path / "a.csv"
    german, polish = lines(300, "Grüße aus {}"), lines(20_000, POLISH.replace(",", "") + " {}")
    path.write_bytes(b"text,label\n" + (german + polish).replace("ß", "s").encode("cp1250"))
    assert texts(load_texts(path))[-1] == POLISH.replace(",", "") + " 19999"
