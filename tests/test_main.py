"""python -m tfkit: the commands answer, and what is wrong is a sentence."""

import json
import re
import subprocess
import sys

import pytest

from tfkit.__main__ import main
from tfkit.hub.catalogue import known_models
from tfkit.run import Run


def test_models_lists_every_known_one(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    for row in known_models():
        assert all(word in printed for word in (row.name, row.handle, row.licence, row.preprocessor or ""))
    assert "efficientnet-lite0" in printed
    assert "minilm-l6-v2" in printed


def test_report_writes_finished_runs_and_refuses_others(tmp_path, capsys):
    run = Run.create(tmp_path / "run", config={"seed": 1})
    run.close()
    assert main(["report", str(run.path)]) == 2
    assert "has not come to its end" in capsys.readouterr().err
    run.record({"test/accuracy": 0.5, "time/total_seconds": 1.0})
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.path / "report.html")
    assert "<html" in (run.path / "report.html").read_text()
    assert main(["report", str(tmp_path)]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: COMMAND"),
        (["docto"], "did you mean doctor?"),
        (["models", "--jso"], "unrecognized arguments: --jso"),
        (["launch", "--worker", "2"], "--worker"),
        (["report", "nowhere"], "holds no run"),
    ],
)
def test_wrong_words_end_with_2_and_a_sentence(words, said, capsys):
    assert main(words) == 2
    printed = capsys.readouterr()
    assert said in printed.err
    assert re.match(r"\w+Error: ", printed.err)
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


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "3 interrupted" in capsys.readouterr().out
