"""A forked process is what a plain one is, as far as programs of these tests can see."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests import forked

LOOK = """
import json, os, resource, signal, sys, tempfile, threading
here = {
    "argv": sys.argv, "orig_argv": sys.orig_argv, "name": __name__, "main": vars(sys.modules["__main__"]) is globals(),
    "path": sys.path, "cwd": os.getcwd(), "environ": dict(os.environ), "parent": os.getppid(),
    "group": os.getpgid(0) == os.getpid(), "session": os.getsid(0) == os.getpid(),
    "signals": {name: str(signal.getsignal(getattr(signal, name))).partition(" at ")[0]
                for name in ("SIGINT", "SIGTERM", "SIGPIPE", "SIGHUP", "SIGCHLD")},
    "files": sorted(map(int, os.listdir("/proc/self/fd"))), "threads": threading.active_count(),
    "limits": resource.getrlimit(resource.RLIMIT_NOFILE), "flags": str(sys.flags),
    "cores": sorted(os.sched_getaffinity(0)),
    "buffered": sys.stdout.line_buffering, "encoding": sys.stdout.encoding,
    "interactive": hasattr(sys, "ps1"), "masked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "stdin": sys.stdin.read(), "temporary": tempfile.gettempdir(),
}
print(json.dumps(here))
"""


@pytest.mark.parametrize("how", ["-c", "script", "-m"])
@pytest.mark.parametrize("new_session", [False, True])
def test_it_sees_what_a_plain_one_sees(tmp_path, how, new_session):
    (tmp_path / "look.py").write_text(LOOK)
    words = {"-c": ["-c", LOOK], "script": ["look.py"], "-m": ["-m", "look"]}[how]
    options = {
        "cwd": tmp_path,
        "env": {**os.environ, "PYTHONPATH": str(tmp_path / "more"), "NEW": "ä", "TMPDIR": str(tmp_path)},
        "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
        "start_new_session": new_session,
    }  # fmt: skip
    found = []
    for popen in (subprocess.Popen, forked.Popen):
        with popen([sys.executable, *words, "--flag", "a b"], **options) as process:
            out, err = process.communicate("typed")
        assert (process.returncode, err) == (0, "")
        found.append(json.loads(out))
    for name in found[0]:
        assert found[0][name] == found[1][name], name
    assert found[1]["parent"] == os.getpid()


# What runs in the background of a shell ignores SIGINT, and so do the processes that it starts.
INTERRUPTED = "import os, signal; signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2)"


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("pass", 0),
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit('a word')", 1),
        ("raise ValueError('culprit')", 1),
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL),
        (INTERRUPTED, -signal.SIGINT),
        ("import atexit, os; atexit.register(lambda: print('the end')); print('words', end=' ')", 0),
    ],
)
def test_it_ends_as_a_plain_one(program, code):
    words = [sys.executable, "-c", program]
    done = [run(words, capture_output=True, text=True) for run in (subprocess.run, forked.run)]
    assert [one.returncode for one in done] == [code, code]
    assert done[0].stdout == done[1].stdout
    assert done[0].stderr.splitlines()[-1:] == done[1].stderr.splitlines()[-1:]


def test_signals_waiting_and_what_it_used_are_those_of_a_child():
    with forked.Popen(
        [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(600)"], stdout=-1
    ) as process:
        assert process.stdout.readline() == b"1\n"
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.terminate()
        assert process.wait(600) == -signal.SIGTERM
    before = os.times()
    forked.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system > 0.25


@pytest.mark.slow
def test_tensorflow_is_there_and_starts_as_tfkit_wants_it():
    program = (
        "import sys, time\n"
        "assert 'tfkit' not in sys.modules\n"
        "from tfkit.environment.stack import tf, keras\n"
        "assert keras.Sequential([keras.layers.Dense(2)])(tf.ones([3, 4])).shape == (3, 2)\n"
        "assert 'keras' not in sys.modules, 'which is Keras 3'\n"
        "print(time.process_time(), tf.random.uniform([]).numpy())\n"
    )
    done = [forked.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(2)]
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * 2
    (seconds, number), (_, other) = (map(float, one.stdout.split()) for one in done)
    assert seconds < 2  # TensorFlow's import takes more
    assert number != other


def test_another_environment_at_the_start_gives_a_plain_process():
    for name, value in (("PYTHONHASHSEED", "7"), ("TF_CPP_MIN_LOG_LEVEL", "0")):
        program = "import sys; print('tensorflow' in sys.modules, hash('a'))"
        words, environment = [sys.executable, "-c", program], {**os.environ, name: value}
        done = forked.run(words, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.startswith("False"), name


def test_its_session_is_its_own_as_soon_as_its_number_is_known():
    """Jupyter asks for a kernel's group at once, and may kill that group later."""
    for _ in range(5):
        with forked.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True
        ) as process:
            assert os.getpgid(process.pid) == process.pid
            process.kill()


def test_what_cv2_adds_to_the_environment_as_it_is_imported_does_not_matter():
    import cv2  # noqa: F401

    program = "import sys; print('tensorflow' in sys.modules)"
    own = os.pathsep.join(filter(None, ["/site/cv2/../../lib64", os.environ.get("LD_LIBRARY_PATH")]))
    for libraries, forks in ((own, True), ("/opt/other", False)):
        environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
        done = forked.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
        assert done.stdout.split() == [str(forks)], libraries
