"""Workers find each other before TensorFlow starts, and one that is absent is named."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tfkit.distribution.network import AbsentError, free_ports, wait_for_workers
from tfkit.environment.cluster import Cluster
from tfkit.errors import ConfigError


@pytest.fixture
def addresses():
    return tuple(f"127.0.0.1:{port}" for port in free_ports(3))


def in_thread(cluster, **options):
    problems = []

    def run():
        try:
            wait_for_workers(cluster, **options)
        except Exception as error:
            problems.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, problems


def test_all_return_when_the_last_one_has_come(addresses):
    early = [in_thread(Cluster(workers=addresses, index=index), seconds=20) for index in (0, 1)]
    time.sleep(0.5)
    assert all(thread.is_alive() for thread, _ in early)
    wait_for_workers(Cluster(workers=addresses, index=2), seconds=20)
    for thread, problems in early:
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert not problems
    # Their ports are free again, for TensorFlow.
    for address in addresses:
        socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))).close()


def test_a_patience_that_is_no_number_is_named(addresses, monkeypatch):
    monkeypatch.setenv("TFKIT_JOIN_SECONDS", "soon")
    with pytest.raises(ConfigError, match="TFKIT_JOIN_SECONDS in the environment is 'soon'"):
        wait_for_workers(Cluster(workers=addresses, index=0))


def test_who_is_absent_is_named_at_once_and_in_the_end(addresses, capsys):
    workers = (*addresses, "no-such-host.invalid:2222")
    thread, _ = in_thread(Cluster(workers=workers, index=1), seconds=6)
    absent = rf"worker 2 \({addresses[2]}: .*\), worker 3 \(no-such-host.invalid:2222: .*\) did not come within 4 s"
    with pytest.raises(AbsentError, match=absent):
        wait_for_workers(Cluster(workers=workers, index=0), seconds=4.4)
    thread.join()
    assert "worker 0 (127.0.0.1" in capsys.readouterr().err


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_addresses_may_be_of_ipv6(addresses):
    workers = tuple(address.replace("127.0.0.1", "[::1]") for address in addresses[:2])
    thread, problems = in_thread(Cluster(workers=workers, index=1), seconds=10)
    wait_for_workers(Cluster(workers=workers, index=0), seconds=10)
    thread.join()
    assert not problems


def test_another_list_of_workers_is_found_out(addresses):
    swapped = (addresses[0], addresses[1], "127.0.0.1:9")
    thread, _ = in_thread(Cluster(workers=swapped, index=1), seconds=10)
    with pytest.raises(AbsentError, match="another list of workers"):
        wait_for_workers(Cluster(workers=addresses, index=0), seconds=10)
    thread.join()


def test_a_worker_that_has_started_tensorflow_already_is_there(addresses):
    """Something listens at its port that is not ours, and may not say anything."""
    with socket.create_server(("127.0.0.1", int(addresses[1].rpartition(":")[2]))):
        wait_for_workers(Cluster(workers=addresses[:2], index=0), seconds=10)
