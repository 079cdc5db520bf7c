"""Export: a trained model as a SavedModel from raw input to class probabilities, proven equal to the trained one.

What is saved holds variables and calls, and no Keras objects that a loader would need: a model of images takes pixels
of any size, a model of texts strings, with the tokenizer inside.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfkit import calibration
from tfkit.data.pixels import FULL_RANGE, OVERSHOOT, to_square
from tfkit.data.splits import Splits, draw
from tfkit.environment import files, foreign, stack
from tfkit.environment.timeline import stage
from tfkit.errors import CheckError
from tfkit.metrics import Evaluation, gives_logits, largest_difference
from tfkit.regression import ValueEvaluation
from tfkit.reporting import tensorboard
from tfkit.run import CALIBRATION, SAVED_MODEL, TASK, Run
from tfkit.tasks import CLASSES

if TYPE_CHECKING:
    from tfkit.environment.stack import keras

Probabilities = Callable[[Any], Any]
"""Makes float32 [b, classes] of what a model gives."""


def module_of(model: keras.Model, call: Any, spec: Any, *, classify: Any) -> Any:
    """Return what tf.saved_model.save writes, with all that hub.KerasLayer(trainable=True) asks for.

    Args:
      model: the trained one.
      call: a traced tf.function of raw inputs, with `training=False` as its second argument where it has one.
      spec: of a batch of inputs, as a server takes them.
      classify: a tf.function of what the model was trained on.
    """
    from tfkit.environment.stack import tf

    module = tf.train.Checkpoint()
    module.variables = model.variables
    module.variables_of_model = module.variables
    # Those of layers that stood still too: whoever tunes it further may want them all.
    module.trainable_variables = [variable for variable in model.variables if variable.trainable]
    losses = itertools.chain.from_iterable(map(foreign.weight_losses, foreign.modules(model)))
    module.regularization_losses = [tf.function(loss, input_signature=[]) for loss in losses]
    # A hub layer may hold tables and assets beside its variables; TextVectorization and StringLookup have tables.
    ids, parts = {id(variable) for variable in model.variables}, tf.train.TrackableView(model).descendants()
    kinds = (tf.saved_model.experimental.TrackableResource, tf.Variable)
    module.resources = [layer.resolved_object for layer in model.layers if hasattr(layer, "resolved_object")]
    module.others = [part for part in parts if isinstance(part, kinds) and id(part) not in ids]
    module.random_states = [generator.state for generator in foreign.random_generators(model).values()]
    module.__call__ = call
    module.classify = classify

    @tf.function(input_signature=[spec], autograph=False)
    def serve(inputs: Any) -> dict[str, Any]:
        return {"probabilities": call(inputs)}

    module.serve = serve
    return module


class Frozen(NamedTuple):
    """A part of a model that stood still while the rest was trained on what it gives.

    Attributes:
      output: of the frozen part, a Keras tensor [b, d] inside of the functional model.
      of_test: float32 [n, d], what was stored of it for the test split, in the split's order.
      passes_inputs: whether the rest takes the model's inputs too, behind what is frozen.
    """

    output: Any
    of_test: np.ndarray
    passes_inputs: bool = False


def _trace(model: keras.Model, spec: Any, frozen: Frozen | None, probabilities: Probabilities) -> list[Any]:
    """Return tf.functions of a batch of what the model was trained on, each traced once: a backbone takes seconds.

    They are that to probabilities, float32 [b, classes], as it infers and as it trains, and, of a model with a frozen
    part, its two halves. What is frozen does the same in training: it is traced and saved once for both.
    """
    from tfkit.environment.stack import keras, tf

    def classify(part: Any, signature: Any, training: bool, autograph: bool) -> Any:
        # The code of layers may have Python's control flow by values of tensors; that of ours has not, and Keras's own
        # neither: translating it takes as long as tracing.
        def call(inputs: Any) -> Any:
            return probabilities(part(inputs, training=training))

        return tf.function(call, input_signature=[signature], autograph=autograph)

    if frozen is None:
        return [classify(model, spec, False, True), classify(model, spec, True, True), None, None]
    base = functools.partial(keras.Model(model.input, frozen.output), training=False)
    embed = tf.function(base, input_signature=[spec], autograph=False)
    head_input: Any = frozen.output
    features_spec: Any = tf.TensorSpec(frozen.output.shape, tf.float32, name="features")
    if frozen.passes_inputs:
        head_input, features_spec = [head_input, model.input], [features_spec, spec]
    head = keras.Model(head_input, model.output)
    heads = [classify(head, features_spec, training, False) for training in (False, True)]

    def run(inputs: Any, training: bool = False) -> Any:
        features = embed(inputs)
        return heads[training]([features, inputs] if frozen.passes_inputs else features)

    infer = tf.function(run, input_signature=[spec], autograph=False)
    return [infer, functools.partial(run, training=True), embed, heads[0]]


def feature_module(model: keras.Model, splits: Splits, *, probabilities: Probabilities) -> Any:
    """Return what is saved of a model of rows of numbers: it takes what it was trained on."""
    from tfkit.environment.stack import tf

    spec = tf.TensorSpec([None, *splits.spec.shape], splits.spec.dtype, name="features")
    call, *_ = _trace(model, spec, None, probabilities)
    return module_of(model, call, spec, classify=call)


def image_module(
    model: keras.Model, splits: Splits, frozen: Frozen | None = None, *, probabilities: Probabilities
) -> Any:
    """Return what is saved of a classifier of images; see `tfkit.training.export.save`."""
    from tfkit.environment.stack import tf

    size = int(splits.spec.shape[0])
    spec = tf.TensorSpec([None, size, size, 3], tf.float32)
    *calls, embed, head = _trace(model, spec, frozen, probabilities)

    @tf.function(autograph=False)
    def pixels(batch: Any) -> Any:
        return to_square(over_white(to_bytes(batch, splits.pixel_range[:2])), size) / 255.0

    @tf.function(autograph=False)
    def call(images: Any, training: bool = False) -> Any:
        # [h, w], [h, w, c] and [b, h, w, c] by one graph, which leaves the rank open.
        shape, rank = tf.shape(images), tf.rank(images)
        single = tf.fill([tf.cast(rank < 4, tf.int32)], 1)
        grey = tf.fill([tf.cast(rank < 3, tf.int32)], 1)
        batch = images if images.shape.rank == 4 else tf.reshape(images, tf.concat([single, shape, grey], 0))
        # One graph for all of one dtype: the shape above has lost what is known of it.
        rows = calls[training](pixels(tf.ensure_shape(batch, [None] * 4)))
        if images.shape.rank == 4:
            return rows
        return tf.reshape(rows, tf.concat([shape[: tf.maximum(rank - 3, 0)], tf.shape(rows)[1:]], 0))

    is_16_bit = splits.pixel_range.images == len(splits.source.names)
    raw_type = tf.uint16 if is_16_bit else tf.uint8
    for dtype in (tf.float32, tf.uint8, tf.uint16):
        pixels.get_concrete_function(tf.TensorSpec([None] * 4, dtype, name="batch"))
    # Each takes a tenth of a second, and more in loading: batches of what is served, and of floats, as TF Hub's models
    # take them and are trained on; the rest by open ranks, which come last, for whatever fits is taken.
    for shape, dtype, training in (
        ([None] * 4, tf.float32, False),
        ([None] * 4, raw_type, False),
        ([None] * 4, tf.float32, True),
        *((None, dtype, False) for dtype in (tf.float32, tf.uint8, tf.uint16)),
    ):
        call.get_concrete_function(tf.TensorSpec(shape, dtype, name="images"), training=training)
    module = module_of(model, call, tf.TensorSpec([None] * 4, raw_type, name="images"), classify=calls[False])
    module.pixels = pixels
    if frozen is not None:
        module.features, module.head = embed, head
    return module


def to_bytes(images: Any, pixel_range: tuple[int, int] = FULL_RANGE) -> Any:
    """Return pixels as whole float32 numbers in 0..255, as training rounds them.

    Args:
      images: uint8; uint16, of which `pixel_range` becomes 0 to 255; or float in [0, 1], or in [0, 255] where any of
        the whole batch is above 1.5 (a frame that is all but black does not show which: give uint8).
      pixel_range: see `tfkit.load_images`.

    Raises:
      tf.errors.InvalidArgumentError: floats are in neither range.
    """
    from tfkit.environment.stack import tf

    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32)
    if images.dtype == tf.uint16:
        low, high = pixel_range
        above = tf.clip_by_value(tf.cast(images, tf.int32), low, high) - low
        return tf.cast((above * 510 + (high - low)) // (2 * (high - low)), tf.float32)
    fits = tf.reduce_all((images >= -OVERSHOOT) & (images <= 255 + OVERSHOOT))
    words = "Floating-point images must be in [0, 1] or in [0, 255]; uint8 leaves no doubt. Found:"
    message = [words, tf.reduce_min(images), tf.reduce_max(images)]
    with tf.control_dependencies([tf.debugging.Assert(fits, message)]):
        values = tf.where(tf.reduce_max(images) > 1 + OVERSHOOT, images, images * 255.0)
    return tf.floor(tf.clip_by_value(values, 0.0, 255.0) + 0.5)


def over_white(images: Any) -> Any:
    """Return colours, float32 [b, h, w, 3], of grey or colour with or without alpha; all in 0..255.

    What is transparent is laid over white, rounded as Pillow does.
    """
    from tfkit.environment.stack import tf

    channels = tf.shape(images)[-1]
    words = "Images must have 1 (grey), 3 (RGB) or 4 (RGBA) channels, or 2 (grey and alpha), in the last axis. Shape:"
    check = tf.debugging.Assert((channels >= 1) & (channels <= 4), [words, tf.shape(images)])

    def compose() -> Any:
        alpha = images[..., -1:]
        return tf.floor((images[..., :-1] * alpha + 255.0 * (255.0 - alpha)) / 255.0 + 0.5)

    with tf.control_dependencies([check]):
        colours = tf.cond(channels % 2 == 0, compose, lambda: images)
    shape = tf.concat([tf.shape(colours)[:-1], [3]], axis=0)
    return tf.ensure_shape(tf.broadcast_to(colours, shape), [None, None, None, 3])


VOCABULARY = "vocab.txt"


def text_module(
    model: keras.Model, frozen: Frozen | None = None, *, scratch: Path, probabilities: Probabilities
) -> Any:
    """Return what is saved of a classifier of texts.

    It takes UTF-8 strings, [] or [batch], and gives float32 [classes] or [batch, classes]; `serving_default` takes
    [batch] as `texts`. Where the tokenizer is tfkit's own, its vocabulary is in assets/vocab.txt, and the signature
    `device` takes one string [1] by operations that TFLite has, those of tensorflow-text among them; `device_ids` takes
    the ids of one, for runtimes that lack those.

    Args:
      model: from strings [batch] to logits or probabilities.
      frozen: see `save`.
      scratch: a folder that exists until the module is saved.
      probabilities: makes them of what the model gives.
    """
    from tfkit.environment.stack import tf
    from tfkit.text.layers import TOKENS, WINDOWS, Tokens, Windows, on_device, on_ids
    from tfkit.text.tokenizers import WordPiece

    spec = tf.TensorSpec([None], tf.string, name="texts")
    *calls, embed, head = _trace(model, spec, frozen, probabilities)

    @tf.function(autograph=False)
    def call(texts: Any, training: bool = False) -> Any:
        classify = calls[training]
        return classify(texts[tf.newaxis])[0] if texts.shape.rank == 0 else classify(texts)

    for shape, training in (([None], False), ([], False), ([None], True)):
        call.get_concrete_function(tf.TensorSpec(shape, tf.string, name="texts"), training=training)
    module = module_of(model, call, spec, classify=calls[False])
    tokens = next((layer for layer in model.layers if layer.name in (TOKENS, WINDOWS)), None)
    if frozen is not None:
        module.features, module.head = embed, head
        if isinstance(tokens, Tokens):
            module.tokens = tf.function(tokens, input_signature=[spec], autograph=False)
    if isinstance(tokens, Tokens | Windows):
        module.device = on_device(model, probabilities=probabilities)
    # Others than word pieces nobody can cut a text into by a list of them; and a row of ids is no whole document.
    if isinstance(tokens, Tokens) and isinstance(tokens.tokenizer, WordPiece):
        length = tokens.length or tokens.tokenizer.max_length
        module.device_ids = on_ids(model, length=length, probabilities=probabilities)
        path = scratch / VOCABULARY
        files.write_text(path, "".join(f"{piece}\n" for piece in tokens.tokenizer.vocabulary))
        module.vocabulary = tf.saved_model.Asset(str(path))
    return module


CHECKED_AT_A_TIME = 16
TEXTS_AT_A_TIME = 1024
"""Texts that are cut into pieces together."""


def predict(model: Any, splits: Splits, indices: np.ndarray) -> np.ndarray:
    """Return what an exported model says of examples as the user has them: each image at its own size.

    Args:
      model: `Run.model`.
      splits: of what it was trained on.
      indices: int64 [n], of examples of the splits' source.

    Returns:
      float32 [n, classes].
    """
    from tfkit.environment.stack import tf

    if splits.kind == "texts":  # of like lengths go together: the longest of a batch decides what it costs
        texts = splits.source.read(indices)
        order = np.argsort([len(text) for text in texts], kind="stable")
        batches = np.split(texts[order], range(CHECKED_AT_A_TIME, len(texts), CHECKED_AT_A_TIME))
        outputs = [np.asarray(model(tf.constant(list(batch)))) for batch in batches]
        return np.concatenate(outputs)[np.argsort(order)]
    if splits.kind == "features":
        return np.asarray(model(tf.constant(splits.source.read(indices))))
    return np.concatenate([np.asarray(model(tf.constant(batch))) for batch in _read_batches(splits, indices)])


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of so many."""
    remaining = iter(items)
    while batch := [*itertools.islice(remaining, size)]:
        yield batch


