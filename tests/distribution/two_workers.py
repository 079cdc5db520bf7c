"""Two workers of one program, in a network of their own: TensorFlow's port is open to every interface.

    python two_workers.py PROGRAM [ARGUMENT ...]

FIRST and SECOND in the environment are the TF_CONFIG of each; the second prints to the file OTHER. TensorFlow is
imported once, before the second is forked: nothing has been computed by then.
"""

import ctypes
import os
import runpy
import subprocess
import sys
from pathlib import Path

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # linux/sched.h

if __name__ == "__main__":
    os.environ["TF_USE_LEGACY_KERAS"] = "1"  # or TensorFlow imports Keras 3 too, a second or more
    import tensorflow  # noqa: F401
    import tf_keras  # noqa: F401

    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK | (NEW_USER if user else 0)):
        raise OSError(ctypes.get_errno(), "no network of one's own")
    if user:
        for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            Path("/proc/self", name).write_text(content)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    second = os.fork()
    os.environ["TF_CONFIG"] = os.environ["FIRST" if second else "SECOND"]
    if not second:
        os.dup2(os.open(os.environ["OTHER"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    sys.argv[:] = sys.argv[1:]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    runpy.run_path(sys.argv[0], run_name="__main__")
    if second:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
