"""Pruning leaves the zeros that were asked for, in Keras and in the .tflite, or raises."""

import numpy as np
import pytest

from tfkit.compression import Cluster, Prune, QuantizeAware, inspect, techniques
from tfkit.compression.pruning import last_update, plan_schedule
from tfkit.compression.techniques import kernels
from tfkit.environment.stack import keras, tf, tf_hub, tfmot
from tfkit.errors import CheckError, ConfigError, UsageError
from tfkit.litert import to_tflite


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "share"),
    [
        (Prune(final_sparsity=0.8), 0.8),
        (Prune(final_sparsity=0.6, schedule="constant"), 0.6),
        (Prune(structure="2:4"), 0.5),
    ],
)
def test_zeros_are_there_after_stripping_and_in_the_file(digits, stage, share):
    weights = digits.model.get_weights()
    before, after, _ = digits.train(stage)
    found = stage.measure(before, after)
    assert found["kernels_changed"] == 1.0
    treated = [one.layer for one in stage.treatments(before) if one.treated]
    kernels = techniques.kernels(after)
    for name in treated:
        assert np.mean(kernels[name] == 0) == pytest.approx(share, abs=0.02)
    assert inspect(to_tflite(after, input_shape=[1, 8, 8, 1])).sparsity == pytest.approx(
        found["sparsity"], abs=0.01
    )
    for old, kept in zip(weights, before.get_weights(), strict=True):
        np.testing.assert_array_equal(old, kept)


def test_two_of_each_four_are_zero(digits):
    stage = Prune(structure="2:4")
    _, after, _ = digits.train(stage)
    kernel = kernels(after)["classifier"]  # [32, 10]: fours along the inputs
    fours = kernel.T.reshape(-1, 4)
    assert (np.sum(fours == 0, axis=1) >= 2).all()


def test_tfmots_own_schedule_silently_prunes_nothing_and_is_found_out(digits):
    """The trap: 30 steps an epoch, frequency 100."""
    pruned = digits.compile(
        tfmot.sparsity.keras.prune_low_magnitude(
            keras.Sequential([keras.layers.Flatten(input_shape=(8, 8, 1)), keras.layers.Dense(10, name="d")]),
            pruning_schedule=tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, begin_step=10, end_step=1000),
        )
    )
    pruned.fit(
        digits.images, digits.labels, batch_size=32, verbose=0,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
    )  # fmt: skip
    after = tfmot.sparsity.keras.strip_pruning(pruned)
    with pytest.raises(CheckError, match=r"prune0\.8: 1 kernels have fewer zeros than 0\.8: d 0\.00"):
        Prune(final_sparsity=0.8).measure(after, after)
    with pytest.raises(ConfigError, match="would not reach"):
        Prune(final_sparsity=0.8, begin_step=10, end_step=1000).wrap(digits.model, steps=30)


def test_every_layer_is_listed_with_what_happens_to_it(digits):
    found = {one.layer: one for one in Prune(structure="block", final_sparsity=0.5).treatments(digits.model)}
    assert len(found) == len(digits.model.layers)
    assert found["classifier"].treated
    assert "two axes" in found["first"].how
    assert not found["depthwise"].treated


def test_models_that_are_not_flat_are_refused_by_name(digits):
    inner = keras.Sequential([keras.layers.Dense(4, input_shape=(8,))], name="inner")
    nested = keras.Sequential([inner, keras.layers.Dense(2)])
    with pytest.raises(UsageError, match="inner is a model within the model"):
        Prune().treatments(nested)

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(UsageError, match="functional API"):
        Prune().treatments(Own())


def test_what_would_fail_after_training_is_refused_before(digits):
    """By all techniques alike, before a layer is wrapped."""
    import keras as keras_3

    of_keras_3 = keras_3.Sequential([keras_3.Input([8]), keras_3.layers.Dense(2)])
    unbuilt = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])
    broken = keras.Sequential([keras.Input([8]), keras.layers.Dense(400, name="broken")])
    broken.set_weights([weight * np.nan for weight in broken.get_weights()])
    for model, said in (
        (of_keras_3, "Keras 3"),
        (None, "nothing"),
        (unbuilt, "keras.Input"),
        (broken, "broken/kernel"),
    ):
        for stage in (Prune(), Cluster(), QuantizeAware()):
            with pytest.raises(UsageError, match=f"{stage.name}[\\s\\S]*{said}"):
                stage.wrap(model, steps=10)
    for steps in (0, 2.5, "many", True):
        with pytest.raises(ConfigError, match="steps is"):
            Prune().wrap(digits.model, steps=steps)


