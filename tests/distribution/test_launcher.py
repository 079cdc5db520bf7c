"""The launcher on real processes that end in every way; none of them needs TensorFlow."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tfkit.__main__ import main
from tfkit.distribution import network
from tfkit.distribution.launcher import Job, run
from tfkit.distribution.network import free_ports
from tfkit.distribution.worker_process import Screen, gpu_shares
from tfkit.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_each_worker_is_told_who_it_is_and_has_cores_of_its_own(launch):
    job = launch("train(5); print('done', me); sys.stderr.write('to stderr\\n')", "--workers", "2")
    assert job.ended() == 0
    assert sorted(job.printed.splitlines()) == ["[worker 0] done 0", "[worker 1] done 1"]
    assert "[worker 1] to stderr" in job.said
    assert "Launching 2 processes: python " in job.said
    assert len(job.starts(0)) == len(job.starts(1)) == 1
    found = [job.starts(worker)[0] for worker in (0, 1)]
    configs = [json.loads(each["environment"]["TF_CONFIG"]) for each in found]
    addresses = configs[0]["cluster"]["worker"]
    assert configs[1]["cluster"]["worker"] == addresses
    assert len(set(addresses)) == 2
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert [config["task"] for config in configs] == [{"type": "worker", "index": index} for index in (0, 1)]
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) >= 2:
        assert sorted(found[0]["cores"] + found[1]["cores"]) == usable
        assert found[0]["environment"]["OMP_NUM_THREADS"] == str(len(found[0]["cores"]))
    assert all(each["environment"]["PYTHONUNBUFFERED"] == "1" for each in found)
    ports = [address.split(":")[1] for address in addresses]
    assert f"ports {', '.join(ports)} of EVERY network interface" in job.said
    assert "for tables in iptables ip6tables; do" in job.said  # TensorFlow listens on IPv6 too


def test_more_workers_than_cores_are_not_pinned(launch):
    usable = sorted(os.sched_getaffinity(0))
    count = len(usable) + 1
    job = launch("train(1)", "--workers", str(count))
    assert job.ended() == 0
    assert [job.starts(worker)[0]["cores"] for worker in range(count)] == [usable] * count
    assert "Not pinned" in job.said


def test_one_worker_needs_no_cluster_and_no_port(launch):
    job = launch("train(1)", "--workers", "1")
    assert job.ended() == 0
    assert "TF_CONFIG" not in job.starts(0)[0]["environment"]
    assert "Warning" not in job.said


def test_lines_are_whole_and_bytes_are_taken_as_they_come(launch):
    program = """
for n in range(200):
    os.write(1, b"a" * 50); os.write(1, b"b" * 50 + b"\\n")
