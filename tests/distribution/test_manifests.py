"""What `tfkit manifest` writes is what the schedulers' own schemas allow, and says what was meant."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import types

import pytest
import yaml

from recipes import transfer_image
from tfkit.distribution.manifest import ScheduledJob, manifest, words_of
from tfkit.errors import ConfigError, RunError
from tfkit.run import Run
from tfkit.settings.parse import as_dict, parse

WORDS = ("-m", "recipes.train_distributed", "--data-dir", "/runs/my photos", "--run-dir", "/runs/digits")
JOB = {"words": WORDS, "name": "digits", "workers": 3, "image": "a.example/b:1", "shared_claim": "runs"}
KINDS = ("tfjob", "jobset", "trainjob")


def documents(kind, **changes):
    return list(yaml.safe_load_all(manifest(kind, ScheduledJob(**{**JOB, **changes}))))


def as_read(document):
    """The document as the project's own classes read it: what they do not know is gone."""
    import kubeflow.training
    import kubernetes.client
    from kubeflow_trainer_api import models

    def by_client(client, name):
        found = client.deserialize(types.SimpleNamespace(data=json.dumps(document)), name)
        return client.sanitize_for_serialization(found)

    return {
        "NetworkPolicy": lambda: by_client(kubernetes.client.ApiClient(), "V1NetworkPolicy"),
        "TFJob": lambda: by_client(kubeflow.training.ApiClient(), "KubeflowOrgV1TFJob"),
        "JobSet": lambda: models.JobsetV1alpha2JobSet.from_dict(document).to_dict(),
        "TrainingRuntime": lambda: models.TrainerV1alpha1TrainingRuntime.from_dict(document).to_dict(),
        "TrainJob": lambda: models.TrainerV1alpha1TrainJob.from_dict(document).to_dict(),
    }[document["kind"]]()


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_the_projects_own_classes_know_every_field(kind, gpus):
    for document in documents(kind, gpus=gpus):
        assert as_read(document) == document


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_and_name_is_read_as_it_was_written(kind):
    """Quotes, line ends and templates in words; a name that YAML would take for a truth value."""
    words = (*WORDS, "--note", "{{ job.image }} 'a' \"b\" # c: [d]\n\n\t\x7f é 😀 yes")
    found = documents(kind, words=words, name="true")
    assert {document["metadata"]["name"] for document in found} == {"true", "true-workers-only"}
    (command,) = commands(found)
    assert tuple(command[-len(words) :]) == words


def commands(node):
    """Every command in a manifest."""
    if isinstance(node, list):
        return [found for item in node for found in commands(item)]
    if isinstance(node, dict):
        own = [node["command"]] if "command" in node else []
        return own + [found for item in node.values() for found in commands(item)]
    return []


def kubelet(word, variables):
    """What a container gets: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/."""
    return re.sub(
        r"\$(\$|\((\w+)\))", lambda found: "$" if found[1] == "$" else variables.get(found[2], found[0]), word
    )


@pytest.mark.parametrize("kind", ["jobset", "trainjob"])
def test_every_pod_launches_its_own_worker(kind):
    words = (*WORDS, "--note", "$HOME, $(HOME), $$(HOME) & 'quoted'")
    found = [document for document in documents(kind, words=words) if document["kind"] != "NetworkPolicy"]
    spec = found[0]["spec"] if kind == "jobset" else found[0]["spec"]["template"]["spec"]
    (replicated,) = spec["replicatedJobs"]
    pods = replicated["template"]["spec"]
    assert pods["completions"] == pods["parallelism"] == 3
    (container,) = pods["template"]["spec"]["containers"]
    for index in range(3):
        environment = {"JOB_COMPLETION_INDEX": str(index), "HOME": "/tmp"}
        command = [kubelet(word, environment) for word in container["command"]]
        cut = command.index("--")
        assert tuple(command[cut + 1 :]) == words
        hosts, own = (command[command.index(flag) + 1] for flag in ("--hosts", "--task-index"))
        # JobSet's names: <jobSet>-<replicatedJob>-<jobIndex>-<podIndex>.<subdomain>
        name = f"digits-{replicated['name']}-0-{own}.{spec['network']['subdomain']}:2222"
        assert hosts.split(",")[index] == name
        assert int(name.rpartition(":")[2]) == container["ports"][0]["containerPort"]


