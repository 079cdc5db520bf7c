"""The variants of the bundled backbone beside each other, and beside ai-edge-quantizer's of the same float model.

    uv run python benchmarks/compress.py            # trains a head on the embedded digits first: about two minutes

Accuracy, agreement and sizes are of the whole test split. Latencies: one example, variants in turn, medians of
alternating rounds; CPU time of the same calls beside them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from recipes import transfer_image
from tfkit.compression import representative
from tfkit.compression.compare import compare_outputs, measure, predict
from tfkit.compression.convert import WEIGHTS, ConversionRequest, run_conversions, weights_only
from tfkit.compression.results import of_run
from tfkit.data.splits import draw
from tfkit.environment import stack
from tfkit.litert import opened
from tfkit.transfer.train import load


def static_int8(model: bytes, examples: list[np.ndarray]) -> bytes:
    """Quantize a float32 .tflite of one input by ai-edge-quantizer; examples: inputs with their batch."""
    signature = "serving_default"
    name = opened(model, threads=1).get_signature_list()[signature]["inputs"][0]
    quantizer = stack.quantizer.quantizer.Quantizer(bytearray(model))
    quantizer.load_quantization_recipe(stack.quantizer.recipe.static_wi8_ai8())
    ranges = quantizer.calibrate({signature: [{name: example} for example in examples]})
    return bytes(quantizer.quantize(ranges).quantized_model)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks/compress.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = transfer_image.Config(
            image_size=arguments.image_size, fine_tune_epochs=0, run_dir=Path(folder) / "run"
        )
        run = transfer_image.run(config)
        _, splits = load(config, global_batch_size=32)
        examples = representative.from_splits(splits)
        with of_run(run, splits, examples=examples) as subject:
            requests = [
                ConversionRequest(name=name, variant=name)
                for name in ("float32", "float16", "dynamic", "int16x8")
            ]
            requests.append(
                ConversionRequest(
                    name="int8", variant="int8", inference_input_type="uint8", inference_output_type="uint8"
                )
            )
            contents, errors = run_conversions(subject.source, requests, examples=subject.examples)
        float32 = contents["float32"]
        contents["aeq+static_int8"] = static_int8(
            float32, [example[np.newaxis] for example in examples[draw(len(examples), 100)]]
        )
        for name, bits in WEIGHTS.items():
            contents[f"aeq+{name}"] = weights_only(float32, bits=bits)
        compared = {
            name: compare_outputs(
                predict(content, subject.read, subject.count), subject.expected, labels=subject.labels,
                class_names=subject.class_names,
            )
            for name, content in contents.items()
        }  # fmt: skip
        table = measure(subject, contents, compared, failed=errors)
    print(f"\nEfficientNet-Lite0, {arguments.image_size} pixels, {subject.count} test images")
    print(table)
    ratios = speed(contents["int8"], float32, rounds=arguments.rounds)
    print(
        "\nint8 over float32, one thread, alternating: "
        + ", ".join(f"{k} {v:.2f}" for k, v in ratios.items())
    )
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(
        json.dumps({"variants": [row.as_dict() for row in table.variants], "ratios": ratios}, indent=2) + "\n"
    )


def speed(int8: bytes, float32: bytes, *, rounds: int) -> dict[str, float]:
    """Ratios of medians over alternating rounds of 50 calls each: wall time and CPU time."""
    ready = {"int8": opened(int8, threads=1), "float32": opened(float32, threads=1)}
    wall: dict[str, list[float]] = {name: [] for name in ready}
    cpu: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds + 1):
        for name, interpreter in ready.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            for _ in range(50):
                interpreter.invoke()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    return {
        kind: float(np.median(times["int8"][1:]) / np.median(times["float32"][1:]))  # the first warms up
        for kind, times in (("wall", wall), ("cpu", cpu))
    }


if __name__ == "__main__":
    main()
