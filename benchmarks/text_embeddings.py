"""Vectors of texts against the stock way, on the same texts and weights, in turn, in one process.

    python benchmarks/text_embeddings.py                      (embedded messages, and docstrings, 5 rounds)
    python benchmarks/text_embeddings.py --texts mails.txt    (one text a line)

Stock: hub.KerasLayer of the preprocessor, hub.KerasLayer of the encoder, `model.predict`, batches of 32, rows of 128
ids. Ours: what `hub.extract` computes with. Both are loaded and warm; the first use of an encoder also converts it,
which is told apart. Vectors must agree within 1e-3. Every ratio is one of medians.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

AGREEMENT = 1e-3
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=Path, help="a file with one text a line")
    parser.add_argument("--count", type=int, default=1000, help="texts at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all measurements there too")
    options = parser.parse_args()
    if options.texts:
        corpora = {options.texts.name: options.texts.read_text().splitlines()}
    else:
        corpora = {"sentiment (embedded)": load_messages(), "whole docstrings of scipy": load_docstrings()}
    results = [contest(name, sample(texts, options.count), options.rounds) for name, texts in corpora.items()]
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def contest(name: str, texts: list[str], rounds: int) -> dict[str, Any]:
    """Both ways in turn, round after round; prints a row a way."""
    from tfkit import hub
    from tfkit.hub.features import TextEngines

    encoder = hub.load_model("minilm-l6-v2").check()
    lengths = encoder.tokenizer.ids(texts).row_lengths().numpy()
    content = np.array([text.encode() for text in texts], object)
    stock = stock_way(encoder)
    kind = TextEngines(encoder)
    began = time.perf_counter()
    with kind.choose(content[:4], engine="auto") as (embed, info):
        ready = time.perf_counter() - began
        ways: dict[str, Callable[[], np.ndarray]] = {
            "stock": lambda: stock(texts),
            f"tfkit ({info['engine']})": lambda: np.concatenate(
                [embed(content[i : i + kind.batch_size]) for i in range(0, len(content), kind.batch_size)]
            ),
        }
        vectors = {way: compute() for way, compute in ways.items()}  # warm
        difference = float(np.abs(np.subtract(*vectors.values())).max())
        assert difference <= AGREEMENT, f"the vectors differ by {difference}"
        rows: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, compute in ways.items():
                wall, cpu = time.perf_counter(), time.process_time()
                compute()
                rows[way].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(
        f"\n{name}: {len(texts)} texts, {lengths.mean():.0f} tokens in the mean, {np.median(lengths):.0f} in the"
        f" median, {np.mean(lengths == encoder.max_length):.0%} cut at {encoder.max_length}; vectors within"
        f" {difference:.1g}; loading and conversion {ready:.1f} s"
    )
    medians = {
        way: [statistics.median(column) for column in zip(*row, strict=True)] for way, row in rows.items()
    }
    first = medians["stock"]
    print("| way | texts/s | wall seconds | CPU seconds |\n| --- | --- | --- | --- |")
    for way, (wall, cpu) in medians.items():
        print(
            f"| {way} | {len(texts) / wall:.0f} | {wall:.2f} ({first[0] / wall:.2f}x) | {cpu:.2f}"
            f" ({first[1] / cpu:.2f}x) |",
            flush=True,
        )
    return {
        "corpus": name,
        "texts": len(texts),
        "mean_tokens": float(lengths.mean()),
        "difference": difference,
        "ready_seconds": ready,
        "wall_and_cpu_seconds": rows,
    }


def stock_way(encoder: Any) -> Callable[[list[str]], np.ndarray]:
    """As the tutorials of TF Hub have it."""
    from tfkit.environment.stack import (
        keras,
        tf,
        tf_hub,
        tf_text,  # noqa: F401
    )

    texts = keras.Input((), dtype=tf.string)
    inputs = tf_hub.KerasLayer(str(encoder.preprocessor.path))(texts)
    outputs = tf_hub.KerasLayer(str(encoder.path))(inputs)
    model = keras.Model(texts, outputs["pooled_output"])
    return lambda batch: model.predict(tf.constant(batch), batch_size=BATCH, verbose=0)


def load_messages() -> list[str]:
    """The texts that tfkit's recipes have without a download."""
    from tfkit import data

    source = data.load_texts("sentiment").source
    return [str(source.raw(i)) for i in range(len(source.labels))]


def load_docstrings() -> list[str]:
    """Docstrings as they are, long ones too."""
    spec = importlib.util.find_spec("scipy")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    texts: dict[str, None] = {}
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and (text := ast.get_docstring(node)):
                texts[text] = None
    return list(texts)


def sample(texts: list[str], count: int) -> list[str]:
    """So many of them, chosen evenly by place."""
    return [texts[i] for i in np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int)]


if __name__ == "__main__":
    main()
