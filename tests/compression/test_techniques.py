"""Techniques leave in Keras and in the .tflite what was asked for, keep what those before them did, or raise."""

import functools

import numpy as np
import pytest

from tfkit.compression import Cluster, Prune, QuantizeAware, convert, inspect
from tfkit.compression.techniques import fake_quantization, kernels
from tfkit.environment.stack import keras, tf, tf_hub, tfmot
from tfkit.errors import CheckError, ConfigError, UsageError
from tfkit.litert import to_tflite

MOST, EIGHT = Prune(final_sparsity=0.8), Cluster(number_of_clusters=8)


@pytest.fixture(scope="module")
def trained(digits):
    """Trains the digits by a stage, as `digits.train` does, once: several tests look at the same, or begin with it."""
    return functools.cache(lambda stage: digits.train(stage))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "share"),
    [
        (MOST, 0.8),
        (Prune(final_sparsity=0.6, schedule="constant"), 0.6),
        (Prune(structure="2:4"), 0.5),
    ],
)
def test_zeros_are_there_after_stripping_and_in_the_file(digits, trained, stage, share):
    weights = digits.model.get_weights()
    before, after, _ = trained(stage)
    found = stage.measure(before, after)
    assert found["kernels_changed"] == 1.0
    treated = [one.layer for one in stage.treatments(before) if one.treated]
    values = kernels(after)
    for name in treated:
        assert np.mean(values[name] == 0) == pytest.approx(share, abs=0.02)
    if stage.structure == "2:4":
        fours = values["classifier"].T.reshape(-1, 4)  # [32, 10]: fours along the inputs
        assert (np.sum(fours == 0, axis=1) >= 2).all()
    assert inspect(to_tflite(after, input_shape=[1, 8, 8, 1])).sparsity == pytest.approx(
        found["sparsity"], abs=0.01
    )
    for old, kept in zip(weights, before.get_weights(), strict=True):
        np.testing.assert_array_equal(old, kept)


def test_tfmots_own_schedule_silently_prunes_nothing_and_is_found_out(digits):
    """The trap: 30 steps an epoch, frequency 100."""
    theirs = tfmot.sparsity.keras
    plain = keras.Sequential([keras.layers.Flatten(input_shape=(8, 8, 1)), keras.layers.Dense(10, name="d")])
    schedule = theirs.PolynomialDecay(0.0, 0.8, begin_step=10, end_step=1000)
    pruned = digits.compile(theirs.prune_low_magnitude(plain, pruning_schedule=schedule))
    count = [theirs.UpdatePruningStep()]
    pruned.fit(digits.images, digits.labels, batch_size=32, verbose=0, callbacks=count)
    after = theirs.strip_pruning(pruned)
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


def test_wrappers_of_keras_and_vocabularies_are_copied_as_they_are():
    layers = keras.layers
    lookup = layers.StringLookup(vocabulary=["left", "right"])
    words, rows = keras.Input([3], dtype=tf.string), keras.Input([3, 4])
    both = [layers.Embedding(3, 4)(lookup(words)), layers.TimeDistributed(layers.Dense(4))(rows)]
    ahead = layers.Bidirectional(layers.GRU(4))(layers.Concatenate()(both))
    model = keras.Model([words, rows], layers.Dense(2)(ahead))
    given = [tf.constant([["left", "right", "up"]]), tf.random.stateless_uniform([1, 3, 4], seed=[1, 2])]
    wrapped = Prune(final_sparsity=0.5).wrap(model, steps=10)
    np.testing.assert_array_equal(wrapped(given, training=False), model(given))


def sequential(*shape_and_layers):
    shape, *layers = shape_and_layers
    return keras.Sequential([keras.Input(shape), *layers])


def test_kernels_of_all_layers_are_looked_at_whatever_they_are_called():
    """Names with a slash, as in DenseNet; recurrent layers, attention and embeddings, which have several, or others."""
    layers, rows = keras.layers, keras.Input([6, 4])
    convolution = sequential([8, 8, 3], layers.Conv2D(8, 3, name="block/conv"), layers.GlobalMaxPooling2D())
    recurrent = sequential([6, 4], layers.LSTM(16, name="lstm"))
    attention = keras.Model(rows, layers.MultiHeadAttention(2, 8, name="attention")(rows, rows))
    words = sequential([5], layers.Embedding(50, 16, name="words"), layers.GlobalAveragePooling1D())
    for stage, model, culprits in (
        (Prune(), convolution, ["block/conv"]),
        (Cluster(), convolution, ["block/conv"]),
        (Prune(), recurrent, ["lstm/kernel_0", "lstm/recurrent_kernel_1"]),
        (Cluster(), recurrent, ["lstm/kernel_0", "lstm/recurrent_kernel_1"]),
        (Cluster(), attention, [f"attention/kernel_{place}" for place in range(4)]),
        (Prune(), words, ["words"]),
    ):
        with pytest.raises(CheckError) as caught:  # of a model that it did not touch
            stage.measure(model, model)
        assert [name for name in culprits if name not in str(caught.value)] == []


