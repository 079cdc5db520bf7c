"""`python -m tfkit manifest KIND`: a training job for Slurm or Kubernetes, written as their own file.

A job as Kubernetes objects: for the training operator (TFJob), for JobSet, for Kubeflow Trainer (TrainJob).

Each kind gives the objects to apply, in order, and the sentences that stand above them.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import textwrap
from pathlib import Path, PurePosixPath
from typing import Any

from tfkit.distribution.scheduled_jobs import PORT, Job, words_of
from tfkit.distribution.slurm import script
from tfkit.environment import files
from tfkit.errors import ConfigError

Objects = list[dict[str, Any]]

# For a save between SIGTERM and SIGKILL.
_GRACE_SECONDS = 120
# Exit codes that no restart mends: 1 a failed check, 2 wrong usage.
_FINAL = (1, 2)
# TFJob's policy ExitCode fails the job for good on 1 to 127 and starts a pod anew on 128 and above. Run as process 1,
# a shell gets SIGTERM and must hand it on; a signal ends `wait` early, so it waits again until the child is gone.
_MAP_CODES = (
    "trap 'kill -TERM $child' TERM INT; \"$@\" & child=$!; wait $child; code=$?;"
    " while kill -0 $child 2>/dev/null; do wait $child; code=$?; done;"
    " case $code in 0 | 1 | 2) exit $code ;; *) exit 138 ;; esac"
)


def tfjob(job: Job) -> tuple[Objects, list[str]]:
    """`kubeflow.org/v1` TFJob: the operator sets TF_CONFIG, worker 0 leads."""
    command = ["/bin/sh", "-c", _MAP_CODES, "sh", "python", *_literal(job.words)]
    pod = _pod(job, container="tensorflow", port_name="tfjob-port", command=command)
    spec = {
        "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": job.max_restarts},
        "tfReplicaSpecs": {
            "Worker": {"replicas": job.workers, "restartPolicy": "ExitCode", "template": {"spec": pod}}
        },
    }
    resource = {"apiVersion": "kubeflow.org/v1", "kind": "TFJob", "metadata": _metadata(job), "spec": spec}
    remarks = [
        "restartPolicy ExitCode: 1 (a failed check) and 2 (wrong usage) end the job, no restart mends them. All else,"
        " also 3 (saved and stopped) and the loss of a peer, becomes 138, which the operator answers with a new pod;"
        " then all workers go on from the backup. OnFailure would repeat a wrong command, and in the old pod.",
        "backoffLimit counts restarts of containers, and ExitCode makes new pods instead: add activeDeadlineSeconds to"
        " runPolicy where attempts must end.",
    ]
    return [_network_policy(job, {"training.kubeflow.org/job-name": job.name}), resource], remarks


def jobset(job: Job) -> tuple[Objects, list[str]]:
    """`jobset.x-k8s.io/v1alpha2` JobSet: names that last; `tfkit launch` in each pod makes TF_CONFIG of them."""
    resource = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": _metadata(job),
        "spec": _jobset_spec(job, replicated="worker", labels={}),
    }
    return [_network_policy(job, {"jobset.sigs.k8s.io/jobset-name": job.name}), resource], _jobset_remarks()


def trainjob(job: Job) -> tuple[Objects, list[str]]:
    """`trainer.kubeflow.org/v1alpha1` TrainJob, and the runtime that it needs."""
    # Trainer looks for the job and the container of this name, and for this label.
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    runtime = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {**_metadata(job), "labels": {"trainer.kubeflow.org/framework": "tensorflow"}},
        "spec": {
            "mlPolicy": {"numNodes": job.workers},
            "template": {"spec": _jobset_spec(job, replicated="node", labels=labels)},
        },
    }
    resource = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": _metadata(job),
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": job.name,
            },
            "trainer": {"numNodes": job.workers},
        },
    }
    remarks = [
        "Kubeflow Trainer ships runtimes for PyTorch, JAX, MPI, MLX and XGBoost and none for TensorFlow, so this brings"
        " a plain one of its own. The workers' names are in it: another numNodes needs another manifest.",
        *_jobset_remarks(),
    ]
    policy = _network_policy(job, {"jobset.sigs.k8s.io/jobset-name": job.name})
    return [policy, runtime, resource], remarks


def _jobset_spec(job: Job, *, replicated: str, labels: dict[str, str]) -> dict[str, Any]:
    hosts = ",".join(f"{job.name}-{replicated}-0-{index}.{job.name}:{PORT}" for index in range(job.workers))
    # The kubelet puts the pod's index in, before any program runs.
    launch = ["-m", "tfkit", "launch", "--hosts", hosts, "--task-index", "$(JOB_COMPLETION_INDEX)"]
    command = ["python", *launch, "--max-restarts", str(job.max_restarts), "--", *_literal(job.words)]
    pod = _pod(job, container=replicated, port_name="grpc", command=command)
    template = {
        **({"metadata": {"labels": labels}} if labels else {}),
        "spec": {
            "completionMode": "Indexed",
            "completions": job.workers,
            "parallelism": job.workers,
            "backoffLimit": 0,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": replicated,
                            "operator": "In",
                            "values": list(_FINAL),
                        },
                    },
                ]
            },
            "template": {"spec": {**pod, "restartPolicy": "Never"}},
        },
    }
    return {
        "network": {"enableDNSHostnames": True, "subdomain": job.name},
        "failurePolicy": {
            "maxRestarts": job.max_restarts,
            "rules": [{"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
        },
        "replicatedJobs": [{"name": replicated, "replicas": 1, "template": template}],
    }


def _jobset_remarks() -> list[str]:
    return [
        "`tfkit launch` in each pod waits for the others, names who is absent, starts its worker again when one died,"
        " and hands SIGTERM on. A pod that is evicted is replaced and not counted; one that fails otherwise makes all"
        " pods start again, at most maxRestarts times; 1 (a failed check) and 2 (wrong usage) end the job.",
    ]


def _pod(job: Job, *, container: str, port_name: str, command: list[str]) -> dict[str, Any]:
    amounts: dict[str, Any] = {"cpu": str(job.cpus), "memory": job.memory}
    if job.gpus:
        amounts["nvidia.com/gpu"] = str(job.gpus)
    return {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        # An image may say no user, or root: numbers of our own make it run as neither.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": container,
                "image": job.image,
                "command": command,
                # That user has no home in the image.
                "env": [{"name": "HOME", "value": "/tmp"}],
                "ports": [{"name": port_name, "containerPort": PORT, "protocol": "TCP"}],
                "resources": {"requests": dict(amounts), "limits": dict(amounts)},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "shared", "mountPath": job.shared_mount}],
            }
        ],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": job.shared_claim}}],
    }


def _literal(words: tuple[str, ...]) -> list[str]:
    """Kubernetes puts variables in place of $(NAME) and $ in place of $$; what the user wrote must arrive as it is."""
    return [word.replace("$", "$$") for word in words]


def _metadata(job: Job) -> dict[str, Any]:
    return {"name": job.name, "namespace": job.namespace}


def _network_policy(job: Job, pods: dict[str, str]) -> dict[str, Any]:
    selected = {"matchLabels": pods}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{job.name}-workers-only", "namespace": job.namespace},
        "spec": {
            "podSelector": selected,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": selected}]}],
        },
    }


KINDS = {
    "slurm": "a batch script for Slurm's sbatch",
    "tfjob": "Kubernetes: a TFJob for Kubeflow's training operator",
    "jobset": "Kubernetes: a JobSet",
    "trainjob": "Kubernetes: a TrainJob and its runtime for Kubeflow Trainer",
}
_DESCRIBE = {"tfjob": tfjob, "jobset": jobset, "trainjob": trainjob}
_PORT_REMARK = (
    "TensorFlow's gRPC port asks nobody who they are. The NetworkPolicy lets only this job's pods reach its pods,"
    " where the cluster's network plug-in enforces such policies."
)


def manifest(kind: str, job: Job) -> str:
    """The text to give to `sbatch` or to `kubectl apply -f`.

    Args:
      kind: `slurm`, `tfjob`, `jobset` or `trainjob`.
      job: what runs, and on how much.

    Raises:
      ConfigError: what is asked cannot be; all problems are named.

    Example: manifest("jobset", Job(words=("-m", "recipes.train_distributed", "--run-dir", "/runs/a"), workers=4,
      image="registry/tfkit:1", shared_claim="runs"))
    """
    import yaml

    if kind == "slurm":
        return script(job)
    if kind not in _DESCRIBE:
        raise ConfigError(f"A manifest of kind {kind!r} is not known. Use one of: {', '.join(KINDS)}.")
    job.check(kubernetes=True)
    objects, remarks = _DESCRIBE[kind](job)
    told = (_PORT_REMARK, *remarks, *job.remarks_about_pods())
    comments = "\n".join(
        textwrap.fill(remark, 110, initial_indent="# ", subsequent_indent="# ") for remark in told
    )
    return f"{comments}\n" + yaml.dump_all(objects, Dumper=_plain_dumper(), sort_keys=False, width=110)


def add_command(commands: argparse._SubParsersAction[Any]) -> None:
    """Add `manifest` to the commands of `python -m tfkit`."""
    parser = commands.add_parser("manifest", help="write a training job as a file for Slurm or Kubernetes")
    kinds = parser.add_subparsers(required=True, metavar="KIND", dest="kind")
    for kind, meaning in KINDS.items():
        one = kinds.add_parser(
            kind,
            help=meaning,
            usage="%(prog)s [options] (--from-run RUN [-- FLAG ...] | -- -m recipes.NAME FLAG ...)",
        )
        _add_options(one, kubernetes=kind != "slurm")
        one.set_defaults(run=write)


def write(chosen: argparse.Namespace) -> int:
    """Do what the command line asked for; returns the exit code."""
    words: tuple[str, ...] = tuple(chosen.words)
    name = chosen.name
    if chosen.from_run is not None:
        name = name or _name_of(chosen.from_run)
        words = _words_of(chosen, name)
    fields = {field.name for field in dataclasses.fields(Job)}
    given = {key: value for key, value in vars(chosen).items() if key in fields and value is not None}
    job = Job(**{**given, "words": words, "name": name or Job.name})
    text = manifest(chosen.kind, job)
    if chosen.output is None:
        print(text, end="")
    else:
        files.write_text(chosen.output, text)
        apply = "sbatch" if chosen.kind == "slurm" else "kubectl apply -f"
        print(f"{chosen.output}: {KINDS[chosen.kind]}. Start it: {apply} {chosen.output}")
    return 0


def _plain_dumper() -> type[Any]:
    """Two equal parts are written twice: an alias is YAML that few expect in a manifest."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return Dumper


