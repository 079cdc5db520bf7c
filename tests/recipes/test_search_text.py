"""Documents are found by meaning, once embedded; whatever is wrong is a sentence."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recipes import search_text
from recipes.search_text import Config
from tfkit import hub
from tfkit.errors import DataError, HubError, RunError
from tfkit.searching import Document, Index, load_documents

ROOT = Path(__file__).parents[2]
FILLER = "The weather was mild. " * 60
DOCUMENTS = {
    "terms.txt": "To end your contract with us, write to the office four weeks before the month is over.",
    "pets/cats.md": "# Felines\nThey sleep for most of the day.",
    "long.txt": f"{FILLER}\n\nThe warehouse in Rotterdam stores spare batteries for bicycles.\n\n{FILLER}",
    "ja.txt": "カタログは無料です。返品は三十日以内に。😀",
    "ar.txt": "مرحبا بالعالم",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for name, text in DOCUMENTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "latin.txt").write_bytes("Café and crème brûlée.".encode("latin-1"))
    (folder / "page.html").write_text("<html><body><p>Invoices are <b>due</b> in May.</p></body></html>")
    (folder / "empty.txt").write_text(" \n")
    (folder / "picture.txt").write_bytes(bytes(range(256)) * 20)
    (folder / ".hidden.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "search"
    return search_text.run(Config(data_dir=folder, run_dir=run_dir, query=("how do I cancel",)))


@pytest.fixture(scope="module")
def index(run):
    return Index.open(run.path / "index")


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("how do I cancel my subscription?", "terms.txt"),
        ("lazy kitten", "pets/cats.md"),
        ("where are e-bike accumulators kept", "long.txt"),
        ("bills that must be paid in spring", "page.html"),
        ("sweet French dessert", "latin.txt"),
        ("返品", "ja.txt"),
        ("مرحبا", "ar.txt"),
    ],
)
def test_found_by_meaning(index, question, name):
    """No word of the first four questions is in the document that answers it."""
    hit = index.query(question, top=3)[0]
    assert hit.name == name
    if name == "long.txt":  # beyond the 128 tokens that the encoder takes of a text
        assert "batteries" in hit.text
        assert hit.passage > 0
        assert len(hit.text) < len(FILLER)


def test_each_document_once_best_first(index):
    hits = index.query("weather", top=7)
    assert len({hit.name for hit in hits}) == len(hits) == 7
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert index.queries([], top=3) == []
    several = index.queries(["weather", "cats"], top=1)
    assert [hits[0].name for hits in several] == ["long.txt", "pets/cats.md"]


@pytest.mark.parametrize("question", ["", "😀", "\ud800", "word " * 1000, "​"])
def test_any_string_is_a_question(index, question):
    assert len(index.query(question, top=2)) == 2


def test_a_passage_finds_itself(index):
    for passage in (hit for hit in index.passages if hit.name != "long.txt"):
        found = index.query(passage.text, top=1)[0]
        assert (found.name, found.text) == (passage.name, passage.text)
        assert found.score == pytest.approx(1, abs=1e-4)


def test_the_run_says_what_it_did(run):
    assert run.finished
    assert run.metrics["search/documents"] == 7
    notes = "\n".join(run.notes)
    assert "1 empty document: empty.txt" in notes
    assert "1 unusable document: picture.txt" in notes
    assert "exact" in notes
    points = (run.logdir / "projector" / "tensors.tsv").read_text().splitlines()
    assert len(points) == run.metrics["search/passages"]
    assert json.loads((run.path / "hits.json").read_text())["answers"][0]["hits"][0]["name"] == "terms.txt"
    closing = "\n".join(search_text.closing_lines(run))
    assert "terms.txt" in closing
    assert "To end your contract" in closing


def test_a_file_of_questions(run, tmp_path):
    (tmp_path / "questions.txt").write_text("lazy kitten\n\nhow do I cancel\n")
    search_text.run(Config(run_dir=run.path, queries_file=tmp_path / "questions.txt", top=1))
    answers = json.loads((run.path / "hits.json").read_text())["answers"]
    assert [answer["hits"][0]["name"] for answer in answers] == ["pets/cats.md", "terms.txt"]


def test_other_documents_than_those_of_the_index(run, folder, tmp_path, capsys):
    with pytest.raises(RunError, match="another config"):
        search_text.run(Config(run_dir=run.path, data_dir=tmp_path, query=("bills",)))
    (folder / "new.txt").write_text("A new one.")
    search_text.run(Config(run_dir=run.path, data_dir=folder, query=("bills",)))
    assert "documents have changed" in capsys.readouterr().err  # where --quiet leaves it
    (folder / "new.txt").unlink()


def test_another_encoder_is_refused(run):
    with pytest.raises(HubError, match="another encoder, whose vectors cannot be compared"):
        search_text.run(Config(run_dir=run.path, max_length=64, query=("bills",)))
    with pytest.raises(HubError, match="made with minilm-l6-v2"):
        Index.open(run.path / "index", encoder=hub.load_model("minilm-l6-v2", max_length=64))


def test_nothing_to_search(tmp_path, index):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(DataError, match=r"holds no text in a file that ends in \.txt"):
        load_documents(tmp_path)
    with pytest.raises(DataError, match="There are no documents"):
        Index.build([], index.encoder)
    with pytest.raises(RunError, match="no whole index"):
        Index.open(tmp_path)


def test_a_table_and_the_embedded_documents(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text('id,body\n1,"Dear all,\nthe lift is out of order."\n2,\n3,"Lunch is at noon."\n')
    found = load_documents(path)
    assert [document.name for document in found.documents] == ["mails.csv:2", "mails.csv:5"]
    assert found.documents[0].text == "Dear all,\nthe lift is out of order."
    with pytest.raises(DataError, match="has no column 'text'"):
        load_documents(path, text_column="text")
    embedded = load_documents("sentiment").documents
    assert len(embedded) > 1000
    assert len({document.name for document in embedded}) == len(embedded)


def test_an_index_of_python(index, tmp_path):
    made = Index.build([Document("a", "Rain is likely."), Document("b", "Shares fell.")], index.encoder)
    made.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    np.testing.assert_array_equal(opened.vectors, made.vectors)
    assert opened.query("meteorology")[0].name == "a"


@pytest.mark.slow
def test_an_index_of_a_machine_with_a_gpu(run, index, tmp_path, monkeypatch):
    """TensorFlow is its engine, also where LiteRT has the model already, and starts."""
    with monkeypatch.context() as patched:
        patched.setattr("tfkit.environment.stack.has_gpu", lambda: True)
        made = Index.build([Document("a", "Rain is likely."), Document("b", "Shares fell.")], index.encoder)
    made.save(tmp_path / "index")
    opened = Index.open(tmp_path / "index")
    assert (opened.description["engine"], opened.description["in_python"]) == ("tensorflow", True)
    assert opened.query("meteorology")[0].name == "a"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["embeddings.npy", "documents.jsonl", "index.json"])
def test_a_flipped_byte_of_an_index_is_not_used(run, tmp_path, name):
    copied = shutil.copytree(run.path / "index", tmp_path / "index")
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 0x01
    (copied / name).write_bytes(content)
    with pytest.raises((RunError, HubError), match=str(copied)):
        Index.open(copied)


@pytest.mark.slow
def test_a_question_to_an_index_starts_no_tensorflow(run, index):
    assert index.description["in_python"]
    program = (
        "import sys, io; from recipes import search_text as s; sys.stdin = io.StringIO('lazy kitten\\n')\n"
        f"run = s.run(s.Config(run_dir={str(run.path)!r}, query=('how do I cancel',), interactive=True, top=2))\n"
        "print(s.closing_lines(run)); assert 'tensorflow' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    answers = run.read("hits.json")["answers"]
    assert [answer["hits"][0]["name"] for answer in answers] == ["terms.txt", "pets/cats.md"]
    expected = index.query("how do I cancel", top=2)
    assert [hit["score"] for hit in answers[0]["hits"]] == pytest.approx(
        [hit.score for hit in expected], abs=1e-6
    )
    assert done.stdout.count("pets/cats.md") >= 1
