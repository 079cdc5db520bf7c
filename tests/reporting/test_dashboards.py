"""TensorBoard in a browser: every dashboard shows what a run wrote, and asks nobody else for anything."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import TimeoutError
from sklearn.datasets import load_digits

import tfkit
from tfkit import reporting
from tfkit.compression import Prune
from tfkit.environment.stack import keras
from tfkit.reporting.keras_callbacks import Kernels

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(photos, scans, tmp_path_factory):
    """A run of photos, one of private photos, and a model that is pruned."""
    folder = tmp_path_factory.mktemp("runs")
    settings = {"model": "cnn", "image_size": 32, "patience": 12, "global_batch_size": 16}
    tfkit.train(photos, run_dir=folder / "photos", epochs=6, profile=True, **settings)
    settings = {"target_epsilon": 8, "delta": 1e-4, "image_size": 32}
    tfkit.train(scans, run_dir=folder / "private", epochs=3, **settings)
    x, y = load_digits(return_X_y=True)
    dense = keras.layers.Dense
    model = keras.Sequential(
        [dense(16, name="hidden", activation="relu", input_shape=[64]), dense(10, name="top")]
    )
    pruned = Prune(final_sparsity=0.75)
    wrapped = pruned.wrap(model, steps=3 * 57)
    wrapped.compile(
        "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
    )
    logdir = folder / "pruned" / "logs"
    logging = reporting.callbacks(logdir, steps_per_epoch=57, examples_per_epoch=len(x))
    wrapped.fit(x, y, epochs=3, verbose=0, callbacks=[*logging, *pruned.callbacks(), Kernels(logdir)])
    return folder


@pytest.fixture(scope="module")
def address(runs, serving):
    with serving(runs) as address:
        yield address


@pytest.fixture(scope="module")
def asked():
    """Addresses outside that the pages asked for."""
    return []


@pytest.fixture(scope="module")
def page(browser, address, asked):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.set_default_timeout(60_000)

    def route(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    page.route("**/*", route)
    return page


# Dashboard, and what stands in it: text, or what a selector finds.
SHOWN = {
    "timeseries": ["epoch_loss", "epoch_accuracy"],
    "scalars": ["epoch_loss", "epoch_epsilon", "epoch_learning_rate"],
    "custom_scalars": ["Training", "learning rate", "Privacy", "epsilon spent", "Sparsity", "Speed"],
    "images": ["tag: test/confusion", "tag: test/roc", "samples"],
    "graphs": ["Main Graph"],
    "distributions": ["tag: prune_low_magnitude_hidden/kernel"],
    "histograms": ["tag: prune_low_magnitude_hidden/kernel"],
    "text": ["Training was differentially private with epsilon"],
    "pr_curves": ["all classes", "digit 0"],
    "hparams": ["runs", "model_handle", "best/val_accuracy", "target_epsilon"],
    "projector": ["Points", "Dimension", "Total variance described"],
}
DRAWN = {
    "scalars": "vz-line-chart2 svg, line-chart svg, line-chart canvas",
    "custom_scalars": "vz-line-chart2 svg, vz-line-chart2 canvas",
    "images": "tf-image-loader img, img",
    "histograms": "vz-histogram-timeseries svg",
    "pr_curves": "vz-line-chart2 svg, vz-line-chart2 canvas",
    "projector": "canvas",
}
EMPTY = re.compile(r"No dashboards are active|No .{0,40}data (was|were) found|is inactive")


def frame_of(page, name):
    """The Projector is a page within a page."""
    for _ in range(600):
        found = [frame for frame in page.frames if name in frame.url]
        if found:
            return found[0]
        page.wait_for_timeout(100)
    raise AssertionError(f"no frame of {name}")


def open_dashboard(page, address, dashboard):
    """The page in which all of `SHOWN` and `DRAWN` stands."""
    page.goto("about:blank")
    page.goto(f"{address}#{dashboard}")
    shown = frame_of(page, "projector_binary") if dashboard == "projector" else page
    for text in SHOWN[dashboard]:
        shown.get_by_text(text).locator("visible=true").first.wait_for()
    if dashboard in DRAWN:
        shown.locator(DRAWN[dashboard]).locator("visible=true").first.wait_for()
    return shown


@pytest.mark.parametrize("dashboard", SHOWN)
def test_it_shows_what_was_written(page, address, screenshot, dashboard):
    # On a busy machine a request may fail, and TensorBoard's page does not repeat it.
    for attempt in range(6):
        try:
            shown = open_dashboard(page, address, dashboard)
            break
        except TimeoutError:
            if attempt == 5:
                raise
    assert shown.get_by_text(EMPTY).locator("visible=true").count() == 0
    page.wait_for_timeout(500)  # lines grow into their place
    assert len(set(screenshot(page, f"tensorboard-{dashboard}").read_bytes())) > 200


def test_nobody_else_is_asked(asked):
    assert asked == []


def test_the_trace_is_of_steps_10_to_20(runs):
    (trace,) = (runs / "photos" / "logs" / "train" / "plugins" / "profile").glob("*/*.xplane.pb")
    content = trace.read_bytes()
    assert b"train" in content
    assert len(content) > 10_000
    assert not list((runs / "private" / "logs").rglob("*.xplane.pb"))
