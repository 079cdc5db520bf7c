"""What cannot work together, and the command that repairs it, from the metadata of installed packages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import packaging
import pytest

from tfkit.environment import packages

REPO = Path(packages.__file__).parents[2]
PRIVACY = "--no-deps --ignore-requires-python tensorflow-privacy==0.9.0"
TEXT = "'tensorflow-text==2.21.*,!=2.21.0'"
SOUND = {
    "tensorflow": "2.21.0",
    "tf-keras": "2.21.0",
    "tensorflow-text": "2.21.1",
    "tensorflow-hub": "0.16.1",
    "tensorflow-model-optimization": "0.8.1",
    "tensorflow-privacy": "0.9.0",
    "tensorflow-empirical-privacy": "0.1.0",
    "dp-accounting": "0.6.0",
    "ai-edge-litert": "2.3.0",
    "tensorboard": "2.21.0",
    "scikit-learn": "1.6.1",
    "setuptools": "80.0.0",
}


def installed(folder: Path, versions: dict[str, str | None]) -> list[dict[str, str]]:
    """The problems in an environment that holds these packages, as far as metadata goes, and nothing else."""
    for name, version in versions.items():
        if version is not None:
            information = folder / f"{name.replace('-', '_')}-{version}.dist-info"
            information.mkdir()
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            (information / "METADATA").write_text(metadata)
    if versions["setuptools"] and int(versions["setuptools"].split(".")[0]) < 82:
        (folder / "pkg_resources").mkdir()
    code = "import json, dataclasses; from tfkit.environment import packages as p; "
    code += "print(json.dumps([problem._asdict() for problem in p.problems()]))"
    (folder / "packaging").symlink_to(Path(packaging.__file__).parent)
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{REPO}"}
    # -S: without the packages of the environment that the tests run in
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=environment)
    assert not done.stderr
    return json.loads(done.stdout)


def test_a_sound_environment_has_no_problems(tmp_path):
    assert installed(tmp_path, SOUND) == []


@pytest.mark.parametrize(
    ("package", "version", "found", "asked_for"),
    [
        ("setuptools", "82.0.0", "setuptools 82.0.0 has no pkg_resources", "'setuptools<81'"),
        ("setuptools", None, "there is no pkg_resources", "'setuptools<81'"),
        ("tf-keras", "2.20.1", "tf-keras 2.20.1 does not fit", "'tf-keras==2.21.*'"),
        ("tensorflow-text", "2.20.1", "tensorflow-text 2.20.1 does not fit", TEXT),
        ("tensorflow-text", "2.21.0", "tensorflow-text 2.21.0 does not fit", TEXT),
        ("tensorflow-text", None, "tensorflow-text is not installed", TEXT),
        ("tensorflow-hub", None, "tensorflow-hub is not installed", "install tensorflow-hub"),
        ("tensorflow-privacy", None, "tensorflow-privacy is not installed", PRIVACY),
        ("tensorflow-privacy", "0.8.11", "tensorflow-privacy 0.8.11 does not fit", PRIVACY),
        ("scikit-learn", "1.7.2", "scikit-learn 1.7.2 does not fit", "'scikit-learn>=1.6,<1.7'"),
    ],
)
def test_each_thing_that_cannot_work_has_its_command(tmp_path, package, version, found, asked_for):
    (problem,) = installed(tmp_path, SOUND | {package: version})
    assert problem["package"] == package
    assert problem["cause"].startswith(found)
    assert f"-m pip install {asked_for}" in problem["command"] or problem["command"].endswith(asked_for)


def test_another_project_of_the_same_name_is_a_problem(tmp_path):
    """`pip install tfkit` brings a toolkit of PyTorch, which has a package `tfkit` too."""
    (problem,) = installed(tmp_path, SOUND | {packages.DISTRIBUTION: "0.1.0", "tfkit": "0.9.0"})
    assert problem["package"] == "tfkit"
    assert "tfkit 0.9.0 is another project" in problem["cause"]
    assert "uninstall -y tfkit && " in problem["command"]
    assert problem["command"].endswith(packages.DISTRIBUTION)


def test_an_older_tensorflow_asks_for_what_fits_it(tmp_path):
    found = installed(tmp_path, SOUND | {"tensorflow": "2.19.1"})
    assert [problem["package"] for problem in found] == ["tf-keras", "tensorflow-text"]
    assert found[0]["command"].endswith("'tf-keras==2.19.*'")
    assert found[1]["command"].endswith("'tensorflow-text==2.19.*'")


def test_an_unknown_tensorflow_is_a_problem(tmp_path):
    names = ["tensorflow", "tf-keras", "tensorflow-text"]
    found = installed(tmp_path, SOUND | dict.fromkeys(names, "2.18.0"))
    assert [problem["package"] for problem in found] == names
    assert "tensorflow>=2.19,<2.22" in found[0]["cause"]


def test_one_command_for_several_packages_keeps_the_stale_ones_apart(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    first, second = packages.command("tensorflow-privacy", "setuptools", "tensorflow-hub").split(" && ")
    assert first.endswith("-m pip install 'setuptools<81' tensorflow-hub")
    assert second.endswith("-m pip install --no-deps --ignore-requires-python tensorflow-privacy==0.9.0")


def test_what_uv_alone_can_resolve_has_its_commands_too(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    first, second = packages.command("tf-agents").split(" && ")
    assert first.endswith("-m pip install gin-config gym==0.23.1 pygame")
    assert second.endswith("-m pip install --no-deps tf-agents==0.19.0")
    assert packages.command("tf-agents", "gym", "pygame").count("gym==") == 1


def test_a_damaged_package_is_installed_again_without_touching_others(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    command = packages.command("tensorflow-hub", reinstall=True)
    assert command.endswith("-m pip install --force-reinstall --no-deps tensorflow-hub")


def test_a_checkout_that_uv_manages_is_repaired_by_uv(monkeypatch, tmp_path):
    (tmp_path / "pyvenv.cfg").write_text("home = /usr/bin\nuv = 0.13.9\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", str(tmp_path))
    assert packages.command("tensorflow-privacy") == "uv sync"
    assert packages.command("tensorflow-hub", reinstall=True) == "uv sync --reinstall-package=tensorflow-hub"
    assert packages.command("kagglehub") == "uv sync --extra=kaggle"
    assert packages.command("tf-agents") == "uv sync --extra=agents"
    # In the folder's own environment, `uv sync` would repair the one that the variable names.
    monkeypatch.setattr(sys, "prefix", str(REPO / ".venv"))
    monkeypatch.setattr(packages, "_is_uv_environment", lambda: True)
    assert packages.command("kagglehub").endswith("install kagglehub")
