"""Signals, terminals and kill -9: the workers save and stop, and nothing is left."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_means_save_and_stop(launch, number):
    job = launch("train(3); print('trained'); train(1000)")
    job.until(lambda: job.printed.count("trained") == 2)
    job.process.send_signal(number)
    assert job.ended() == 3
    assert job.printed.count("saved") == 2
    assert f"{number.name}: the workers have 30 s" in job.said
    assert "The same command goes on" in job.said


def test_a_signal_that_is_swallowed_while_workers_join_is_sent_again(launch):
    """TensorFlow has a handler of its own until MultiWorkerMirroredStrategy is made."""
    job = launch(
        "heartbeat.phase('joining'); signal.signal(signal.SIGTERM, lambda *_: print('swallowed', flush=True));"
        "print('joins', flush=True)\n"
        "while not any(folder.glob('go')): time.sleep(0.02)\n"
        "signal.signal(signal.SIGTERM, save); heartbeat.phase('working'); train(1000)"
    )
    job.until(lambda: job.printed.count("joins") == 2)
    job.process.send_signal(signal.SIGTERM)
    job.until(lambda: job.printed.count("swallowed") == 2)
    (job.folder / "go").touch()
    assert job.ended() == 3
    assert job.printed.count("saved") == 2


def terminal(script):
    """Start a launcher in a terminal of its own; returns its process id and the terminal's other end."""
    process, end = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "tfkit", "launch", "--", str(script)])
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    return process, end


def read_until(end, pattern):
    shown = b""
    while not re.search(pattern, shown):
        try:
            data = os.read(end, 1 << 16)
        except OSError:  # the other side has closed it
            break
        if not data:
            break
        shown += data
    return shown.decode(errors="replace")


def test_ctrl_c_in_a_terminal_reaches_the_workers_through_the_launcher_alone(script):
    """A worker that got SIGINT itself would end with a KeyboardInterrupt, and not save. One bar is shown."""
    process, end = terminal(script("train(10000)"))
    shown = read_until(end, rb"epoch 1 of 1: .*[1-9]/10000")
    os.write(end, b"\x03")
    shown += read_until(end, rb"last backup, if it has made one")
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3
    assert shown.count("saved") == 2
    assert "KeyboardInterrupt" not in shown


def test_a_terminal_that_is_closed_means_save_and_stop(script):
    process, end = terminal(script("train(10000)"))
    read_until(end, rb"epoch 1 of 1: .*[1-9]/10000")
    os.close(end)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 3


def test_a_reader_that_goes_away_does_not_end_the_training(script, tmp_path):
    path = script("print('first'); time.sleep(1); print('second'); (folder / f'done-{me}').touch()")
    command = [sys.executable, "-m", "tfkit", "launch", "--", str(path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().endswith(b"first\n")
    process.stdout.close()
    process.stderr.close()
    assert process.wait(60) == 0
    assert len(list(tmp_path.glob("done-*"))) == 2


def test_a_worker_that_does_not_stop_in_time_is_killed(launch):
    job = launch(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); train(10000)", "--grace-seconds", "1"
    )
    job.until(lambda: job.printed.count("deaf") == 2)
    job.process.send_signal(signal.SIGTERM)
    assert job.ended(15) == 3
    assert "not stopping in time: worker 0, worker 1" in job.said


def test_a_second_signal_means_at_once(launch):
    job = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); train(10000)")
    job.until(lambda: job.printed.count("deaf") == 2)
    job.process.send_signal(signal.SIGINT)
    job.process.send_signal(signal.SIGINT)  # the same Ctrl-C, by way of two processes
    time.sleep(1.5)
    assert job.process.poll() is None
    job.process.send_signal(signal.SIGINT)
    assert job.ended(10) == 3


GRANDCHILDREN = """
command = [sys.executable, "-c", "import time; time.sleep(600)", str(folder)]
subprocess.Popen(command)
subprocess.Popen(command, start_new_session=True)
subprocess.Popen(command, env={})
train(3); print("trained")
"""


def test_kill_9_of_the_launcher_leaves_nothing(launch):
    """Neither workers nor what they have started: in their group, in a session of its own, without environment."""
    job = launch(GRANDCHILDREN + "train(10000)")
    job.until(lambda: job.printed.count("trained") == 2)
    assert len(job.left()) == 2 + 6
    job.process.send_signal(signal.SIGKILL)
    job.process.wait()
    job.until(lambda: not job.left(), 5)
    pulses = Path(job.starts(0)[0]["environment"]["TFKIT_HEARTBEAT"]).parent
    job.until(lambda: not pulses.exists(), 5)


def test_the_end_of_the_workers_is_the_end_of_what_they_started(launch):
    job = launch(GRANDCHILDREN)
    assert job.ended() == 0
    assert job.left() == []
