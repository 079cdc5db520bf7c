"""TF_CONFIG from what Slurm says to every task of a step: `srun -N 4 python -m recipes.NAME ...`.

Not by tf.distribute's SlurmClusterResolver. On Slurm 22.05 with TensorFlow 2.21 it stops where there is no nvidia-smi,
divides by zero where it is told that there are no GPUs, and sorts the nodes by letters: on n2 and n10 it took worker 0
to be on n10, while Slurm had started it on n2.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess

from tfkit.distribution.network import listen
from tfkit.errors import ConfigError

# Below the ports that Linux hands out by itself (32768 and up), above those that services are known by.
LOWEST_PORT = 20000
_PORTS_OF_A_STEP = 16
# A prime: the first steps of 797 successive jobs all differ, and so do the 8 first steps of 99 successive jobs.
_SLOTS = 797
_STEPS_OF_A_JOB = 8
HIGHEST_PORT = LOWEST_PORT + _PORTS_OF_A_STEP * _SLOTS - 1


def tf_config(*, port_base: int | None = None) -> str:
    """Return what TF_CONFIG must be in this task of a Slurm step; TensorFlow is not asked.

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

    Example: os.environ["TF_CONFIG"] = slurm.tf_config(), before tf.distribute.MultiWorkerMirroredStrategy().
    """
    names = [
        "SLURM_PROCID",
        "SLURM_STEP_ID",
        "SLURM_JOB_ID",
        "SLURM_STEP_NODELIST",
        "SLURM_STEP_TASKS_PER_NODE",
    ]
    if missing := [name for name in names if not os.environ.get(name)]:
        raise ConfigError(
            f"This process is not a task of a Slurm step ({', '.join(missing)} is not set).\n  In a job of sbatch or"
            " salloc too, start it with srun: srun -N 4 --ntasks-per-node=1 python -m recipes.NAME ..."
        )
    rank, step, job = (int(os.environ[name]) for name in names[:3])
    node_list, tasks = (os.environ[name] for name in names[3:])
    hosts, parts = _list_hosts(node_list), re.finditer(r"(\d+)(?:\(x(\d+)\))?(?:,|$)", tasks)
    counts = [int(part[1]) for part in parts for _ in range(int(part[2] or 1))]  # 2(x3),1: 2, 2, 2, 1
    if len(hosts) != len(counts):
        raise ConfigError(
            f"Slurm names {len(hosts)} nodes ({node_list}), and {tasks!r} tasks: not as in 2(x3),1 a number a node."
        )
    if port_base is None:
        port_base = default_port(job, step)
        if max(counts) > _PORTS_OF_A_STEP:
            raise ConfigError(
                f"{max(counts)} tasks run on one node; a step has {_PORTS_OF_A_STEP} ports there. Give fewer tasks more"
                " cores (--ntasks-per-node, --cpus-per-task), or give `port_base`."
            )
    node = int(os.environ.get("SLURM_NODEID", 0))
    first = sum(counts[:node])
    expected = ",".join(str(first + number) for number in range(counts[node]))
    actual = os.environ.get("SLURM_GTIDS", expected)
    if actual != expected:
        raise ConfigError(
            f"Slurm put the tasks {actual} on node {node}, where worker {rank} and its neighbours are looked for as"
            f" {expected}.\n  Lay them out in blocks: srun --distribution=block ..., or one task a node."
        )
    pairs = zip(hosts, counts, strict=True)
    workers = [f"{host}:{port_base + number}" for host, count in pairs for number in range(count)]
    fix = "A job on this node whose number is a multiple of 797 away, or another program: submit again."
    listen(int(workers[rank].rpartition(":")[2]), fix=fix).close()
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}})


def default_port(job: int, step: int = 0) -> int:
    """Return the first of the 16 ports of a step on each node: 20000 + 16 * ((8 * job + step) mod 797), at most 32736.

    Jobs that share a node do not collide unless their numbers are 797 apart, or a job runs over 8 steps.
    """
    return LOWEST_PORT + _PORTS_OF_A_STEP * ((_STEPS_OF_A_JOB * job + step) % _SLOTS)


def _list_hosts(node_list: str) -> list[str]:
    if "[" not in node_list:
        return node_list.split(",")
    command = ["scontrol", "show", "hostnames", node_list]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            f"`{shlex.join(command)}` lists no nodes: {getattr(error, 'stderr', '') or error}\n  In a container, bind"
            " Slurm's programs, configuration and munge's socket into it, or set TF_CONFIG outside of it."
        ) from error
    return result.stdout.split()
