"""Private training through tfkit.fit: what is spent and written, what a killed run goes on with, what is refused."""

import json

import numpy as np
import pytest

import tfkit
from tests.privacy.models import MODELS
from tfkit import privacy
from tfkit.data import load_images
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, UsageError
from tfkit.privacy import DPSGD, problems, step

EPOCHS, BATCH = 3, 16
L = keras.layers


@pytest.fixture(scope="module")
def splits():
    return load_images("digits", image_size=16, global_batch_size=128)


def build(optimizer="sgd"):
    inputs = keras.Input([16, 16, 3])
    hidden = L.Dense(24, activation="relu")(L.Flatten()(L.AveragePooling2D(2)(inputs)))
    model = keras.Model(inputs, L.Dense(10)(hidden))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    return model


def train(splits, folder, *, callbacks=(), seed=0, optimizer="sgd", **asked):
    settings = {"target_epsilon": 3.0, "delta": 1e-5} if "noise_multiplier" not in asked else {}
    return tfkit.fit(
        lambda: build(optimizer), splits, run_dir=folder, epochs=EPOCHS, seed=seed, callbacks=callbacks, verbose=0,
        privacy=DPSGD(**{**settings, **asked}),
    )  # fmt: skip


def epoch_times(run):
    """When the numbers of epochs were written, as their files say."""
    files = run.logdir.glob("*/*.tfevents.*")
    events = [event for path in files for event in tf.compat.v1.train.summary_iterator(str(path))]
    return {event.wall_time for event in events if event.summary.value and "epoch_" in str(event.summary)}


def weights(run):
    newest = sorted((run.path / "backup" / "train").glob("[0-9]*"))[-1]
    loaded = tf.train.load_checkpoint(str(newest / "variables"))
    names = [name for name in loaded.get_variable_to_shape_map() if name.startswith("model/layer_with")]
    return np.concatenate([loaded.get_tensor(name).ravel() for name in sorted(names)])


@pytest.fixture(scope="module")
def trained(splits, tmp_path_factory):
    """A run whose noise is as everybody's: tests look at it."""
    return train(splits, tmp_path_factory.mktemp("runs") / "run")


def test_the_statement_is_of_what_ran_and_nothing_about_training_examples_is_logged(splits, trained):
    run = trained
    said = json.loads((run.path / "privacy.json").read_text())
    examples = len(splits.indices["train"])
    steps = EPOCHS * round(examples / 128)
    assert (said["steps"], said["examples"]) == (steps, examples)
    settings = {"sampling_probability": 128 / examples, "steps": steps, "delta": 1e-5}
    spent = privacy.compute_epsilon(noise_multiplier=said["noise_multiplier"], **settings)
    assert said["epsilon"] == pytest.approx(spent)
    assert 2.9 < said["epsilon"] <= 3.0
    assert run.metrics["privacy/epsilon"] == said["epsilon"]
    assert list(run.history["epsilon"]) == sorted(run.history["epsilon"])
    # How long an epoch took tells how many examples were sampled.
    assert [*run.history.columns] == [
        "stage",
        "epoch",
        "val_loss",
        "val_accuracy",
        "epsilon",
        "learning_rate",
    ]
    assert [name for name in run.metrics if name.startswith("time/")] == ["time/total_seconds"]
    assert len(epoch_times(run)) <= 2  # of train and of validation, for three epochs
    assert "interval" not in said  # of the reckoning, not of what holds


def test_a_seed_does_not_fix_the_noise_unless_that_is_asked_for_and_said(splits, trained, tmp_path):
    noisy = [weights(run) for run in (trained, train(splits, tmp_path / "noisy"))]
    assert np.abs(noisy[0] - noisy[1]).max() > 1e-3
    fixed = [train(splits, tmp_path / f"fixed{n}", deterministic_noise=True) for n in range(2)]
    np.testing.assert_array_equal(weights(fixed[0]), weights(fixed[1]))
    said = json.loads((fixed[0].path / "privacy.json").read_text())
    assert said["private"] is False
    assert "NOT PRIVATE" in privacy.paragraph(said)
    assert "epsilon" not in fixed[0].history.columns


