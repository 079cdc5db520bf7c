"""What the tests share: a cache of their own, and small folders of real images."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Graphs are made of many small objects, among which the collector would look for garbage all the time: 7 % of the CPU.
gc.set_threshold(20_000, 10, 10)

# Three processes share two cores: large pages for what glibc allocates, and no threads that wait for each other; each
# took 5 % of the CPU of some tests away. The launcher and benchmarks set their own numbers of threads.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
for _variable in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

# Processes in the background of a shell ignore Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before anything of tfkit looks: the tests neither read nor fill the user's cache. Their processes share one.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="tfkit-tests-")
    os.environ["TFKIT_CACHE"] = _CACHE.name
    # In many containers Python may not keep what it compiles: each of a hundred processes that the tests start would
    # compile TensorFlow's modules anew, 5 s each. They keep it among themselves, unless it is there already.
    _tensorflow = importlib.util.find_spec("tensorflow")
    assert _tensorflow is not None
    if (
        sys.dont_write_bytecode
        and not Path(importlib.util.cache_from_source(str(_tensorflow.origin))).exists()
    ):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = f"{_CACHE.name}/bytecode"
        # Once, before the processes of pytest-xdist do it all at the same time.
        subprocess.run([sys.executable, "-c", "import tensorflow, tf_keras"], capture_output=True, check=True)


def write_digits(folder: Path, *, classes: int, each: int, side: int = 24, prefix: str = "") -> Path:
    """Real handwritten digits as `folder/<class>/<prefix><number>.png`, `each` of the first `classes` digits."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(classes):
        (folder / f"digit {label}").mkdir(parents=True)
        for number in np.flatnonzero(digits.target == label)[:each]:
            pixels = np.round(digits.images[number] * (255 / 16)).astype(np.uint8)
            image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            image.save(folder / f"digit {label}" / f"{prefix}{number}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 real images of 24 by 24 pixels."""
    return write_digits(tmp_path_factory.mktemp("data") / "photos", classes=3, each=40)


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 90 real images whose file names are nobody's business."""
    return write_digits(tmp_path_factory.mktemp("data") / "scans", classes=3, each=90, prefix="patient-")


# Seconds of CPU, of the tests' processes and all that they start, that each folder's tests are to keep to: 1,300, which
# are twelve minutes on two cores that nobody else uses.
BUDGET = {
    "auditing": 30, "compression": 90, "composition": 90, "data": 20, "distribution": 110,
    "environment": 25, "exporting": 64, "hub": 35, "inference": 20,
    "litert": 2, "notebooks": 150, "privacy": 80, "recipes": 180, "reporting": 35, "searching": 2, "settings": 2,
    "text": 5, "training": 50, "transfer": 90, ".": 220,
}  # fmt: skip


# Files are dealt in this order: what takes minutes comes first, so that both processes end together.
LONG = ("test_readme.py", "composition", "notebooks", "recipes", "transfer", "distribution", "compression")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = Path(item.nodeid).parts[1].split("::")[0]
        return LONG.index(name) if name in LONG else len(LONG)

    items.sort(key=place)


_seen = 0.0


def pytest_collection_finish() -> None:
    global _seen
    _seen = sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test's own process, and those that it waited for, have used since the report before."""
    global _seen
    report = yield
    before, _seen = _seen, sum(os.times()[:4])
    report.cpu_seconds = _seen - before  # type: ignore[attr-defined]
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """How much each folder used, beside what it may use; not a test: machines differ."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "cpu_seconds"):
                parts = Path(report.nodeid.split("::")[0]).parts
                folder = parts[1] if len(parts) > 2 else "."
                seconds[folder] = seconds.get(folder, 0.0) + report.cpu_seconds
    if sum(seconds.values()) < 60:
        return
    terminalreporter.section("seconds of CPU by folder, and budget")
    for folder, used in sorted(seconds.items(), key=lambda item: -item[1]):
        over = "  over" if used > BUDGET.get(folder, 0) else ""
        terminalreporter.line(f"{folder:<14} {used:6.0f} {BUDGET.get(folder, 0):6}{over}")
    terminalreporter.line(f"{'in all':<14} {sum(seconds.values()):6.0f} {sum(BUDGET.values()):6}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", type=Path, help="a folder for the pictures that the tests of pages take"
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium (Playwright's Browser), for one file of tests: its event loop would be in others' way."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next(filter(None, found), None)
    if program is None or importlib.util.find_spec("playwright") is None:
        pytest.skip("no browser here: uv sync --group browser, and apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root cannot have Chromium's sandbox.
        browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.getuid() != 0)
        yield browser
        browser.close()


@pytest.fixture
def screenshot(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Path]:
    """`screenshot(page, "name")` keeps what the page shows, in the folder that --screenshots names."""
    folder = request.config.getoption("--screenshots") or tmp_path / "screenshots"

    def take(page: Any, name: str, *, full_page: bool = False) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", full_page=full_page)
        return folder / f"{name}.png"

    return take
