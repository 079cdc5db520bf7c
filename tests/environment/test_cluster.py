"""What TF_CONFIG says, in its shapes, and what is wrong with it."""

from __future__ import annotations

import json

import pytest

from tfkit.environment import cluster
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
    # It would take the run folder from the chief.
    assert not said(monkeypatch, cluster=addresses, task={"type": "worker", "index": 0}).is_chief


TWO = ["a:1", "b:1"]
FIRST = {"type": "worker", "index": 0}
WRONG = "b|b:|:1|http://b:1|b:1/| b:1|b :1|b:0|b:65536|b:-1|b:x|::1:1"


@pytest.mark.parametrize(
    ("content", "culprit"),
    [
        ("{", "line 1 column 2"),
        (TWO, "['a:1', 'b:1']"),
        ({"cluster": TWO, "task": FIRST}, '"cluster"'),
        ({"cluster": {"worker": "a:1"}, "task": FIRST}, "\"worker\" is 'a:1'"),
        ({"cluster": {"worker": None}, "task": FIRST}, '"worker" is None'),
        ({"cluster": {"workers": TWO}, "task": FIRST}, 'job "workers"; known are chief, worker'),
        ({"cluster": {"master": TWO[:1]}, "task": {"type": "master", "index": 0}}, "known are chief, worker"),
        *(
            ({"cluster": {"worker": ["a:1", wrong]}, "task": FIRST}, f"worker 1 is {wrong!r}")
            for wrong in [*WRONG.split("|"), 7]
        ),
        ({"cluster": {"worker": ["a:1", "a:1"]}, "task": FIRST}, "worker 0 and worker 1"),
        ({"cluster": {"chief": ["a:1"], "worker": ["a:1"]}, "task": FIRST}, "chief 0 and worker 0"),
        ({"cluster": {"chief": TWO}, "task": {"type": "chief", "index": 0}}, "more than one"),
        ({"cluster": {"worker": TWO}}, '"task" is worker None'),
        ({"cluster": {"worker": TWO}, "task": {"type": "worker"}}, '"task" is worker None'),
        ({"cluster": {"worker": TWO}, "task": "worker"}, '"task"'),
        ({"cluster": {"worker": TWO}, "task": {"type": ["worker"], "index": 0}}, '"task"'),
        *(
            ({"cluster": {"worker": TWO}, "task": {"type": "worker", "index": wrong}}, str(wrong))
            for wrong in ("one", -1, True, 0.5, None, 2, [0])
        ),
        ({"cluster": {"worker": TWO}, "task": {"type": "evaluator", "index": 0}}, "evaluator"),
        ({"cluster": {"worker": TWO}, "task": {"type": "chief", "index": 0}}, "chief 0"),
        ({"cluster": {"worker": TWO}, "task": {"type": None, "index": 0}}, "None 0"),
        ({"cluster": {"worker": TWO, "ps": ["c:1"]}, "task": FIRST}, "need a chief"),
        ({"cluster": {"chief": ["a:1"], "ps": ["c:1"]}, "task": {"type": "ps", "index": 0}}, "need a chief"),
        ({"cluster": {"worker": []}, "task": FIRST}, "0 worker"),
        ({"cluster": {}, "task": {"type": "worker", "index": 1}}, "0 worker"),
        ({"task": {"type": "ps", "index": 0}}, "0 worker"),
    ],
)
def test_what_cannot_be_meant_is_named(monkeypatch, content, culprit):
    monkeypatch.setenv("TF_CONFIG", content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError) as caught:
        cluster.current()
    assert culprit in str(caught.value)
    assert "unset TF_CONFIG" in str(caught.value)


def test_what_tensorflow_reads_is_read(monkeypatch):
    """An index in quotes, as templates write it; IPv6; nobody but this process."""
    addresses = ["[::1]:2222", "host_2.my-net:65535"]
    assert said(monkeypatch, cluster={"worker": addresses}, task={"type": "worker", "index": "1"}).index == 1
    assert said(monkeypatch, cluster={}, task={"type": "master", "index": 0}).size == 1
    assert said(monkeypatch, environment="cloud").size == 1