def test_microbatches_are_a_matter_of_memory_alone(splits, tmp_path):
    exact = {"noise_multiplier": 0.0, "deterministic_noise": True}
    results = [
        weights(train(splits, tmp_path / str(size), microbatch_size=size, **exact)) for size in (16, 256)
    ]
    np.testing.assert_allclose(*results, rtol=1e-4, atol=1e-6)


def test_adam_and_an_adaptive_clipping_norm(splits, tmp_path):
    run = train(splits, tmp_path / "run", optimizer="adam", l2_norm_clip=0.01, adaptive_clip_quantile=0.5)
    norms = run.history["l2_norm_clip"].to_numpy()
    assert (np.diff(norms) > 0).all()  # from far too small towards the median
    assert "Adam" in json.loads((run.path / "privacy.json").read_text())["optimizer"]


def test_diagnostics_are_there_when_asked_for(splits, tmp_path):
    run = train(splits, tmp_path / "run", diagnostics=True, l2_norm_clip=0.1)
    last = run.history.iloc[-1]
    assert 0.5 < last["clipped_fraction"] <= 1
    assert 0.1 < last["gradient_norm_p50"] <= last["gradient_norm_p90"] <= last["gradient_norm_max"]
    assert 0 <= last["accuracy"] <= 1
    assert last["loss"] > 0


def test_what_would_look_at_examples_is_refused_before_training(splits, tmp_path):
    asked = {"epochs": 1, "privacy": DPSGD(target_epsilon=3.0)}
    with pytest.raises(ConfigError, match="patience") as caught:
        tfkit.fit(build, splits, run_dir=tmp_path / "a", patience=2, class_weights="always", **asked)
    assert "class_weight" in str(caught.value)


@pytest.fixture(scope="module")
def grey():
    """Two classes, dark and bright."""
    images, labels = np.zeros([90, 8, 8], np.uint8), np.arange(90) % 2
    images[labels == 1] = 180
    return tfkit.from_arrays(images, labels, image_size=8, global_batch_size=BATCH)


def one_layer(units=1, activation="sigmoid", loss="binary_crossentropy", shape=(8, 8, 3), **compiled):
    model = keras.Sequential([keras.Input(shape), L.Flatten(), L.Dense(units, activation)])
    model.compile(keras.optimizers.SGD(1.0), loss, **compiled)
    return model


def plan(**asked):
    return DPSGD(**asked).plan(examples=1000, expected_batch_size=BATCH, epochs=1)


def element(model, features, labels, weights, number=0):
    """What a step takes: a batch, and the noise of the step of that number."""
    numbers = sum(np.prod(weight.shape) for weight in model.trainable_weights)
    noise = step.normal(int(numbers) + 1, epoch=0, step=number, replica=0, secret=bytes(16))
    return tf.data.Dataset.from_tensors(tuple(map(tf.constant, (features, labels, weights, noise))))


@pytest.mark.parametrize(("units", "labels"), [(1, tf.zeros([BATCH], tf.int64)), (3, tf.zeros([BATCH, 3]))])
def test_the_noise_is_what_is_accounted(units, labels):
    """With padding alone the update is noise: standard deviation z * C / B; also of a loss of several labels."""
    model = one_layer(units, shape=(64, 64, 3))
    before = model.get_weights()[0].copy()
    step.attach(model, plan(noise_multiplier=2.0, l2_norm_clip=0.5))
    inputs = tf.random.stateless_normal([BATCH, 64, 64, 3], [1, 2])
    model.fit(element(model, inputs, labels, tf.zeros([BATCH])), verbose=0)
    noise = model.get_weights()[0] - before
    assert noise.std() == pytest.approx(2.0 * 0.5 / BATCH, rel=0.03)
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)


