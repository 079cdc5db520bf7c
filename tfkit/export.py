"""Export: raw input to class probabilities as a SavedModel that needs nothing but TensorFlow."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import files
from tfkit import run as runs
from tfkit.data import Splits, pixels
from tfkit.errors import CheckError
from tfkit.evaluation import Evaluation
from tfkit.predictions import gives_logits
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.stack import keras

MINIMUM_AGREEMENT = 0.98
CHECKED_AT_A_TIME = 16


def save(model: keras.Model, run: Run, splits: Splits, *, evaluation: Evaluation) -> dict[str, float]:
    """Write saved_model/ and labels.txt, load them again, and compare with the trained model on the test split.

    A model of images gets what the training did to them built in: the exported one takes uint8 or float
    pixels, [h, w, 3] or [batch, h, w, 3] of any size (floats in 0..1, or in 0..255, which an image with a value
    above 2 is taken to be), and gives float32 [classes] or [batch, classes]. `serving_default` takes uint8
    [batch, h, w, 3] as `images` and gives `probabilities`. `classify` takes what the model was trained on, float32
    [batch, s, s, 3] in [0, 1].

    Args:
      model: the trained model, of images in [0, 1] or of features, giving logits or probabilities.
      run: the folder to write into.
      splits: what it was trained on.
      evaluation: of `model` on the test split.

    Returns:
      `export/agreement`: the share of test examples, as the user has them, to which the loaded model gives the
      class that `model` gave; `export/max_difference` of a probability; `export/seconds`; `export/size_bytes`.

    Raises:
      CheckError: the two agree on less than 98 % of the test split.
    """
    from tfkit.stack import tf

    began = time.monotonic()
    run.labels = splits.class_names
    takes_images = len(splits.spec.shape) == 3
    module = _image_module(model, splits) if takes_images else _feature_module(model, splits)
    with files.new_folder(run.path / runs.SAVED_MODEL) as folder:
        _write(module, folder)
        exported = predict(tf.saved_model.load(str(folder)), splits, splits.indices["test"])
        agreement = float(np.mean(exported.argmax(axis=1) == evaluation.probabilities.argmax(axis=1)))
        difference = float(np.abs(exported - evaluation.probabilities).max())
        if agreement < MINIMUM_AGREEMENT:
            raise CheckError(
                f"The exported model agrees with the trained one on {agreement:.3f} of the test split"
                f" (it must be {MINIMUM_AGREEMENT}); the largest difference of a probability is {difference:.3f}."
                "\n  It was not kept. Please report this with the run's config.yaml and versions.json."
            )
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return {
        "export/agreement": agreement,
        "export/max_difference": difference,
        "export/seconds": time.monotonic() - began,
        "export/size_bytes": size,
    }


def _image_module(model: keras.Model, splits: Splits) -> Any:
    from tfkit.stack import tf

    size = int(splits.spec.shape[0])
    from_logits = gives_logits(model)

    # Traced once and called by each of the signatures: tracing a backbone takes seconds.
    @tf.function(input_signature=[tf.TensorSpec([None, size, size, 3], tf.float32)])
    def classify(images: Any) -> Any:
        outputs = tf.cast(model(images, training=False), tf.float32)
        return tf.nn.softmax(outputs) if from_logits else outputs

    @tf.function
    def call(images: Any) -> Any:
        single = images.shape.rank == 3
        batch = images[tf.newaxis] if single else images
        probabilities = classify(pixels.to_square(to_bytes_range(batch), size) / 255.0)
        return probabilities[0] if single else probabilities

    for dtype in (tf.uint8, tf.float32):
        for shape in ([None, None, None, 3], [None, None, 3]):
            call.get_concrete_function(tf.TensorSpec(shape, dtype, name="images"))
    spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    return _module(model, call, spec, classify=classify)


def to_bytes_range(images: Any) -> Any:
    """Pixels as float32 in 0..255: uint8 as they are, floats by the largest value of each image."""
    from tfkit.stack import tf

    if images.dtype == tf.uint8:
        return tf.cast(images, tf.float32)
    largest = tf.reduce_max(images, axis=[1, 2, 3], keepdims=True)
    return tf.where(largest > 2.0, images, images * 255.0)


def _feature_module(model: keras.Model, splits: Splits) -> Any:
    from tfkit.stack import tf

    from_logits = gives_logits(model)
    spec = tf.TensorSpec([None, *splits.spec.shape], splits.spec.dtype, name="features")

    @tf.function(input_signature=[spec])
    def call(features: Any) -> Any:
        outputs = tf.cast(model(features, training=False), tf.float32)
        return tf.nn.softmax(outputs) if from_logits else outputs

    return _module(model, call, spec, classify=call)


def _module(model: keras.Model, call: Any, spec: Any, *, classify: Any) -> Any:
    """What tf.saved_model.save writes: the variables and the call, no Keras objects that a loader would need."""
    from tfkit.stack import tf

    module = tf.Module()
    module.variables_of_model = model.variables
    # A hub layer may hold tables and assets beside its variables.
    module.resources = [layer.resolved_object for layer in model.layers if hasattr(layer, "resolved_object")]
    module.__call__ = call
    module.classify = classify

    @tf.function(input_signature=[spec])
    def serve(inputs: Any) -> dict[str, Any]:
        return {"probabilities": call(inputs)}

    module.serve = serve
    return module


def _write(module: Any, folder: Path) -> None:
    from tfkit.stack import tf

    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def predict(model: Any, splits: Splits, indices: np.ndarray) -> np.ndarray:
    """What an exported model says of examples as the user has them: each image at its own size.

    Args:
      model: of `tf.saved_model.load`, or `Run.model`.
      splits: of what it was trained on.
      indices: int64 [n], of examples of the splits' source.

    Returns:
      float32 [n, classes].
    """
    from tfkit.stack import tf

    if len(splits.spec.shape) != 3:
        return np.asarray(model(tf.constant(splits.source.read(indices))))
    images = (splits.source.raw(int(index)) for index in indices)
    same_size = (group for _, group in itertools.groupby(images, key=np.shape))
    return np.concatenate(
        [np.asarray(model(tf.constant(np.stack(batch)))) for group in same_size for batch in _batches(group)]
    )


def _batches(images: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, ...]]:
    while batch := tuple(itertools.islice(images, CHECKED_AT_A_TIME)):
        yield batch
