"""The doctor in this environment and in a broken one, which is a real one: a venv of links to this one's packages."""

import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tfkit.environment import packages
from tfkit.environment.doctor import CHECKS, _describe_cache, _describe_start, run

REPO = Path(packages.__file__).parents[2]


def run_doctor(python: Path | str, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words, environment = [str(python), "-m", "tfkit", "doctor", *flags], {**os.environ, **variables}
    return subprocess.run(words, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.stack
@pytest.mark.slow
def test_every_package_does_its_real_thing():
    """In the environment that the tests run in, which must be whole."""
    done = run_doctor(sys.executable, "--json")
    assert done.stderr == ""
    assert done.returncode == 0, done.stdout
    healthy = json.loads(done.stdout)
    assert healthy["ok"]
    assert [check["package"] for check in healthy["checks"]] == list(CHECKS)
    for check in healthy["checks"]:
        assert check["ok"], check
        assert check["version"] == packages.version(check["package"])
    assert {packages.DISTRIBUTION, *packages.REQUIRED} - {"scikit-learn"} == set(CHECKS)
    assert healthy["machine"]["devices"]["CPU"]
    assert healthy["machine"]["keras"] == f"tf_keras {packages.version('tf-keras')}"
    assert healthy["cache"]["path"] == os.environ["TFKIT_CACHE"]
    assert {one["package"] for one in healthy["optional"]} == set(packages.OPTIONAL)


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> Path:
    """The Python of an environment with setuptools 82, without tensorflow-privacy, and whose tensorflow-text aborts."""
    folder = tmp_path_factory.mktemp("broken")
    venv.create(folder, symlinks=True, with_pip=False)
    here = Path(sysconfig.get_path("purelib"))
    there = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    leave = ("setuptools", "pkg_resources", "tensorflow_privacy", "tensorflow_text", "tfkit", "__editable__")
    # Where Python keeps what it compiles elsewhere, by the path of the source: or all is compiled anew, for seconds.
    compiled = Path(f"{os.environ.get('PYTHONPYCACHEPREFIX', '')}{there}")
    compiled.mkdir(parents=True, exist_ok=True)
    for entry in here.iterdir():
        if not entry.name.startswith(leave) or entry.name.startswith("tensorflow_text-"):
            (there / entry.name).symlink_to(entry)
            if not (compiled / entry.name).is_symlink():  # an earlier folder may have had this name
                (compiled / entry.name).symlink_to(str(compiled / entry.name).replace(str(there), str(here)))
    newer = there / "setuptools-82.0.0.dist-info"
    newer.mkdir()
    (newer / "METADATA").write_text("Metadata-Version: 2.1\nName: setuptools\nVersion: 82.0.0\n")
    crashing = there / "tensorflow_text"
    crashing.mkdir()
    (crashing / "__init__.py").write_text("import os\nos.write(2, b'undefined symbol: x\\n')\nos.abort()\n")
    return folder / "bin" / "python"


@pytest.mark.slow
def test_a_broken_environment_is_told_what_to_type(broken):
    done = run_doctor(broken, PYTHONPATH=str(REPO))
    assert done.returncode == 1
    assert all(line.startswith("Trying ") for line in done.stderr.splitlines()), done.stderr
    assert "Traceback" not in done.stdout

    lines = done.stdout.splitlines()
    found = {line.split()[1]: number for number, line in enumerate(lines) if line.startswith("BROKEN")}
    after = {package: lines[number + 1].strip() for package, number in found.items()}
    pip = f"{broken} -m pip install "
    privacy = "--no-deps --ignore-requires-python tensorflow-privacy==0.9.0"
    assert after == {
        "setuptools": f"{pip}'setuptools<81'",
        "tensorflow-hub": f"{pip}'setuptools<81'",
        "tensorflow-text": f"{pip}--force-reinstall --no-deps '{packages.requirement('tensorflow-text')}'",
        "tensorflow-privacy": f"{pip}{privacy}",
        "tensorflow-empirical-privacy": f"{pip}{privacy}",
    }
    assert "setuptools 82.0.0 has no pkg_resources" in lines[found["tensorflow-hub"]]
    assert "brought its process down: undefined symbol: x" in lines[found["tensorflow-text"]]
    assert "tensorflow-privacy is not installed" in lines[found["tensorflow-privacy"]]
    # What comes after the crash is still examined.
    assert sum(line.startswith("ok") for line in lines) == len(CHECKS) - len(found)
    assert lines[-1].strip().split(" && ") == list(dict.fromkeys(after.values()))


def test_modules_that_are_compiled_in_each_process_are_told_of(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))  # where nothing is compiled yet
    found = _describe_start()
    assert not found["compiled"]
    site = str(REPO / "tests" / "data")  # a small folder in place of the packages
    words = shlex.split(found["command"])
    assert words[-1] == sysconfig.get_path("purelib")
    words[-1:] = [site]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)})
    assert list(tmp_path.rglob("*.pyc"))


def test_a_wrong_result_is_a_finding(monkeypatch):
    monkeypatch.setitem(CHECKS, "dp-accounting", ("composes", lambda: (1.9, 1.28)))
    found = run("dp-accounting")
    assert not found["ok"]
    assert re.search(r"CheckError: .*1\.28.*1\.9", found["detail"])
    assert found["command"]


def test_the_cache_says_what_takes_the_room(monkeypatch, tmp_path):
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path))
    for name, size in (("examples/a/examples.parquet", 7), ("texts/b", 5), ("alone", 1)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    assert (_describe_cache()["bytes"], _describe_cache()["folders"]) == (
        13,
        {"examples": 7, "texts": 5, "alone": 1},
    )


def test_a_cache_that_cannot_be_written_is_broken(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "file" / "cache"))
    cache = _describe_cache()
    assert not cache["ok"]
    assert "export TFKIT_CACHE=" in cache["detail"]
