"""The report of a real run, as its page's own policy lets a browser show it; and the picture of it in the README.

uv run pytest -n 0 tests/report/test_picture.py --screenshots tests/report      (writes tests/report/report.png)
"""

import pytest
from PIL import Image

from recipes import compress_tflite, transfer_image
from tests.conftest import write_digits
from tfkit import report

INTENDED_USE = """\
To show what a report looks like. It was trained on handwritten digits of 8 by 8 pixels, white on black.

Not for reading forms, cheques or addresses: nobody has tried it on digits of any other origin.
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A few seconds of training, two files for a phone, and what their author says of it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    photos = write_digits(tmp_path_factory.mktemp("data") / "digits", classes=10, each=40)
    run = transfer_image.run(
        transfer_image.Config(
            data_dir=photos, run_dir=folder, image_size=32, epochs=5, fine_tune_epochs=0, seed=1
        )
    )
    compress_tflite.run(compress_tflite.Config(from_run=folder, variants=("float32", "int8")))
    (folder / "intended_use.md").write_text(INTENDED_USE)
    report.write_report(run)
    return run


@pytest.mark.slow
def test_the_picture_of_the_readme(run, browser, screenshot):
    context = browser.new_context(viewport={"width": 1200, "height": 1100}, color_scheme="light")
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto((run.path / "report.html").as_uri())
    picture = screenshot(page, "report")
    assert said == []  # such as what the policy has blocked
    shown = page.locator("body").inner_text()
    assert "Not for reading forms" in shown
    assert "Apache-2.0" in shown
    for sentence in (
        f"{run.metrics['test/accuracy']:.1%}".replace("%", " %"),
        "int8 is chosen",
        "400 images",
    ):
        assert sentence in shown
    assert page.locator("svg").count() == 5
    colours = page.locator("th").first.evaluate("one => getComputedStyle(one).color")
    assert colours == "rgb(85, 96, 111)"  # the style applies
    context.close()
    assert Image.open(picture).size == (1200, 1100)
    assert picture.stat().st_size < 200_000


@pytest.mark.slow
def test_the_card_names_the_licence_of_the_backbone(run):
    card = (run.path / "model_card.md").read_text()
    assert "| licence | Apache-2.0 |" in card
    assert "Not for reading forms" in card
    assert "| `int8` (chosen) |" in card or "| `float32` (chosen) |" in card
    assert card.count("\n| `") >= 12