def _add_options(parser: argparse.ArgumentParser, *, kubernetes: bool) -> None:
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="WORD",
        help="after --: what follows `python`, or flags that change --from-run",
    )
    add("--from-run", type=Path, metavar="RUN", help="ask for what this run was asked for (its config.yaml)")
    add("--workers", type=int, metavar="N", help=f"processes, a machine each; left out: {Job.workers}")
    add("--name", help="of the job: lower-case letters, digits, hyphens")
    add("--cpus", type=int, metavar="N", help=f"cores of a worker; left out: {Job.cpus}")
    add("--memory", metavar="AMOUNT", help=f"of a worker, in Mi, Gi or Ti; left out: {Job.memory}")
    add("--gpus", type=int, metavar="N", help="of a worker; left out: none")
    add("--max-restarts", type=int, metavar="N", help=f"after deaths; left out: {Job.max_restarts}")
    add("--output", type=Path, metavar="FILE", help="write it there; left out: on the screen")
    if kubernetes:
        add("--image", help="container image with Python, tfkit and the recipes")
        add("--namespace", help=f"left out: {Job.namespace}")
        add(
            "--shared-claim",
            metavar="PVC",
            help="PersistentVolumeClaim (ReadWriteMany) for run folder and data",
        )
        add("--shared-mount", metavar="PATH", help=f"where it appears in a pod; left out: {Job.shared_mount}")
    else:
        add("--time", dest="time_limit", metavar="TIME", help=f"Slurm's limit; left out: {Job.time_limit}")


def _name_of(run_dir: Path) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", run_dir.resolve().name.lower()).strip("-")
    return plain if plain[:1].isalpha() else f"run-{plain}".strip("-")


def _words_of(chosen: argparse.Namespace, name: str) -> tuple[str, ...]:
    if chosen.words[:1] == ["-m"]:
        raise ConfigError(
            f"Both --from-run {chosen.from_run} and {' '.join(chosen.words[:2])} say what is to run."
            "\n  With --from-run, only flags that change what the run asked for follow --."
        )
    changes = list(chosen.words)
    if not any(word.partition("=")[0] == "--run-dir" for word in changes):
        # A new folder: the run that was asked for may be whole, and is not to be overwritten.
        if chosen.kind == "slurm":
            parent = str(chosen.from_run.resolve().parent)
        else:
            parent = chosen.shared_mount or Job.shared_mount
        changes += [
            "--run-dir",
            str(PurePosixPath(parent) / f"{name}-{chosen.workers or Job.workers}-workers"),
        ]
    return words_of(chosen.from_run, changes=changes)