os.write(1, b"caf\\xe9 \\xc3\\xa9\\n1/3\\r2/3\\r3/3\\nwithout an end")
"""
    job = launch(program)
    assert job.ended() == 0
    lines = job.printed.splitlines()
    for worker in (0, 1):
        own = [line.removeprefix(f"[worker {worker}] ") for line in lines if f"[worker {worker}]" in line]
        assert own == ["a" * 50 + "b" * 50] * 200 + ["caf\ufffd é", "3/3", "without an end"]
    assert len(lines) == 2 * 203


def test_a_job_that_comes_to_its_end_all_the_same_is_done(launch):
    job = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN); print('last', flush=True); train(100)")
    job.until(lambda: job.printed.count("last") == 2)
    job.process.send_signal(signal.SIGTERM)
    assert job.ended() == 0


@pytest.mark.parametrize(
    ("line", "culprits"),
    [
        ("", ["-- -m recipes."]),
        ("--workers 2 --", ["-- -m recipes."]),
        ("-- nowhere.py", ["nowhere.py"]),
        ("--workers 3 own.py --epochs 2", ["python -m tfkit launch --workers 3 -- own.py --epochs 2"]),
        ("--workers 0 -- -m this", ["--workers", "at least 1"]),
        ("--workers 1000000 -- -m this", ["--workers 1000000", "--hosts"]),
        ("--hosts a:1,http://b:1 --task-index 0 -- -m this", ["--hosts", "worker 1 is 'http://b:1'"]),
        ("--hosts a:1,a:1 --task-index 0 -- -m this", ["worker 0 and worker 1", "a:1"]),
        ("--hosts localhost:2222 --task-index 1 -- -m this", ["--task-index", "worker 1", "1 worker"]),
        ("--hosts localhost:2222,localhost:2223 -- -m this", ["--task-index 0"]),
        ("--hosts , --task-index 0 -- -m this", ["--hosts host1:2222"]),
        ("--hosts= -- -m this", ["--hosts host1:2222"]),
        ("--task-index 1 -- -m this", ["--hosts host1:2222"]),
        ("--hosts localhost:2222 --task-index 0 --workers 2 -- -m this", ["--workers does not go"]),
        ("--hosts localhost:2222 --task-index 0 --parameter-servers 1 -- -m this", ["--parameter-servers"]),
        ("--max-restarts -1 -- -m this", ["--max-restarts", "at least 0"]),
        ("--hang-seconds 1 -- -m this", ["--hang-seconds", "at least 3"]),
        ("--engine ray --parameter-servers 1 -- -m this", ["--parameter-servers does", "--engine ray"]),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(capsys, line, culprits):
    assert main(["launch", *line.split()]) == 2
    errors = capsys.readouterr().err
    assert all(culprit in errors for culprit in culprits), errors


def test_a_port_of_the_hosts_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        job = Job(words=("-m", "this"), hosts=(f"127.0.0.1:{port}", "127.0.0.1:3"))
        with pytest.raises(ConfigError, match=rf"Port {port}[\s\S]*--hosts"):
            job.tasks()


@pytest.mark.parametrize(
    "words", ["launch --help", "launch -- -c print(1)", "manifest slurm -- -m a --run-dir b"]
)
def test_neither_a_launcher_nor_a_manifest_needs_tensorflow(words):
    """Nor a manifest the packages that have the schemas."""
    program = f"""
