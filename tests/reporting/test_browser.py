"""The pages in a browser: nothing of the data runs, anybody can read them, on a phone, in the dark and on paper."""

import dataclasses

import numpy as np
import pytest

from tests.reporting.finished_runs import PRIVATE, digits, full_run
from tfkit import reporting
from tfkit.metrics import LabelsEvaluation
from tfkit.reporting.examples import save
from tfkit.tasks import Labels


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The report of a run and a comparison, both full of hostile names."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [full_run(folder / "<img src=x onerror=alert(5)>"), full_run(folder / "private", privacy=PRIVATE)]
    thresholds = (0.5,) * 10
    labelled = full_run(folder / "labels", task=Labels(thresholds=thresholds).describe())
    measured, pictures = digits()
    known = {name: getattr(measured, name) for name in ("probabilities", "names", "class_names")}
    of_labels = LabelsEvaluation(
        labels=np.eye(10, dtype=int)[measured.labels], thresholds=thresholds, **known
    )
    shown = dataclasses.replace(pictures, sample_labels=of_labels.labels[: len(pictures.samples)])
    save(labelled.path / "evaluation.npz", of_labels, shown)
    (runs[1].path / "intended_use.md").write_text("To tell digits apart.\n\n<script>alert(6)</script>")
    return {
        "report": reporting.write_report(runs[0]),
        "private": reporting.write_report(runs[1]),
        "labels": reporting.write_report(labelled),
        "compare": reporting.write_comparison(runs, folder / "compare.html"),
    }


class Visit:
    """A page that is open, and what it did."""

    def __init__(self, browser, path, **settings):
        # Without its policy: what is escaped must hold by itself.
        self.context = browser.new_context(bypass_csp=True, **settings)
        self.page = self.context.new_page()
        self.dialogs, self.requests, self.errors = [], [], []
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


def violations(page):
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": ["wcag2a", "wcag2aa", "best-practice"], "resultTypes": ["violations"]}
    return [
        (one["id"], [node["html"][:200] for node in one["nodes"][:3]])
        for one in Axe().run(page, options=options).response["violations"]
    ]


@pytest.mark.parametrize("name", ["report", "private", "compare"])
def test_nothing_runs_and_nothing_is_asked_for(browser, pages, name, screenshot):
    with Visit(browser, pages[name], viewport={"width": 1200, "height": 900}) as visit:
        visit.page.locator("summary").evaluate_all("all => all.forEach(one => one.parentNode.open = true)")
        screenshot(visit.page, f"{name}-desktop", full_page=True)
        assert not visit.dialogs
        assert not visit.errors
        assert [url for url in visit.requests if not url.startswith("data:image/")] == [pages[name].as_uri()]
        assert visit.page.locator("script, iframe, object, embed, link, base, form").count() == 0
        assert visit.page.locator("a:not([href^='#']):not([href^='./'])").count() == 0
        if name != "compare":
            assert visit.page.locator("main").inner_text().count("<script>alert(1)</script>") > 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "private", "compare"])
def test_anybody_can_read_it(browser, pages, name, scheme, screenshot):
    with Visit(browser, pages[name], color_scheme=scheme, viewport={"width": 1000, "height": 900}) as visit:
        if scheme == "dark":
            screenshot(visit.page, f"{name}-dark")
        assert violations(visit.page) == []


@pytest.mark.parametrize("name", ["report", "private", "compare"])
def test_a_phone_scrolls_it_in_one_direction(browser, pages, name, screenshot):
    with Visit(browser, pages[name], viewport={"width": 360, "height": 740}) as visit:
        screenshot(visit.page, f"{name}-phone", full_page=True)
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
        beyond = """all => all.filter(one => one.getBoundingClientRect().right > 361
                                   && !one.closest('.wide')).map(one => one.outerHTML.slice(0, 200))"""
        assert visit.page.locator("body *").evaluate_all(beyond) == []
        # What is wider can be reached: by a finger, and by the keyboard.
        assert visit.page.locator(".wide:not([tabindex='0'])").count() == 0


def test_the_numbers_of_labels_are_below_each_other_on_a_phone(browser, pages, screenshot):
    with Visit(browser, pages["labels"], viewport={"width": 390, "height": 844}) as visit:
        screenshot(visit.page, "labels-phone", full_page=True)
        table = visit.page.locator("section[aria-labelledby=classes] .wide")
        assert table.evaluate("one => one.scrollWidth - one.clientWidth") == 0
        names = (
            table.locator("tbody tr")
            .first.locator("td")
            .evaluate_all("all => all.map(one => one.dataset.name)")
        )
        assert names == ["train", "test", "f1", "recall", "precision", "average precision", "thresholds"]
        assert violations(visit.page) == []


@pytest.mark.parametrize("name", ["report", "private", "compare"])
def test_it_prints(browser, pages, name, tmp_path, screenshot):
    with Visit(browser, pages[name], color_scheme="dark", viewport={"width": 794, "height": 1123}) as visit:
        visit.page.pdf(path=tmp_path / "page.pdf", format="A4")
        printed = (tmp_path / "page.pdf").read_bytes()
        assert printed.startswith(b"%PDF")
        assert printed.count(b"/Type /Page\n") >= 2
        visit.page.emulate_media(media="print")
        screenshot(visit.page, f"{name}-print", full_page=True)
        paper = "getComputedStyle(document.body).backgroundColor"
        assert visit.page.evaluate(paper) == "rgb(255, 255, 255)"
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 794
