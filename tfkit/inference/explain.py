"""Explain predictions: which places of an image, or which words of a text, spoke for a class."""

from __future__ import annotations

import difflib
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from tfkit import hub
from tfkit.data.folders import IMAGES, TEXTS
from tfkit.data.image_files import read_image
from tfkit.data.splits import FULL_RANGE, no_such_path, resize
from tfkit.data.text_decoding import Cleaner, read_document
from tfkit.environment import files, packages, stack
from tfkit.environment.process import watched
from tfkit.errors import ConfigError, DataError, PrivacyError, RunError, UsageError
from tfkit.hub.bundled import MODELS
from tfkit.privacy.ledger import is_private
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
PAGE, NUMBERS = "explanations.html", "explanations.json"


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """What spoke for a class in one image or text.

    Attributes:
      name: of the file; "image 0", "text 0" of what is in memory.
      label: the class that was asked about, by default the most probable one.
      probability: of that class, as the exported model gives it.
      method: "Grad-CAM", "integrated gradients" or "occlusion".
      picture: of an image, uint8 [h, w, 3], no side above 512 pixels.
      heat: of an image, float32 [h, w] in [0, 1]: the largest spoke most for the class.
      words: of a text, its pieces in their order, each with what it adds to the probability.
    """

    name: str
    label: str
    probability: float
    method: str
    picture: np.ndarray | None = None
    heat: np.ndarray | None = None
    words: tuple[tuple[str, float], ...] = ()

    def __repr__(self) -> str:
        """Return the name, the class, its probability, and of a text the words of the largest weights."""
        said = f"{printable(self.name)}: {self.label} ({100 * self.probability:.1f} %)"
        words = ", ".join(f"{printable(word)} {weight:+.3f}" for word, weight in self.strongest(8))
        return f"{said}  {words}" if words else said

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
      data: a file, a folder, or a list of such; images also as arrays [h, w] or [h, w, c], as the exported model takes
        them. For a model of texts a str is a text, and a Path a file of one.
      output: a folder for a picture of each image, the image on its left (NAME.png), or for explanations.html of
        texts; and for explanations.json, the numbers. None: nothing is written.
      label: the class that is asked about, by name; None: of each example the most probable one.

    Returns:
      One for each image or text.

    Raises:
      ConfigError: the run has no class of that name.
      DataError: a file is not there or cannot be read.
      PrivacyError: a file is one of those that a private run was trained on.
      RunError: the run holds no model of images or texts.
      UsageError: more than 200 are given, or the output is no folder.

    Example:
      run.explain("a.jpg", output="explanations")
    """
    run = run if isinstance(run, Run) else Run.open(run)
    shape = run.provenance.get("data", {}).get("shape")
    if shape != [] and not (
        isinstance(shape, list) and len(shape) == 3 and shape[0] == shape[1] and shape[2] == 3
    ):
        raise RunError(
            f"{run.path} is no run of images or texts: what it takes has shape {shape}.\n  For rows of numbers"
            " sklearn.inspection.permutation_importance says which of them count."
        )
    names = run.labels
    if label is not None and label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, names[:10]))}."
        raise ConfigError(f"{run.path} has no class {label!r}; {hint}")
    if output is not None and Path(output).exists() and not Path(output).is_dir():
        raise UsageError(f"{output} is a file: give a folder, which is made if it is not there (--output).")
    examples = [*itertools.islice(_examples(data, texts=shape == []), MOST + 1)]
    if not 0 < len(examples) <= MOST:
        found = f"more than {MOST}" if examples else "none"
        raise UsageError(
            f"Of images or texts {found} are given; explain takes 1 to {MOST}. Give some of the files."
        )
    if is_private(run):
        _refuse_known(run, [path for _, path in examples if isinstance(path, Path)])
        run.say(
            "This run is private. Its epsilon says nothing about explanations of training examples: explain only"
            " examples of your own that were not among them."
        )
    wanted = None if label is None else names.index(label)
    found = (_of_texts if shape == [] else _of_images)(run, examples, names, wanted)
    if output is not None:
        _write(found, Path(output))
    return found


def _examples(data: Any, *, texts: bool) -> Iterator[tuple[str, Any]]:
    """Yield names, and paths of files or what is in memory."""
    kind = TEXTS if texts else IMAGES
    several = data if isinstance(data, Iterable) and not isinstance(data, str | np.ndarray) else [data]
    if isinstance(data, np.ndarray) and data.ndim == 4:
        several = data
    for number, one in enumerate(several):
        if isinstance(one, Path) or (isinstance(one, str) and not texts):
            path = Path(one)
            if not path.exists():
                raise no_such_path(path, "file or folder")
            within = path.rglob("*") if path.is_dir() else ()
            inside = [file for file in within if file.suffix.lower() in kind.suffixes and file.is_file()]
            if not inside and not path.is_file():  # nor a pipe, which would be waited for
                raise DataError(
                    f"{path} is no {kind.singular}, nor a folder of {', '.join(sorted(kind.suffixes))}."
                )
            yield from ((str(file), file) for file in sorted(inside) or [path])
        elif isinstance(one, str if texts else np.ndarray):
            yield f"{kind.singular} {number}", one
        else:
            takes = "texts (str) and files (pathlib.Path)" if texts else "files and arrays [h, w, c]"
            raise DataError(f"A model of {kind.plural} explains {takes}, not a {type(one).__name__}.")


def _refuse_known(run: Run, paths: list[Path]) -> None:
    sources = [Path(run.config[name]).resolve() for name in ("data_dir", "data_file") if run.config.get(name)]
    for path in paths:
        if any(path.resolve().is_relative_to(source) for source in sources):
            raise PrivacyError(
                f"{path} is one of the examples that the private run {run.path} was made of: what an explanation shows"
                " of it is covered by no epsilon.\n  Explain examples of your own that are not in that folder."
            )


def _of_images(
    run: Run, examples: list[tuple[str, Any]], names: list[str], wanted: int | None
) -> list[Explanation]:
    data, config = run.provenance["data"], run.config
    pixel_range = tuple(data.get("pixel_range") or config.get("pixel_range") or FULL_RANGE)
    size, pictures, squares = int(data["shape"][0]), [], []
    for name, image in examples:  # all of them, before a model is loaded
        image = read_image(image) if isinstance(image, Path) else image
        try:
            batch = stack.tf.constant(np.atleast_3d(image)[np.newaxis])
            picture = Image.fromarray(over_white(to_bytes(batch, pixel_range))[0].numpy().astype(np.uint8))
            squares.append(resize(picture, size))
        except (ValueError, TypeError, stack.tf.errors.OpError) as error:
            raise DataError(
                f"{name} is {image.dtype} {list(image.shape)}, not an image: {packages.first_line(error)}\n"
                "  Give uint8 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4]."
            ) from error
        picture.thumbnail((LARGEST, LARGEST))
        pictures.append(np.asarray(picture))
    run.say(f"Explaining {len(examples)} images by {run.path}.")
    exported, pixels = run.model, np.stack(squares).astype(np.float32) / 255
    batches = [pixels[start : start + 16] for start in range(0, len(pixels), 16)]
    probabilities = np.concatenate([exported.classify(stack.tf.constant(batch)).numpy() for batch in batches])
    classes = probabilities.argmax(axis=1) if wanted is None else np.full(len(pixels), wanted)
    recipe, handle = run.provenance.get("recipe", {}).get("name"), config.get("model_handle")
    maps, method = None, "Grad-CAM"
    # A private head has other layers; other backbones show none of theirs.
    if recipe in ("transfer_image", "train_distributed") and (handle == SCRATCH or handle in MODELS):
        backbone = None if handle == SCRATCH else hub.load_model(handle, modality="images")
        of_run: Any = SimpleNamespace(
            class_names=names, spec=stack.tf.TensorSpec([size, size, 3], stack.tf.float32)
        )
        maps = grad_cam(rebuild(run, backbone, of_run), pixels, classes)
    if maps is None:
        method, places = "integrated gradients", range(len(pixels))
        each = (
            integrated_gradients(exported.classify, pixels[[place]], classes[[place]])
            for place in tqdm(places, desc="Explaining", unit="image", delay=1, disable=not watched())
        )
        maps = heat_of(np.concatenate([*each]))
    return [
        Explanation(
            name=name,
            label=names[classes[place]],
            probability=float(probabilities[place, classes[place]]),
            method=method,
            picture=pictures[place],
            heat=enlarged(maps[place], pictures[place].shape[:2]),
        )
        for place, (name, _) in enumerate(examples)
    ]


def enlarged(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a map [s, s] in [0, 1] at the size [h, w] of an image that was made square."""
    values = Image.fromarray(heat).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.clip(np.asarray(values, np.float32), 0, 1)


