"""Workers of one job prepare images and compute features together: the result is that of one, whoever is killed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from tests.distribution import processes

PROGRAM = Path(__file__).with_name("features_program.py")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """300 pieces of two real photographs in two classes, and a file that is no image."""
    root = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for name in ("china", "flower"):
        (root / name).mkdir()
        photo = load_sample_image(f"{name}.jpg")
        for number, (row, column) in enumerate(generator.integers(0, (327, 540), (150, 2))):
            Image.fromarray(photo[row : row + 100, column : column + 100]).save(root / name / f"{number}.jpg")
    (root / "china" / "torn.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("alone"))
    found = processes.answer(
        processes.start(sys.executable, str(PROGRAM), str(photos), "0", TFKIT_CACHE=cache)
    )
    return {**found, "cache": cache}


def start(photos, alone, folder, piece, *, ports):
    """Two workers with a cache that holds the converted model, and no images and features."""
    made = shutil.ignore_patterns("images", "features", "pieces")
    shutil.copytree(alone["cache"], folder / "cache", ignore=made)
    return processes.start_workers(
        PROGRAM, str(photos), piece,
        ports=ports, other=str(folder / "other"), TFKIT_CACHE=str(folder / "cache"),
    )  # fmt: skip


def test_each_worker_makes_its_share_and_the_result_is_that_of_one(photos, alone, tmp_path):
    assert (alone["images"], alone["features"]) == (0, 0)
    first = processes.answer(start(photos, alone, tmp_path, "0", ports=(21891, 21892)))
    second = processes.json_lines((tmp_path / "other").read_text())[-1]
    for worker in (first, second):
        assert (worker["digest"], worker["pixels"]) == (alone["digest"], alone["pixels"])
        assert (worker["engine"], worker["reused"]) == (alone["engine"], False)
    pieces = -(-301 // 32), -(-300 // 32)
    shares = [(worker["images"], worker["features"]) for worker in (first, second)]
    assert tuple(map(sum, zip(*shares, strict=True))) == pieces
    # A worker that comes late, on a busy machine, finds one of the two done.
    assert max(min(one, other) for one, other in zip(*shares, strict=True)) > 0
    assert second["left"] == [] or first["left"] == []


def test_a_killed_worker_costs_the_others_its_piece(photos, alone, tmp_path):
    job = start(photos, alone, tmp_path, "2", ports=(21893, 21894))
    out, errors = job.communicate(timeout=processes.PATIENCE)
    assert job.returncode != 0, errors
    first = processes.json_lines(out)[-1]
    assert (first["digest"], first["pixels"], first["left"]) == (alone["digest"], alone["pixels"], [])
    assert not (tmp_path / "other").read_text()
