"""The wheel holds all that the checkout's commands need, and runs where there is no checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = subprocess.run(
        ["uv", "build", "--wheel", "-q", "--out-dir", str(folder), str(ROOT)], capture_output=True, text=True
    )
    if done.returncode and "dns error" in done.stderr:
        pytest.skip("no network here, and the build backend is in no cache")
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_it_holds_every_file_of_the_packages_and_the_licence(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "tfkit", "recipes"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(tracked.stdout.split()) <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any(name.startswith(("tests/", "docs/", "notebooks/")) for name in names)


@pytest.mark.slow
def test_it_runs_where_there_is_no_checkout(wheel, tmp_path):
    """In an environment of its own, with the packages of this one: those are tested by an installer elsewhere."""
    venv.create(tmp_path / "env", symlinks=True, with_pip=False)
    there = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "env")}))
    here = Path(sysconfig.get_path("purelib"))
    for entry in here.iterdir():
        if not entry.name.lower().startswith(("tfkit", "recipes", "__editable__", "_tfkit", "_editable")):
            (there / entry.name).symlink_to(entry)
    subprocess.run(
        [shutil.which("uv"), "pip", "install", "-q", "--offline", "--no-deps", "--python",
         str(tmp_path / "env"), str(wheel)], check=True,
    )  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*words: str) -> str:
        done = subprocess.run(
            [str(tmp_path / "env/bin" / words[0]), *words[1:]],
            capture_output=True, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    assert "doctor" in run("tfkit", "--help")
    where = run(
        "python", "-c", "import tfkit, recipes; print(tfkit.__file__, recipes.__file__, tfkit.__version__)"
    )
    assert where.count(str(there)) == 2
    assert where.split()[-1] == "0.1.0"
    small = ("--epochs", "1", "--fine-tune-epochs", "0", "--image-size", "32", "--run-dir", "runs/digits")
    assert "accuracy" in run("python", "-m", "recipes.transfer_image", *small)
    assert (tmp_path / "runs/digits/report.html").is_file()