def _of_texts(
    run: Run, examples: list[tuple[str, Any]], names: list[str], wanted: int | None
) -> list[Explanation]:
    cleaner, texts = Cleaner(), []
    for name, text in examples:
        try:
            texts.append(cleaner(read_document(text)[0] if isinstance(text, Path) else text))
        except DataError as error:
            raise DataError(f"{name} {error}.") from error
        if not texts[-1].strip() or len(texts[-1]) > MOST_CHARACTERS:
            raise DataError(
                f"{name} has {len(texts[-1]):,} characters; explain takes words, up to {MOST_CHARACTERS:,}."
            )
    run.say(f"Explaining {len(examples)} texts by {run.path}.")
    model, found = run.model, []
    progress = tqdm(texts, desc="Explaining", unit="text", delay=1, disable=not watched())
    for (name, _), text in zip(examples, progress, strict=True):
        probabilities, words = occlusion(model, text, wanted)
        label = int(probabilities.argmax()) if wanted is None else wanted
        chance = float(probabilities[label])
        found.append(
            Explanation(
                name=name, label=names[label], probability=chance, method="occlusion", words=tuple(words)
            )
        )
    return found


def _write(explanations: list[Explanation], folder: Path) -> None:
    """Write a picture of each image or a page of all texts, and the numbers."""
    rows: list[dict[str, Any]] = []
    pictures: set[str] = set()
    for one in explanations:
        row = {
            "name": printable(one.name),
            "label": one.label,
            "probability": one.probability,
            "method": one.method,
        }
        if one.picture is None or one.heat is None:
            rows.append({**row, "words": [[printable(word), weight] for word, weight in one.words]})
            continue
        stem = re.sub(r"[^\w.-]+", "_", Path(one.name).stem).strip(".")[:80] or "image"
        numbered = (f"{stem}{end}.png" for end in ("", *(f"-{number}" for number in range(2, MOST + 2))))
        name = next(name for name in numbered if name not in pictures)
        pictures.add(name)
        by = -(-SMALLEST // max(one.heat.shape))
        picture = one.picture.repeat(by, 0).repeat(by, 1)
        both = np.concatenate([picture, overlay(picture, enlarged(one.heat, picture.shape[:2]))], axis=1)
        content = io.BytesIO()
        Image.fromarray(both).save(content, "PNG")
        files.write_bytes(folder / name, content.getvalue())
        rows.append({**row, "picture": name})
    files.write_json(folder / NUMBERS, rows)
    if any(one.words for one in explanations):
        files.write_text(folder / PAGE, render("explanations.html.j2", {"explanations": explanations}))
