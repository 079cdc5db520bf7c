"""The packages' own released tests on tfkit's stack: how many pass, and why not the rest.

python benchmarks/package_tests.py                                                       (an hour and a half)
python benchmarks/package_tests.py tensorflow-hub --without-tfkit                        (without `import tfkit` first)

TensorFlow Privacy's wheels bring their tests; those of the others are cloned at the tag of their release. Skipped
tests are not counted, those for TPUs not run.
"""

from __future__ import annotations

import argparse
import collections
import importlib.util
import io
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# Package -> what is imported, its repository, the tag next to the installed release that the repository has.
PACKAGES = {
    "tensorflow-hub": ("tensorflow_hub", "https://github.com/tensorflow/hub", "v0.16.1"),
    "tensorflow-text": ("tensorflow_text", "https://github.com/tensorflow/text", "v2.20.1"),
    "tensorflow-privacy": (
        "tensorflow_privacy",
        "",
        "",
    ),  # with tensorflow-empirical-privacy, which installs into it
    "tensorflow-model-optimization": (
        "tensorflow_model_optimization",
        "https://github.com/tensorflow/model-optimization",
        "v0.8.1",
    ),
}
# A test's helpers are not in the wheels: they are found beside it. All else is the installed package.
RUN = """
import importlib, os, runpy, sys, types
root, module, before = sys.argv[1:]
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
if before: importlib.import_module(before)
import tensorflow
tensorflow.estimator = types.ModuleType("estimator")  # it is no more, and imported where hardly a test needs it
parts = module.split(".")
for end in range(1, len(parts)):
    package = importlib.import_module(".".join(parts[:end]))
    package.__path__.append(os.path.join(root, *parts[:end]))
sys.argv[1:] = []
runpy.run_path(os.path.join(root, *parts) + ".py", run_name="__main__")
"""
REASON = re.compile(r"^\S*(?:Error|Exception|NotImplemented)\b.*", re.MULTILINE)


def run(root: Path, module: str, *, preload: str, seconds: int) -> tuple[int, int, list[str]]:
    """Run one file of tests in a process of its own, and return how many ran, how many passed, and why not the rest."""
    program = [sys.executable, "-c", RUN, str(root), module, preload]
    try:
        process = subprocess.run(program, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return 0, 0, [f"{module}: not at its end after {seconds} s"]
    ran = re.search(r"^Ran (\d+) tests?", process.stderr, re.MULTILINE)
    reasons = [reason[:120] for reason in REASON.findall(process.stderr)]
    if ran is None:
        last = (process.stderr.strip().splitlines() or ["no output"])[-1]
        return 0, 0, [f"{module}: {(reasons or [last])[-1][:160]}"]
    counts = {
        name: int(number) for name, number in re.findall(r"(failures|errors|skipped)=(\d+)", process.stderr)
    }
    skipped = counts.pop("skipped", 0)
    return int(ran[1]) - skipped, int(ran[1]) - skipped - sum(counts.values()), reasons if counts else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="*", default=list(PACKAGES), help=", ".join(PACKAGES))
    parser.add_argument("--clones", type=Path, help="folder of clones named hub, text, model-optimization")
    parser.add_argument("--without-tfkit", action="store_true", help="only TF_USE_LEGACY_KERAS=1 is set")
    parser.add_argument("--seconds", type=int, default=300, help="that a file of tests may take")
    options = parser.parse_args()
    preload = "" if options.without_tfkit else "tfkit"
    print(
        "| package | files | that do not run | tests run | passed | the most frequent reasons of the others |"
    )
    print("| --- | ---: | ---: | ---: | ---: | --- |", flush=True)
    for name in options.packages:
        package, repository, tag = PACKAGES[name]
        spec = importlib.util.find_spec(package) if not repository else None
        with tempfile.TemporaryDirectory() as folder:
            root = Path(spec.origin).parents[1] if spec and spec.origin else Path(folder)
            if repository:
                clone = options.clones / repository.rpartition("/")[2] if options.clones else root / "clone"
                if not clone.exists():
                    subprocess.run(
                        ["git", "clone", "-q", "--depth", "1", "-b", tag, repository, clone], check=True
                    )
                packed = subprocess.run(
                    ["git", "-C", clone, "archive", tag, package], capture_output=True, check=True
                )
                with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
                    archive.extractall(root, filter="data")
            files = sorted(set((root / package).rglob("*_test.py")) - set(root.rglob("*_tpu_test.py")))
            ran, passed, lost = 0, 0, 0
            reasons: collections.Counter[str] = collections.Counter()
            for file in files:
                module = ".".join(file.relative_to(root).with_suffix("").parts)
                total, good, notes = run(root, module, preload=preload, seconds=options.seconds)
                ran, passed, lost = ran + total, passed + good, lost + (not total)
                reasons.update(notes)
                print(
                    f"{module}: {good} of {total}", *(notes if not total else ()), file=sys.stderr, flush=True
                )
        often = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(4))
        print(f"| {name} | {len(files)} | {lost} | {ran} | {passed} | {often} |", flush=True)


if __name__ == "__main__":
    main()
