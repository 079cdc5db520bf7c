"""What a real TensorBoard server makes of the logs of a run."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import pytest

from tfkit import reporting
from tfkit.environment.stack import keras
from tfkit.reporting.tensorboard import (
    write_evaluation,
    write_hparams,
    write_images,
    write_projector,
)

WANTED = ("scalars", "images", "graphs", "hparams", "pr_curves", "projector")


@pytest.fixture(scope="module")
def logdir(tmp_path_factory, evaluation, images):
    logdir = tmp_path_factory.mktemp("logs")
    flat = images.reshape(len(images), -1).astype(np.float32) / 255

    def stage(name, *, first_epoch, initial_epoch, epochs):
        model = keras.Sequential([keras.layers.Dense(10, input_shape=[flat.shape[1]])])
        model.compile(
            "adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
        )
        logging = reporting.callbacks(
            logdir, first_epoch=first_epoch, steps_per_epoch=16, examples_per_epoch=len(flat), stage=name
        )
        model.fit(
            flat, evaluation.labels, validation_data=(flat, evaluation.labels), verbose=0,
            initial_epoch=initial_epoch, epochs=epochs, callbacks=logging,
        )  # fmt: skip

    stage("head", first_epoch=0, initial_epoch=0, epochs=3)
    time.sleep(1.1)
    stage("head", first_epoch=0, initial_epoch=1, epochs=3)  # resumed: a kill lost epochs 1 and 2
    stage("fine_tune", first_epoch=3, initial_epoch=0, epochs=2)
    worst = evaluation.worst(8)
    labels = [evaluation.class_names[label] for label in evaluation.labels]
    write_images(logdir, "samples", images[:16], captions=labels[:16])
    write_images(logdir, "worst_mistakes", images[worst], captions=[*map(evaluation.mistake, worst)])
    write_evaluation(logdir, evaluation)
    write_projector(logdir, flat, labels=labels, names=evaluation.names, images=images)
    write_hparams(logdir, {"epochs": 5, "model_handle": "lite0"}, {"test/accuracy": evaluation.accuracy})
    return logdir


@pytest.fixture(scope="module")
def fetch(logdir, serving):
    """A function that gets JSON from a server on loopback; the server ends with the tests of this file."""
    with serving(logdir) as address:

        def get(path, until=bool, **arguments):
            query = f"{address}data/{path}?{urllib.parse.urlencode(arguments)}"
            deadline = time.monotonic() + 60
            while True:
                try:
                    content = json.loads(urllib.request.urlopen(query, timeout=30).read())
                except urllib.error.HTTPError as error:
                    content = {"error": f"{error.code} {error.reason}"}
                if ("error" not in content and until(content)) or time.monotonic() > deadline:
                    return content
                time.sleep(0.2)

        yield get


@pytest.mark.slow
def test_all_dashboards_are_active(fetch):
    listing = fetch("plugins_listing", until=lambda found: all(found[name]["enabled"] for name in WANTED))
    assert [name for name in WANTED if not listing[name]["enabled"]] == []


@pytest.mark.slow
def test_epochs_go_on_after_a_resume_and_over_stages(fetch):
    points = fetch(
        "plugin/scalars/scalars",
        until=lambda found: len(found) > 4,
        run="validation",
        tag="epoch_loss",
        format="json",
    )
    assert [step for _, step, _ in points] == [0, 1, 2, 3, 4]


@pytest.mark.slow
def test_dashboards_serve_what_was_written(fetch, evaluation):
    tags = fetch("plugin/images/tags")
    assert sorted(tags["images"]) == ["samples", "worst_mistakes"]
    assert len(fetch("plugin/pr_curves/tags")["test"]) == 11
    assert "projector" in fetch("plugin/projector/info", run=".")["embeddings"][0]["tensorPath"]
    graphs = fetch("plugin/graphs/info", until=lambda found: len(found) == 2)
    assert sorted(graphs) == ["graph/fine_tune/train", "graph/head/train"]
    assert all(graph["run_graph"] for graph in graphs.values())
