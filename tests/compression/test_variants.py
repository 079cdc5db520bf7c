"""The smallest that keeps to the limits is chosen; where none does, the nearest is named."""

import dataclasses

import numpy as np
import pytest

from tfkit.compression import Gates, Table, Variant, choose
from tfkit.compression.compare import compare_outputs
from tfkit.compression.variants import mark_pareto


def variant(name, size, drop, latency=1.0, accuracy=0.9):
    return Variant(
        name=name, quantization=name, size_bytes=size, gzipped_bytes=size // 2, accuracy=accuracy,
        accuracy_drop=drop, agreement=1 - drop, max_difference=drop, latency_ms={"1": {"p50": latency, "p90": latency}},
    )  # fmt: skip


FLOAT32 = variant("float32", 13_000_000, 0.0, 4.0)
INT8 = variant("int8", 4_000_000, 0.004, 1.0)
DYNAMIC = variant("dynamic", 3_800_000, 0.006, 6.0)
TINY = variant("weights4", 2_000_000, 0.4, 3.0)
ALL = (FLOAT32, INT8, DYNAMIC, TINY)


def test_the_smallest_within_the_limits():
    assert choose(ALL, Gates(max_accuracy_drop=0.01)).chosen is INT8  # about as small as dynamic, and better
    assert choose(ALL, Gates(max_accuracy_drop=0.001)).chosen is FLOAT32
    assert choose(ALL, Gates(max_accuracy_drop=0.5)).chosen is TINY
    assert choose(ALL, Gates(max_size_kb=2100, gzipped=True, max_accuracy_drop=0.01)).chosen is INT8


def test_the_verdict_says_what_the_rule_did():
    said = choose(ALL, Gates(max_accuracy_drop=0.01)).verdict
    assert (
        "at most 10 % larger than the smallest of 3 within the limits (of 4), dynamic with 3,800 kB" in said
    )
    assert "the smallest of 4 within the limits" in choose(ALL, Gates(max_accuracy_drop=0.5)).verdict
    like = variant("like", 3_900_000, DYNAMIC.accuracy_drop, 1.0)
    assert choose([DYNAMIC, like], Gates()).chosen is like  # the faster


def test_a_drop_that_too_few_examples_leave_open_is_said():
    labels = np.zeros(100, np.int64)
    original, given = np.tile([0.9, 0.1], (2, 100, 1))
    original[:2] = given[2:7] = 0.1, 0.9  # two won, five lost
    found = compare_outputs(given, original, labels=labels, class_names=("no", "yes")).drop_interval
    assert found == pytest.approx([3 / 102 - 1.96 * 8**0.5 / 102, 3 / 102 + 1.96 * 8**0.5 / 102], abs=1e-3)
    said = choose([dataclasses.replace(INT8, drop_interval=found)], Gates(max_accuracy_drop=0.01)).verdict
    assert f"95 % interval {-found[1]:+.4f} to {-found[0]:+.4f}" in said
    assert f"A drop of {found[1]:.4f}, over the limit of 0.01" in said
    sure = dataclasses.replace(INT8, drop_interval=(-0.001, 0.009))
    assert "over the limit" not in choose([sure], Gates(max_accuracy_drop=0.01)).verdict


def test_drops_of_f1_and_r2_have_an_interval_too():
    """By simulation: the drop on all that the examples were drawn from is in it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (4000, 3))
    sure = np.where(labels, 0.8, 0.2) + rng.normal(0, 0.1, labels.shape)
    noisy = sure + rng.normal(0, 0.25, labels.shape)
    numbers = rng.normal(0, 1, (4000, 1)).astype(np.float32)
    for output, truth, units in (
        ("sigmoid", labels, (noisy, sure)),
        ("values", numbers, (numbers + 0.6 * noisy[:, :1], numbers)),
    ):
        of_all = compare_outputs(*units, output=output, labels=truth)
        drawn = compare_outputs(*(array[:200] for array in units), output=output, labels=truth[:200])
        low, high = drawn.drop_interval
        assert low < of_all.drop < high, (output, low, of_all.drop, high)
        assert high - low < 0.2
        assert f"interval {-high:+.4f} to {-low:+.4f}" in drawn.quality


def test_real_values_have_no_accuracy():
    values = Variant(
        name="int8", quantization="int8", size_bytes=1000, gzipped_bytes=1, output="values", agreement=1.0, error=0.2,
        max_difference=1.0,
    )  # fmt: skip
    found = choose([values], Gates(max_accuracy_drop=0.01))
    assert "1 - R2 against the original 0.0400 (limit 0.01)" in found.verdict
    labelled = dataclasses.replace(values, r2=0.9, r2_drop=0.005, rmse=2.0)
    found = choose([labelled], Gates(max_accuracy_drop=0.01))
    assert "R2 0.9000 (-0.0050)" in found.verdict
    table = str(Table(variants=(labelled,), models={}, failed={}, examples=10))
    assert "R2 drop" in table
    assert "RMSE" in table
    assert "max diff" in table
    assert "accuracy " not in table


def test_times_of_a_busy_machine_say_so():
    busy = dataclasses.replace(INT8, other_cores=1.4)
    assert "other processes kept 1.4 of" in choose([busy], Gates()).verdict
    assert "Times are too long" in str(Table(variants=(busy,), models={}, failed={}, examples=1))
    assert "other processes" not in choose([INT8], Gates()).verdict
    assert "0.00115 ms" in choose([variant("int8", 6000, 0.0, 0.00115)], Gates()).verdict


def test_the_nearest_miss_is_named():
    found = choose(ALL, Gates(max_size_kb=3000, max_accuracy_drop=0.01))
    assert found.chosen is None
    assert "The nearest is dynamic: 3,800 kB (limit 3,000)." in found.verdict
    slow = choose(ALL, Gates(max_latency_ms=0.5, max_accuracy_drop=0.01))
    assert "The nearest is int8: 1 ms (limit 0.5)" in slow.verdict


def test_those_that_no_other_beats_are_mark_pareto():
    worse = variant("float16", 14_000_000, 0.01, 5.0)
    found = {one.name: one.pareto for one in mark_pareto([*ALL, worse])}
    assert found == {"float32": True, "int8": True, "dynamic": True, "weights4": True, "float16": False}


def test_a_table_prints_and_is_read_back():
    table = Table(variants=mark_pareto(ALL), models={}, failed={"int16x8": "no kernel"}, examples=10)
    content = {
        "variants": [one.as_dict() for one in table.variants],
        "failed": [{"name": "int16x8", "reason": "no kernel"}],
        "examples": 10,
    }
    assert str(Table.read(content)) == str(table)
    assert "int16x8: no kernel" in str(table)
    assert table.frame.loc["int8", "size kB"] == 4000
    assert table["int8"] is table.variants[1]
    for shown in (table, table["int8"], choose(ALL, Gates())):
        assert repr(shown).count("\n") < 3
        assert "int8" in repr(shown) or "weights4" in repr(shown)
