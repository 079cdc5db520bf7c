"""python -m tfkit: the commands answer, and what is wrong is a sentence."""

import pytest

from tfkit.__main__ import main
from tfkit.hub import known, known_text
from tfkit.run import Run


def test_models_lists_every_known_one(capsys):
    assert main(["models"]) == 0
    printed = capsys.readouterr().out
    assert all(model.name in printed and model.licence in printed for model in known.table())
    assert all(text.name in printed and (text.preprocessor or "") in printed for text in known_text.table())
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


def test_a_command_is_required():
    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
