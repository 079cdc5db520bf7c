"""tfkit.search: questions to documents in one call, which embeds once."""

import inspect

import pytest

import tfkit
from tfkit.errors import ConfigError


@pytest.mark.slow
def test_the_same_call_embeds_nothing_again(tmp_path, monkeypatch):
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "terms.txt").write_text("You may end the contract at the end of a month.")
    (documents / "menu.txt").write_text("Soup, bread, and an apple.")
    (documents / "index").mkdir()  # of a web site: it makes no run of the folder
    (documents / "index" / "terms.txt").write_text("You may end the contract at the end of a month!")
    answers = tfkit.search(documents, query="how do I cancel", run_dir=tmp_path / "run", top=1)
    assert answers[["query", "name"]].to_numpy().tolist() == [["how do I cancel", "terms.txt"]]
    assert answers["similar"].tolist() == [["index/terms.txt"]]
    (documents / "menu.txt").unlink()
    again = tfkit.search(tmp_path / "run", query=["what is there to eat", "how do I cancel"], top=1)
    assert again["name"].tolist() == ["menu.txt", "terms.txt"]
    texts = ["You may end the contract at the end of a month.", "Soup, bread, and an apple."]
    found = tfkit.search(texts, query="what is there to eat", run_dir=tmp_path / "memory", top=1)
    assert found["text"].tolist() == texts[1:]
    assert found["name"].tolist() == ["examples.parquet:2"]


def test_a_wrong_keyword_is_answered_with_the_right_one(tmp_path):
    with pytest.raises(ConfigError, match=r"tops=[\s\S]*top="):
        tfkit.search(tmp_path, query="x", tops=3)


def test_the_settings_are_in_the_signature():
    assert {"run_dir", "top", "model_handle"} <= set(inspect.signature(tfkit.search).parameters)
    assert {"epochs", "target_epsilon", "augment"} <= set(inspect.signature(tfkit.train).parameters)