def _read_batches(splits: Splits, indices: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images as the user has them, in their order, those of one size that follow each other in batches."""
    images = (splits.source.raw(int(index)) for index in indices)
    for _, same_size in itertools.groupby(images, key=lambda image: (image.shape, image.dtype)):
        yield from map(np.stack, batched(same_size, CHECKED_AT_A_TIME))


MINIMUM_AGREEMENT, MOST_OFF = 0.98, 0.1
"""The share of test examples of the same answer, and by how much the probabilities of half of them may be others: a
softmax on a softmax changes no answer, and all of these. Of numbers, that share of their spread."""

ALL_UP_TO = 64
"""Test examples up to which all go through the whole of an exported model, whatever its parts show."""
SAMPLES, SUSPECTS = 8, 4
"""Of more examples so many drawn ones do, and so many of each kind that is likelier than others to differ."""
MAX_DIFFERENCE = 1e-3
"""Difference of a probability in those above which all examples go through the whole: features are stored within
1e-3 of what TensorFlow computes."""


def compare(
    exported: Any, model: keras.Model, splits: Splits, evaluation: Evaluation, frozen: Frozen | None = None
) -> tuple[np.ndarray, int]:
    """Return what an exported model says of all test examples, each of which has gone through it whole or in parts.

    A model of images or texts whose features were stored is compared in the parts that it calls, which costs a third or
    less: all variables are those of the trained model, bit by bit; of all test examples `pixels` makes of the user's
    image what was trained on, or `tokens` cuts the text into the same pieces, and `head` makes the probabilities of the
    stored features. Between these is the frozen part, a graph of constants and compared variables. Through the whole go
    drawn examples, those with the nearest second class, those with other pixels or pieces, and the longest texts; if
    any of their probabilities is off by more than 1e-3, a variable by anything, or most inputs are others, all do.

    Args:
      exported: the loaded SavedModel.
      model: the trained one.
      splits: whose test split it is.
      evaluation: of the test split by `model`.
      frozen: as of `save`.

    Returns:
      Probabilities float32 [n, classes], and how many examples went through the whole.
    """
    test, suspicion = splits.indices["test"], None
    pairs = zip(exported.variables_of_model, model.variables, strict=True)
    if frozen is not None and len(test) > ALL_UP_TO and all(np.array_equal(*pair) for pair in pairs):
        suspicion = (_compare_pixels if splits.kind == "images" else _compare_tokens)(exported, model, splits)
    if frozen is not None and suspicion is not None:
        head_input: Any = stack.tf.constant(frozen.of_test)
        if frozen.passes_inputs:
            head_input = [head_input, stack.tf.constant(splits.source.read(test))]
        probabilities = np.array(exported.head(head_input))
        closest = np.sort(evaluation.probabilities, axis=1)[:, -2:]
        positions = [
            draw(len(test), SAMPLES),
            np.argsort(closest[:, -1] - closest[:, 0], kind="stable")[:SUSPECTS],
            np.argsort(suspicion, kind="stable")[-SUSPECTS:],
            np.flatnonzero(suspicion == 1),
        ]
        examples = np.unique(np.concatenate(positions))
        probabilities[examples] = predict(exported, splits, test[examples])
        if largest_difference(probabilities[examples], evaluation.probabilities[examples]) <= MAX_DIFFERENCE:
            return probabilities, len(examples)
    return predict(exported, splits, test), len(test)


def _compare_pixels(exported: Any, model: keras.Model, splits: Splits) -> np.ndarray | None:
    """Return 1 for each test image that gets other pixels than were trained on, 0 for the others; None: for most."""
    test = splits.indices["test"]
    differs, begin = np.zeros(len(test)), 0
    for batch in _read_batches(splits, test):
        places = slice(begin, begin := begin + len(batch))
        pixels = np.asarray(exported.pixels(stack.tf.constant(batch))) * 255
        differs[places] = (np.rint(pixels) != splits.source.read(test[places])).any(axis=(1, 2, 3))
        if np.mean(differs[:begin]) > 0.5:  # such as large JPEGs, which training decodes small
            return None
    return differs


def _compare_tokens(exported: Any, model: keras.Model, splits: Splits) -> np.ndarray | None:
    """Return 1 for each test text that is cut otherwise, and below that more for a longer one; None: not known."""
    from tfkit.text.layers import TOKENS
    from tfkit.text.tokenizers import MASK

    if not hasattr(exported, "tokens"):
        return None
    scores, layer, test = [], model.get_layer(TOKENS), splits.indices["test"]
    for places in np.split(test, range(TEXTS_AT_A_TIME, len(test), TEXTS_AT_A_TIME)):
        texts = stack.tf.constant(splits.source.read(places))
        expected, actual = layer(texts), exported.tokens(texts)
        differs = [(np.asarray(expected[name]) != np.asarray(actual[name])).any(axis=1) for name in expected]
        length = np.asarray(expected[MASK]).sum(axis=1) / layer.tokenizer.max_length
        scores.append(np.where(np.any(differs, axis=0), 1.0, length / 2))
    return np.concatenate(scores)


def conclude(
    run: Run,
    model: keras.Model,
    splits: Splits,
    evaluation: Evaluation,
    validate: Callable[[], Evaluation],
    *,
    private: bool,
    calibrated: bool,
    seed: int,
    **options: Any,
) -> Evaluation:
    """Choose by the validation split what turns outputs into answers, measure on the test split, and export.

    Args:
      run: gets metrics.json, saved_model/, and of another task than classes task.json.
      model: the trained one.
      splits: that it was trained on.
      evaluation: of the test split, as the model gives it.
      validate: returns the evaluation of the validation split.
      private: whether nothing may be chosen by examples, since the validation split is not covered by an epsilon, and
        test examples are numbered instead of named.
      calibrated: whether to fit a temperature, where the task has one; see `calibrate`.
      seed: of its halves of the validation split.
      options: `logits` and `frozen` of `save`.

    Returns:
      The evaluation of the test split as the run has it: at the temperature, by the thresholds that were chosen.

    Raises:
      CheckError: the exported model is not the trained one.
    """
    evaluation, task, temperature = evaluation.numbered() if private else evaluation, splits.task, 1.0
    if task.tunes and not private:
        task, note = task.tuned(validate())
        evaluation = task.judge(evaluation)
        run.note(note)
    if task != CLASSES:
        files.write_json(run.path / TASK, task.describe())
    if calibrated and task.exclusive:
        evaluation, temperature = calibrate(run, validate(), evaluation, seed=seed)
    run.record(evaluation.metrics("test"))
    run.record(save(model, run, splits, evaluation=evaluation, temperature=temperature, **options))
    return evaluation


def calibrate(
    run: Run, validation: Evaluation, evaluation: Evaluation, *, seed: int
) -> tuple[Evaluation, float]:
    """Fit a temperature and take the scores of conformal sets, see `tfkit.calibration`, and record what comes of it.

    Args:
      run: gets calibration.json, metrics `calibration/...`, a note, and the reliability diagram in TensorBoard.
      validation: of the validation split, which they are made of.
      evaluation: of the test split, on which they are measured.
      seed: of the halves of the validation split.

    Returns:
      The evaluation of the test split at the temperature, and the temperature: both for `save`.
    """
    if (count := len(validation.labels)) < calibration.FEWEST:
        run.note(
            f"Calibration is left off: it takes {calibration.FEWEST} validation examples; there are {count}."
        )
        return evaluation, 1.0
    result, content = calibration.calibrate(validation, evaluation, seed=seed)
    temperature, counts, numbers = content["temperature"], content["examples"], calibration.numbers(content)
    files.write_json(run.path / CALIBRATION, content)
    run.record(numbers)
    tensorboard.write_calibration(run.logdir, result, numbers=numbers)
    why = " There were too few examples, or mistakes among them, for another." if temperature == 1 else ""
    run.note(
        f"Calibration: the temperature is {temperature:g}, by {counts['temperature']} validation examples.{why}"
        f" {counts['scores']} give the scores of sets."
    )
    run.note(
        f"With the temperature the expected calibration error on the test split is {content['ece']:.3f}, without it"
        f" {content['ece_before']:.3f}; the cross-entropy {content['nll']:.3f} and {content['nll_before']:.3f}."
    )
    return result, temperature


@stage("export", "Exporting the model, and checking what was exported")
def save(
    model: keras.Model,
    run: Run,
    splits: Splits,
    *,
    evaluation: Evaluation,
    logits: bool | None = None,
    temperature: float = 1.0,
    frozen: Frozen | None = None,
) -> dict[str, float]:
    """Write saved_model/ and labels.txt, load them again, and compare with the trained model on the test split.

    A model of images gets what the training did to them built in: the exported one takes what `tfkit.read_image`
    gives, [h, w], [h, w, c] or [batch, h, w, c] of any size with 1, 3 or 4 channels (grey, RGB, RGBA), as uint8, as
    uint16, whose `Splits.pixel_range` becomes black to white, or as float in [0, 1] or [0, 255], see `to_bytes`, and
    gives float32 [classes] or [batch, classes]. `serving_default` takes uint8 [batch, h, w, c] as `images` (uint16
    where all images of the set are) and gives `probabilities`. `classify` takes what the model was trained on, float32
    [batch, s, s, 3] in [0, 1]. A model of texts takes strings, see `tfkit.training.export`. Either is a reusable
    SavedModel as TF Hub has it: hub.KerasLayer(path, trainable=True) trains it further.

    Args:
      model: the trained model, of images in [0, 1], texts or features, giving logits or probabilities.
      run: the folder to write into.
      splits: what it was trained on.
      evaluation: of `model` on the test split, at the temperature.
      logits: whether `model` gives logits; None: what its loss was told.
      temperature: is built in: of `calibrate`.
      frozen: of a model whose features were stored: they are saved as `features`, of texts or of what `classify` takes.
        A model of images, whose `__call__` consists of `pixels`, `features` and `head`, is compared as `compare` says.

    Returns:
      `export/agreement`: the share of test examples, as the user has them, to which the loaded model gives the
      class that `model` gave; `export/max_difference` of a probability; `export/whole_examples`: to how many of them
      by one call of the whole; `export/seconds`; `export/size_bytes`.

    Raises:
      CheckError: the two agree on less than 98 % of the test split, or their probabilities are others.
    """
    start = time.monotonic()
    logits = gives_logits(model) if logits is None else logits
    probabilities = functools.partial(splits.task.probabilities, logits=logits, temperature=temperature)
    run.labels = splits.class_names
    with files.new_folder(run.path / SAVED_MODEL) as folder, tempfile.TemporaryDirectory() as scratch:
        with foreign.traced_for_saving():
            if splits.kind == "texts":
                module = text_module(model, frozen, scratch=Path(scratch), probabilities=probabilities)
            elif splits.kind == "images":
                module = image_module(model, splits, frozen, probabilities=probabilities)
            else:
                module = feature_module(model, splits, probabilities=probabilities)
        names = [name for name in ("device", "device_ids") if hasattr(module, name)]
        signatures = {"serving_default": module.serve} | {name: getattr(module, name) for name in names}
        stack.tf.saved_model.save(module, str(folder), signatures=signatures)
        exported, whole_count = compare(stack.load_saved_model(folder), model, splits, evaluation, frozen)
        agreement = evaluation.agreement(exported)
        differences = np.abs(exported - evaluation.probabilities).max(axis=1)
        median = float(np.median(differences))
        is_reduced = splits.kind == "images" and splits.side >= 2 * splits.source.shape[0]
        if is_reduced and isinstance(evaluation, ValueEvaluation) and agreement < MINIMUM_AGREEMENT:
            # A number follows each pixel, which a class does not.
            agreement = evaluation.agreement(exported, close=MOST_OFF)
            run.note(
                f"The exported model gives numbers that differ by {median:.2g} as a rule where it gets the pixels of a"
                " file: training, like predict of the file, decodes a large JPEG at a reduced size."
            )
        if agreement < MINIMUM_AGREEMENT or (splits.task.each and not median <= MOST_OFF):
            raise CheckError(
                f"The exported model agrees with the trained one on {agreement:.3f} of the test split (at least"
                f" {MINIMUM_AGREEMENT} is right), and its outputs differ by {median:.2g} as a rule"
                f"{f' (at most {MOST_OFF})' if splits.task.each else ''}: it was not kept."
                "\n  Report this with the run's config.yaml and versions.json."
            )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "export/agreement": agreement,
        "export/max_difference": float(differences.max()),
        "export/whole_examples": whole_count,
        "export/seconds": time.monotonic() - start,
        "export/size_bytes": size,
    }
