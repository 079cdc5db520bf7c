"""python -m tfkit: the commands answer, and what is wrong is a sentence."""

import json
import re
import subprocess
import sys

import pytest

from tfkit.__main__ import main
from tfkit.hub.catalogue import known_models


def test_models_lists_every_known_one(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for row in known_models():
        assert all(word in printed for word in (row.name, row.handle, row.licence, row.preprocessor or ""))
    assert "efficientnet-lite0" in printed
    assert "minilm-l6-v2" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: COMMAND"),
        (["docto"], "did you mean doctor?"),
        (["search", "documents"], "python -m recipes.search_text"),
        (["agents"], "python -m recipes.train_agent"),
        (["transfer_text", "--help"], "transfer_text"),
        (["serve", "runs/a"], "python -m tfkit export RUN serving"),
        (["models", "--jso"], "unrecognized arguments: --jso"),
        (["launch", "--worker", "2"], "--worker"),
        (["report", "nowhere"], "holds no run"),
        (["export", "nowhere", "browsr"], "did you mean browser?"),
    ],
)
def test_wrong_words_end_with_2_and_a_sentence(words, said, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert re.match(r"(Starting: \d+ s so far\.\n)?\w+Error: ", printed.err)  # the former where it is slow
    assert not printed.out


def test_models_for_programs(capsys):
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert set(rows) == {row.name for row in known_models()}
    assert rows["efficientnet-lite0"]["licence"] == "Apache-2.0"


def test_who_reads_no_further_is_no_error():
    """As in `python -m tfkit models | head -1`."""
    program = [sys.executable, "-m", "tfkit", "models", "--json"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_help_names_the_commands_and_the_exit_codes(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for part in ("3 interrupted", "doctor", "models", "report", "export", "manifest", "launch"):
        assert part in printed
