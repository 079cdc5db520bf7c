"""What a process says while it works, and what its stages took: measured on real work."""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tfkit.environment import process, timeline
from tfkit.environment.timeline import (
    OTHER,
    Timeline,
    Usage,
    doing,
    doing_locked,
    in_words,
    report,
    stage,
    track,
    usage_in,
)


@pytest.fixture
def impatient(monkeypatch):
    """A line is due after an instant; returns what waits until there is one."""
    monkeypatch.setattr(timeline, "EVERY", 0.05)
    monkeypatch.setattr(process, "said_at", 0.0)

    def lines(capfd) -> list[str]:
        said: list[str] = []
        for _ in range(6000):
            time.sleep(0.1)
            said += capfd.readouterr().err.splitlines()
            if said:
                break
        return said

    return lines


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))


def test_every_second_is_in_one_stage():
    ended = []
    wall, cpu = time.monotonic(), sum(os.times()[:4])
    with Timeline(ended=lambda: ended.append(1)) as times:
        burn(0.1)
        with stage("outer", "Outer"):
            burn(0.2)
            with stage("inner 0.5", "Inner"):
                time.sleep(0.3)
            burn(0.1)
        with stage("outer", "Outer, again"):
            burn(0.1)
        subprocess.run([sys.executable, "-c", "sum(range(10_000_000))"], check=True)
    wall, cpu = time.monotonic() - wall, sum(os.times()[:4]) - cpu
    used = times.usage
    assert list(used) == [OTHER, "outer", "inner_0_5"]
    assert len(ended) == 3
    assert sum(one.seconds for one in used.values()) == pytest.approx(wall, rel=0.02, abs=0.01)
    assert sum(one.cpu_seconds for one in used.values()) == pytest.approx(cpu, abs=0.02)
    assert used["inner_0_5"].seconds >= 0.3
    assert used["inner_0_5"].cpu_seconds < 0.2
    assert used["outer"].cpu_seconds >= 0.38
    assert used[OTHER].cpu_seconds > 0.15, "a child that has ended counts"
    assert usage_in(times.metrics()) == used
    assert list(usage_in(times.metrics("audit_"))) == [f"audit_{name}" for name in used]


def test_what_an_earlier_process_used_is_added():
    earlier = {"features": Usage(60.0, 100.0, 1 << 50), "head": Usage(1.0, 1.0, 5)}
    with Timeline(earlier) as times, stage("features", "Features"):
        time.sleep(0.05)
    assert times.usage["features"].seconds > 60.04
    assert times.usage["features"].peak_bytes == 1 << 50
    assert times.usage["head"] == earlier["head"]
    assert times.seconds > 61.04
    assert in_words({"import": Usage(4.2), OTHER: Usage(1.2), "data": Usage(0.1), "head": Usage(2.0)}) == (
        "import 4 s, head 2, other 1"
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_memory_is_that_of_the_stage():
    with Timeline() as times:
        # Not the allocator's, which keeps what it has.
        with stage("large", "Large"), mmap.mmap(-1, 300_000_000) as kept:
            for place in range(0, len(kept), mmap.PAGESIZE):
                kept[place] = 1
        with stage("small", "Small"):
            time.sleep(0.6)  # two looks
    assert times.usage["large"].peak_bytes > times.usage["small"].peak_bytes + 200_000_000
    assert times.usage["small"].peak_bytes > 10_000_000


def test_another_thread_does_not_end_a_stage():
    begun, go = threading.Event(), threading.Event()

    def work() -> None:
        with stage("elsewhere", "Elsewhere"):
            begun.set()
            go.wait(60)

    with Timeline() as times:
        thread = threading.Thread(target=work)
        thread.start()
        begun.wait(60)
        with stage("here", "Here"):
            go.set()
            thread.join(60)
            burn(0.1)
    assert set(times.usage) == {OTHER, "here"}
    assert times.usage["here"].cpu_seconds >= 0.08  # os.times counts hundredths


def test_a_silent_stage_is_said(impatient, capfd):
    with doing("Converting the model"):
        lines = impatient(capfd)
        assert lines[0].startswith("Converting the model")
        time.sleep(1)
        lines = impatient(capfd)
        assert re.fullmatch(r"Converting the model: \d+ s so far\.", lines[-1])
    time.sleep(0.6)
    capfd.readouterr()
    time.sleep(0.6)
    assert capfd.readouterr().err == "", "nothing is said of what is over"


def test_what_is_counted_is_said_with_the_time_left(impatient, capfd):
    for taken, _ in enumerate(track(range(1500), "Decoding", unit="image"), start=1):
        time.sleep(0.001)
        if taken == 1000:
            with doing("A part of it"):
                lines = impatient(capfd)
            break
    assert lines[-1].startswith("Decoding: ")
    assert "of 1,500 images, about " in lines[-1]
    assert lines[-1].endswith(" left.")
    with doing("Training"):
        report(990, 1000, "head, epoch 10 of 10")
        report(995, 1000, "head, epoch 10 of 10")
        lines = impatient(capfd)
    # By the steps of this process alone: it went on from step 990.
    assert "head, epoch 10 of 10: 995 of 1,000 steps, about " in lines[-1]


def test_quiet_jobs_and_other_workers_say_nothing(impatient, capfd, monkeypatch):
    with process.muted(), doing("Muted"):
        time.sleep(0.8)
    cluster = '{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}'
    monkeypatch.setenv("TF_CONFIG", cluster)
    with doing("The second of two workers"):
        time.sleep(0.8)
    assert capfd.readouterr().err == ""
    monkeypatch.setenv("TF_CONFIG", cluster.replace('"index": 1', '"index": 0'))
    with doing("The first of two workers"):
        assert impatient(capfd)[0].startswith("The first of two workers")


def test_native_code_that_keeps_the_lock_is_said_too(capfd, monkeypatch):
    monkeypatch.setattr(timeline, "EVERY", 1.0)
    with doing_locked("Converting $HOME"):
        ctypes.PyDLL(None).sleep(4)
    said = capfd.readouterr().err.splitlines()
    assert "Converting $HOME: 1 s so far." in said
    assert len(said) == len(set(said)) <= 4
    time.sleep(1.5)
    assert capfd.readouterr().err == ""


def test_who_has_just_heard_something_is_not_told_again(capfd, monkeypatch):
    monkeypatch.setattr(timeline, "EVERY", 1.0)
    with doing("Talking"):
        for _ in range(20):
            process.say("a line")
            time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_a_program_begins_when_its_process_did_and_a_fork_begins_anew():
    program = (
        "import time; time.sleep(0.5)\n"
        "import os, sys\n"
        "from tfkit.environment import timeline\n"
        "timeline.begin_with_process()\n"
        "with timeline.Timeline() as times, timeline.doing('Of the parent'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        timeline.EVERY = 0.1\n"
        "        with timeline.doing('Of the child'):\n"
        "            time.sleep(1)\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "assert times.usage['import'].seconds >= 0.5, times.usage\n"
        "assert 0.02 < times.usage['import'].cpu_seconds <= times.usage['import'].seconds, times.usage\n"
        "with timeline.Timeline() as later:\n"
        "    pass\n"
        "assert 'import' not in later.usage\n"
        "assert not {'tensorflow', 'tqdm', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Of the child" in done.stderr
    assert "Of the parent" not in done.stderr
