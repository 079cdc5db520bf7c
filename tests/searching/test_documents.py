"""Rows of a table become documents, each by itself, or are named."""

from __future__ import annotations

import json

import pytest

from tfkit.errors import DataError
from tfkit.searching import load_documents


def test_a_stray_quote_takes_no_document_with_it(tmp_path):
    path = tmp_path / "a.tsv"
    lines = [f"{n}\tdocument {n}" for n in range(60)]
    lines[20], lines[40] = '20\t"document 20', '40\t"document 40'
    path.write_text("\n".join(["id\ttext", *lines]) + "\n")
    found = load_documents(path)
    assert [document.text for document in found.documents] == [line.split("\t")[1] for line in lines]
    assert any("2 rows begin a cell with a quote" in note for note in found.notes)


def test_documents_behind_a_link_and_no_hidden_ones(tmp_path):
    for name in ("docs/a.txt", "docs/.old/b.txt", "elsewhere/c.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"of {name}")
    (tmp_path / "docs/more").symlink_to(tmp_path / "elsewhere")
    assert [document.name for document in load_documents(tmp_path / "docs").documents] == [
        "a.txt",
        "more/c.txt",
    ]


def test_files_of_other_kinds_are_said(tmp_path):
    for name in ("a.txt", "b.pdf", "more/c.pdf", "d.docx"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("<p>a</p><p>b</p><p>text</p>")
    notes = load_documents(tmp_path).notes
    assert any(".pdf 2, .docx 1" in note for note in notes)
    assert not any("model's inputs" in note for note in notes)  # of a page: that is for a classifier


def test_a_table_of_texts_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text\nfirst\n"second, with a comma"\n')
    assert [document.text for document in load_documents(path).documents] == ["first", "second, with a comma"]


def test_half_a_character_is_replaced(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "cut \\ud83d"}\n{"text": "whole"}\n')
    assert [document.text for document in load_documents(path).documents] == ["cut ?", "whole"]


def test_nested_texts_and_numbers_are_none(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, [{"text": "words"}, {"text": {"body": "x"}}])))
    found = load_documents(path)
    assert [document.name for document in found.documents] == ["a.jsonl:1"]
    assert any("a.jsonl:2 (has a list or an object for a text)" in note for note in found.notes)
    path.write_text("\n".join(json.dumps({"text": n}) for n in range(9)))
    with pytest.raises(DataError, match="holds numbers"):
        load_documents(path)