def test_of_a_separable_convolution_one_kernel_is_clustered_and_of_a_frozen_layer_none():
    layers = keras.layers
    model = sequential(
        [8, 8, 3], layers.SeparableConv2D(16, 3), layers.Conv2D(8, 3, trainable=False, name="frozen")
    )
    treatments = {one.layer: one for one in EIGHT.treatments(model)}
    assert not treatments["frozen"].treated
    assert "frozen" in treatments["frozen"].how
    images = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    wrapped = EIGHT.wrap(model, steps=1)
    wrapped.compile("sgd", "mse")
    wrapped.fit(images, np.zeros((8, 4, 4, 8)), verbose=0)
    assert EIGHT.measure(model, EIGHT.strip(wrapped))["distinct_weights"] <= 8


def test_what_would_fail_after_training_is_refused_before(digits):
    """By all techniques alike, before a layer is wrapped."""
    import keras as keras_3

    of_keras_3 = keras_3.Sequential([keras_3.Input([8]), keras_3.layers.Dense(2)])
    unbuilt = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(2)])
    broken = keras.Sequential([keras.Input([8]), keras.layers.Dense(400, name="broken")])
    broken.set_weights([weight * np.nan for weight in broken.get_weights()])
    cases = ((of_keras_3, "Keras 3"), (None, "nothing"), (unbuilt, "keras.Input"), (broken, "broken/kernel"))
    for model, said in cases:
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
    layers = [keras.layers.Conv2D(8, 3), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    small = keras.Sequential([keras.Input([16, 16, 3]), *layers])

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
    plan = Prune(final_sparsity=0.8).plan_schedule(steps)
    assert plan.get_config()["class_name"] == "PolynomialDecay"
    due, sparsities = (np.asarray(values) for values in plan(np.arange(1, steps + 1)))
    assert sparsities[due].max() == pytest.approx(0.8)
    assert due[plan.end_step - 1]


@pytest.mark.parametrize(
    ("begin", "end", "frequency", "steps", "reached"),
    [(1, 58, 100, 58, "0.00"), (0, 1000, 10, 100, "0.2"), (5, 9, 100, 30, ""), (40, 50, 1, 30, "0.00")],
)
def test_a_schedule_is_taken_where_tfmot_reaches_the_sparsity_and_else_refused(
    begin, end, frequency, steps, reached
):
    """Among them tfmot's own frequency, 100, which would prune nothing in 58 steps."""
    stage = Prune(final_sparsity=0.8, begin_step=begin, end_step=end, frequency=frequency)
    theirs = tfmot.sparsity.keras.PolynomialDecay(0.0, 0.8, begin, end, frequency=frequency)
    due, sparsities = (np.asarray(values) for values in theirs(np.arange(1, steps + 1)))
    if sparsities[due].max(initial=0) > 0.79:
        assert stage.plan_schedule(steps).frequency == frequency
        return
    with pytest.raises(ConfigError, match=f"(?s)not reach 0.8 in {steps} steps.*stay at {reached}"):
        stage.plan_schedule(steps)


def converted(digits, model):
    return inspect(convert(model, variant="int8", representative_dataset=digits.images[:100]))


@pytest.mark.slow
def test_it_trains_and_becomes_int8(digits):
    stage = QuantizeAware()
    before, after, losses = digits.train(stage)
    found = stage.measure(before, after)
    assert found["kernels_changed"] == 1.0
    assert found["fake_quant_nodes"] > 5
    assert losses[-1] < losses[0]
    census = converted(digits, after)  # convert itself proves that it is int8
    assert census.macs == {"int8": 1.0}


def test_a_quantization_aware_model_is_nothing_but_int8():
    """TensorFlow's converter makes the same file of it whether float16 or dynamic is asked for."""
    aware = QuantizeAware().wrap(keras.Sequential([keras.Input([8]), keras.layers.Dense(4)]), steps=1)
    for variant in ("float16", "dynamic"):
        with pytest.raises(CheckError, match=f"(?s)no {variant} of it.*int8"):
            convert(aware, variant=variant)


@pytest.mark.slow
def test_after_pruning_the_zeros_are_in_the_int8_file(digits, trained):
    _, pruned, _ = trained(MOST)
    stage = QuantizeAware(preserve_sparsity=True)
    before, after, _ = digits.train(stage, pruned)
    assert stage.measure(before, after)["sparsity"] > 0.75
    assert converted(digits, after).sparsity > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("sparse", [False, True])
def test_after_clustering_the_kernels_train_by_their_centroids(digits, trained, sparse):
    """Keras says "Gradients do not exist" of the kernels: it is the centroids that have them."""
    if sparse:
        cluster = Cluster(number_of_clusters=8, preserve_sparsity=True)
        _, clustered, _ = digits.train(cluster, trained(MOST)[1])
    else:
        _, clustered, _ = trained(EIGHT)
    stage = QuantizeAware(preserve_clusters=True, preserve_sparsity=sparse)
    before, after, losses = digits.train(stage, clustered)
    found = stage.measure(before, after)
    assert found["kernels_changed"] == 1.0
    assert found["distinct_weights"] <= 9
    assert losses[-1] < losses[0]
    census = converted(digits, after)
    assert not sparse or census.sparsity > 0.75


def test_what_would_stay_in_float_is_refused_all_at_once():
    inputs = keras.Input([8])
    x = keras.layers.GaussianNoise(0.1, name="noise")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(UsageError, match=r"norm.*LayerNormalization") as caught:
        QuantizeAware().wrap(model, steps=10)
    assert "2 layers would stay in float" in str(caught.value)


def test_wrapping_changes_no_kernel_and_a_model_that_did_not_train_is_found_out(digits):
    stage = QuantizeAware()
    wrapped = stage.wrap(digits.model, steps=1)
    assert fake_quantization(wrapped) > 0
    for name, kernel in kernels(digits.model).items():
        np.testing.assert_array_equal(kernels(wrapped)[name], kernel)
    with pytest.raises(CheckError, match="changed 0 % of the kernels"):
        stage.measure(digits.model, wrapped)
    with pytest.raises(CheckError, match="qat: 0 nodes of fake quantization"):
        stage.measure(digits.model, digits.model)


def test_ranges_begin_where_the_model_has_them():
    """EfficientNet's layers without activations go to 76: cut at tfmot's 6, all images look alike for an epoch."""
    keras.utils.set_random_seed(0)
    chance = np.random.default_rng(0)
    inputs = keras.Input([6])
    far = keras.layers.Dense(16, name="far")(inputs)
    near = keras.layers.Dense(16, activation="relu", name="near")(far)
    model = keras.Model(inputs, keras.layers.Dense(4, name="classifier")(near))
    model.get_layer("far").set_weights([chance.normal(0, 60, (6, 16)), chance.normal(0, 60, 16)])
    examples = chance.uniform(0, 1, (400, 6)).astype(np.float32)
    expected = model.predict(examples, verbose=0).argmax(1)

    def agreement(stage):
        return float(np.mean(stage.wrap(model, steps=1).predict(examples, verbose=0).argmax(1) == expected))

    assert agreement(QuantizeAware(examples=examples)) > 0.9
    assert agreement(QuantizeAware()) < 0.6
    assert "examples" not in repr(QuantizeAware(examples=examples))


@pytest.mark.slow
def test_few_distinct_weights_in_keras_and_in_the_file(digits, trained):
    weights = digits.model.get_weights()
    before, after, _ = trained(EIGHT)
    found = EIGHT.measure(before, after)
    assert found["distinct_weights"] == 8
    assert found["kernels_changed"] == 1.0
    # The original still converts: the wrappers took a clone.
    assert len(to_tflite(before, input_shape=[1, 8, 8, 1])) > 1000
    assert all((one == other).all() for one, other in zip(weights, before.get_weights(), strict=True))
    with pytest.raises(CheckError, match="more than 4 distinct weights"):
        Cluster(number_of_clusters=4).measure(before, after)


def test_one_cluster_is_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        Cluster(number_of_clusters=1)
