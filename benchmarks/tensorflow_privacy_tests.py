"""TensorFlow Privacy's own tests, those of its wheel, under tfkit's stack: how many pass, and why not the rest.

python benchmarks/tensorflow_privacy_tests.py                                            (some minutes)
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys

MODULES = (
    "optimizers.dp_optimizer_keras_test",
    "keras_models.dp_keras_model_test",
    "fast_gradient_clipping.clip_grads_test",
    "fast_gradient_clipping.gradient_clipping_utils_test",
    "fast_gradient_clipping.registry_functions.dense_test",
    "fast_gradient_clipping.registry_functions.einsum_dense_test",
    "fast_gradient_clipping.registry_functions.embedding_test",
    "fast_gradient_clipping.registry_functions.layer_normalization_test",
    "fast_gradient_clipping.registry_functions.multi_head_attention_test",
)
RUN = """
import sys, unittest
from absl.testing import absltest
from tfkit import stack
from tfkit.stack import tf
import types
tf.estimator = types.ModuleType("estimator")  # imported by a module of which some tests need it: it is no more
module = stack.tf_privacy(sys.argv[1])
from absl import flags
flags.FLAGS([sys.argv[0]])
result = unittest.TextTestRunner(verbosity=0).run(unittest.defaultTestLoader.loadTestsFromModule(module))
for _, text in [*result.failures, *result.errors]:
    print("REASON", text.strip().splitlines()[-1][:160])
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--seconds", type=int, default=500, help="that a module may take")
    options = parser.parse_args()
    print("| module | run | passed | why not the others |\n| --- | ---: | ---: | --- |")
    for name in options.modules:
        try:
            done = subprocess.run(
                [sys.executable, "-c", RUN, name],
                capture_output=True,
                text=True,
                timeout=options.seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"| {name} | | | not at its end after {options.seconds} s |", flush=True)
            continue
        ran = re.search(r"^Ran (\d+) tests?", done.stderr, re.MULTILINE)
        if ran is None:
            print(
                f"| {name} | | | {(done.stderr.strip().splitlines() or ['no output'])[-1][:160]} |",
                flush=True,
            )
            continue
        reasons = [
            line.removeprefix("REASON ") for line in done.stdout.splitlines() if line.startswith("REASON")
        ]
        counted = "; ".join(f"{reasons.count(reason)} x {reason}" for reason in dict.fromkeys(reasons))
        print(f"| {name} | {ran[1]} | {int(ran[1]) - len(reasons)} | {counted} |", flush=True)


if __name__ == "__main__":
    main()
