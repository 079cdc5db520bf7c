"""A run folder that came by mail: nothing outside of it is read, and what is malformed is named, at once."""

import io
import json
import os
import shutil
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.reporting.finished_runs import LITE, PRIVATE, full_run
from tfkit.errors import RunError
from tfkit.reporting.comparison import report
from tfkit.run import Run

SECONDS = 5  # of the processor: it takes one
MEMORY = 400e6
DEEP = 100_000


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = full_run(tmp_path_factory.mktemp("runs") / "mailed", privacy=PRIVATE)
    (run.path / "intended_use.md").write_text("Digits of others.")
    (run.path / "logs").mkdir()
    return run.path


@pytest.fixture
def mailed(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "mailed")


def npz(**members):
    """A .npz of these bytes or arrays, compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                array = io.BytesIO()
                np.save(array, content)
                content = array.getvalue()
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def header(shape, descr="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def evaluation(**changed):
    arrays = {
        "labels": np.array([0, 1]), "probabilities": np.eye(2, dtype=np.float32), "names": np.array(["a", "b"]),
        "class_names": np.array(["x", "y"]),
    }  # fmt: skip
    return npz(**(arrays | changed))


PICTURES = {
    "worst": np.array([0]), "worst_inputs": np.zeros((1, 4, 4, 3), np.uint8), "sample_labels": np.zeros(0, np.int64),
    "samples": np.zeros((0, 4, 4, 3), np.uint8),
}  # fmt: skip
JSON = ("metrics.json", "provenance.json", "versions.json", "privacy.json", "tflite/variants.json")
BAD_JSON = {
    "empty": b"", "half": b'{"half": ', "list": b"[1]", "nan": b'{"a": NaN}', "infinity": b'{"a": -Infinity}',
    "1e999": b'{"a": 1e999}', "digits": b'{"a": 1' + b"0" * 6000 + b"}", "huge": b'{"a": 1' + b"0" * 40 + b"}",
    "deep": b'{"a":' * DEEP, "deep lists": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}", "utf-8": b'{"a": "\xff"}',
    "large": b" " * (9 << 20) + b"{}", "utf-16": '{"a": 1}'.encode("utf-16"),
}  # fmt: skip
WRONG_TYPES = {
    "metrics.json": ({"test/accuracy": "1"}, {"a": None}, {"a": {}}),
    "provenance.json": (
        {"data": []}, {"data": {"counts": {"train": {"a": "b"}}}}, {"data": {"counts": {"train": 3}}},
        {"data": {"skipped": [1]}}, {"data": {"shape": 4}}, {"recipe": "x"}, {"model": {"handle": 3}},
    ),
    "privacy.json": [PRIVATE | wrong for wrong in (
        {"epsilon": "3"}, {"delta": None}, {"covered": "all"}, {"in_words": 3}, {"private": 1},
    )],
    "tflite/variants.json": [LITE | wrong for wrong in (
        {"variants": [{}]}, {"verdict": 1}, {"failed": {}}, {"source": None}, {"chosen": ["int8"]},
        {"variants": [LITE["variants"][0] | {"latency_ms": {"1": 2}}]}, {"variants": LITE["variants"] * 300},
    )],
}  # fmt: skip
CASES = {
    **{f"{name} {kind}": (name, content) for name in JSON for kind, content in BAD_JSON.items()},
    **{
        f"config.yaml {kind}": ("config.yaml", content)
        for kind, content in {
            "tag": b"a: !!python/object/apply:os.system ['touch pwned']",
            "aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 9)) for i in range(9)),
            "merges": b"a: &a {k: v}\nb: &b {<<: [*a,*a,*a,*a]}\nc: {<<: [*b,*b,*b,*b]}",
            "deep": b"a: " + b"[" * 30_000, "list": b"- 1", "number": b"7", "utf-8": b"a: \xff", "nul": b"a: \x00",
            "half": b"a: [1", "keys": b"1: 2", "tuple": b"? [1, 2]\n: 3", "digits": b"a: 0x" + b"f" * 9_000,
            "large": b"# filler\n" * 30_000, "date": b"a: 2026-13-45", "tab": b"\ta: 1",
        }.items()
    },
    **{
        f"{name} {number}": (name, json.dumps(content).encode())
        for name, contents in WRONG_TYPES.items()
        for number, content in enumerate(contents)
    },
    **{
        f"history {kind}": ("history.csv", content)
        for kind, content in {
            "columns": b"a,b\n1,2\n", "words": b"stage,epoch,loss\nhead,0,low\n", "utf-8": b"stage,epoch\n\xff,1\n",
            "quote": b'stage,epoch\n"head,1\n', "large": b"1,2\n" * (3 << 20), "empty": b"",
            "ragged": b"a\n1,2,3\n4\n1,2,3,4\n",
        }.items()
    },
    **{
        f"evaluation {kind}": ("evaluation.npz", content)
        for kind, content in {
            "no zip": b"x" * 99, "half": evaluation()[:-30], "8 TB": evaluation(probabilities=header((1 << 41,))),
            "negative": evaluation(probabilities=header((-1, 2))),
            "bomb": evaluation(probabilities=np.zeros((1 << 10, 1 << 16), np.float32)),
            "short": evaluation(labels=header((2,), "<i8")), "strings": evaluation(names=header((2,), "<U1000000000")),
            "pickle": evaluation(names=np.array([{"a": 1}, 2], object)),
            "logits": evaluation(probabilities=np.ones((2, 2))),
            "nan": evaluation(probabilities=np.full((2, 2), np.nan)), "labels": evaluation(labels=np.array([0, 7])),
            "types": evaluation(probabilities=np.array(["a"])), "scalar": evaluation(names=np.array(3)),
            "missing": npz(labels=np.array([0])), "other": evaluation(**PICTURES, more=np.zeros(3)),
            "index": evaluation(**(PICTURES | {"worst": np.array([9])})),
            "negative index": evaluation(**(PICTURES | {"worst": np.array([-1])})),
            "lengths": evaluation(**(PICTURES | {"worst": np.array([0, 1])})),
            "images": evaluation(**(PICTURES | {"worst_inputs": np.zeros((1, 4, 4, 3))})),
            "channels": evaluation(**(PICTURES | {"worst_inputs": np.zeros((1, 4, 4, 7), np.uint8)})),
            "classes": evaluation(
                probabilities=np.full((2, 50_000), 2e-5, np.float32), class_names=np.arange(50_000).astype(str)
            ),
            "members": npz(**{f"a{number}": np.zeros(1) for number in range(70)}),
        }.items()
    },
    "notes utf-8": ("notes.txt", b"\xff\xfe"),
    "notes large": ("notes.txt", b"note\n" * (2 << 20)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), CASES.values(), ids=CASES)
def test_a_malformed_file_is_named_at_once(mailed, monkeypatch, name, content):
    (mailed / name).write_bytes(content)
    before = {path.name: path.stat().st_mtime_ns for path in mailed.iterdir()}
    monkeypatch.chdir(mailed)
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(RunError) as caught:
        report(mailed)
    took, (_, peak) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(mailed / name) in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert took < SECONDS
    assert peak < MEMORY
    assert {path.name: path.stat().st_mtime_ns for path in mailed.iterdir()} == before


@pytest.mark.parametrize(
    "name",
    [
        "intended_use.md", "notes.txt", "config.yaml", "metrics.json", "evaluation.npz", "logs", "saved_model",
        "tflite", "tflite/variants.json", "logs/train", "saved_model/assets/vocab.txt", "report.html",
        ".tflite.lock", "index",
    ],
)  # fmt: skip
def test_no_link_leads_out_of_the_folder(mailed, tmp_path, name):
    secret = tmp_path / "outside"
    secret.mkdir()
    (secret / "config.yaml").write_text("secret: 1\n")
    path = mailed / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    is_folder = name in ("logs", "saved_model", "tflite", "index", "logs/train")
    path.symlink_to(secret if is_folder else secret / "config.yaml")
    for relative in (False, True):
        if relative:
            target = os.path.relpath(path.readlink(), path.parent)
            path.unlink()
            path.symlink_to(target)
        with pytest.raises(RunError) as caught:
            report(mailed)
        assert str(path) in str(caught.value)
        assert str(secret) in str(caught.value)
    assert sorted(found.name for found in secret.iterdir()) == ["config.yaml"]
    assert not any("secret" in card.read_text() for card in mailed.glob("model_card.md"))


def test_links_within_the_folder_are_followed(mailed, tmp_path):
    (mailed / "notes.txt").rename(mailed / "elsewhere.txt")
    (mailed / "notes.txt").symlink_to("elsewhere.txt")
    (tmp_path / "link").symlink_to(mailed)
    assert Run.open(tmp_path / "link").notes == ["Class weights are on: <script>alert(1)</script> is rare."]
    report(tmp_path / "link")


@pytest.mark.parametrize(
    "name", ["notes.txt", "intended_use.md", "metrics.json", "logs/events", "evaluation.npz"]
)
def test_a_pipe_does_not_keep_the_reader_waiting(mailed, name):
    (mailed / name).unlink(missing_ok=True)
    os.mkfifo(mailed / name)
    with pytest.raises(RunError, match="pipe") as caught:
        report(mailed)
    assert str(mailed / name) in str(caught.value)


def test_links_in_a_circle_are_refused(mailed):
    (mailed / "notes.txt").unlink()
    (mailed / "notes.txt").symlink_to("notes.txt")
    with pytest.raises(RunError, match=r"notes\.txt"):
        report(mailed)