def test_an_example_of_several_labels_moves_the_step_by_no_more_than_the_norm():
    """Two samples that differ by one example, no noise: the steps are at most C / B apart, and that much apart here."""
    chance, steps = np.random.default_rng(0), []
    images, labels = chance.random([BATCH, 8, 8, 3]).astype(np.float32), np.ones([BATCH, 3], np.float32)
    for weights in (np.ones(BATCH), np.r_[0.0, np.ones(BATCH - 1)]):
        model = one_layer(3)
        model.set_weights([np.zeros_like(one) for one in model.get_weights()])
        step.attach(model, plan(noise_multiplier=0.0, l2_norm_clip=0.1))
        model.fit(element(model, images, labels, weights.astype(np.float32)), verbose=0)
        steps.append(np.concatenate([one.ravel() for one in model.get_weights()]))
    assert np.linalg.norm(steps[0] - steps[1]) == pytest.approx(0.1 / BATCH, rel=1e-4)


def fit_one_layer(build_model, splits, run_dir, **asked):
    return tfkit.fit(
        build_model, splits, run_dir=run_dir, epochs=2, verbose=0, strategy="one_device",
        privacy=DPSGD(target_epsilon=8.0, **asked),
    )  # fmt: skip


def test_one_sigmoid_is_trained_and_its_step_traced_once(grey, tmp_path):
    kept = []

    def build_model():
        kept.append(one_layer(metrics=["accuracy"]))
        return kept[-1]

    run = fit_one_layer(build_model, grey, tmp_path)
    assert 7.9 < run.metrics["privacy/epsilon"] <= 8
    assert run.metrics["export/agreement"] == 1.0
    assert kept[0].train_tf_function.experimental_get_tracing_count() == 1


SPARSE = "sparse_categorical_crossentropy"
TWO = {"units": 2, "activation": "softmax", "loss": SPARSE}
REFUSED = {
    "three units": ({**TWO, "units": 3}, "2 units"),
    "logits for probabilities": ({**TWO, "activation": None}, "from_logits=True"),
    "a metric of the validation": ({**TWO, "metrics": [keras.metrics.AUC()]}, "Leave out metrics"),
    "several steps at a time": ({"steps_per_execution": 2}, "steps_per_execution is 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_nothing_is_spent_on_what_cannot_be_judged(name, grey, tmp_path):
    settings, said = REFUSED[name]
    with pytest.raises(UsageError, match=said):
        fit_one_layer(lambda: one_layer(**settings), grey, tmp_path)
    assert not list(tmp_path.rglob("ledger.json"))
    assert not (tmp_path / "privacy.json").exists()


def test_nothing_is_spent_on_examples_that_are_there_more_than_once(grey, tmp_path):
    """Epsilon is that of one example: one that is there three times would have three times that."""
    train = grey.indices["train"]
    rare = train[grey.source.labels[train] == 1]
    often = grey.replace(indices={**grey.indices, "train": np.concatenate([train, rare, rare])})
    with pytest.raises(UsageError, match=r"3 times in the training split[\s\S]*np\.unique"):
        fit_one_layer(one_layer, often, tmp_path)
    assert not list(tmp_path.rglob("ledger.json"))


def test_nothing_is_spent_where_the_step_cannot_be_traced(grey, tmp_path):
    """An optimizer is first called in the step."""

    class Refusing(keras.optimizers.SGD):
        def update_step(self, gradient, variable):
            raise ValueError("not today")

    def build_model():
        model = one_layer()
        model.compile(Refusing(), "binary_crossentropy")
        return model

    with pytest.raises(UsageError, match=r"not today[\s\S]*Nothing was spent"):
        fit_one_layer(build_model, grey, tmp_path)
    assert not list(tmp_path.rglob("ledger.json"))


@pytest.mark.parametrize("name", ["attention", "einsum turned", "lstm", "own block"])
def test_tensorflow_has_nothing_to_report(name, caplog):
    """AutoGraph, which Keras lets loose on its training step, says so where it cannot convert a function."""
    model = MODELS[name]()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    inputs = tf.ones([8, *model.input_shape[1:]], model.inputs[0].dtype)
    tf.get_logger().addHandler(caplog.handler)
    try:
        assert problems(model) == []
        step.attach(model, plan(noise_multiplier=1.0))
        model.fit(element(model, inputs, tf.zeros([8], tf.int64), tf.ones([8])), verbose=0)
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert "report" not in caplog.text
