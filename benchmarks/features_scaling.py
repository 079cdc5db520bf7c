"""Two workers on a core each, and one on one core: how much faster images become stored features.

    python benchmarks/features_scaling.py                              (3 rounds of 4,000 photos, 6 minutes)
    python benchmarks/features_scaling.py --images 1000 --rounds 1     (quick: what each worker loads weighs more)

Measured is all between a started process and stored features: reading the folder, decoding, loading and checking the
model, computing. The model is converted before. The sides take turns, each with an empty cache. Beside the ratio of the
clock stands that of CPU time, one worker's over the busier one's of two: what a machine with nothing else to do would
show, and the only one to trust on another.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
CACHES = ("images", "features", "pieces")  # what each turn begins without


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(json.loads(options.worker))
        return
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("Two cores are needed, and this process may use one.")
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "photos", options.images)
        write_photos(Path(folder) / "few", 100)
        turn(Path(folder), "few", cores[:1], options)  # converts the model
        rounds = [
            [turn(Path(folder), "photos", cores[:count], options) for count in (1, 2)]
            for _ in range(options.rounds)
        ]
    print(f"\n{options.images} photos at {options.image_size} pixels, {options.rounds} rounds\n")
    print("| workers | seconds | CPU s of the busiest | images / CPU s of the busiest | pieces of each |")
    print("| ---: | ---: | ---: | ---: | --- |")
    for side, name in enumerate((1, 2)):
        turns = [pair[side] for pair in rounds]
        seconds, cpu = (statistics.median(row[key] for row in turns) for key in ("seconds", "cpu"))
        rate, shares = options.images / cpu, " + ".join(map(str, turns[-1]["pieces"]))
        print(f"| {name} | {seconds:.1f} | {cpu:.1f} | {rate:.0f} | {shares} |")
    for key, name in (("seconds", "by the clock"), ("cpu", "by CPU time of the busiest worker")):
        ratio = statistics.median(single[key] / double[key] for single, double in rounds)
        print(f"two workers over one, {name}: {ratio:.2f}")
    if len({digest for turns in rounds for row in turns for digest in row["digests"]}) > 1:
        sys.exit("The features differ.")
    print("the stored features are the same to the byte")


def write_photos(root: Path, count: int) -> None:
    """Pieces of two photographs, in a folder each."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_sample_image

    generator = np.random.default_rng(0)
    for name in ("china", "flower"):
        (root / name).mkdir(parents=True)
        photo = load_sample_image(f"{name}.jpg")
        for number, (row, column) in enumerate(generator.integers(0, (127, 240), (count // 2, 2))):
            crop = photo[row : row + 300, column : column + 400]
            Image.fromarray(crop).save(root / name / f"{number}.jpg", quality=90)


def turn(folder: Path, photos: str, cores: list[int], options: argparse.Namespace) -> dict[str, Any]:
    """As many workers as cores, with a cache that holds no images and features."""
    from tfkit.distribution.worker_process import threads_environment

    for name in CACHES:
        shutil.rmtree(folder / "cache" / name, ignore_errors=True)
    addresses = [f"127.0.0.1:{21990 + index}" for index in range(len(cores))]  # which nobody opens
    processes = []
    for index, core in enumerate(cores):
        job = {"core": core, "photos": str(folder / photos), "image_size": options.image_size}
        environment = {**os.environ, **threads_environment(1), "TFKIT_CACHE": str(folder / "cache")}
        environment["PYTHONPATH"] = str(FOLDER.parent)
        if len(cores) > 1:
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(task)
        words = [sys.executable, __file__, "--worker", json.dumps(job)]
        pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes.append(subprocess.Popen(words, env=environment, **pipes))
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    for process in processes:
        process.stdin.write("begin\n")
        process.stdin.flush()
    reports = [json.loads(process.stdout.readline()) for process in processes]
    seconds = time.monotonic() - started
    for process in processes:
        process.communicate()
    return {
        "seconds": seconds,
        "cpu": max(row["cpu"] for row in reports),
        "pieces": [row["pieces"] for row in reports],
        "digests": [row["digest"] for row in reports],
    }


def work(job: dict[str, Any]) -> None:
    os.sched_setaffinity(0, {job["core"]})  # before TensorFlow counts the cores
    from tfkit import data, hub
    from tfkit.environment import files, stack

    stack.tf.constant(0)
    encoder = hub.load_model("efficientnet-lite0")
    offers, offer = [], files.Cache.offer

    def count_offer(*arguments: Any, **options: Any) -> bool:
        offers.append(offer(*arguments, **options))
        return offers[-1]

    files.Cache.offer = count_offer
    print("ready", flush=True)
    sys.stdin.readline()
    start = time.process_time()
    splits = data.load_images(job["photos"], image_size=job["image_size"])
    features = hub.extract(encoder, splits).splits.source
    cpu = time.process_time() - start
    path = files.cache_dir("features") / features.fingerprint / "features.npy"
    report = {"cpu": cpu, "pieces": sum(offers), "digest": files.sha256_of(path)}
    print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
