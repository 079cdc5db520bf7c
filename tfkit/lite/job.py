"""The job of recipes.compress_tflite: a run of a recipe, or a stranger's SavedModel, to measured .tflite files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import files, transfer
from tfkit import run as runs
from tfkit.compress import Prune
from tfkit.config import DataConfig, ImageConfig, PrivateConfig, TextColumns
from tfkit.data.drawn import draw
from tfkit.data.plain import read_images
from tfkit.errors import DataError, PrivacyError, RunError, UsageError
from tfkit.lite import recipe, representative, techniques
from tfkit.lite.choice import Choice
from tfkit.lite.compare import at, everything, judge, original, refuse_several_outputs
from tfkit.lite.config import CompressConfig
from tfkit.lite.convert import MEASURED
from tfkit.lite.source import Source, pixel_function, saved
from tfkit.lite.subject import Subject, of_run
from tfkit.privacy.owner import check_data, is_private
from tfkit.transfer.load import SCRATCH
from tfkit.transfer.rebuild import rebuild

if TYPE_CHECKING:
    from tfkit.data import Splits
    from tfkit.run import Run

COMPARED = 1000
TRAINING = "training"
_PRIVATE = (
    "The run is private: quantization, and pruning without training after it, are post-processing of its model and"
    " leave its epsilon as it is. None of its training examples was looked at."
)


def from_run(run: Run, origin: Run, its_config: DataConfig, config: CompressConfig) -> Choice:
    """Compress the model of a run.

    Args:
      run: gets the files; may be the very run.
      origin: the finished run whose model it is.
      its_config: of the recipe that made it.
      config: what is asked for.

    Raises:
      RunError: it is not finished, or not as the recipe left it.
      DataError: its data changed; representative images that are not like those of training.
      PrivacyError: a technique that would train on private examples.
    """
    if not origin.finished:
        raise RunError(f"{origin.path} has not come to its end. The command that began it goes on with it.")
    private = is_private(origin) or isinstance(its_config, PrivateConfig)
    _check_private(origin, config, private=private)
    batch_size = getattr(its_config, "global_batch_size", None) or 32
    backbone: Any = None
    if isinstance(its_config, TextColumns) and its_config.of_texts:
        _check_texts(origin, config)
        splits = transfer.load_texts(its_config, global_batch_size=batch_size)
    elif isinstance(its_config, ImageConfig) and its_config.model_handle == SCRATCH:
        backbone, splits = transfer.load_any(its_config, global_batch_size=batch_size)
    else:
        backbone, splits = transfer.load(its_config, global_batch_size=batch_size, trainable=False)
    check_data(origin, splits)
    with files.lock_or_wait(run.path / f".{runs.TFLITE}.lock", another="compresses this run"):
        subject = of_run(origin, splits, examples=_examples(run, splits, config, private=private))
        if private:
            run.note(_PRIVATE)
            trained = _pruned_at_once(run, origin, config)
        elif config.techniques:
            model = rebuild(origin, backbone, splits)
            folder = run.path / runs.TFLITE / TRAINING
            trained = techniques.train(run, folder, model, splits, config, batch_size=batch_size)
        else:
            trained = []
        return recipe.compress(run, subject, config, trained=trained, private=private)


def from_saved_model(run: Run, config: CompressConfig) -> Choice:
    """Compress any SavedModel of one output.

    Args:
      run: gets the files.
      config: which, and the data on which ranges are measured and the variants compared.

    Raises:
      UsageError: as of `tfkit.lite.convert`; more outputs than one.
      DataError: the data do not fit.
    """
    with saved(
        config.saved_model, input_shape=config.input_shape or None, signature=config.signature
    ) as source:
        refuse_several_outputs(source)
        data, labels, names = _data(source, config)
        # Ranges are measured on some, and the files compared on the others.
        for_ranges, others = _divided(len(names), labels, source, seed=config.seed)
        examples, _ = everything(source, {name: values[for_ranges] for name, values in data.items()})
        compared, _ = everything(source, {name: values[others] for name, values in data.items()})
        expected = original(source, compared)
        true = None if labels is None else labels[others]
        judged = judge(source, expected, output=config.output, labels=true, class_names=())
    if len(names) < 2:
        run.note("There is one example: the ranges of int8 are measured on the one on which it is compared.")
    subject = Subject(
        model=config.saved_model,
        input_shape=config.input_shape or None,
        read=at(compared),
        count=len(expected),
        expected=expected,
        output=judged.output,
        judged=judged.sentence,
        labels=judged.labels,
        class_names=(),
        names=[names[place] for place in others],
        examples=examples,
        takes="arrays",
        signature=config.signature,
    )
    run.note(subject.judged)
    if labels is None:
        run.note(
            "Nobody knows the true labels here (an array 'labels' in the .npz gives them): "
            + ("1 - R2 against the original" if judged.output == "values" else "the share of other answers")
            + f" stands for what is lost, with the limit --max-accuracy-drop {config.max_accuracy_drop:g}."
        )
    return recipe.compress(run, subject, config)


def _divided(
    count: int, labels: np.ndarray | None, source: Source, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Examples for the ranges, and others to compare on: drawn from all."""
    most, batch = (
        representative.affordable(source.takes),
        max(shape[0] for shape, _ in source.inputs.values()),
    )
    classes = labels if labels is not None and labels.ndim == 1 and labels.dtype.kind != "f" else None
    for_ranges = draw(count, min(most, max(batch, count // 2)), classes=classes, seed=seed)
    others = np.setdiff1d(np.arange(count), for_ranges) if count > len(for_ranges) else for_ranges
    return for_ranges, others[draw(len(others), max(most, COMPARED), seed=seed)]


def _check_texts(origin: Run, config: CompressConfig) -> None:
    if config.techniques:
        raise UsageError(
            f"{origin.path} is of texts; --techniques {' '.join(config.techniques)} is for models of images: most"
            " weights of one of texts are tables of pieces and layers of attention, which these do not reach.\n"
            "  Leave it out: dynamic has int8 weights, and needs no training."
        )


def _check_private(origin: Run, config: CompressConfig, *, private: bool) -> None:
    trains = [technique for technique in config.techniques if technique != "prune"]
    if private and trains:
        raise PrivacyError(
            f"{origin.path} was trained privately, and {', '.join(trains)} would look at its training examples again,"
            " which its epsilon does not cover.\n"
            "  Quantization, and pruning without training after it, are post-processing and cost no privacy:"
            " --techniques prune, or none."
        )
    if private and config.representative_data is None and set(config.variants) <= set(MEASURED):
        raise PrivacyError(
            f"{origin.path} was trained privately: the ranges of {' and '.join(config.variants)} would be measured on"
            " its training examples, which its epsilon does not cover.\n"
            "  Give public examples of the same kind by --representative-data, or add --variants dynamic, which needs"
            " none."
        )


def _examples(run: Run, splits: Splits, config: CompressConfig, *, private: bool) -> np.ndarray | None:
    """Representative images or texts; none for a private run without public ones."""
    if config.representative_data is None:
        return None if private else representative.from_splits(splits, seed=config.seed)
    if splits.kind == "texts":
        return _lines(config.representative_data)
    size = int(splits.spec.shape[0])
    given, _ = read_images(
        config.representative_data,
        image_size=size,
        count=representative.EXAMPLES,
        pixel_range=splits.pixel_range[:2],
    )
    images = given.astype(np.float32)
    if not private and (
        found := representative.lint(images, representative.from_splits(splits, seed=config.seed))
    ):
        run.warn(f"Beware of {config.representative_data} as representative data: {'; '.join(found)}.")
    run.note(f"The ranges of integers are measured on {len(images)} images of {config.representative_data}.")
    return representative.pinned(images)


def _lines(path: Path) -> np.ndarray:
    """The texts of a file, one a line."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as err:
        raise DataError(
            f"--representative-data {path} cannot be read ({err.strerror}): for texts it is a file, one text a line."
        ) from err
    if not lines:
        raise DataError(f"--representative-data {path} has no line with a text.")
    return np.array(lines, dtype=object)


def _pruned_at_once(run: Run, origin: Run, config: CompressConfig) -> list[recipe.Trained]:
    """The private model with its smallest weights zero: no example is needed for that."""
    if not config.techniques:
        return []
    loaded = origin.model
    prune = Prune(final_sparsity=config.final_sparsity, structure=config.sparsity_structure)
    sparsity = prune.prune_variables(list(loaded.variables_of_model))
    said = f"{prune.name}: sparsity {sparsity:.3f} of the kernels, made at once, without training after it"
    run.note(f"{said}.")
    wanted = [one for one in ("float32", "int8", "dynamic") if one in config.variants]
    model = pixel_function(loaded.classify, keep=loaded)
    return [recipe.Trained(technique=prune.name, model=model, quantizations=wanted, notes=[said])]


def _data(source: Source, config: CompressConfig) -> tuple[dict[str, Any], np.ndarray | None, list[str]]:
    """What a SavedModel is tried on, labels, and names: the rows of a .npy or .npz, or the images of a folder."""
    assert config.representative_data is not None
    path, names = config.representative_data, list(source.inputs)
    shape, dtype = source.inputs[names[0]]
    labels = None
    if path.suffix in (".npy", ".npz"):
        data = _arrays(path, names)
        labels = data.pop("labels", None) if "labels" not in names else None
        counts = {name: len(values) for name, values in data.items()}
        if labels is not None:
            counts["labels"] = len(labels)
        if len(set(counts.values())) > 1 or not min(counts.values()):
            raise DataError(f"{path} holds examples of different numbers, or none: {counts}.")
        return data, labels, [f"{path.name}/{row}" for row in range(counts[names[0]])]
    if len(names) > 1 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise DataError(
            f"{config.saved_model} takes {source.takes.described}, which is no square image: --representative-data must"
            " be a .npy or .npz of its inputs."
        )
    images, files_ = read_images(path, image_size=shape[1], count=COMPARED + representative.EXAMPLES)
    return {names[0]: images if dtype == "uint8" else _scaled(images, config.input_range)}, None, files_


def _arrays(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        content: Any = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
    except (OSError, ValueError, EOFError) as err:
        raise DataError(f"--representative-data {path} cannot be read: {err}") from err
    if isinstance(content, np.ndarray):
        if len(names) > 1:
            raise DataError(f"{path} has one array; the model takes {', '.join(names)}: give a .npz of them.")
        return {names[0]: content if content.ndim else content[np.newaxis]}
    if missing := [name for name in names if name not in content.files]:
        raise DataError(
            f"{path} has no array {missing[0]!r}, which the model takes; it has {', '.join(content.files)}."
        )
    return {name: np.atleast_1d(content[name]) for name in (*names, "labels") if name in content.files}


def _scaled(images: np.ndarray, input_range: tuple[float, float]) -> np.ndarray:
    low, high = input_range
    return images.astype(np.float32) / 255.0 * (high - low) + low
