"""What contradicts itself is refused as the flags are read: before data, models, or minutes of training."""

from __future__ import annotations

import json

import pytest

from recipes import (
    audit_privacy,
    compress_tflite,
    search_text,
    train_distributed,
    train_private,
    transfer_image,
)
from tfkit.errors import ConfigError


@pytest.mark.parametrize(
    ("recipe", "settings", "why"),
    [
        (train_private, {"strategy": "parameter_server"}, "the accountant counts steps that all take together"),
        (train_private, {"mean_budget": 1.0}, "--mean-budget is 1"),
        (train_private, {"strategy": "one_device", "logical_cpus": 2}, "is for --strategy mirrored"),
        (transfer_image, {"strategy": "tpu", "logical_cpus": 2}, "is for --strategy mirrored"),
        (train_distributed, {"batch_size_per_replica": -1}, "--batch-size-per-replica is -1"),
        (compress_tflite, {"from_run": "x", "techniques": ("qat",), "variants": ("float32",)}, "Add --variants int8"),
        (compress_tflite, {"from_run": "x", "techniques": ("prune",), "variants": ("dynamic",)}, "float32 and int8"),
        (compress_tflite, {"from_run": "x", "max_accuracy_drop": 1.0}, "--max-accuracy-drop is 1.0"),
        (compress_tflite, {"from_run": "x", "max_size_kb": 0.0}, "--max-size-kb is 0"),
        (compress_tflite, {"from_run": "x", "saved_model": "y"}, "--from-run RUN or --saved-model"),
        (audit_privacy, {"run_dir": "x", "shadows": 3}, "even number of 4 or more"),
        (search_text, {"text_column": "body"}, "--text-column is of a table"),
    ],
)  # fmt: skip
def test_flags_that_do_not_go_together(recipe, settings, why):
    with pytest.raises(ConfigError, match=why):
        recipe.Config(**settings)


def test_privacy_among_the_workers_of_parameter_servers(monkeypatch):
    """Who leaves the strategy to TF_CONFIG is told as well."""
    cluster = {"chief": ["a:1"], "worker": ["b:1"], "ps": ["c:1"]}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    with pytest.raises(ConfigError, match="Parameter servers do not go together with privacy"):
        train_private.Config()
    assert train_private.Config(strategy="one_device").strategy == "one_device"
