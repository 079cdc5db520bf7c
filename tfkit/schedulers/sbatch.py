"""A batch script for Slurm: one worker a node, all started again after a death, requeued after a preemption."""

from __future__ import annotations

import shlex

from tfkit.schedulers.jobs import Job

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
    from tfkit.schedulers import slurm

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
        lowest=slurm.LOWEST_PORT,
        highest=slurm.HIGHEST_PORT,
        words=shlex.join(words),
        restarts=job.max_restarts,
    )
