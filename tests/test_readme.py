"""The README says what is true: its programs run, and its two commands are those of the project."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tfkit.stack import keras

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def build_model():
    model = keras.Sequential([keras.layers.Flatten(input_shape=(96, 96, 3)), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


@pytest.mark.slow
def test_the_programs_run_in_the_order_in_which_they_stand(photos, tmp_path, monkeypatch, capsys):
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copy(next((photos / "digit 1").iterdir()), tmp_path / "some.jpg")
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(programs) >= 3
    names = {"build_model": build_model}
    for program in programs:
        exec(compile(program, "README.md", "exec"), names)
    assert "digit 1" in capsys.readouterr().out
    assert (tmp_path / "runs" / "photos" / "report.html").is_file()


def test_the_first_program_has_at_most_six_lines():
    program = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL).group(1)
    assert len([line for line in program.splitlines() if line.strip()]) <= 6


def test_the_commands_are_those_that_ci_runs():
    assert "pip install -q uv && uv run python -m recipes.transfer_image" in README
    assert "uv run pytest" in README
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()
    for module in re.findall(r"python -m (recipes\.\w+|tfkit)\b", README):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists() or (ROOT / module / "__main__.py").exists()
    for script in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / script).is_file()
