"""The matrix of compositions: what goes together, found by doing it, as a table for the manual.

uv run python tests/composition/matrix.py            (prints it: about two minutes on two cores)
uv run python tests/composition/matrix.py --write    (puts it into docs/manual/matrix.md)
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import composed

from recipes import compress_tflite
from tests import forked
from tests.distribution import processes
from tfkit.errors import UsageError
from tfkit.run import Run

ROOT = Path(__file__).parents[2]
LOG = "others.log"
PAGE = ROOT / "docs/manual/matrix.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->\n"
TECHNIQUES, VARIANTS = ("none", "prune", "qat"), ("float32", "int8")
ASKED = {
    ("image", "plain"): ("prune", "qat"),
    ("image", "private"): ("prune",),
    ("text", "plain"): (),
    ("text", "private"): (),
    ("labels", "plain"): ("prune", "qat"),
    ("labels", "private"): ("prune",),
}
"""What is trained further, in one call for each kind of run: all others refuse it, which is tried too."""

_CAPTION = (
    "Each kind of run is trained under each strategy on 120 examples; what it leaves is alike, so that the runs of"
    " one_device stand for the others in what is made of them. Images: `train_distributed`, and `train_private` on"
    " features of a small SavedModel; texts: the light model; labels: images of a table, each with any of two labels."
    " Made by `uv run python tests/composition/matrix.py --write`; a test makes it anew and compares."
)


def write_data(folder: Path) -> None:
    """Examples to train on, and others that stand for public ones."""
    composed.write_table(composed.write_images(folder / "images"))
    composed.write_images(folder / "public", first=2 * composed.EACH)
    composed.write_texts(folder / "texts.csv")
    composed.write_backbone(folder / "backbone")


def make_runs(folder: Path) -> None:
    """Train all cases, and compress those of one_device. Workers are in a network of their own."""
    program = Path(composed.__file__)
    together, variables = processes.two_workers(program, "multi_worker", str(folder), ports=(21885, 21886))
    with start_other([sys.executable, str(program), "mirrored", str(folder)], folder) as mirrored:
        composed.train_all("one_device", folder)
    with start_other(together, folder, OTHER=str(folder / LOG), **variables) as workers:
        for case in composed.CASES:
            compress(folder, *case)
    if mirrored.returncode or workers.returncode:
        raise RuntimeError((folder / LOG).read_text(errors="replace")[-4000:])


@contextlib.contextmanager
def start_other(words: list[str], folder: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process beside this one; it has ended after the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    with (folder / LOG).open("ab") as log:
        process = forked.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield process
        process.wait(timeout=processes.PATIENCE)
    finally:
        process.terminate()
        process.wait()


def settings(folder: Path, medium: str, regime: str, *, public: bool = True) -> dict:
    """Of `recipes.compress_tflite` for a kind of run."""
    where = {"from_run": folder / "one_device" / f"{medium}-{regime}", "epochs": 1, "max_accuracy_drop": 0.9}
    if regime == "plain" or not public:
        return where
    return {**where, "representative_data": folder / ("texts.csv" if medium == "text" else "public")}


def compress(folder: Path, medium: str, regime: str) -> Run:
    """All that can be made of a kind of run."""
    asked = {"variants": VARIANTS, "techniques": ASKED[medium, regime]}
    return compress_tflite.run(compress_tflite.Config(**settings(folder, medium, regime), **asked))


def refusal(folder: Path, medium: str, regime: str, *, public: bool = True, **asked: tuple[str, ...]) -> str:
    """Why the recipe does not do it: the beginning of what it says; "" where it does."""
    try:
        compress_tflite.run(
            compress_tflite.Config(**settings(folder, medium, regime, public=public), **asked)
        )
    except UsageError as error:
        run = str(folder / "one_device" / f"{medium}-{regime}")
        said = str(error).splitlines()[0].replace(run, "the run")
        return f"{said[0].upper()}{said[1:]}"
    return ""


def row(folder: Path, medium: str, regime: str, trained: dict[str, bool], reasons: list[str]) -> str:
    """One kind of run, after it was compressed; adds to the reasons why not."""
    made = [one["name"] for one in Run.open(settings(folder, medium, regime)["from_run"]).read(
        "tflite/variants.json")["variants"]]  # fmt: skip
    cells = [f"{medium}, {regime}", *("yes" if trained[name] else "NO" for name in composed.STRATEGIES)]
    for technique in TECHNIQUES:
        for variant in VARIANTS:
            wanted = () if technique == "none" else (technique,)
            beginning = {"none": "", "prune": "prune0.8+", "qat": "qat+"}[technique]
            said = ""
            if f"{beginning}{variant}" not in made:
                cell = "no"
                said = refusal(folder, medium, regime, variants=(variant,), techniques=wanted)
            else:
                cell = "yes"
                if regime == "private" and variant == "int8":
                    said = refusal(folder, medium, regime, public=False, variants=(variant,))
                    said = f"With public examples by --representative-data. Without them: {said}"
            if said and said not in reasons:
                reasons.append(said)
            cells.append(f"{cell} ({reasons.index(said) + 1})" if said else cell)
    return f"| {' | '.join(cells)} |"


def table(folder: Path) -> str:
    """Of all that was trained and compressed in a folder, as Markdown."""
    reasons: list[str] = []
    heads = [
        f"{variant}" if one == "none" else f"{one}, {variant}" for one in TECHNIQUES for variant in VARIANTS
    ]
    heads = ["", *composed.STRATEGIES, *heads]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for medium, regime in composed.CASES:
        trained = {
            name: (folder / name / f"{medium}-{regime}" / "report.html").is_file()
            for name in composed.STRATEGIES
        }
        rows.append(row(folder, medium, regime, trained, reasons))
    listed = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*rows, "", *listed, "", _CAPTION, ""])


def make(folder: Path) -> str:
    """All of it: train, compress, try what is refused; returns the table."""
    write_data(folder)
    make_runs(folder)
    return table(folder)


def of_manual() -> str:
    """What stands there now."""
    return PAGE.read_text().partition(BEGIN)[2].partition(END)[0]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made_in:
        found = make(Path(made_in))
    print(found)
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}{found}{END}{rest.partition(END)[2]}")
