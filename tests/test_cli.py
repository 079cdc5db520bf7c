"""How a recipe ends: the exit code, and what it says."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import pytest

from tfkit import cli
from tfkit.config import RecipeConfig
from tfkit.errors import CheckError, DataError
from tfkit.run import Run


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
        (KeyboardInterrupt(), 3, "The same command goes on"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "The disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a"), 1, "Permission denied: runs/a"),
        (ZeroDivisionError("division by zero"), 1, "Unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_is_a_sentence_and_a_code(error, code, said, capsys):
    found, printed = end(raising(error), capsys=capsys)
    assert found == code
    assert said in printed.err
    assert "Traceback" not in printed.err
    assert not printed.out


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


@pytest.mark.parametrize(("arguments", "code"), [(["--epochs", "many"], 2), (["--help"], 0)])
def test_words_that_the_parser_answers(arguments, code, capsys):
    assert end(raising(AssertionError), *arguments, capsys=capsys)[0] == code
