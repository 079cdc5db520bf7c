"""A job as Kubernetes objects: for the training operator (TFJob), for JobSet, for Kubeflow Trainer (TrainJob).

Each kind gives the objects to apply, in order, and the sentences that stand above them.
"""

from __future__ import annotations

from typing import Any

from tfkit.schedulers.jobs import PORT, Job

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
