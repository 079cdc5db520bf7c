"""Workers that die, hang, do not come or are told to stop: what the launcher does, and whom it names."""

from __future__ import annotations

import json
import re

import pytest

runs = pytest.mark.runs

# The one that survives ends as TensorFlow does when it loses a peer: with 4, or by an abort. It is not to blame.
SURVIVES = """
train(20) if started else train(5)
if not started:
    if me == {victim}:
        (folder / "dead").touch()
        die(9)
    while not (folder / "dead").exists(): time.sleep(0.02)
    time.sleep(0.3)
"""


@pytest.mark.parametrize(
    "victim",
    [
        pytest.param(1, marks=runs(SURVIVES.format(victim=1) + "    os._exit(4)")),
        pytest.param(0, marks=runs(SURVIVES.format(victim=0) + "    die(6)")),
    ],
)
def test_who_is_killed_is_named_and_all_start_again(job, victim):
    assert job.ended() == 0
    assert f"worker {victim} died (SIGKILL) at step " in job.said
    assert "(restart 1 of 3)" in job.said
    assert len(job.starts(0)) == len(job.starts(1)) == 2
    first, second = (json.loads(each["environment"]["TF_CONFIG"])["cluster"] for each in job.starts(0))
    assert not set(first["worker"]) & set(second["worker"])  # ports anew
    again = re.search(r"Training again after ([0-9.]+) s", job.said)
    assert again is not None
    assert 0 < float(again[1]) < 30


@runs(
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); train(5)\nif not started: die(9) if me else time.sleep(600)"
)
def test_a_survivor_that_does_not_hear_sigterm_is_killed(job):
    assert job.ended() == 0
    assert len(job.starts(0)) == 2


@runs(
    "train(3)\nfor n in range(30 * me): print('line', n)\nos._exit(7) if me else time.sleep(600)",
    "--max-restarts",
    "1",
)
def test_restarts_are_used_up(job):
    assert job.ended() == 1
    assert "WorkerError: worker 1 died (exit code 7) at step 3, and all 1 restarts" in job.said
    quoted = job.said.split("The last that worker 1 printed")[-1]
    assert "    line 29\n" in quoted
    assert "    line 9\n" not in quoted
    assert "The same command goes on from the program's last backup" in quoted
    assert len(job.starts(1)) == 2


GIVES_UP = "train(3)\nif me == {me}: heartbeat.give_up('it is wrong'); sys.exit({code})\ntime.sleep(600)"


@pytest.mark.parametrize(
    ("me", "code"),
    [pytest.param(*how, marks=runs(GIVES_UP.format(me=how[0], code=how[1]))) for how in ((1, 2), (0, 1))],
    ids=["wrong usage", "a failed check"],
)
def test_what_a_restart_would_not_mend_is_not_restarted(job, me, code):
    assert job.ended() == code
    assert f"worker {me} gave up: it is wrong" in job.said
    assert len(job.starts(0)) == 1


@runs("import no_such_module")
def test_an_error_at_once_is_not_restarted(job):
    assert job.ended() == 1
    assert "ModuleNotFoundError" in job.said
    assert len(job.starts(0)) == 1


@runs(
    "train(5)\nif not started:\n    if me: die(signal.SIGSTOP)\n    time.sleep(600)",
    "--hang-seconds",
    "5",
)
def test_a_stopped_worker_is_found_and_named(job):
    """The other one waits for it in a step, as a collective does, and is not to blame."""
    assert job.ended() == 0
    assert "worker 1 stopped answering at step" in job.said
    assert not re.search(r"worker 0 (has|stopped|died)", job.said)
    assert len(job.starts(0)) == 2


@runs(
    "train(2)\nif started: heartbeat.phase('working')\ntime.sleep(600 if not started and me else 7)",
    "--hang-seconds",
    "5",
)
def test_training_without_a_step_is_a_hang_and_work_without_steps_is_none(job):
    assert job.ended() == 0
    assert "has made no step for 5 s (--hang-seconds) at step 2" in job.said
    assert len(job.starts(0)) == 2


@runs(
    "heartbeat.phase('joining')\n"
    "from tfkit.distribution import network; network.wait_for_workers(cluster.current())",
    "--join-seconds",
    "4",
    before="if me: print('mounting', flush=True); time.sleep(600)",
)
def test_a_worker_that_does_not_come_is_named(job):
    """A restart would not bring it."""
    assert job.ended() == 1
    assert re.search(r"WorkerError: worker 0 gave up: worker 1 \(127.0.0.1:\d+: .*\) .* 4 s", job.said)
    assert "[worker 1] mounting" in job.printed
    assert len(job.starts(0)) == 1


@runs("train(3)", "--join-seconds", "1", before="time.sleep(3)\nif not started: die(9)")
def test_a_program_that_never_beats_is_watched_for_deaths_alone(job):
    assert job.ended() == 0
    assert "tfkit.environment.heartbeat.start" in job.said
    assert len(job.starts(0)) == 2


@runs("train(3)\nif me: save()\ntime.sleep(1); save()")
def test_a_worker_that_was_told_to_stop_takes_the_others_with_it(job):
    """As on a machine that the scheduler wants back: the peers save with it, and no restart follows."""
    assert job.ended() == 3
    assert job.printed.count("saved") == 2
    assert len(job.starts(0)) == 1


@runs(
    "train(3)\ndone = folder / 'done'\n"
    "if not me: done.touch()\nwhile not done.exists(): time.sleep(0.02)\nif me: die(6)"
)
def test_an_abort_of_the_others_after_the_chief_has_finished_loses_nothing(job):
    assert job.ended() == 0
    assert "worker 1 died (SIGABRT), and worker 0 has finished" in job.said
