"""An agent learns, is measured, exported and asked again; TF-Agents is in an environment of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from recipes import train_agent
from tfkit import cli, litert
from tfkit.environment.stack import tf
from tfkit.errors import ConfigError, RunError
from tfkit.run import Run
from tfkit.settings.parse import flags, parse

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs/manual/how-to/agents.md").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
PATIENCE = 900
DQN = {"steps": 2000, "learning_rate": 1e-3, "seed": 1}
# TensorFlow and TF-Agents take seconds to import: once, for the process that is killed and for the one that is not.
PROGRAM = f"""
import os, pathlib, signal, time
from recipes.train_agent import Config, run
from tfkit.environment import stack

stack.tf, stack.tf_agents, stack.keras
if not (child := os.fork()):
    run(Config(**{DQN}, run_dir="killed"))
    os._exit(0)
backup, deadline = pathlib.Path("killed/backup/agent/checkpoint"), time.monotonic() + {PATIENCE}
while not backup.is_file() and time.monotonic() < deadline:
    assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it could be killed"
    time.sleep(0.05)
os.kill(child, signal.SIGKILL)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
assert backup.is_file()
run(Config(**{DQN}, run_dir="unbroken"))
run(Config(agent="linucb", steps=400, run_dir="bandit"))
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Python of an environment with the extra `agents`, on top of the one that the tests run in."""
    folder, uv = tmp_path_factory.mktemp("agents") / "env", shutil.which("uv")
    if uv is None:
        pytest.skip("no uv here, by which an environment is made: pip install uv")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    words = [uv, "pip", "install", "-q", "--python", folder, "--no-deps", *EXTRAS["agents"]]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the packages do not come within {PATIENCE} s")
    if done.returncode and "No solution found" not in done.stderr:
        pytest.skip("the packages cannot be reached")
    assert done.returncode == 0, done.stderr
    (there,) = folder.glob("lib/python*/site-packages")
    (there / "tests.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin/python"


def started(python, folder, *words):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([python, *words], cwd=folder, env=environment, **pipes)


@pytest.fixture(scope="module")
def folder(python, tmp_path_factory):
    """Folder with the runs `killed` (after its first checkpoint), `unbroken` and `bandit`."""
    folder = tmp_path_factory.mktemp("runs")
    with started(python, folder, "-c", PROGRAM) as process:
        _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return folder


def test_it_acts_better_than_by_chance(folder):
    run = Run.open(folder / "unbroken")
    found = run.metrics
    assert found["agent/mean_return_low"] > 2 * found["agent/random_return"]
    assert found["agent/mean_return_low"] < found["agent/mean_return"] < found["agent/mean_return_high"]
    assert 15 < found["agent/random_return"] < 30  # 22, as Gym's documentation has it
    assert found["agent/saved_model_agreement"] == found["agent/tflite_agreement"] == 1.0
    assert run.history["steps"].tolist()[-1] >= 2000
    with pytest.raises(RunError, match="no classifier"):
        run.predict(np.zeros([1, 4]))
    page = (run.path / "report.html").read_text()
    assert "A policy for CartPole-v1" in page
    assert 'alt="return over the epochs' in page
    assert run.versions["packages"]["tf-agents"] == "0.19.0"


def test_a_killed_run_ends_as_an_unbroken_one(python, folder):
    words = ("-m", "recipes.train_agent", *flags(DQN), "--run-dir=killed", "--json")
    assert not (folder / "killed/report.html").exists()
    with started(python, folder, *words) as process:
        out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert "Round 2 of 2: " in err
    assert "Round 1 " not in err
    assert not re.search("gym|deprecat", err, re.IGNORECASE)  # no notices
    assert json.loads(out)["metrics"]["agent/episodes"] == 100
    for name in ("history.csv", "tflite/policy.tflite", "config.yaml"):
        assert (folder / "killed" / name).read_bytes() == (folder / "unbroken" / name).read_bytes()


def test_a_bandit_learns_from_its_choices_alone(folder):
    found = Run.open(folder / "bandit").metrics
    assert found["agent/decisions"] == 400
    assert found["agent/regret"] < 0.5 * found["agent/random_regret"]
    assert found["agent/test_accuracy"] > 0.8
    assert found["agent/full_information_accuracy"] > 0.8
    assert found["agent/tflite_agreement"] == 1.0
    assert "contextual bandit" in (folder / "bandit/model_card.md").read_text()


@pytest.mark.parametrize("name", ["CartPol-v1", "FrozenLake-v1"])
def test_an_environment_that_does_not_fit_is_refused(name):
    with pytest.raises(ConfigError, match=f"--environment is '{name}'; expected one of 'CartPole-v1'"):
        train_agent.Config(environment=name)


def test_what_the_page_shows_works_without_tf_agents(folder, tmp_path, monkeypatch, capsys):
    """Its program asks the policy in this very process, which has no TF-Agents."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/cartpole").symlink_to(folder / "unbroken")
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)
    exec(compile(program, "docs/manual/how-to/agents.md", "exec"), {})
    first, second = capsys.readouterr().out.split()
    assert first == second
    assert first in ("0", "1")
    policy = tf.saved_model.load("runs/cartpole/policy").signatures["action"]
    states = np.random.default_rng(0).uniform(-0.2, 0.2, [50, 4]).astype(np.float32)
    ones, zeros = np.ones(50, np.float32), np.zeros(50, np.float32)
    step = {
        "0/step_type": ones.astype(np.int32),
        "0/reward": zeros,
        "0/discount": ones,
        "0/observation": states,
    }
    actions = policy(**{name: tf.constant(value) for name, value in step.items()})["action"].numpy()
    with litert.ParallelInterpreter(Path("runs/cartpole/tflite/policy.tflite").read_bytes()) as interpreter:
        np.testing.assert_array_equal(interpreter(states), actions)
    assert set(actions) == {0, 1}
    commands = re.findall(r"^python -m recipes.train_agent(.*)$", DOCS, flags=re.MULTILINE)
    assert len(commands) >= 2
    for words in commands:
        parse(train_agent.Config, shlex.split(words, comments=True), prog="", description="")


@pytest.mark.skipif(find_spec("tf_agents") is not None, reason="TF-Agents is installed")
def test_without_tf_agents_it_says_what_to_type(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(train_agent.Config, train_agent.run, ["--run-dir", str(tmp_path / "run")])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "tf-agents is not installed" in said
    assert "--extra=agents" in said or "--no-deps tf-agents==0.19.0" in said
    assert not (tmp_path / "run").exists()
