"""How a recipe ends: the exit code, and what it says."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from recipes import train_distributed
from tfkit import cli
from tfkit.environment import process
from tfkit.errors import CheckError, DataError
from tfkit.run import Run
from tfkit.settings.options import RecipeConfig

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """Of the test."""

    epochs: int = 1
    """How many."""


def end(run, *arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(Config, run, arguments)
    return exit_.value.code, capsys.readouterr()


def raising(error):
    def run(config):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("photos/ is empty.\n  Add images."), 2, "DataError: photos/ is empty.\n  Add images.\n"),
        (CheckError("it differs"), 1, "CheckError: it differs"),
        (KeyboardInterrupt(), 3, "Interrupted."),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 2, "The disk is full"),
        (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), 2, "--run-dir"),
        (FileExistsError(errno.EEXIST, "File exists", "run/logs"), 2, "run/logs"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 2, "runs/a"),
        (ZeroDivisionError("division by zero"), 1, "Unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_a_sentence_and_a_code(error, code, said, capsys):
    found, printed = end(raising(error), capsys=capsys)
    assert found == code
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out
    found, printed = end(raising(error), "--json", capsys=capsys)
    program = json.loads(printed.out)
    assert (found, program["exit_code"], program["kind"]) == (code, code, type(error).__name__)
    assert said.strip() in program["error"]
    assert not printed.err


def test_debug_lets_the_error_through():
    with pytest.raises(DataError):
        cli.main(Config, raising(DataError("empty")), ["--debug"])


def test_success_ends_with_six_lines(tmp_path, capsys):
    def run(config):
        run = Run.create(tmp_path / "run", config={"epochs": config.epochs})
        run.record({"test/accuracy": 0.97, "test/examples": 200, "time/total_seconds": 12.3})
        return run

    code, printed = end(run, "--epochs", "3", capsys=capsys)
    assert code == 0
    lines = printed.out.strip().splitlines()
    assert len(lines) == 6
    assert "0.9700 on 200 test examples" in lines[0]
    assert str(tmp_path / "run" / "saved_model") in lines[2]
    assert Run.open(tmp_path / "run").config == {"epochs": 3}


@pytest.mark.parametrize(
    ("seen", "copies", "said"),
    [
        (0, 0, "on 200 test examples that training never saw"),
        (150, 0, "on 200 test examples, 150 of which earlier training saw"),
        (0, 40, "on 200 test examples; 40 of validation and test are copies of earlier ones"),
    ],
)
def test_nothing_is_called_unseen_that_training_has_seen(tmp_path, seen, copies, said):
    """As with --continue-from on another seed, or a folder whose test/ holds images of train/."""
    with Run.create(tmp_path / "run", config={}) as run:
        run.record({"test/accuracy": 0.97, "test/examples": 200, "data/test_examples_seen_before": seen})
        run.provenance = {"data": {"duplicates": copies}}
    (line,) = [line for line in cli.closing_lines(run) if line.startswith("accuracy")]
    assert line.endswith(said)


def test_a_model_of_numbers_gives_no_probabilities(tmp_path):
    with Run.create(tmp_path / "run", config={}) as run:
        (run.path / "task.json").write_text('{"name": "value"}')
    (line,) = [line for line in cli.closing_lines(run) if line.startswith("load it")]
    assert line.endswith("raw pixels to the number and its scale")


def talking(folder):
    """A job that says what it does, and starts another program that does too."""

    def run(config):
        run = Run.create(folder, config={}, overwrite=True)
        run.note("One decision.")
        subprocess.run(["sh", "-c", "echo from a child"], check=True)
        process.say(f"{process.watched()} {process.is_verbose()}")
        run.record({"test/accuracy": 0.5, "test/examples": 2, "time/total_seconds": 1.0})
        return run

    return run


def test_a_program_gets_one_object_and_nothing_else(tmp_path, capfd):
    code, printed = end(talking(tmp_path / "run"), "--json", capsys=capfd)
    assert code == 0
    said = json.loads(printed.out)
    assert said["run_dir"] == str(tmp_path / "run")
    assert said["exit_code"] == 0
    assert said["metrics"]["test/accuracy"] == 0.5
    assert said["files"]["metrics.json"] == str(tmp_path / "run" / "metrics.json")
    assert all(Path(path).exists() for path in said["files"].values())
    assert "One decision." in printed.err
    assert "from a child" in printed.err


def test_a_program_that_gives_wrong_words_gets_an_error(capfd):
    code, printed = end(raising(AssertionError), "--json", "--epoch", "3", capsys=capfd)
    assert (code, json.loads(printed.out)["exit_code"]) == (2, 2)
    assert "did you mean --epochs?" in json.loads(printed.out)["error"]


def test_quiet_leaves_the_closing_lines_and_the_notes_in_the_folder(tmp_path, capsys):
    code, printed = end(talking(tmp_path / "run"), "--quiet", capsys=capsys)
    assert code == 0
    run = Run.open(tmp_path / "run")
    assert printed.out.splitlines() == cli.closing_lines(run)
    assert run.notes == ["One decision."]
    assert process.is_verbose()


def test_progress_is_drawn_where_it_is_seen(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not process.watched()
    monkeypatch.setattr("sys.stderr", Terminal())
    assert process.watched()
    with process.muted():
        assert not process.watched()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_of_several_workers_one_says_what_is_wrong_with_the_words():
    """All of them read the same ones; none of them starts TensorFlow."""
    words = ["-m", "tfkit", "launch", "--workers", "3", "--", "-m", "recipes.transfer_image", "--epoch", "3"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert "--epoch 3; did you mean --epochs?" in said
    # The launcher's word stands for it where another worker gave up before the first had spoken.
    assert said.count("--help lists all flags") <= 1


@pytest.mark.slow
def test_a_recipe_talks_to_programs_and_to_files(photos, tmp_path, capsys):
    asked = ["--data-dir", str(photos), "--run-dir", str(tmp_path / "run"), "--epochs=1", "--image-size=16"]
    program = [sys.executable, "-m", "recipes.train_distributed", *asked, "--json"]
    done = subprocess.run(program, capture_output=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    assert said["metrics"]["test/examples"] > 0
    assert Path(said["files"]["report.html"]).is_file()
    assert done.stderr.count(b"val_accuracy") == 1
    assert not set(b"\r\b\x1b") & set(done.stderr)
    # The same again does nothing, and quietly says how it had ended.
    with pytest.raises(SystemExit):
        cli.main(train_distributed.Config, train_distributed.run, [*asked, "--quiet"])
    assert capsys.readouterr().out.splitlines() == cli.closing_lines(Run.open(tmp_path / "run"))
