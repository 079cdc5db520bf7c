"""`run.predict` on a folder of photos against features of the same photos by the same backbone, in turn.

    python benchmarks/predict.py                               (10,000 JPEGs of 320 x 240, 96 pixels, 3 rounds)
    python benchmarks/predict.py --count 2000 --image-size 224 --run runs/photos

Both go from the files to what they compute; nothing that an earlier round has stored is left. The run is one that is
trained here for an epoch of its head. Ratios are of medians. First, what predicting takes in memory for a tenth of the
photos, and for all; last, whether all probabilities are those of the exported model.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", type=Path, help="a run of images, in place of a new one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = photos(Path(scratch) / "photos", options.count)
        print(json.dumps(contest(folder, options, Path(scratch)), indent=2))


def photos(folder: Path, count: int) -> Path:
    """Crops of two real photos, in two classes."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(0)
    for number, photo in enumerate(load_sample_images().images):
        (folder / f"{number}").mkdir(parents=True)
        for place in range(count // 2):
            top, left = rng.integers(0, [photo.shape[0] - 240, photo.shape[1] - 320])
            crop = Image.fromarray(photo[top : top + 240, left : left + 320])
            crop.save(folder / f"{number}" / f"{place:05}.jpg", quality=85)
    return folder


def contest(folder: Path, options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    import tfkit
    from tfkit import hub
    from tfkit.environment import files
    from tfkit.inference import predict as prediction

    size = options.image_size
    if options.run:
        run = tfkit.Run.open(options.run)
        size = run.provenance["data"]["shape"][0]
    else:
        training = photos(scratch / "some", 60)
        settings = {"image_size": size, "epochs": 1, "fine_tune_epochs": 0, "quiet": True}
        run = tfkit.train(training, run_dir=scratch / "run", **settings)
    names = sorted(folder.glob("*/*.jpg"))
    encoder = hub.load_model("efficientnet-lite0")

    def features() -> None:
        for name in ("images", "features", "depths"):
            shutil.rmtree(files.cache_root() / name, ignore_errors=True)
        hub.extract(encoder, tfkit.load_images(folder, image_size=size))

    def predict() -> np.ndarray:
        return run.predict(names)[run.labels].to_numpy()

    run.predict(names[:: len(names) // prediction.FEW_EXAMPLES - 1])  # converts the model, once
    run.predict(names[: len(names) // 10])
    tenth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    predictions = predict()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ways = {"features": features, "predict": predict}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            way()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    prediction.FEW_EXAMPLES = len(names) + 1
    model = predict()
    call = run.model
    raw = [call(tfkit.read_image(name)).numpy() for name in names[:: max(1, len(names) // 1000)]]
    return {
        "images": len(names),
        "pixels": size,
        "images_per_second": {name: len(names) / statistics.median(times) for name, times in wall.items()},
        "ratio_wall": statistics.median(wall["features"]) / statistics.median(wall["predict"]),
        "ratio_cpu": statistics.median(cpu["features"]) / statistics.median(cpu["predict"]),
        "megabytes": {"a tenth": tenth / 1024, "all": peak / 1024},
        "other_classes_than_model": int((predictions.argmax(1) != model.argmax(1)).sum()),
        "largest_difference_from_model": float(np.abs(predictions - model).max()),
        "other_classes_than_model_of_raw_pixels": int(
            (np.stack(raw).argmax(1) != predictions[:: max(1, len(names) // 1000)].argmax(1)).sum()
        ),
        "of_raw_pixels": len(raw),
    }


if __name__ == "__main__":
    main()
