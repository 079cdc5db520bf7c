"""Whole documents and counted words against tuned TF-IDF, on short and on long texts; time and memory by length.

    python -m benchmarks.long_documents                     (3 seeds, about 10 minutes on two cores)
    python -m benchmarks.long_documents --seeds 1 --sets long

Short: the embedded messages. Long: whole docstrings of five installed packages, 1,000 characters or more, 120 a
package, to be told apart by package; names of packages, their aliases and their own words for their objects are left
out. A row is a head on stored features as recipes.transfer_text trains it; words alone are its baseline, tuned on the
same validation split; "and words" is --words yes. The intervals are of the differences of two models on the
same test texts of all seeds, paired (Agresti and Min 2005).
Times and memory are of an exported model, each document in a process of its own.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.util
import io
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PACKAGES = ("numpy", "pandas", "scipy", "sklearn", "tensorflow")
TEXTS_PER_PACKAGE, SHORTEST = 120, 1000
TELL_TALE = re.compile(
    r"\b(numpy|np|scipy|sp|pandas|pd|sklearn|scikit-learn|scikit|tensorflow|tf|keras|"
    r"ndarrays?|data ?frames?|series|tensors?|estimators?)\b",
    re.IGNORECASE,
)
WORDS_ALONE = "words alone (TF-IDF)"
SIZES = (10_000, 100_000, 1_000_000)
TIMED = """
import resource, sys, time
import tensorflow as tf, tensorflow_text
model = tf.function(tf.saved_model.load(sys.argv[1]), reduce_retracing=True)
text = tf.constant(["The committee met again on Tuesday, and nothing was decided. "] )
whole = tf.strings.reduce_join(tf.repeat(text, int(sys.argv[2]) // 61))[tf.newaxis]
model(text)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
model(whole)
print(time.perf_counter() - began, before / 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", choices=("short", "long"), default=["short", "long"])
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=SIZES, help="characters of the documents that are timed"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "docstrings.csv"
        docstrings().to_csv(path, index=False)
        for name in options.sets:
            contest(name, path if name == "long" else "sentiment", Path(folder), seeds=options.seeds)
        by_length(path, options.sizes)


def contest(name: str, data: Path | str, folder: Path, *, seeds: int) -> None:
    """Print a row for each way: accuracy, and how far it is from words alone and from the first window."""
    from tfkit import hub, load_texts
    from tfkit.metrics import difference_interval
    from tfkit.transfer.baseline import baseline
    from tfkit.transfer.words import fit_words

    encoder: Any = hub.load_model("minilm-l6-v2")
    hits: dict[str, list[np.ndarray]] = {}
    splits: Any = None
    for seed in range(seeds):
        splits = load_texts(data, seed=seed)
        truth = splits.source.labels[splits.indices["test"]]
        predicted = {WORDS_ALONE: baseline(splits).measured.predicted}
        for way, variant in (("first window", encoder), ("all windows", encoder.with_windows())):
            measured = head(variant, splits, folder / f"{name}-{way}-{seed}", seed=seed)
            words = fit_words(splits, encoder.tokenizer, measured)
            predicted[way] = measured[1].predicted
            predicted[f"{way} and words"] = words.probabilities[1].argmax(axis=1)
            predicted[f"{way}, words auto"] = predicted[f"{way} and words" if words.helps else way]
        for way, values in predicted.items():
            hits.setdefault(way, []).append(values == truth)
        print(
            f"  {name}, seed {seed}:",
            {way: round(float(values[-1].mean()), 4) for way, values in hits.items()},
            flush=True,
        )
    print(f"\n{name}: {len(splits.source.labels)} texts, {seeds} seeds\n")
    print("| model | accuracy | against words alone | against the first window |\n| --- | ---: | --- | --- |")
    all_hits = {way: np.concatenate(values) for way, values in hits.items()}
    for way, values in all_hits.items():
        columns = [
            "" if baseline_way == way else "{:+.4f} ({:+.4f} to {:+.4f})".format(
                values.mean() - all_hits[baseline_way].mean(), *difference_interval(values, all_hits[baseline_way])
            )
            for baseline_way in (WORDS_ALONE, "first window")
        ]  # fmt: skip
        print(f"| {way} | {values.mean():.4f} | {' | '.join(columns)} |", flush=True)


def head(encoder: Any, splits: Any, folder: Path, *, seed: int) -> list[Any]:
    """Train a head on stored features, with the recipe's settings; what it says of validation and test split."""
    from tfkit import hub
    from tfkit.environment.stack import tf
    from tfkit.metrics import evaluate
    from tfkit.run import Run
    from tfkit.settings.options import TextSettings
    from tfkit.training.fit import train
    from tfkit.training.stage import Stage
    from tfkit.transfer.fine_tuning import build_head

    config, features = TextSettings(seed=seed), hub.extract(encoder, splits).splits
    stage = Stage.of_settings(config, name="head", verbose=0)
    with Run.create(folder, config={}) as run:
        build = build_head(config, encoder, features)
        trained = train(build, features, stage, run=run, strategy=tf.distribute.get_strategy())
    return [evaluate(trained.model, features, split=split) for split in ("validation", "test")]


def by_length(path: Path, sizes: Sequence[int]) -> None:
    """Print what a document of each size takes, of an exported model of whole documents and words."""
    import tfkit
    from tfkit.hub import load_model
    from tfkit.text.layers import window_sizes

    pd.read_csv(path).groupby("label").head(15).to_csv(sample := path.with_name("few.csv"), index=False)
    with contextlib.redirect_stdout(io.StringIO()):
        run = tfkit.train(sample, run_dir=path.with_name("few"), windows="all", words="yes", epochs=2).path
    tokenizer: Any = load_model("minilm-l6-v2").tokenizer
    print("\n| characters | windows | seconds | ms a window | MB before | MB at most |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in sizes:
        text = "The committee met again on Tuesday, and nothing was decided. " * (size // 61)
        pieces = int(tokenizer.tokenize([text]).row_lengths()[0])
        windows = int(window_sizes(pieces, room=tokenizer.max_length - 2)[0])
        words = [sys.executable, "-c", TIMED, str(run / "saved_model"), str(size)]
        process = subprocess.run(words, capture_output=True, text=True, check=True)
        seconds, start, peak = map(float, process.stdout.split())
        print(
            f"| {size:,} | {windows} | {seconds:.1f} | {1000 * seconds / windows:.1f} | {start:.0f} | {peak:.0f} |",
            flush=True,
        )


def docstrings() -> pd.DataFrame:
    """Whole docstrings of public functions and classes, each once, and their packages."""
    packages_of = {text: package for package in reversed(PACKAGES) for text in of_package(package)}
    rows = pd.DataFrame(packages_of.items(), columns=["text", "label"])
    return rows.groupby("label").sample(TEXTS_PER_PACKAGE, random_state=0).reset_index(drop=True)


def of_package(package: str) -> Iterator[str]:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
        if "test" in str(path) or path.stat().st_size > 400_000:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                text = TELL_TALE.sub("", text)
                if len(text) >= SHORTEST:
                    yield text


if __name__ == "__main__":
    main()
