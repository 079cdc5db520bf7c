"""TF_CONFIG from Slurm's environment; with Slurm installed, also training and the ends of a job on two real nodes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tfkit.distribution import slurm
from tfkit.distribution.manifest import ScheduledJob, manifest
from tfkit.errors import ConfigError

HERE = Path(__file__).parent
PROGRAM = HERE / "slurm_program.py"
needs_slurm = pytest.mark.skipif(
    os.getuid() != 0
    or not all(map(shutil.which, ("srun", "slurmctld", "slurmd", "munged", "ip", "nsenter"))),
    reason="needs root, slurm-wlm and munge: apt-get install slurm-wlm munge",
)


@pytest.fixture
def task(monkeypatch):
    """The environment of a task, as Slurm 22.05 sets it: rank 2 of 4, two on each of two nodes."""

    def be(**changes):
        for name in [name for name in os.environ if name.startswith("SLURM")]:
            monkeypatch.delenv(name)
        said = {"JOB_ID": "41", "STEP_ID": "1", "PROCID": "2", "NODEID": "1", "GTIDS": "2,3"}
        said |= {"STEP_NODELIST": "n2,n10", "STEP_TASKS_PER_NODE": "2(x2)"}
        for name, value in {**{f"SLURM_{name}": value for name, value in said.items()}, **changes}.items():
            if value is not None:
                monkeypatch.setenv(name, value)

    be()
    return be


def test_workers_are_in_the_order_of_their_ranks(task):
    base = 20000 + 16 * ((8 * 41 + 1) % 797)
    workers = [f"{host}:{base + number}" for host in ("n2", "n10") for number in (0, 1)]
    task = {"type": "worker", "index": 2}
    assert json.loads(slurm.tf_config()) == {"cluster": {"worker": workers}, "task": task}
    assert json.loads(slurm.tf_config(port_base=7000))["cluster"]["worker"][3] == "n10:7001"


def test_jobs_and_steps_that_share_a_node_have_ports_of_their_own():
    jobs = [slurm.default_port(job) for job in range(1_000_000, 1_000_000 + 797)]
    steps = [slurm.default_port(job, step) for job in range(99) for step in range(8)]
    for ports in (jobs, steps):
        assert len(set(ports)) == len(ports)
        assert {port % 16 for port in ports} == {0}  # 16 apart
        assert min(ports) >= 20000
        assert max(ports) + 15 <= slurm.HIGHEST_PORT < 32768  # where Linux's own begin


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"SLURM_PROCID": None, "SLURM_STEP_ID": None}, r"not a task .* \(SLURM_PROCID, SLURM_STEP_ID"),
        ({"SLURM_JOB_ID": None, "SLURM_STEP_NODELIST": None}, r"\(SLURM_JOB_ID, SLURM_STEP_NODELIST"),
        ({"SLURM_GTIDS": "1,3"}, r"--distribution=block"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2(x2),1"}, r"2 nodes .*'2\(x2\),1'"),
        ({"SLURM_STEP_TASKS_PER_NODE": "two"}, r"as in 2\(x3\),1"),
        ({"SLURM_STEP_TASKS_PER_NODE": "2,17", "SLURM_GTIDS": None}, r"17 tasks run on one node"),
        ({"SLURM_STEP_NODELIST": "n[2,10]", "PATH": "/nowhere"}, r"scontrol[\s\S]*set TF_CONFIG"),
    ],
)
def test_what_cannot_be_is_said(task, changes, complaint):
    task(**changes)
    with pytest.raises(ConfigError, match=complaint):
        slurm.tf_config()


def test_a_port_that_somebody_listens_on(task):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"Port {port} of .* is taken"):
            slurm.tf_config(port_base=port)
        # Another worker's port is not looked at: it is on another node.
        assert slurm.tf_config(port_base=port - 1)


def on_slurm(folder, script, *words):
    """What a bash script prints that runs where srun and sbatch reach two nodes."""
    alone = ["unshare", "-n", "-m", "--propagation", "private"]
    done = subprocess.run(
        [*alone, str(HERE / "slurm_cluster.sh"), str(folder), "bash", "-c", script, "bash", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout


@needs_slurm
@pytest.mark.slow
def test_two_nodes_train_one_model(tmp_path):
    script = 'srun --nodes=2 --ntasks=2 --kill-on-bad-exit=1 "$@" | grep "^{"'
    out = on_slurm(tmp_path, script, sys.executable, PROGRAM, "train")
    first, second = sorted(map(json.loads, out.splitlines()), key=lambda found: found["task"]["index"])
    assert (first["node"], second["node"]) == ("n2", "n10")
    assert [worker.partition(":")[0] for worker in first["cluster"]["worker"]] == ["n2", "n10"]
    assert first["replicas"] == second["replicas"] == 2
    assert first["losses"] == second["losses"]
    assert first["weights"] == second["weights"]
    assert first["losses"][1] < first["losses"][0]


@needs_slurm
@pytest.mark.slow
def test_how_a_batch_job_ends(tmp_path):
    """A death: all start again. A preemption: saved, requeued, done. Wrong usage: over, though the others said 3."""
    traces = {how: tmp_path / how for how in ("killed", "usage", "preempted")}
    for how, folder in traces.items():
        folder.mkdir()
        words = ("-m", "program", how, "--run-dir", str(folder))
        text = manifest("slurm", ScheduledJob(words=words, cpus=1, memory="512Mi", time="00:02:00"))
        # The time limit comes 10 s after the start.
        text = text.replace("-m program", str(PROGRAM)).replace("TERM@120", "TERM@110")
        text = text.replace("python=.venv/bin/python", f"python={sys.executable}")
        (tmp_path / f"{how}.sbatch").write_text(text)
    script = """
        cd "$1"
        for how in killed usage; do sbatch --wait --output=$how.log $how.sbatch >/dev/null; echo "$how $?"; done
        job=$(sbatch --parsable --output=preempted.log preempted.sbatch)
        for _ in $(seq 150); do
          # Not at once: what slurmd gets in the second in which the job was requeued it takes for the revoked one.
          [ "$(squeue -h -j $job -o '%T %r')" = "PENDING BeginTime" ] && sleep 2 &&
            scontrol update job=$job StartTime=now
          [ -e preempted/start-0-1 ] && [ -z "$(squeue -h -j $job -t RUNNING,COMPLETING,PENDING)" ] && break
          sleep 0.5
        done
        scontrol show job $job | grep -oE "(JobState|Restarts)=[A-Z0-9]+"
    """
    (tmp_path / "cluster").mkdir()
    ends = on_slurm(tmp_path / "cluster", script, tmp_path).split()
    assert ends[:4] == ["killed", "0", "usage", "2"], {
        how: (tmp_path / f"{how}.log").read_text() for how in traces
    }
    assert set(ends[4:]) == {"JobState=COMPLETED", "Restarts=1"}
    found = {how: {file.name for file in folder.iterdir()} for how, folder in traces.items()}
    twice = {f"start-{rank}-{attempt}" for rank in (0, 1) for attempt in (0, 1)}
    assert found["killed"] - {"saved-0"} == twice
    assert found["preempted"] == {*twice, "saved-0", "saved-1"}  # the slower one was let finish, too
    assert found["usage"] == {"start-0-0", "start-1-0", "saved-0"}