JOBSET = "jobset.sigs.k8s.io/jobset-name"


@pytest.mark.parametrize(
    ("kind", "label"),
    [("tfjob", "training.kubeflow.org/job-name"), ("jobset", JOBSET), ("trainjob", JOBSET)],
)
def test_the_policy_selects_the_pods_by_the_label_that_each_operator_gives(kind, label):
    policy, selected = documents(kind)[0]["spec"], {"matchLabels": {label: "digits"}}
    assert policy["podSelector"] == selected
    assert policy["ingress"] == [{"from": [{"podSelector": selected}]}]  # one source, no other


def tfjob_command(program):
    (container,) = documents("tfjob")[1]["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    assert container["name"] == "tensorflow"  # the operator sets TF_CONFIG in no other
    assert container["ports"][0]["name"] == "tfjob-port"  # and takes the port by this name
    command = [kubelet(word, {}) for word in container["command"]]
    assert tuple(command[-len(WORDS) - 1 :]) == ("python", *WORDS)
    return [*command[: -len(WORDS) - 1], sys.executable, "-c", program]


@pytest.mark.parametrize(("code", "told"), [(0, 0), (1, 1), (2, 2), (3, 138), (4, 138), (139, 138)])
def test_the_operator_is_told_which_exits_a_restart_mends(code, told):
    """Its policy ExitCode takes 1 to 127 for final, and 128 and above for worth another try."""
    done = subprocess.run(tfjob_command(f"raise SystemExit({code})"), check=False, timeout=600)
    assert done.returncode == told


def test_a_preempted_pod_saves_before_it_is_replaced():
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('saved', flush=True), sys.exit(3)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen(tfjob_command(program), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)  # to the shell alone, as the kubelet does
    out, _ = process.communicate(timeout=600)
    assert (out, process.returncode) == ("saved\n", 138)


def test_all_problems_at_once():
    job = ScheduledJob(words=("recipe",), name="Digits", workers=0, memory="8G", namespace="a_b")
    with pytest.raises(ConfigError) as caught:
        manifest("jobset", job)
    problems = "--name --workers --memory --from-run --image --namespace --shared-claim"
    assert all(problem in str(caught.value) for problem in problems.split())


@pytest.mark.parametrize(
    ("kind", "changes", "complaint"),
    [
        ("tfjob", {"name": "a" * 60}, "at most 43"),
        ("tfjob", {"words": WORDS[:4]}, "--run-dir on storage"),
        ("tfjob", {"shared_mount": "/data"}, "not under --shared-mount /data"),
        ("tfjob", {"shared_mount": "/runs", "words": (*WORDS, "--run-dir=/tmp/a")}, "/tmp/a is not under"),
        ("tfjob", {"gpus": -1}, "--gpus is -1"),
        ("tfjob", {"words": (*WORDS, "--overwrite")}, "Give a new --run-dir"),
        ("slurm", {"time": "soon"}, "--time"),
        ("tfjob", {"image": "-v x"}, "--image is '-v x'"),
    ],
)
def test_what_no_scheduler_could_run_is_refused(kind, changes, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        manifest(kind, ScheduledJob(**{**JOB, **changes}))


def test_slurm_gets_every_word_as_it_was_written(tmp_path):
    words = (*WORDS, "--note", "$HOME $(date) 'quoted'; exit 9")
    script = manifest("slurm", ScheduledJob(words=words, workers=4, gpus=2, memory="8Gi", time="2-12"))
    for option in ["nodes=4", "ntasks-per-node=1", "mem=8G", "gpus-per-node=2", "time=2-12", "requeue"]:
        assert f"#SBATCH --{option}\n" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    (line,) = re.findall(r'^program=\("\$python" (.*)\)$', script, re.MULTILINE)
    assert tuple(shlex.split(line)) == (*words, "--cluster", "slurm")


def test_slurm_tells_a_restart_from_the_first_start(tmp_path):
    """The script, run by bash; in place of srun one that dies at its first start and then succeeds."""
    script = manifest("slurm", ScheduledJob(words=(*WORDS, "--overwrite")))
    srun = tmp_path / "srun"
    srun.write_text(
        '#!/bin/sh\necho "restarted $TFKIT_RESTARTED"\ntest -e again || { touch again; exit 137; }\n'
    )
    srun.chmod(0o755)

    def starts(**variables):
        (tmp_path / "again").unlink(missing_ok=True)
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_CPUS_PER_TASK": "1", **variables}
        done = subprocess.run(
            ["bash"], input=script, text=True, cwd=tmp_path, env=environment, capture_output=True, check=True
        )
        return re.findall(r"^restarted (\d+)$", done.stdout, re.MULTILINE)

    assert starts() == ["0", "1"]
    assert starts(SLURM_RESTART_COUNT="2") == ["2", "3"]  # requeued twice


def test_data_that_the_pods_may_not_see_is_mentioned():
    words = (*WORDS, "--data-dir=/home/me/photos")
    assert '# --data-dir "/home/me/photos" is not under /runs' in manifest(
        "tfjob", ScheduledJob(**{**JOB, "words": words})
    )
    texts = (*WORDS[:2], "--data-file", "/home/me/mails.csv", *WORDS[4:])
    assert '# --data-file "/home/me/mails.csv"' in manifest("jobset", ScheduledJob(**{**JOB, "words": texts}))
    assert "is not under" not in manifest("tfjob", ScheduledJob(**JOB))


@pytest.fixture
def digits(tmp_path):
    """A run as a recipe leaves it."""
    asked = transfer_image.Config(
        epochs=3, features=False, strategy="mirrored", input_range=(0.0, 255.0), seed=7
    )
    with Run.create(tmp_path / "runs" / "My digits", config=as_dict(asked)) as run:
        run.provenance = {"recipe": {"name": "transfer_image"}}
    return run.path


def test_a_run_is_asked_for_again(digits):
    words = [*words_of(digits), "--epochs", "5", "--run-dir", "/runs/a"]
    assert words[:2] == ["-m", "recipes.transfer_image"]
    read = parse(transfer_image.Config, words[2:], prog="", description="")
    original = parse(
        transfer_image.Config, ["--config", str(digits / "config.yaml")], prog="", description=""
    )
    assert as_dict(read) == {**as_dict(original), "epochs": 5}
    assert read.strategy == "auto"  # it was one machine's, and here several train together


def test_the_command_line(digits, tmp_path):
    def tfkit(*words):
        return subprocess.run(
            [sys.executable, "-m", "tfkit", "manifest", *words], capture_output=True, text=True, check=False
        )

    pods = ("--image", "images.example/tfkit:1", "--shared-claim", "runs", "--workers", "4")
    done = tfkit("jobset", *pods, "--from-run", str(digits), "--", "--data-dir", "/runs/photos")
    assert done.returncode == 0, done.stderr
    found = list(yaml.safe_load_all(done.stdout))[1]
    assert found["metadata"]["name"] == "my-digits"
    assert '"/runs/my-digits-4-workers"\n' in done.stdout
    assert "--dataset" not in done.stdout  # beside --data-dir it would be refused
    file = tmp_path / "job.sbatch"
    done = tfkit("slurm", "--workers", "4", "--output", str(file), "--", *WORDS)
    assert f"sbatch {file}" in done.stdout
    assert file.read_text() == manifest("slurm", ScheduledJob(words=WORDS, workers=4))
    done = tfkit("slurm", "--from-run", str(digits), "--", *WORDS)
    assert done.returncode == 2
    assert "with --from-run" in done.stderr


def test_a_folder_that_no_recipe_made(tmp_path):
    with Run.create(tmp_path / "run", config={"seed": 1}):
        pass
    with pytest.raises(RunError, match="made by no recipe"):
        words_of(tmp_path / "run")
