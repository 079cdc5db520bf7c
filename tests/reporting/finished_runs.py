"""Runs whose classes and files are named by an enemy, with everything that a run can hold; and a page, parsed."""

import base64
import dataclasses
import functools
import html.parser

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from tfkit import reporting
from tfkit.environment import files
from tfkit.metrics import Evaluation
from tfkit.reporting.examples import Examples, save
from tfkit.run import Run

HOSTILE = "<script>alert(1)</script>"
LONG = "endless " * 40
CLASSES = (
    HOSTILE,
    '"><img src=x onerror=alert(2)>',
    "$\\frac{a$",
    "&amp; | pipe",
    "[x](javascript:alert(3))",
    "bell\x07\udcff",
    "a\tb\n# c",
    "\u202eright to left",
    LONG,
    "{{ 9 }} 中文 `code` @somebody https://example.org www.example.org",
)
VARIANT = {
    "size_bytes": 120_000, "gzipped_bytes": 90_000, "accuracy": 0.91, "accuracy_drop": 0.01, "agreement": 0.98,
    "latency_ms": {"1": {"p50": 1.5}, "2": {"p50": 1.1}}, "macs": {"int8": 0.97}, "sparsity": 0.01, "pareto": True,
}  # fmt: skip
LITE = {
    "source": {"accuracy": 0.92, "examples": 1497}, "examples": 1497, "gates": {}, "chosen": "int8",
    "verdict": f"int8 is chosen, says {HOSTILE}.",
    "variants": [{"name": name, "file": f"{name}.tflite", **VARIANT} for name in ("float32", "int8")],
    "failed": [{"name": "float16", "reason": HOSTILE}],
}  # fmt: skip
PRIVATE = {
    "private": True, "epsilon": 3.0, "delta": 1e-5, "accountant": "pld", "noise_multiplier": 1.1, "l2_norm_clip": 1.0,
    "sampler": "poisson", "sampling_probability": 0.1, "expected_batch_size": 30, "examples": 300, "steps": 40,
    "neighbouring_relation": "two data sets that differ in one example", "diagnostics": False,
    "covered": ["the weights"], "not_covered": ["the test split"],
    "in_words": "Training was differentially private. Covered: the weights. Not covered: the test split.",
}  # fmt: skip


@functools.cache
def classified(classes, *, names="digits/{}", last=1797, smoothing=1.0):
    """What a classifier of few examples, which makes mistakes, says of real digits; and these: uint8 [n, 8, 8, 3]."""
    images, labels = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=100, C=smoothing, tol=1e-2).fit(images[:300], labels[:300])
    measured = Evaluation(
        labels=labels[300:last],
        probabilities=model.predict_proba(images[300:last]),
        names=[names.format(index) for index in range(300, last)],
        class_names=classes,
    )
    return measured, np.repeat(np.round(images[300:last] * 255 / 16).astype(np.uint8), 3).reshape(-1, 8, 8, 3)


def digits(smoothing=1.0):
    measured, pixels = classified(CLASSES, names=f"{HOSTILE}/{{}}\udcff.png", smoothing=smoothing)
    worst = measured.worst(16)
    pictures = Examples(
        worst=worst, worst_inputs=pixels[worst], samples=pixels[:16], sample_labels=measured.labels[:16]
    )
    return measured, pictures


def full_run(path, *, smoothing=1.0, config=None, **changed):
    """A run with everything that a run can hold."""
    run = Run.create(path, config={"data_dir": HOSTILE, "epochs": 5, "augment": None, **(config or {})})
    evaluation, pictures = digits(smoothing=smoothing)
    save(run.path / "evaluation.npz", evaluation, pictures)
    run.labels = [name.encode(errors="replace").decode() for name in CLASSES]
    run.record({**{f"m/{index}": index for index in range(3)}, "test/accuracy": evaluation.accuracy})
    run.record({"time/total_seconds": 83.4, "baseline/accuracy": 0.5})
    run.note(f"Class weights are on: {HOSTILE} is rare.")
    stages = ["head"] * 4 + ["fine_tune"] * 2
    run.write_history(
        [
            {
                "stage": stage, "epoch": epoch, "loss": 2.0 / (epoch + 1), "accuracy": 0.5 + epoch / 20,
                "val_loss": 2.5 / (epoch + 1), "val_accuracy": 0.45 + epoch / 20, "learning_rate": 0.01,
            }
            for epoch, stage in enumerate(stages)
        ]
    )  # fmt: skip
    # A name that is no Unicode cannot come into a JSON file.
    names = [name.replace("\udcff", "") for name in CLASSES]
    counts = {split: dict.fromkeys(names, 30) for split in ("train", "validation", "test")}
    run.provenance = {
        "data": {
            "origin": HOSTILE, "fingerprint": "f", "division": "d", "counts": counts,
            "skipped": [[f"{HOSTILE}.png", "not an image"]],
        },
        "model": {"handle": "efficientnet-lite0", "digest": "7b3d", "parameters": 4694024, "input_range": [0, 1]},
        "recipe": {"name": "transfer_image"},
    }  # fmt: skip
    run.versions = {"python": "3.11", "packages": {"tensorflow": "2.21.0"}}
    files.write_json(run.path / "tflite" / "variants.json", LITE)
    for name, content in changed.items():
        files.write_json(run.path / f"{name}.json", content)
    run.close()
    return run


def with_evaluation(run, **changed):
    """The same run with another evaluation."""
    evaluation, pictures = digits()
    save(run.path / "evaluation.npz", evaluation, dataclasses.replace(pictures, **changed))
    return run


class Parsed(html.parser.HTMLParser):
    """Tags, attributes, text and the cells of tables as a browser gets them."""

    def __init__(self, source):
        super().__init__()
        self.source = source
        self.tags, self.attributes, self.words, self.rows, self._in_cell = [], [], [], [], False
        self.feed(source)

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._in_cell = self._in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.words.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data


class Page(Parsed):
    """A report, or a comparison."""

    def __init__(self, path):
        super().__init__(path.read_text(encoding="utf-8"))
        self.run = path.parent

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    @property
    def sources(self):
        """What the images are, as data URIs: photos, and figures as SVG."""
        return [value for tag, name, value in self.attributes if tag == "img" and name == "src"]

    @property
    def photos(self):
        return [source for source in self.sources if source.startswith("data:image/png;base64,")]

    @property
    def figures(self):
        """The XML of each figure."""
        found = [source.partition("svg+xml;base64,")[2] for source in self.sources]
        return [base64.b64decode(source).decode() for source in found if source]

    @property
    def alternatives(self):
        """What the images are for who does not see them."""
        return [value for tag, name, value in self.attributes if tag == "img" and name == "alt"]


def page_of(run):
    return Page(reporting.write_report(run))
