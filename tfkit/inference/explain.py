"""Explain predictions: which places of an image, or which words of a text, spoke for a class."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from tfkit import hub
from tfkit.data.image_files import read_image
from tfkit.data.pixels import FULL_RANGE, as_pixels, resize
from tfkit.data.splits import listed
from tfkit.data.text_decoding import Cleaner, read_document
from tfkit.environment import files, packages, stack
from tfkit.environment.process import counted
from tfkit.environment.timeline import track
from tfkit.errors import ConfigError, DataError, PrivacyError, RunError, UsageError
from tfkit.hub.bundled import MODELS
from tfkit.inference.inputs import content_digest, in_data_of, no_such_input, refuse_names
from tfkit.privacy.ledger import is_private, recorded_digests
from tfkit.reporting.figures import overlay, printable
from tfkit.reporting.page import render
from tfkit.run import Run
from tfkit.settings.options import SCRATCH
from tfkit.training.export import over_white, to_bytes
from tfkit.transfer.attribution import grad_cam, heat_of, integrated_gradients, occlusion
from tfkit.transfer.models import rebuild

LARGEST = 512
"""Pixels of the longer side of a picture that is kept."""

SMALLEST = 256
"""Pixels of the longer side of a picture that is written: smaller ones are enlarged, pixel by pixel."""

MOST = 200
"""Examples at a time: explanations are looked at."""

MOST_CHARACTERS = 1_000_000

Answer = tuple[np.ndarray, dict[str, Any]]
"""Probabilities of the classes, float32 [c], and what an `Explanation` holds besides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The pixels or words that spoke for a class in one image or text.

    Attributes:
      name: of the file; "image 0", "text 0" of what is in memory.
      label: the class that was asked about, by default the most probable one.
      probability: of that class, as the exported model gives it; of a number that itself.
      method: "Grad-CAM", "integrated gradients" or "occlusion".
      picture: of an image, uint8 [h, w, 3], no side above 512 pixels.
      heat: of an image, float32 [h, w] in [0, 1]: the largest spoke most for the class.
      words: of a text, its pieces in their order, each with what it adds to the probability.
      is_number: whether it is of a number, and not of a class.
    """

    name: str
    label: str
    probability: float
    method: str
    picture: np.ndarray | None = None
    heat: np.ndarray | None = None
    words: tuple[tuple[str, float], ...] = ()
    is_number: bool = False

    @property
    def said(self) -> str:
        """Return what the model says, in words: "8.8", or of a class "93.1 %"."""
        return f"{self.probability:.4g}" if self.is_number else f"{100 * self.probability:.1f} %"

    def __repr__(self) -> str:
        """Return the name, the class, its probability, and of a text the words of the largest weights."""
        text = printable(f"{self.name}: {self.label} ({self.said})")
        words = ", ".join(f"{printable(word)} {weight:+.3f}" for word, weight in self.strongest(8))
        return f"{text}  {words}" if words else text

    def strongest(self, most: int) -> list[tuple[str, float]]:
        """Return the words of the largest weights, whatever their sign.

        Args:
          most: how many.
        """
        return sorted(self.words, key=lambda word: -abs(word[1]))[:most]


def explain(
    run: Run | str | Path, data: Any, *, output: str | Path | None = None, label: str | None = None
) -> list[Explanation]:
    """Show which places of images, or which words of texts, spoke for a class in a run's model.

    Images: Grad-CAM where the model has convolutions (bundled encoders, the small network), else integrated gradients.
    Texts: the words are left out one by one; in a text of over 300 words several together.

    Args:
      run: of a classifier of images or texts, or its folder.
      data: a file or a list of files; images also as arrays [h, w] or [h, w, c], as the exported model takes them, or
        [n, h, w, c], whose floats are in one range. For a model of texts a str is a text, a pathlib.Path a file of one,
        and a Series or an array several.
      output: a folder for a picture of each image, the image on its left (000-NAME.png), or for explanations.html of
        texts; and for explanations.json, the numbers. None: nothing is written.
      label: the class that is asked about, by name; None: of each example the most probable one.

    Returns:
      One for each image or text.

    Raises:
      ConfigError: the run has no class of that name.
      DataError: a file is not there or cannot be read.
      PrivacyError: one of them is in the data of a private run, or is what it was trained on.
      RunError: the run holds no model of images or texts.
      UsageError: more than 200 are given, or the output is no folder.

    Example:
      run.explain("a.jpg", output="explanations")
    """
    run = run if isinstance(run, Run) else Run.open(run)
    shape, names = run.provenance.get("data", {}).get("shape"), run.labels
    if not isinstance(shape, list) or None in shape or shape not in ([], [*shape[:1] * 2, 3]):
        advice = "For rows of numbers: sklearn.inspection.permutation_importance."
        raise RunError(f"{run.path} is no run of images or texts, but takes shape {shape}.\n  {advice}")
    if label is not None and label not in names:
        raise ConfigError(f"{run.path} has no class {label!r}; it has {listed([*map(repr, names)], 20)}.")
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise UsageError(f"{output} is a file: give a folder, which is made if it is not there (--output).")
    examples = [*_yield_examples(data, texts=shape == [])]
    if is_private(run):
        _refuse_known(run, [example for _, example in examples if isinstance(example, Path)])
    # Of a number, its mean is the first that the model gives.
    index, results = (None if label is None and run.task.each else names.index(label or names[0])), []
    answers = (_explain_images if shape else _explain_texts)(run, examples, index)
    for (name, _), (probabilities, facts) in zip(examples, answers, strict=True):
        position = probabilities.argmax() if index is None else index
        facts |= {"label": names[position], "probability": float(probabilities[position])}
        results.append(Explanation(name=name, is_number=not run.task.each, **facts))
    if output is not None:
        _write(results, Path(output))
    return results


def _yield_examples(data: Any, *, texts: bool) -> Iterator[tuple[str, Any]]:
    """Yield names, and paths of files or what is in memory."""
    is_column = texts and hasattr(data, "tolist")  # of pandas or NumPy
    items: Any = data.tolist() if is_column else data if isinstance(data, list | tuple) else [data]
    if isinstance(data, np.ndarray) and data.ndim == 4 and not texts:
        items = as_pixels(data)
    if not 0 < len(items) <= MOST:
        raise UsageError(f"{len(items)} images or texts are given: explain takes 1 to {MOST} of them.")
    for number, item in enumerate(items):
        if isinstance(item, Path) or (isinstance(item, str) and not texts):
            if Path(item).exists() and not Path(item).is_file():  # a pipe would be waited for
                raise DataError(f"{item} is no file: explain takes files, {item}/*.")
            if not Path(item).exists():
                raise no_such_input(Path(item), "file", texts=texts)
            yield str(item), Path(item)
        elif isinstance(item, str if texts else np.ndarray):
            if isinstance(item, str):
                refuse_names([item])
            yield f"{'text' if texts else 'image'} {number}", item
        else:
            takes = "texts (str) and files (pathlib.Path)" if texts else "files and arrays [h, w, c]"
            raise DataError(f"This run explains {takes}, not a {type(item).__name__}.")


_UNCOVERED = "The epsilon of a private run says nothing about what an explanation of a training example shows"


def _refuse_known(run: Run, paths: list[Path]) -> None:
    if known_paths := in_data_of(run, paths, test=True):
        raise PrivacyError(f"{_UNCOVERED}: {known_paths[0]} is in the data of {run.path}.\n  Give others.")
    run.say(f"{_UNCOVERED}: explain only examples of your own that were not among them.")


def _refuse_trained(run: Run, examples: Iterable[tuple[str, Any]]) -> None:
    """Raise where a private run was trained on one of these, wherever it is now; its record here tells.

    Args:
      run: any.
      examples: names, and files of images or texts; of arrays nothing is known.
    """
    if (digests := recorded_digests(run.provenance["data"])) is None:
        return
    for name, value in examples:
        digest = content_digest(value)
        if digest is not None and np.uint64(digest) in digests:
            raise PrivacyError(f"{_UNCOVERED}: {run.path} was trained on {name}.\n  Give others.")


def _explain_images(run: Run, examples: list[tuple[str, Any]], class_index: int | None) -> Iterator[Answer]:
    data, config = run.provenance["data"], run.config
    pixel_range = tuple(data.get("pixel_range") or config.get("pixel_range") or FULL_RANGE)
    size, tf, pictures, squares = int(data["shape"][0]), stack.tf, [], []
    _refuse_trained(run, examples)
    for name, image in examples:  # all of them, before a model is loaded
        image = read_image(image) if isinstance(image, Path) else image
        try:
            pixels = over_white(to_bytes(tf.constant(np.atleast_3d(image)[np.newaxis]), pixel_range))
            picture = Image.fromarray(pixels[0].numpy().astype(np.uint8))
            squares.append(resize(picture, size))
        except (ValueError, TypeError, tf.errors.OpError) as error:
            actual = f"{image.dtype} {image.shape}, not uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]"
            raise DataError(f"{name} is {actual}: {packages.first_line(error)}") from error
        picture.thumbnail((LARGEST, LARGEST))
        pictures.append(np.asarray(picture))
    run.say(f"Explaining {counted(len(examples), 'image')} with {run.path}.")
    model, images = run.model, np.stack(squares).astype(np.float32) / 255
    probabilities = np.concatenate([model.classify(image[np.newaxis]).numpy() for image in images])
    classes = probabilities.argmax(axis=1) if class_index is None else np.full(len(images), class_index)
    recipe, handle = run.provenance.get("recipe", {}).get("name"), config.get("model_handle")
    maps, method = None, "Grad-CAM"
    # A private head has other layers; other backbones show none of theirs.
    if recipe in ("transfer_image", "train_distributed") and (handle == SCRATCH or handle in MODELS):
        spec = tf.TensorSpec(data["shape"], tf.float32)
        backbone = None if handle == SCRATCH else hub.load_model(handle, modality="images")
        stub: Any = SimpleNamespace(class_names=run.labels, spec=spec, task=run.task)
        maps = grad_cam(rebuild(run, backbone, stub), images, classes)
    if maps is None:
        method = "integrated gradients"
        maps = heat_of(integrated_gradients(model.classify, images, classes))
    for row, view, heat in zip(probabilities, pictures, maps, strict=True):
        yield row, {"method": method, "picture": view, "heat": enlarged(heat, view)}


def enlarged(heat: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return a map [s, s] in [0, 1] at the size [h, w] of the image that was made square."""
    values = Image.fromarray(heat).resize(picture.shape[1::-1], Image.Resampling.BILINEAR)
    return np.clip(np.asarray(values, np.float32), 0, 1)


