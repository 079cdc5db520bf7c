"""python -m tfkit launch: what it refuses, what it costs, and what it hands on."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from tfkit.__main__ import main


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "What to run is missing"),
        ("--workers 2 --", "What to run is missing"),
        ("-- nowhere.py", "'nowhere.py' is not a file"),
        ("-- python script.py", "Leave it out"),
        ("--workers 0 -- -m this", "--workers is 0; it must be 1 or more"),
        ("--workers 1000000 -- -m this", "--workers 1000000"),
        ("--hosts http://a:1,b:1 --task-index 0 -- -m this", "'http://a:1'"),
        ("--hosts a:1,a:1 --task-index 0 -- -m this", "a:1 more than once"),
        ("--max-restarts -1 -- -m this", "--max-restarts is -1"),
        ("--hang-seconds 1 -- -m this", "3 or more"),
        ("--task-index 1 -- -m this", "--hosts is missing"),
        ("--hosts localhost:2222,localhost:2223 -- -m this", "--hosts needs --task-index"),
        (
            "--hosts localhost:2222 --task-index 0 --workers 2 -- -m this",
            "--workers does not go with --hosts",
        ),
        ("--hosts localhost:2222 --task-index 1 -- -m this", "0 to 0, on each host"),
        ("--engine ray --hang-seconds 9 --no-pin -- -m this", "--hang-seconds, --pin: of the local launcher"),
    ],
)
def test_what_cannot_be_is_said_before_anything_starts(capsys, line, said):
    assert main(["launch", *line.split()]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("code", ["main(['launch', '--help'])", "main(['launch', '--', '-c', 'print(1)'])"])
def test_the_launcher_does_without_tensorflow(code):
    """Neither for its help nor to run a job."""
    program = f"""
import contextlib, sys
from tfkit.__main__ import main
with contextlib.suppress(SystemExit): {code}
print(sorted({{"tensorflow", "tf_keras", "numpy", "pandas", "pkg_resources"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_its_own_options_end_at_the_dashes(capfd):
    """What follows is the program's, also where it looks like an option of the launcher."""
    code = "import sys; print(sys.argv[1:])"
    assert main(["launch", "--workers", "1", "--", "-c", code, "--workers", "9", "--", "--help"]) == 0
    assert "['--workers', '9', '--', '--help']" in capfd.readouterr().out


def test_ray_starts_the_processes_if_it_is_asked_to(monkeypatch):
    asked = []
    engine = types.ModuleType("tfkit.distribution.ray")
    engine.launch = lambda words, **settings: asked.append((words, settings)) or 0
    monkeypatch.setitem(sys.modules, engine.__name__, engine)
    options = ["--workers", "4", "--max-restarts", "1", "--grace-seconds", "9"]
    assert main(["launch", "--engine", "ray", *options, "--", "-m", "this"]) == 0
    assert asked == [(("-m", "this"), {"workers": 4, "max_restarts": 1, "grace_seconds": 9.0})]
