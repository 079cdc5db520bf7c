"""What is said after an interruption is true: of a backup only where there is one."""

import pytest

from tfkit import cli
from tfkit.environment import heartbeat
from tfkit.run import Run


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(heartbeat, "backups", None)


def test_a_backup_is_named_only_where_there_is_one(tmp_path):
    assert "backup" not in cli.explain(KeyboardInterrupt())
    with Run.create(tmp_path / "run", config={}) as run:
        assert "No backup is there yet" in cli.explain(KeyboardInterrupt("stopped in epoch 1, step 3 of 9"))
        (run.backup / "private").mkdir(parents=True)
        assert "No backup is there yet" in cli.explain(KeyboardInterrupt())
        (run.backup / "head" / "00000001").mkdir(parents=True)
        assert cli.explain(KeyboardInterrupt()).endswith("The same command goes on from the last backup.")
