"""model_card.md, rendered as CommonMark with GitHub's tables: a stranger's words stay words."""

import re

import pytest
from markdown_it import MarkdownIt

from tests.reporting.finished_runs import CLASSES, HOSTILE, LONG, PRIVATE, Parsed, full_run
from tfkit import reporting
from tfkit.reporting.figures import printable
from tfkit.reporting.page import prose
from tfkit.run import Run


def rendered(text):
    return Parsed(MarkdownIt("commonmark").enable("table").render(text))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = full_run(tmp_path_factory.mktemp("runs") / "run", privacy=PRIVATE)
    (run.path / "intended_use.md").write_text(
        f"# For {HOSTILE}\n- ![x](https://example.org/x.png)\n\n> second @somebody\r\n***\n\u202ebell\x07"
    )
    reporting.write_report(run)
    return run


@pytest.fixture(scope="module")
def card(run):
    return rendered((run.path / "model_card.md").read_text(encoding="utf-8"))


def test_nothing_of_the_data_is_markup(card):
    assert set(card.tags) <= {
        *("h1", "h2", "p", "ul", "li", "strong", "code", "pre", "br", "blockquote"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }
    assert {name for _, name, _ in card.attributes} <= {"style", "class"}
    assert card.tags.count("h1") == 1
    assert {len(row) for row in card.rows} == {2, 6}


def test_every_class_has_a_row_of_its_own_with_its_name_as_it_is(card):
    names = [row[0] for row in card.rows if len(row) == 6 and row[5].endswith(" %")]
    assert sorted(names) == sorted(printable(name) for name in CLASSES)
    assert printable(LONG) in names


def test_the_page_says_what_the_card_says(run, card):
    assert "efficientnet-lite0" in card.text
    assert "Training was differentially private. Covered: the weights." in card.text
    assert f"int8 is chosen, says {HOSTILE}." in card.text
    assert "2.21.0" in card.text
    assert ["variant", "kB", "accuracy", "drop", "agreement", "ms, 1 thread"] in card.rows
    assert f"--config {run.path}/config.yaml" in card.text


def test_what_the_author_wrote_stays_and_is_plain_text(run, card):
    page = (run.path / "report.html").read_text()
    wanted = (f"# For {HOSTILE}", "- ![x](https://example.org/x.png)", "> second @somebody", "***", "�bell�")
    for line in wanted:
        assert line in card.text
        assert line.replace("<", "&lt;").replace(">", "&gt;") in page
    for text in (card.text, page):
        assert "To be written by the author" not in text
    with Run.create(run.path, config=run.config, overwrite=True) as again:
        assert not (again.path / "model_card.md").exists()
        assert (again.path / "intended_use.md").is_file()


@pytest.mark.parametrize(
    "name", [*CLASSES, "\\|", "a\\", "``", "1. a", "+ a", "---", "a@b.org", "~~a~~", ":x:"]
)
def test_a_cell_shows_what_it_was_given(name):
    table = rendered(f"| a | b |\n| --- | --- |\n| {prose(name)} | 1 |\n")
    assert (table.rows[1], table.attributes) == ([printable(name), "1"], [])
    alone = rendered(f"{prose(name)}\n\nend")
    assert alone.tags == ["p", "p"]
    assert alone.text == f"{printable(name)}end" or alone.text == f"{printable(name)} end"


def test_github_makes_links_of_bare_addresses_and_there_is_none():
    written = prose("https://a.org http://b.org www.c.org d@e.org @f mailto:g@h.org")
    assert not re.search(r"://|www\.|@\w|mailto:", written)
