"""The manual builds without a warning, every link leads somewhere, and its pages work without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
MANUAL = ROOT / "docs/manual"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built manual."""
    if importlib.util.find_spec("mkdocs") is None:
        pytest.skip("no mkdocs here: uv sync --group docs")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "-f", str(ROOT / "docs/mkdocs.yml"), "-d", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_page_is_in_the_navigation(site):
    nav = (ROOT / "docs/mkdocs.yml").read_text()
    assert {str(page.relative_to(MANUAL)) for page in MANUAL.rglob("*.md")} == set(
        re.findall(r": ([\w/-]+\.md)$", nav, flags=re.MULTILINE)
    )


def test_the_commands_are_those_of_the_programs(site):
    page = (site / "reference/commands.html").read_text()
    assert "<!-- help" not in page
    for words in ("--target-epsilon", "--fine-tune-epochs", "--max-accuracy-drop", "--max-restarts"):
        assert words in page


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_the_links_of_a_document_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / document).read_text()):
        assert link.startswith("https://") or (ROOT / link).exists(), link


@pytest.mark.slow
def test_a_question_is_answered_without_a_network(site, browser):
    page, requests = browser.new_page(), []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((site / "how-to/predict.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("epsilon")
    page.wait_for_selector(".md-search-result__item", timeout=300_000)
    links = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any("explanation/privacy.html" in link for link in links)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_no_page_is_wider_than_the_screen(site, browser, screenshot, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    wide: list[Any] = []
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            wide.append(path.name)
    assert not wide
    page.goto((site / "index.html").as_uri())
    screenshot(page, f"manual-{width}")
    page.close()
