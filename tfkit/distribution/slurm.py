"""A batch script for Slurm: one worker a node, all started again after a death, requeued after a preemption.

TF_CONFIG from what Slurm tells every task of a step: `srun -N 4 python -m recipes.NAME ...`.

Not by tf.distribute's SlurmClusterResolver. On Slurm 22.05 with TensorFlow 2.21 it stops where there is no nvidia-smi,
divides by zero where it is told that there are no GPUs, and sorts the nodes by letters: on n2 and n10 it took worker 0
to be on n10, while Slurm had started it on n2.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
from collections.abc import Mapping

from tfkit.distribution.scheduled_jobs import Job
from tfkit.errors import ConfigError

# Below the ports that Linux hands out by itself (32768 and up), above those that services are known by.
LOWEST_PORT = 20000
_PORTS_OF_A_STEP = 16
# A prime: the first steps of 797 successive jobs all differ, and so do the 8 first steps of 99 successive jobs.
_SLOTS = 797
_STEPS_OF_A_JOB = 8
HIGHEST_PORT = LOWEST_PORT + _PORTS_OF_A_STEP * _SLOTS - 1


def tf_config(*, port_base: int | None = None) -> str:
    """What TF_CONFIG must be in this task of a Slurm step; TensorFlow is not asked.

    Worker i is the task of rank i; it listens on `port_base` plus its number on its node. Tasks must be laid out in
    blocks (rank 0 and 1 on the first node, 2 and 3 on the second), as Slurm does unless told otherwise, and Slurm's
    names of the nodes must resolve on every node. Which GPUs a task sees is Slurm's to say (--gpus-per-task).

    Args:
      port_base: of every node. Left out: `default_port` of this job's and this step's number.

    Returns:
      JSON: {"cluster": {"worker": ["n1:20008", "n2:20008"]}, "task": {"type": "worker", "index": 0}}

    Raises:
      ConfigError: this is no task of srun; the nodes' names cannot be told; the tasks are laid out otherwise; something
        listens on this task's port already.

    Example: stack.set_cluster(slurm.tf_config()), before tf.distribute.MultiWorkerMirroredStrategy().
    """
    said = os.environ
    numbers = ("SLURM_PROCID", "SLURM_STEP_ID", "SLURM_JOB_ID")
    missing = [name for name in numbers if not said.get(name, "").isdecimal()]
    missing += [name for name in ("SLURM_STEP_NODELIST",) if not said.get(name)]
    if missing or "SLURM_STEP_TASKS_PER_NODE" not in said:
        where = "a job of sbatch or salloc, but not" if "SLURM_JOB_ID" in said else "not"
        raise ConfigError(
            f"This process is {where} a task of a Slurm step ({', '.join(missing) or 'SLURM_STEP_TASKS_PER_NODE'}"
            " is not set, or no number): there is nothing to take the other workers' names from."
            "\n  Start it with srun, one task a worker: srun -N 4 --ntasks-per-node=1 python -m recipes.NAME ..."
        )
    hosts = _hosts(said["SLURM_STEP_NODELIST"])
    counts = _tasks_per_node(said["SLURM_STEP_TASKS_PER_NODE"])
    if len(hosts) != len(counts):
        raise ConfigError(
            f"Slurm names {len(hosts)} nodes ({said['SLURM_STEP_NODELIST']}) and the tasks of {len(counts)}"
            f" ({said['SLURM_STEP_TASKS_PER_NODE']})."
        )
    base = (
        default_port(int(said["SLURM_JOB_ID"]), int(said["SLURM_STEP_ID"]))
        if port_base is None
        else port_base
    )
    if port_base is None and max(counts) > _PORTS_OF_A_STEP:
        raise ConfigError(
            f"{max(counts)} tasks run on one node; a step has {_PORTS_OF_A_STEP} ports there, from {base}."
            "\n  Give fewer tasks more cores (--ntasks-per-node, --cpus-per-task), or say where free ports begin."
        )
    rank = int(said["SLURM_PROCID"])
    _check_layout(said, rank, counts)
    workers = [
        f"{host}:{base + number}"
        for host, count in zip(hosts, counts, strict=True)
        for number in range(count)
    ]
    _check_free(int(workers[rank].rpartition(":")[2]))
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def default_port(job: int, step: int = 0) -> int:
    """The first of the 16 ports of a step on each node: 20000 + 16 * ((8 * job + step) mod 797), at most 32736.

    Jobs that share a node do not collide unless their numbers are 797 apart, or a job runs over 8 steps.
    """
    return LOWEST_PORT + _PORTS_OF_A_STEP * ((_STEPS_OF_A_JOB * job + step) % _SLOTS)


def _hosts(node_list: str) -> list[str]:
    if "[" not in node_list:
        return node_list.split(",")
    if shutil.which("scontrol") is None:
        raise ConfigError(
            f"`scontrol` is not on the PATH of this task: without it the nodes of {node_list} cannot be listed."
            "\n  In a container, bind Slurm's programs, its configuration and munge's socket into it,"
            " or set TF_CONFIG outside of it."
        )
    asked = subprocess.run(
        ["scontrol", "show", "hostnames", node_list], capture_output=True, text=True, check=False, timeout=60
    )
    hosts = asked.stdout.split()
    if asked.returncode or not hosts:
        raise ConfigError(
            f"`scontrol show hostnames {node_list}` failed: {asked.stderr.strip() or 'no answer'}"
        )
    return hosts


def _tasks_per_node(text: str) -> list[int]:
    """ "2(x3),1" is 2, 2, 2, 1."""
    counts: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ConfigError(f"SLURM_STEP_TASKS_PER_NODE is {text!r}; something like 2(x3),1 was expected.")
        counts += [int(found[1])] * int(found[2] or 1)
    return counts


def _check_layout(said: Mapping[str, str], rank: int, counts: list[int]) -> None:
    node = int(said.get("SLURM_NODEID", 0))
    first = sum(counts[:node])
    expected = ",".join(str(first + number) for number in range(counts[node]))
    here = said.get("SLURM_GTIDS", expected)
    if here != expected:
        raise ConfigError(
            f"Slurm put the tasks {here} on node {node}, where {expected} were expected: worker {rank} would be looked"
            " for on another node.\n  Lay them out in blocks: srun --distribution=block ..., or one task a node."
        )


def _check_free(port: int) -> None:
    """TensorFlow would only say, at its first use, that it could not start its gRPC server."""
    with socket.socket() as probe:
        # A connection of an earlier attempt that is still fading away does not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigError(
                f"Port {port} of {socket.gethostname()}, which is this worker's, is taken ({error.strerror})."
                "\n  Another job on this node whose number is a multiple of 797 away, or another program."
                " Say where free ports begin, or submit again: the job's number decides."
            ) from error


_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={workers}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --mem={memory}
{gpus}#SBATCH --time={time}
#SBATCH --output={name}-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# 120 s before the time is up every task gets SIGTERM: it saves, stops and exits with 3. (Not B:, which would reach
# this script alone.) The first that ends so ends the step: the others must follow within Slurm's KillWait, 30 s unless
# the site says otherwise.
#SBATCH --signal=TERM@120

# Submit it from the folder of the checkout, on storage that all nodes share. The run folder must be on such too.
# TensorFlow's gRPC port ({lowest} to {highest}, by the job's number) is open to every interface of the nodes and asks
# nobody who they are: let the cluster's firewall keep it inside.

# Not `uv run`: {workers} nodes would check one environment at once, and uv would pass SIGTERM on a second time.
python=.venv/bin/python
[ -x "$python" ] || python=python3
program=("$python" {words})

# srun answers with the highest exit code of all tasks. As soon as one fails the others get SIGTERM, and those may
# end with 3, "saved and stopped". So the codes that no restart mends (1 a failed check, 2 wrong usage) become 201 and
# 202, above 3 and above death by a signal.
task='trap : TERM; "$@"; code=$?; case $code in 1 | 2) code=$((200 + code)) ;; esac; exit $code'

for attempt in $(seq 0 {restarts}); do
  # So that --overwrite, which the words may hold, removes nothing at a restart.
  export TFKIT_RESTARTED=$((attempt + ${{SLURM_RESTART_COUNT:-0}}))
  srun --kill-on-bad-exit=1 --wait=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" bash -c "$task" worker "${{program[@]}}"
  code=$?
  case $code in
    0) exit 0 ;;
    3) echo "Stopped; requeued: it goes on from its last backup, if any." && exec scontrol requeue "$SLURM_JOB_ID" ;;
    201 | 202) exit $((code - 200)) ;;
  esac
  echo "A worker died (srun: $code) in attempt $attempt of 0 to {restarts}."
done
exit "$code"
"""


def script(job: Job) -> str:
    """The text for `sbatch`.

    Args:
      job: its image, namespace and claim are not asked for.

    Raises:
      ConfigError: what is asked cannot be; all problems are named.
    """

    job.check(kubernetes=False)
    words = list(job.words)
    if not any(word.partition("=")[0] == "--cluster" for word in words):
        words += ["--cluster", "slurm"]
    return _SCRIPT.format(
        name=job.name,
        workers=job.workers,
        cpus=job.cpus,
        memory=job.memory.removesuffix("i"),  # Slurm's G is 1024^3 bytes, as Kubernetes' Gi is
        gpus=f"#SBATCH --gpus-per-node={job.gpus}\n" if job.gpus else "",
        time=job.time_limit,
        lowest=LOWEST_PORT,
        highest=HIGHEST_PORT,
        words=shlex.join(words),
        restarts=job.max_restarts,
    )