import contextlib, sys
from tfkit.__main__ import main
with contextlib.suppress(SystemExit): main({words.split()})
heavy = {{"tensorflow", "tf_keras", "numpy", "pandas", "pkg_resources", "kubernetes", "kubeflow", "pydantic"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_its_own_options_end_at_the_dashes(capfd):
    """What follows is the program's, also where it looks like an option of the launcher."""
    code = "import sys; print(sys.argv[1:])"
    assert main(["launch", "--workers", "1", "--", "-c", code, "--workers", "9", "--", "--help"]) == 0
    assert "['--workers', '9', '--', '--help']" in capfd.readouterr().out


def test_one_launcher_for_each_host(launch):
    """Here both are this machine: the cluster is the same, the cores are not, and each starts its own worker."""
    hosts = ",".join(f"127.0.0.1:{port}" for port in free_ports(2))
    jobs = [launch("train(3)", "--hosts", hosts, "--task-index", str(index)) for index in (0, 1)]
    assert [job.ended() for job in jobs] == [0, 0]
    found = [job.starts(index)[0] for index, job in enumerate(jobs)]
    for index, each in enumerate(found):
        config = json.loads(each["environment"]["TF_CONFIG"])
        assert config["cluster"] == {"worker": hosts.split(",")}
        assert config["task"] == {"type": "worker", "index": index}
    if len(os.sched_getaffinity(0)) >= 2:
        assert not set(found[0]["cores"]) & set(found[1]["cores"])


def test_the_firewalls_rules_are_of_both_families():
    hosts = ["n1:2222", "[fe80::1]:2222"]
    first, *let_in = network.warning(hosts[:1], hosts=hosts)[2:]
    assert (
        first == "    for tables in iptables ip6tables; do $tables -I INPUT -p tcp --dport 2222 -j DROP; done"
    )
    assert let_in == [
        "    iptables -I INPUT -p tcp --dport 2222 -s n1 -j ACCEPT",
        "    ip6tables -I INPUT -p tcp --dport 2222 -s fe80::1 -j ACCEPT",
    ]


def test_a_host_that_does_not_answer_is_named(launch):
    own, other = (f"127.0.0.1:{port}" for port in free_ports(2))
    program = "from tfkit.distribution import network; network.wait_for_workers(cluster.current())"
    job = launch(program, "--hosts", f"{own},{other}", "--task-index", "0", "--join-seconds", "2")
    assert job.ended() == 1
    assert re.search(rf"worker 0 gave up: worker 1 \({other}: .*\) did not come within 2 s", job.said)
    assert len(job.starts(0)) == 1


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    assert gpu_shares(1) == ()
    assert gpu_shares(5) == ((),) * 5  # nobody gets one: two on one would fail
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2c, MIG-51aa,-1,7")  # as Slurm and containers name them
    assert gpu_shares(2) == (("GPU-8f2c",), ("MIG-51aa",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")  # no GPU: nobody is told of one
    assert gpu_shares(2) == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert gpu_shares(2) == ()


def test_gpus_are_counted_as_cuda_counts_them():
    """In a container /dev has those that it was given, by the host's numbers."""
    look = "from tfkit.distribution.worker_process import gpu_shares; print(gpu_shares(2))"
    nodes = "/dev/nvidia2 /dev/nvidia5 /dev/nvidiactl"
    program = f"mount -t tmpfs none /dev && touch {nodes} && {sys.executable} -c '{look}'"
    unshare = ["unshare", *(["-r"] if os.getuid() else []), "-m", "bash", "-c", program]
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    done = subprocess.run(unshare, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(('0',), ('1',))"


def test_gpus_that_ray_has_given_are_not_shared_out_again(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    own = {"CUDA_VISIBLE_DEVICES": "3"}
    program = "import os; print('has', os.environ['CUDA_VISIBLE_DEVICES'])"
    assert run(Job(words=("-c", program), environment=own), screen=Screen()).kind == "done"
    printed = capsys.readouterr()
    assert printed.out.count("has 3") == 2
    assert "none" not in printed.err


def test_each_worker_sees_its_gpus_alone(launch, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    job = launch("train(1)", "--no-pin")
    assert job.ended() == 0
    found = [job.starts(worker)[0] for worker in (0, 1)]
    assert [each["environment"]["CUDA_VISIBLE_DEVICES"] for each in found] == ["0,1", "2,5"]
    assert [each["cores"] for each in found] == [sorted(os.sched_getaffinity(0))] * 2
    assert "any core, GPU 2,5" in job.said


def test_a_private_network_has_nobody_else_in_it(launch):
    program = """
import socket
train(2)
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname()).close()
print([name for _, name in socket.if_nameindex()])
"""
    job = launch(program, "--private-network")
    assert job.ended() == 0
    assert job.printed.count("['lo']") == 2
    assert "nobody else reaches these ports" in job.said
    assert "iptables" not in job.said


SERVER = "import os, time; print('serves', os.environ['TF_CONFIG'], flush=True); time.sleep({seconds})"


def test_parameter_servers_end_with_their_chief(monkeypatch, capfd):
    monkeypatch.setattr("tfkit.distribution.launcher.SERVER", ("-c", SERVER.format(seconds=600)))
    words = ("-c", "import os, time; print('leads', os.environ['TF_CONFIG']); time.sleep(1.5)")
    assert main(["launch", "--parameter-servers", "1", "--", *words]) == 0
    out = capfd.readouterr().out
    lines = [re.fullmatch(r"\[(.+?)\] \w+ (.*)", line) for line in out.splitlines()]
    found = {line[1]: json.loads(line[2]) for line in lines}
    assert set(found) == {"chief", "worker 0", "worker 1", "ps 0"}
    cluster = found["chief"]["cluster"]
    assert {role: len(addresses) for role, addresses in cluster.items()} == {"chief": 1, "worker": 2, "ps": 1}
    assert all(each["cluster"] == cluster for each in found.values())
    assert found["ps 0"]["task"] == {"type": "ps", "index": 0}


def test_a_parameter_server_that_dies_is_a_death(monkeypatch, capfd):
    monkeypatch.setattr("tfkit.distribution.launcher.SERVER", ("-c", SERVER.format(seconds=1)))
    words = ("--workers", "1", "--parameter-servers", "1", "--max-restarts", "1", "--")
    assert main(["launch", *words, "-c", "import time; time.sleep(600)"]) == 1
    errors = capfd.readouterr().err
    assert "(restart 1 of 1)" in errors
    assert re.search(r"WorkerError: (ps|worker) 0 died \(exit code 0\)", errors)