def _explain_texts(run: Run, examples: list[tuple[str, Any]], class_index: int | None) -> Iterator[Answer]:
    texts, cleaner = [], Cleaner()
    for name, text in examples:
        try:
            texts.append(cleaner(read_document(text)[0] if isinstance(text, Path) else text))
        except DataError as error:
            raise DataError(f"{name} {error}.") from error
        if not texts[-1].strip() or len(texts[-1]) > MOST_CHARACTERS:
            count = f"{len(texts[-1]):,} characters" if texts[-1].strip() else "no words"
            raise DataError(f"{name} has {count}; explain takes words, up to {MOST_CHARACTERS:,} characters.")
    _refuse_trained(run, zip((name for name, _ in examples), texts, strict=True))
    run.say(f"Explaining {counted(len(examples), 'text')} with {run.path}.")
    model = run.model
    for text in track(texts, "Explaining", unit="text"):
        probabilities, words = occlusion(model, text, class_index)
        yield probabilities, {"method": "occlusion", "words": tuple(words)}


def _write(explanations: list[Explanation], folder: Path) -> None:
    """Write a picture of each image or a page of all texts, and the numbers."""
    rows: list[dict[str, Any]] = []
    for number, item in enumerate(explanations):
        rows.append({"label": item.label, "probability": item.probability, "method": item.method})
        rows[-1]["name"] = printable(item.name)
        if item.picture is None or item.heat is None:
            rows[-1]["words"] = [[printable(word), weight] for word, weight in item.words]
            continue
        stem = re.sub(r"[^A-Za-z0-9.-]+", "_", Path(item.name).stem)[:80]
        rows[-1]["picture"] = name = f"{number:03d}-{stem}.png"
        scale = -(-SMALLEST // max(item.heat.shape))
        picture = item.picture.repeat(scale, 0).repeat(scale, 1)
        panels = np.concatenate([picture, overlay(picture, enlarged(item.heat, picture))], axis=1)
        with files.new_file(folder / name) as file:
            Image.fromarray(panels).save(file, "PNG")
    files.write_json(folder / "explanations.json", rows)
    if explanations[0].words:
        page = render("explanations.html.j2", {"explanations": explanations})
        files.write_text(folder / "explanations.html", page)
