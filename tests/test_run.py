"""The run folder: whole or absent, never two runs in one, never lost by a mistyped flag."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfkit.errors import RunError
from tfkit.run import Run


def test_what_is_recorded_is_read_back(tmp_path):
    run = Run.create(tmp_path / "run", config={"seed": 3})
    run.record({"test/accuracy": 0.5})
    run.record({"time/total_seconds": 2})
    run.note("Class weights are\non.")
    run.note("Class weights are on.")
    run.labels = ["a b", "line\nbreak", "ü"]
    run.write_history(
        [{"stage": "head", "epoch": 0, "loss": 1.5}, {"stage": "head", "epoch": 1, "val_loss": 2.0}]
    )
    again = Run.open(run.path)
    assert again.config == {"seed": 3}
    assert again.metrics == {"test/accuracy": 0.5, "time/total_seconds": 2}
    assert again.notes == ["Class weights are on."]
    assert again.labels == ["a b", "line break", "ü"]
    assert list(again.history["epoch"]) == [0, 1]
    assert not again.finished
    run.provenance = {"recipe": {"name": "train_private"}}
    run.record({"privacy/epsilon": 2.98})
    assert repr(again).count("\n") < 3
    for fact in (str(run.path), "train_private", "not finished", "accuracy 0.5", "epsilon 2.98"):
        assert fact in repr(again)
    (run.path / "metrics.json").write_text("{")
    assert "damaged" in repr(again)


def test_a_worker_beside_the_chief_writes_nothing_and_reads_the_end(tmp_path, monkeypatch, capsys):
    """What a function of a notebook returns, `fit(...).metrics["test/loss"]`, is evaluated in every worker."""
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TFKIT_CACHE_DIR", str(tmp_path / "cache"))
    with Run.create(tmp_path / "run", config={"seed": 3}) as chief:
        monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
        with Run.create(tmp_path / "run", config={"seed": 3}) as other:
            other.record({"test/loss": 7.0})
            other.note("Not the chief's.")
            assert (other.is_chief, other.path == chief.path, other.backup) == (False, False, chief.backup)
            assert chief.metrics == {}
            chief.record({"test/loss": 0.5})
            chief.labels = ["a", "b"]
            chief.write_history([{"stage": "train", "epoch": 0}])
        assert "Not the chief's." not in capsys.readouterr().out
        assert other.metrics == {"test/loss": 0.5}
        assert (other.config, other.labels, other.notes) == ({"seed": 3}, ["a", "b"], [])
        assert list(other.history["epoch"]) == [0]
        assert not other.path.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(tmp_path, value):
    run = Run.create(tmp_path, config={})
    with pytest.raises(RunError, match="'test/loss'"):
        run.record({"test/loss": value})
    assert run.metrics == {}


def test_another_config_is_refused_and_named(tmp_path):
    run = Run.create(tmp_path, config={"seed": 1, "epochs": 5})
    run.record({"test/accuracy": 0.5})
    run.close()
    with pytest.raises(RunError, match=r"epochs: 5 there, 6 now[\s\S]*--overwrite"):
        Run.create(tmp_path, config={"seed": 1, "epochs": 6})
    assert Run.open(tmp_path).metrics == {"test/accuracy": 0.5}


def test_what_a_run_decides_replaces_what_was_left_open_and_it_goes_on(tmp_path):
    asked = {"data_dir": "photos", "image_size": None, "rate": 0.1}
    with Run.create(tmp_path, config=asked) as run:
        run.record({"test/accuracy": 0.5})
        run.decide(image_size=64, rate=0.2, unknown=1)
        run.decide(image_size=96)
    decided = {"data_dir": "photos", "image_size": 96, "rate": 0.2}
    assert Run.open(tmp_path).config == decided
    for same in (asked, decided, {**asked, "image_size": 96}):
        with Run.create(tmp_path, config=same) as again:
            assert again.metrics == {"test/accuracy": 0.5}
            assert again.config == decided
    with pytest.raises(RunError, match="image_size: None there, 64 now"):
        Run.create(tmp_path, config={**asked, "image_size": 64})


def test_a_run_that_never_began_gives_way(tmp_path):
    """A mistyped data folder leaves a config behind; the corrected command must not be refused for it."""
    Run.create(tmp_path, config={"data_dir": "photo"}).close()
    assert Run.create(tmp_path, config={"data_dir": "photos"}).config == {"data_dir": "photos"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["thesis.tex", "config.yaml"])
def test_a_folder_of_other_things_is_not_touched(tmp_path, overwrite, name):
    """A config.yaml alone makes no run folder: other programs write such files."""
    (tmp_path / name).write_text("years of work")
    with pytest.raises(RunError, match=name):
        Run.create(tmp_path, config={}, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "years of work"


def test_overwrite_removes_what_runs_make_and_nothing_else(tmp_path):
    run = Run.create(tmp_path, config={"seed": 1})
    run.record({"test/accuracy": 0.5})
    run.write_history([{"stage": "head", "epoch": 0}])
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "my notes.md").write_text("mine")
    run.close()
    again = Run.create(tmp_path, config={"seed": 2}, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.yaml", "my notes.md"]
    assert (again.config, again.metrics) == ({"seed": 2}, {})


def test_two_processes_do_not_share_a_folder(tmp_path):
    run = Run.create(tmp_path, config={})
    program = f"from tfkit.run import Run; Run.create({str(tmp_path)!r}, config={{}})"
    second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert second.returncode != 0
    assert "in use" in second.stderr
    run.close()
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


def test_a_model_that_is_not_there_yet(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    with pytest.raises(RunError, match="no saved_model/ yet"):
        _ = Run.open(tmp_path).model


def test_what_a_killed_process_left_half_is_removed(tmp_path):
    Run.create(tmp_path, config={"seed": 1}).close()
    (tmp_path / ".saved_model.abc123").mkdir()
    (tmp_path / ".metrics.json.abc123").write_text("{")
    (tmp_path / ".gitignore").write_text("*")
    with Run.create(tmp_path, config={"seed": 1}):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", ".lock", "config.yaml"]


def test_a_restarted_job_overwrites_nothing(tmp_path, monkeypatch):
    """A launcher gives a restarted job the same words, --overwrite among them."""
    with Run.create(tmp_path / "run", config={"a": 1}, overwrite=True) as run:
        run.record({"done": 1})
    monkeypatch.setenv("TFKIT_RESTARTED", "1")
    with Run.create(tmp_path / "run", config={"a": 1}, overwrite=True) as run:
        assert run.metrics == {"done": 1}
    monkeypatch.setenv("TFKIT_RESTARTED", "0")
    with Run.create(tmp_path / "run", config={"a": 1}, overwrite=True) as run:
        assert run.metrics == {}


@pytest.mark.parametrize("name", ["file/run", "/proc/self/run", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(RunError, match="--run-dir") as caught:
        Run.create(tmp_path / name, config={"seed": 1})
    assert str(tmp_path / name) in str(caught.value)
    assert (tmp_path / "file").read_text() == "mine"


READ_ONLY = """
import sys
from pathlib import Path
sys.path.insert(0, "")
import recipes.audit_privacy, recipes.compress_tflite, recipes.search_text, recipes.train_distributed
import recipes.train_private, recipes.transfer_image, recipes.transfer_text, tfkit, tfkit.__main__
from tfkit import cli
from tfkit.errors import RunError
new, old = "new/run", "old"
for name, words in {
    "transfer_image": ["--run-dir", new], "transfer_text": ["--run-dir", new], "train_private": ["--run-dir", new],
    "train_distributed": ["--run-dir", new], "search_text": ["--data-dir", "documents", "--run-dir", new],
    "compress_tflite": ["--from-run", old], "audit_privacy": ["--run-dir", old],
}.items():
    recipe = getattr(recipes, name)
    try:
        cli.main(recipe.Config, recipe.run, words)
    except SystemExit as ended:
        print(name, ended.code, flush=True)
print("report", tfkit.__main__.main(["report", old]))
try:
    tfkit.Run.create(new, config={})
except RunError as error:
    print("create 2")
"""


def test_every_recipe_refuses_a_read_only_folder_before_it_begins(tmp_path):
    with Run.create(tmp_path / "old", config={}) as run:
        run.record({"time/total_seconds": 1.0})
    (tmp_path / "old" / "report.html").write_text("")
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.txt").write_text("Rain is likely.")
    (tmp_path / "program.py").write_text(READ_ONLY)
    # A mount of its own is read-only for root too.
    words = f"mount --bind -o ro {tmp_path} {tmp_path} && mount -o remount,bind,ro {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", words], capture_output=True, check=False).returncode:
        pytest.skip("no mounts of one's own here: unshare -m needs root")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{words} && cd {tmp_path} && exec "$0" program.py', sys.executable],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )  # fmt: skip
    said = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert len(said) == 9, done.stderr[-3000:]
    assert set(said.values()) == {"2"}, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("Choose another --run-dir") == 8
    assert str(Path("new") / "run") in done.stderr
