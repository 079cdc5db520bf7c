"""tfkit.compress takes a run, a path or a model, and its keywords are refused like the flags of the recipe."""

import numpy as np
import pytest

import tfkit
from tfkit.compression.compress import _prune_at_once, train
from tfkit.data import from_arrays
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, DataError, RunError
from tfkit.run import Run
from tfkit.settings.jobs import CompressConfig


@pytest.mark.parametrize(
    ("settings", "culprit"),
    [
        ({"max_acuracy_drop": 0.1}, "max_accuracy_drop="),
        ({"max_accuracy_drop": 2}, "max.accuracy.drop"),
        ({"techniques": ["qat+prune"]}, r"prune\+qat"),
        ({"techniques": ["qat"], "variants": ["dynamic"]}, "int8"),
        ({"variants": ["int7"]}, "int8"),
    ],
)
def test_keywords_are_refused_like_flags(settings, culprit):
    with pytest.raises(ConfigError, match=culprit):
        tfkit.compress("runs/nowhere", **settings)


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere"):
        tfkit.compress(str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="representative-data"):
        tfkit.compress(keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]))
    with pytest.raises(ConfigError, match=r"numpy\.savez"):
        tfkit.compress(
            keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]), representative_data=np.ones((9, 4))
        )
    with pytest.raises(ConfigError, match="from-run"):
        tfkit.compress(None)


def test_each_model_in_memory_has_a_folder_of_its_own(tmp_path, monkeypatch):
    """The settings are the same, and the second one's files replaced the first one's."""
    monkeypatch.chdir(tmp_path)
    first, second = (keras.Sequential([keras.Input([4]), keras.layers.Dense(2)]) for _ in range(2))
    for model in (first, second, first):
        with pytest.raises(DataError, match="no pictures"):
            tfkit.compress(model, representative_data=tmp_path)
    assert len([*(tmp_path / "runs").iterdir()]) == 2


def test_a_mistaken_call_removes_nothing(tmp_path):
    with Run.create(tmp_path / "run", config={"a": 1}) as run:
        run.record({"test/accuracy": 1.0})
    model = run.path / "saved_model"
    model.mkdir()
    other = keras.Sequential([keras.Input([4]), keras.layers.Dense(2)])
    for asked in (run.path, tmp_path / "nowhere", tmp_path / "nowhere.keras", other):
        with pytest.raises((RunError, ConfigError)):
            tfkit.compress(asked, run_dir=run.path, representative_data=tmp_path)
        assert model.is_dir()


def test_what_a_training_begins_with_is_part_of_what_it_is(tmp_path):
    """The clusters of a model that was pruned otherwise are other clusters; the same again trains nothing."""
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), np.uint8)
    splits = from_arrays(images, np.arange(60) % 2, image_size=4, global_batch_size=32)
    keras.utils.set_random_seed(0)
    layers = [keras.Input([4, 4, 3]), keras.layers.Flatten(), keras.layers.Dense(2)]
    model, run = keras.Sequential(layers), Run.create(tmp_path / "run", config={})

    def clusters(schedule):
        config = CompressConfig(
            from_run=run.path, techniques=("prune+cluster",), pruning_schedule=schedule, epochs=2
        )
        (candidate,) = train(run, model, splits, config)
        return set(np.unique(candidate.model.kept[0]))

    polynomial, constant = clusters("polynomial"), clusters("constant")
    assert len(polynomial & constant) <= 1  # zero
    assert clusters("constant") == constant


def test_what_class_weights_have_taught_is_kept(tmp_path):
    """Images that tell nothing: with class weights a rare class is as probable as the other, without them it is not."""
    images = np.random.default_rng(0).integers(0, 256, (240, 2, 2, 3), np.uint8)
    splits = from_arrays(images, np.arange(240) % 10 == 0, image_size=2, global_batch_size=32)
    classifier = keras.layers.Dense(2, kernel_initializer="zeros")  # as probable
    model = keras.Sequential([keras.Input([2, 2, 3]), keras.layers.Flatten(), classifier])
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    config = CompressConfig(from_run=tmp_path, techniques=("prune",), epochs=10, learning_rate=0.03)
    (candidate,) = train(Run.create(tmp_path / "run", config={}), model, splits, config)
    rare = np.asarray(candidate.model(images.astype(np.float32)))[:, 1].mean()
    assert rare == pytest.approx(0.5, abs=0.15)  # 0.13 without them


def test_the_model_of_a_private_run_is_not_pruned_with_its_copy(tmp_path):
    """What `compress` returns goes on to predict as it was measured."""
    module, kernel = (
        tf.train.Checkpoint(),
        tf.Variable(np.arange(1, 13, dtype=np.float32).reshape(4, 3), name="kernel"),
    )
    module.variables_of_model = [kernel]
    spec = tf.TensorSpec([None, 4], tf.float32)
    module.__call__ = module.classify = tf.function(lambda x: x @ kernel, input_signature=[spec])
    run = Run.create(tmp_path / "run", config={})
    tf.saved_model.save(module, str(run.path / "saved_model"))
    config = CompressConfig(from_run=run.path, techniques=("prune",))
    before = run.model.variables_of_model[0].numpy()
    candidate = _prune_at_once(run, run, config)
    assert np.mean(candidate.model.kept.variables_of_model[0].numpy() == 0) == pytest.approx(0.8, abs=0.1)
    np.testing.assert_array_equal(run.model.variables_of_model[0].numpy(), before)


@pytest.mark.slow
def test_a_model_of_keras_and_strings_for_paths(tmp_path):
    """A rare class is among the examples on which files are compared, and not all of it among those for ranges."""
    model = keras.Sequential([keras.Input([4], name="x"), keras.layers.Dense(3, "softmax")])
    model.set_weights([9 * np.eye(4, 3), np.zeros(3)])
    labels = (np.arange(60) % 10 == 0).astype(int)
    x = np.eye(4, dtype=np.float32)[labels] + np.random.default_rng(0).normal(0, 0.1, size=(60, 4)).astype(
        np.float32
    )
    np.savez(tmp_path / "data.npz", inputs=x, labels=labels)  # one array, whatever it is called
    settings = {
        "representative_data": str(tmp_path / "data.npz"), "variants": ["float32"], "run_dir": str(tmp_path / "run"),
    }  # fmt: skip
    run = tfkit.compress(model, **settings)
    assert run.path == tmp_path / "run"
    assert run.metrics["lite/float32/accuracy"] == 1.0
    assert run.read("tflite/variants.json")["variants"][0]["class_drop"].keys() == {"0", "1"}
    assert (run.path / "tflite/model.tflite").is_file()
    model.save(tmp_path / "model.keras")
    again = tfkit.compress(str(tmp_path / "model.keras"), **settings, overwrite=True)
    assert again.metrics["lite/float32/accuracy"] == 1.0
