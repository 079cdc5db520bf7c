"""What TF_CONFIG says, in its shapes, and what is wrong with it."""

from __future__ import annotations

import json

import pytest

from tfkit import cluster
from tfkit.errors import ConfigError


def said(monkeypatch, **content):
    monkeypatch.setenv("TF_CONFIG", json.dumps(content))
    return cluster.current()


def test_without_it_a_process_is_alone(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    alone = cluster.current()
    assert (alone.size, alone.is_chief) == (1, True)


def test_the_first_worker_is_the_chief(monkeypatch):
    workers = ["host1:2222", "host2:2222"]
    first = said(monkeypatch, cluster={"worker": workers}, task={"type": "worker", "index": 0})
    second = said(monkeypatch, cluster={"worker": workers}, task={"type": "worker", "index": 1})
    assert (first.size, first.is_chief, second.is_chief) == (2, True, False)
    assert second.name == "worker 1 (host2:2222)"


def test_a_chief_of_its_own_is_the_first_worker(monkeypatch):
    """As TFJob writes it: the collectives count the chief first."""
    addresses = {"chief": ["host0:2222"], "worker": ["host1:2222"]}
    chief = said(monkeypatch, cluster=addresses, task={"type": "chief", "index": 0})
    worker = said(monkeypatch, cluster=addresses, task={"type": "worker", "index": 0})
    assert (chief.size, chief.is_chief, chief.index) == (2, True, 0)
    assert (worker.size, worker.is_chief, worker.index) == (2, False, 1)


def test_parameter_servers_have_a_chief_that_leads(monkeypatch):
    addresses = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
    chief = said(monkeypatch, cluster=addresses, task={"type": "chief", "index": 0})
    server = said(monkeypatch, cluster=addresses, task={"type": "ps", "index": 0})
    assert (chief.is_chief, server.is_chief, server.name) == (True, False, "ps 0 (d:1)")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "cannot be understood"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker"}}', "cannot be understood"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "worker 1"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "evaluator", "index": 0}}', "evaluator 0"),
    ],
)
def test_what_cannot_be_is_said(monkeypatch, text, why):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ConfigError, match=why):
        cluster.current()
