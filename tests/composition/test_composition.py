"""Every pair that makes sense works, and what cannot be combined is refused before anything is trained."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from tests import forked
from tfkit.run import Run

sys.path.insert(0, str(Path(__file__).parent))
import composed
import matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("composition")


@pytest.fixture(scope="module")
def table(folder) -> str:
    compare = importlib.import_module("tfkit.compression.compare")
    with pytest.MonkeyPatch.context() as patch:
        # The processes that measure a file's memory are forks: tensorflow-text takes seconds to import. Latencies, of
        # which the table has none, are measured for less long.
        patch.setattr(compare, "subprocess", forked)
        patch.setattr(compare, "_SECONDS", 0.03)
        return matrix.make(folder)


@pytest.mark.slow
def test_the_matrix_is_that_of_the_manual(table):
    assert table == matrix.of_manual(), "uv run python tests/composition/matrix.py --write"
    assert "NO" not in table


def without_record(provenance):
    """Each private run has a record of a random name."""
    data = {name: value for name, value in provenance["data"].items() if name != "record"}
    return {**provenance, "data": data}


@pytest.mark.slow
@pytest.mark.parametrize(("medium", "regime"), composed.CASES)
@pytest.mark.parametrize("strategy", composed.STRATEGIES[1:])
def test_what_a_strategy_leaves_is_alike(table, folder, strategy, medium, regime):
    """So that what is made of a run, or asked of it, does not depend on where it was trained."""
    one, other = (Run.open(folder / name / f"{medium}-{regime}") for name in ("one_device", strategy))
    assert without_record(other.provenance) == without_record(one.provenance)
    assert other.labels == one.labels
    assert other.config == one.config
    signatures = [
        {name: str(one.structured_input_signature) for name, one in run.model.signatures.items()}
        for run in (one, other)
    ]
    assert signatures[0] == signatures[1]
    # What distribution adds is throughput; what compression adds, only the first has.
    # And a class that a private model never predicts has no precision: noise decides that.
    varying = ("lite/", "time/compress_", "memory/compress_", "test/precision/")
    own = [{name for name in run.metrics if not name.startswith(varying)} for run in (one, other)]
    assert own[0] == own[1]
    spent = ("privacy/epsilon", "privacy/delta", "privacy/noise_multiplier")
    assert [one.metrics.get(name) for name in spent] == [other.metrics.get(name) for name in spent]
    kept = ("config.yaml", "privacy.json", "evaluation.npz", "report.html", "saved_model/saved_model.pb")
    assert [(one.path / name).exists() for name in kept] == [(other.path / name).exists() for name in kept]


@pytest.mark.slow
def test_compressing_leaves_what_was_promised(table, folder):
    """The statement of a private run holds for all that was made of it; no training example was read for it."""
    for medium in composed.MEDIA:
        one, other = (Run.open(folder / name / f"{medium}-private") for name in ("one_device", "mirrored"))
        assert "None of its training examples was looked at" in " ".join(one.notes)
        assert one.read("privacy.json")["epsilon"] == other.read("privacy.json")["epsilon"]


@pytest.mark.slow
def test_what_is_refused_is_refused_before_training(table, folder):
    for case, techniques in matrix.ASKED.items():
        trained = folder / "one_device" / "-".join(case) / "tflite" / "training"
        found = sorted(path.name for path in trained.iterdir()) if trained.is_dir() else []
        assert found == (["prune0.8", "qat"] if "qat" in techniques else [])


@pytest.mark.slow
def test_no_progress_is_drawn_into_a_file(table, folder):
    """What two strategies in three processes have printed: one plain line an epoch."""
    printed = (folder / matrix.LOG).read_bytes()
    assert f"epoch {composed.EPOCHS}/{composed.EPOCHS}".encode() in printed
    assert not [character for character in (b"\r", b"\b", b"\x1b") if character in printed]
