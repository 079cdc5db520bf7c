"""A worker that prepares the images of a folder and their features, and prints what it made of them.

python features_program.py FOLDER PIECE: the second worker is killed in the middle of that piece of its own (0: never).
"""

import json
import os
import signal
import sys

from tfkit import data, hub
from tfkit.environment import cluster, files
from tfkit.environment.files import Cache

made = []
offer = Cache.offer


def counted(self, key, make, **options):
    """As it is, and count what was made."""

    def make_or_die(folder):
        info = make(folder)
        if cluster.current().index == 1 and len(made) + 1 == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)  # with the piece written, and not yet renamed
        return info

    was_made = offer(self, key, make_or_die, **options)
    made.extend([key] * was_made)
    return was_made


Cache.offer = counted
splits = data.load_images(sys.argv[1], image_size=64, global_batch_size=8)
images = len(made)
extraction = hub.extract(hub.load_model("efficientnet-lite0"), splits)
path = files.cache_dir("features") / extraction.splits.source.fingerprint / "features.npy"
found = {
    "images": images,
    "features": len(made) - images,
    "reused": extraction.reused,
    "engine": extraction.engine,
    "digest": files.sha256_of(path),
    "pixels": [files.sha256_of(path) for path in files.cache_dir("images").glob("*/content")],
    "left": [path.name for path in files.cache_dir("pieces").iterdir()],
}
print(json.dumps(found), flush=True)
