"""An exported model asked for images of 100 different sizes, against the same number of images of one size.

    python benchmarks/exported_sizes.py                      (the bundled backbone at 224 px; exports it first)
    python benchmarks/exported_sizes.py --run runs/photos    (a run of images of your own)

All images have the same number of pixels but for 1 %: height x width is what differs. Each way is asked for one image
of a new size and one of the fixed size in turn, so that both meet the same machine; the ratio is one of medians. Ways:
`Run.model` of tfkit, `tf.function(tf.saved_model.load(...), reduce_retracing=True)` as the closing lines of a recipe
have it, and what tf.saved_model.load gives as it is, with fewer sizes, since each takes half a second.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PIXELS = 40_000
LIMIT = 1.2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, help="a finished run of images")
    parser.add_argument("--sizes", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.run / "saved_model" if options.run else export(Path(scratch))
        from tfkit.environment.stack import load_saved_model, tf

        ways = {
            "tfkit: Run.model": (lambda: load_saved_model(folder), options.sizes),
            "tf.function, reduce_retracing": (
                lambda: tf.function(tf.saved_model.load(str(folder)), reduce_retracing=True),
                options.sizes,
            ),
            "tf.saved_model.load as it is": (
                lambda: tf.saved_model.load(str(folder)),
                max(options.sizes // 10, 3),
            ),
        }
        print("| way | sizes | ms an image, one size | ms an image, new sizes | ratio | MB a size |")
        print("| --- | --- | --- | --- | --- | --- |")
        ratios = {name: contest(name, load(), sizes) for name, (load, sizes) in ways.items()}
    slow = {name: ratio for name, ratio in ratios.items() if ratio > LIMIT and "as it is" not in name}
    assert not slow, f"over {LIMIT} times one size: {slow}"


def contest(name: str, model: Callable[[Any], Any], sizes: int) -> float:
    """Ask for new sizes and for one in turn; print a row, and return the ratio of the medians."""
    rng = np.random.default_rng(0)
    fixed = rng.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    heights = np.linspace(110, 190, sizes + 4).astype(int)
    images = [rng.integers(0, 256, (height, round(PIXELS / height), 3), dtype=np.uint8) for height in heights]
    for image in (fixed, *images[-4:]):
        model(image)
    start_memory = memory()
    seconds: dict[str, list[float]] = {"fixed": [], "new": []}
    for image in images[:sizes]:
        for kind, sample in (("fixed", fixed), ("new", image)):
            start = time.perf_counter()
            model(sample)
            seconds[kind].append(time.perf_counter() - start)
    grown = (memory() - start_memory) / sizes / 1e6
    base, new = (1e3 * statistics.median(seconds[kind]) for kind in ("fixed", "new"))
    print(f"| {name} | {sizes} | {base:.1f} | {new:.1f} | {new / base:.2f} | {grown:.2f} |", flush=True)
    return new / base


def memory() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def export(folder: Path) -> Path:
    """The bundled backbone at its own size with an untrained head, as a run exports it."""
    from tfkit import data, hub
    from tfkit.environment import foreign
    from tfkit.environment.stack import tf
    from tfkit.metrics import gives_logits, to_probabilities
    from tfkit.training.export import image_module
    from tfkit.transfer import models

    backbone = hub.load_model("efficientnet-lite0").check()
    splits = data.load_images("digits", image_size=backbone.native_size)
    model = models.whole_model(backbone, classes=10, spec=splits.spec, top=models.plain_top())
    with foreign.traced_for_saving():
        logits = gives_logits(model)
        module = image_module(
            model, splits, probabilities=lambda outputs: to_probabilities(outputs, logits=logits)
        )
    tf.saved_model.save(module, str(folder / "saved_model"), signatures={"serving_default": module.serve})
    return folder / "saved_model"


if __name__ == "__main__":
    main()
