"""Python processes that need not import TensorFlow: forks of one that has, and has done nothing else.

    done = forked.run([sys.executable, "-m", "recipes.transfer_text", ...], capture_output=True, text=True)
    process = forked.Popen([sys.executable, "program.py"], cwd=folder)

As subprocess.run and subprocess.Popen, 4 s of CPU sooner: a process of its own with its own number, argv, `__main__`,
environment, folder, files, signals and exit code, and a child of this one (tests/test_forked.py compares it with a
plain one). Not for what is about the beginning of a process: what TensorFlow prints while it is imported, what a
program imports, /proc/PID/environ, workers that the launcher starts. At least one test of each command is to be plain.
"""

from __future__ import annotations

import atexit
import builtins
import ctypes
import functools
import gc
import json
import os
import re
import runpy
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# Read as Python or TensorFlow begin: with another value than the parent's, a process is a plain one.
_AT_START = re.compile("PYTHON(?!PATH$)|LANG|LC_|LD_|MALLOC_|OMP_|OPENBLAS_|TF_(?!CONFIG$)")
_DEFAULTS = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "1"}  # what tfkit sets
_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_ONE_AT_A_TIME = threading.Lock()


class Popen(subprocess.Popen):
    """`subprocess.Popen` of Python's own words: `[sys.executable, "-m" | "-c" | script, ...]`."""

    def _execute_child(self, args: Any, *rest: Any) -> None:
        (_, preexec, _, passed, cwd, env, _, _, shell, p2cread, _, _, c2pwrite, _, errwrite) = rest[:15]
        environment = dict(os.environ if env is None else env)
        # Jupyter's, for debuggers: left out.
        words = [os.fspath(word) for word in args if word != "-Xfrozen_modules=off"]
        is_python = words[0] == sys.executable and (words[1] in ("-m", "-c") or words[1][0] != "-")
        if not is_python or preexec or passed or shell or not _agrees(environment):
            super()._execute_child(args, *rest)
            return
        files = [end if end != -1 else number for number, end in enumerate((p2cread, c2pwrite, errwrite))]
        request = {"words": words[1:], "cwd": os.fspath(cwd or Path.cwd()), "environment": environment}
        request["new_session"], request["process_group"] = rest[-2:]
        self.pid = _fork(request, files)
        self._child_created = True
        self._close_pipe_fds(*rest[9:15])


def run(
    words: Any,
    *,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
):
    """`subprocess.run`."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with Popen(words, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    found = {name: value for name, value in (_DEFAULTS | dict(environment)).items() if _AT_START.match(name)}
    # cv2 adds folders of its own as it is imported, which makes no other process of what is started from then on.
    libraries = found.pop("LD_LIBRARY_PATH", "").split(os.pathsep)
    if own := [folder for folder in libraries if folder and "/cv2/" not in folder]:
        found["LD_LIBRARY_PATH"] = os.pathsep.join(own)
    return found


def _agrees(environment: Mapping[str, str]) -> bool:
    return _at_start(environment) == _server()[1]


def _fork(request: dict[str, Any], files: list[int]) -> int:
    """The number of a new process, which is a child of this one: its own parent has ended, and this one adopts it."""
    libc, (server, _) = ctypes.CDLL(None), _server()
    content = json.dumps(request).encode()
    with _ONE_AT_A_TIME:
        libc.prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            socket.send_fds(server, [len(content).to_bytes(8, "big")], files)
            server.sendall(content)
            return int.from_bytes(_received(server, 8), "big")
        finally:
            libc.prctl(_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@functools.cache
def _server() -> tuple[socket.socket, dict[str, str]]:
    """The way to the process that forks, and what of its environment has been read."""
    ours, theirs = socket.socketpair()
    environment = _DEFAULTS | dict(os.environ)
    environment.pop("PYTHONPATH", None)  # each fork has its own, beside what Python finds without any
    words = [sys.executable, "-c", f"from tests import forked; forked.serve({theirs.fileno()})"]
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL
    )
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)  # before that: the other side ends
    return ours, _at_start(environment)


def _received(connection: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        if not (part := connection.recv(size - len(content))):
            raise EOFError("the other side has ended")
        content += part
    return content


def serve(number: int) -> None:
    """Import TensorFlow, then fork until the other side has ended. A fork runs its program and ends as Python does."""
    import tensorflow  # noqa: F401
    import tf_keras  # noqa: F401

    gc.freeze()
    connection = socket.socket(fileno=number)
    while True:
        size, files, _, _ = socket.recv_fds(connection, 8, 3)
        if not size:
            return
        request = json.loads(_received(connection, int.from_bytes(size, "big")))
        reader, writer = os.pipe()
        if (middle := os.fork()) == 0:
            me = os.getpid()
            if os.fork():
                os._exit(0)
            while os.getppid() == me:
                time.sleep(0.001)
            # Before anybody knows its number: who asks for its group, and kills that, must not hit the server's.
            if request.pop("new_session"):
                os.setsid()
            elif (group := request["process_group"]) >= 0:
                os.setpgid(0, group)
            del request["process_group"]
            os.write(writer, os.getpid().to_bytes(8, "big"))
            break
        os.waitpid(middle, 0)
        os.close(writer)
        connection.sendall(os.read(reader, 8))
        for file in (*files, reader):
            os.close(file)
    connection.close()
    os.close(reader)
    os.close(writer)
    _become(files=files, **request)


def _become(
    *,
    words: list[str],
    cwd: str,
    environment: dict[str, str],
    files: list[int],
) -> None:
    """Set what the system and the interpreter set as a process begins, and run its program."""
    import numpy as np

    np.random.seed()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    tempfile.tempdir = None  # TMPDIR may be another one
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    paths = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = ["", *paths, *filter(None, sys.path)]
    for name in ("tests", "tests.forked"):
        sys.modules.pop(name, None)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = builtins
    sys.orig_argv[:] = [sys.executable, *words]
    if words[0] == "-m":
        sys.argv[:] = ["-m", *words[2:]]
        sys.path[0] = str(Path.cwd())
        runpy._run_module_as_main(words[1])
        return
    if words[0] == "-c":
        sys.argv[:] = ["-c", *words[2:]]
        code = compile(words[1], "<string>", "exec")
    else:
        sys.argv[:] = words
        sys.path[0] = str(Path(words[0]).resolve().parent)
        main.__dict__["__file__"] = words[0]
        code = compile(Path(words[0]).read_bytes(), words[0], "exec")
    exec(code, main.__dict__)