def test_a_hub_layer_is_refused_and_its_variables_are_pruned_all_the_same(tmp_path):
    from tfkit import hub

    layer = hub.load_model("efficientnet-lite0").layer(trainable=True)
    assert isinstance(layer, tf_hub.KerasLayer)
    model = keras.Sequential([keras.Input([32, 32, 3]), layer, keras.layers.Dense(2)])
    with pytest.raises(UsageError, match=r"hub\.KerasLayer.*prune_variables"):
        Prune().treatments(model)
    images = tf.random.stateless_uniform([2, 32, 32, 3], seed=[1, 2])
    whole = model(images, training=False)
    sparsity = Prune(final_sparsity=0.5).prune_variables(model.variables)
    assert sparsity == pytest.approx(0.5, abs=0.01)
    assert np.isfinite(model(images, training=False)).all()
    assert not np.allclose(whole, model(images, training=False))
    content = to_tflite(model, input_shape=[1, 32, 32, 3])
    assert inspect(content).sparsity > 0.45


@pytest.mark.slow
def test_an_interrupted_pruning_goes_on_where_it_was(digits, tmp_path):
    from tfkit.data import from_arrays
    from tfkit.run import Run
    from tfkit.training.fit import train
    from tfkit.training.stage import Cadence, Stage

    splits = from_arrays(digits.images[:300], digits.labels[:300], image_size=16, global_batch_size=32)
    stage, epochs = Prune(final_sparsity=0.7), 4
    small = keras.Sequential(
        [
            keras.Input([16, 16, 3]),
            keras.layers.Conv2D(8, 3, name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, name="classifier"),
        ]
    )

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def go(folder, callbacks):
        with Run.create(folder, config={}) as run:
            return train(
                lambda: digits.compile(stage.wrap(small, steps=epochs * splits.steps_per_epoch)),
                splits,
                Stage(epochs=epochs, keep="last", cadence=Cadence(epoch_seconds=0.0), verbose=0),
                run=run,
                strategy="one_device",
                callbacks=[*stage.callbacks(), *callbacks],
            ).model

    whole = stage.strip(go(tmp_path / "whole", []))
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "parts", [Stop()])
    parts = stage.strip(go(tmp_path / "parts", []))
    stage.measure(small, parts)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("steps", [2, 5, 58, 400, 100_000])
def test_what_is_left_out_follows_from_the_steps(steps):
    plan = plan_schedule(steps, final_sparsity=0.8)
    assert plan.get_config()["class_name"] == "PolynomialDecay"
    last = last_update(steps, begin_step=plan.begin_step, end_step=plan.end_step, frequency=plan.frequency)
    assert last == plan.end_step
    assert plan.end_step <= steps


def test_the_frequency_that_tfmot_has_by_default_is_refused_where_it_would_prune_nothing():
    with pytest.raises(ConfigError, match=r"(?s)would not reach 0\.8 in 58 steps.*frequency=1 do") as caught:
        plan_schedule(58, final_sparsity=0.8, begin_step=1, end_step=58, frequency=100)
    assert "stay at 0.00, silently" in str(caught.value)


def test_a_schedule_that_ends_after_training_is_refused():
    with pytest.raises(ConfigError, match="would not reach"):
        plan_schedule(100, final_sparsity=0.8, begin_step=0, end_step=1000, frequency=10)


def test_it_counts_as_tfmot_does():
    for begin, end, frequency in ((0, 10, 3), (4, 20, 7), (5, 9, 100)):
        theirs = tfmot.sparsity.keras.ConstantSparsity(0.5, begin, end, frequency)
        updates = [step for step in range(1, 31) if bool(theirs(np.int64(step))[0])]
        found = last_update(30, begin_step=begin, end_step=end, frequency=frequency)
        assert found == (updates[-1] if updates else 0)
