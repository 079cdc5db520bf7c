"""export_tfx: a run's model as the trainer of a TFX pipeline, which needs no tfkit."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tfkit.data.pixels import to_square
from tfkit.environment import files, packages, process, stack
from tfkit.errors import CheckError, ConfigError
from tfkit.exporting import browser, new_export, template
from tfkit.privacy.ledger import is_private
from tfkit.run import LABELS, SAVED_MODEL, Run
from tfkit.training.export import over_white

VERSION = "1.21.0"
"""Of TFX, whose TensorFlow Transform is tried with what is written here."""

TOLERANCE = 1e-5
"""Of a probability: the same operations on the same values."""

FEATURE = "feature {{ name: {} type: BYTES presence {{ min_fraction: 1 min_count: 1 }} shape {{ }} }}\n"


def export_tfx(run: Run, folder: Path) -> Path:
    """Write a trainer module and a pipeline for TFX, in which a run's model is trained further on tf.Examples.

    Args:
      run: finished, of images of 8 bits or of texts, and not private.
      folder: where they go.

    Returns:
      The folder: trainer.py, pipeline.py, schema.pbtxt, requirements.txt, README.txt, labels.txt and model/, a
      SavedModel from texts or from the contents of image files, string [batch], to probabilities float32
      [batch, classes], as hub.KerasLayer takes it.

    Raises:
      ConfigError: the run is of something else, or private.
      CheckError: what is written is not equal to the run's model.
    """
    shape = browser.shape_of(run)
    if is_private(run):
        raise ConfigError(
            f"{run.path} was trained with differential privacy, and a TFX pipeline would train its model without: what"
            f" comes of it would not have its epsilon.\n  To serve it: python -m tfkit export {run.path} serving"
        )
    if "pixel_range" in run.provenance["data"]:
        raise ConfigError(
            f"{run.path} was trained on images of 16 bits, of which TensorFlow's decode_image keeps 8: a TFX pipeline"
            " would see others.\n  Train on images of 8 bits."
        )
    process.say(f"Writing the model of {run.path} for a TFX pipeline ...")
    texts, model = not shape, run.model
    columns = [run.config.get(name) for name in ("text_column" if texts else "image_column", "label_column")]
    names = [columns[0] or ("text" if texts else "image"), columns[1] or "label"]
    bundle = ["tensorflow", "tf-keras", "tensorboard", *["tensorflow-text"] * texts]
    requirements = [
        f"tfx=={VERSION}",
        "pip",
        "setuptools<81",
        *(f"{name}=={packages.version(name)}" for name in bundle),
    ]
    operations = "import tensorflow_text  # noqa: F401\n" * texts
    trainer = template("tfx_trainer.py").replace("EXTRA_IMPORT", operations)
    for placeholder, value in zip(("INPUT_NAME", "LABEL_NAME"), names, strict=True):
        trainer = trainer.replace(f'"{placeholder}"', json.dumps(value, ensure_ascii=False))
    name = re.sub("[^a-z0-9]+", "-", run.path.resolve().name.lower()).strip("-")[:100] or "model"
    fields = {"name": name, "input": names[0], "label": names[1], "tfx": VERSION}
    fields["content"] = "a text in UTF-8" if texts else "the content of a JPEG or PNG file, upright"
    features = (FEATURE.format(json.dumps(name, ensure_ascii=False)) for name in names)
    contents = {
        "trainer.py": trainer.replace("LABEL_NAMES", json.dumps(run.labels, ensure_ascii=False)),
        "pipeline.py": template("tfx_pipeline.py").replace("PIPELINE_NAME", name),
        "schema.pbtxt": "".join(features),
        "requirements.txt": "".join(f"{need}\n" for need in requirements),
        "README.txt": template("tfx_readme").format(**fields),
        LABELS: "".join(f"{label}\n" for label in run.labels),
    }
    with new_export(folder) as target:
        if texts:
            shutil.copytree(run.path / SAVED_MODEL, target / "model")
        else:
            stack.tf.saved_model.save(_wrap_contents(model, shape[0]), str(target / "model"))
        _check(model, stack.tf.saved_model.load(str(target / "model")), texts=texts)
        for path, content in contents.items():
            files.write_text(target / path, content)
    return folder


def _wrap_contents(model: Any, size: int) -> Any:
    """Return a module from the contents of image files, string [b], that prepares them as training does."""
    tf = stack.tf

    def prepare(content: Any) -> Any:
        # Of a JPEG's values two thirds are others than Pillow's by the usual method; of a BMP with a palette or with
        # padding all are, and a GIF's transparency is lost.
        is_jpeg, is_png = tf.io.is_jpeg(content), tf.strings.substr(content, 0, 4) == b"\x89PNG"
        check = tf.debugging.Assert(is_jpeg | is_png, ["An image is neither JPEG nor PNG: save it as PNG."])
        with tf.control_dependencies([check]):
            image = tf.cond(
                is_jpeg,
                lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
                lambda: tf.io.decode_png(content),
            )
        return to_square(over_white(tf.cast(image[tf.newaxis], tf.float32)), size)[0] / 255.0

    @tf.function(autograph=False)
    def call(contents: Any, training: bool = False) -> Any:
        pixels = tf.map_fn(prepare, contents, fn_output_signature=tf.TensorSpec([size, size, 3]))
        return model(pixels, training=training)

    for training in (False, True):
        call.get_concrete_function(tf.TensorSpec([None], tf.string, name="contents"), training=training)
    module = tf.train.Checkpoint()
    module.model, module.__call__ = model, call
    for name in ("variables", "trainable_variables", "regularization_losses"):
        setattr(module, name, list(getattr(model, name)))
    return module


def _check(model: Any, exported: Any, *, texts: bool) -> None:
    """Compare the two on random inputs; images of several sizes and kinds. A run shows no examples here.

    Raises:
      ConfigError: what the model gives are not the probabilities of classes.
      CheckError: the two differ.
    """
    tf, rng = stack.tf, np.random.default_rng(0)
    if texts:
        contents: list[Any] = ["", "a text", "Another text, of more words."]
        expected = np.asarray(model(tf.constant(contents)))
    else:
        images = [rng.integers(0, 256, (40 + 9 * n, 50, n), np.uint8) for n in (1, 3, 4)]
        contents = [tf.io.encode_png(image).numpy() for image in images]
        photo = io.BytesIO()
        Image.fromarray(images[1]).save(photo, "JPEG")
        contents.append(photo.getvalue())
        images.append(np.asarray(Image.open(photo)))
        expected = np.concatenate([model(image[np.newaxis]) for image in images])
    if not np.allclose(expected.sum(axis=1), 1, atol=1e-3):
        raise ConfigError(
            "The model's outputs do not sum to one: it is no classifier of one class an example."
        )
    difference = float(np.abs(np.asarray(exported(tf.constant(contents))) - expected).max())
    if not difference <= TOLERANCE:
        raise CheckError(
            f"What is written gives other probabilities than the run's model (by {difference:.3g})."
        )
