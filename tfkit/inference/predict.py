"""Predictions of a finished run for new images, texts or rows of numbers: streamed, into a DataFrame, a file or lines.

An image file is read as training reads it. What computes is the exported model: by TensorFlow, or for many images on a
CPU by LiteRT on all cores, where that gives the same.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from tqdm import tqdm

from tfkit.calibration import prediction_sets
from tfkit.data.image_files import Unreadable, decode_image
from tfkit.data.pixels import FULL_RANGE, resize
from tfkit.data.splits import draw, listed
from tfkit.data.tables import MOST_LANGUAGES
from tfkit.environment import files, packages, process, stack
from tfkit.environment.timeline import doing
from tfkit.errors import CheckError, ConfigError, DataError, PrivacyError, RunError, StackError
from tfkit.hub.features import images_per_call
from tfkit.inference.inputs import Asked, Example, content_digest, in_data_of, open_data
from tfkit.litert import ParallelInterpreter, convert_once, to_tflite
from tfkit.metrics import largest_difference
from tfkit.privacy.ledger import is_private
from tfkit.reporting.examples import by_language
from tfkit.reporting.figures import confused_pairs, printable
from tfkit.reporting.page import write_report
from tfkit.run import OTHER_DATA, SAVED_MODEL, Run
from tfkit.tasks import refuse, unclear_commas
from tfkit.training.export import batched
from tfkit.transfer.continuing import trained_on

TOLERANCE = 1e-4
"""Largest difference of a probability between LiteRT and the exported model; the latter decides closer classes."""

FEW = 256
"""Below so many images a conversion to LiteRT costs more than it saves."""

RESERVED = ("name", "label", "probability", "truth", "set", "abstain", "error")
"""Columns of predictions; that of a class of such a name has "class:" before it."""

_FLAGS = ("augment", "coverage", "report", "text_column", "image_column", "label_column", "labels")
_BLOCK = 256  # examples that are read, computed and written together
_BATCH = 32
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""By how many 32nds of its side an image is moved down and to the right for each of the views whose mean is taken."""
_SAMPLE = 16  # images that both engines must agree on
_CONVERSION = 1  # part of the cache key of converted models: raise it when they become others

Compute = Callable[[Sequence[Example]], np.ndarray]
"""Examples to probabilities float32 [n, classes]; those that cannot be read get their error."""


def predict(run: Run, data: Any, *, output: str | Path | None = None, **how: Any) -> pd.DataFrame:
    """Do what `tfkit.Run.predict` says."""
    frames: list[pd.DataFrame] = []
    with _writer(output, data) as write:

        def take(frame: pd.DataFrame) -> None:
            frames.append(frame)
            write(frame)

        facts = stream(run, data, take, **how)
    predictions = pd.concat(frames, ignore_index=True)
    if isinstance(data, pd.DataFrame | pd.Series) and len(data) == len(predictions):
        predictions.index = data.index  # by which pandas joins them to their rows
    predictions.attrs.update(facts)
    return predictions


def command(chosen: argparse.Namespace) -> int:
    """Do what `python -m tfkit predict` was asked for; returns the exit code."""
    how = {name: getattr(chosen, name) for name in _FLAGS}
    run, data = Run.open(chosen.folder), [*map(Path, chosen.data)]

    def show(frame: pd.DataFrame) -> None:
        shown = RESERVED if "label" in frame else ("name", "value", "low", "high", *RESERVED[1:])
        rows = frame[[name for name in shown if name in frame]]
        digits = "%.4f" if "label" in frame else "%.8g"  # a number may be of any size
        table = rows.to_csv(sep="\t", index=False, header=False, float_format=digits)
        tqdm.write(_lines(frame) if chosen.json else table, end="", file=sys.stdout)

    with _writer(chosen.output, data) as write:
        facts = stream(run, data, write if chosen.output else show, **how)
    if chosen.output:
        print(json.dumps(facts) if chosen.json else f"{chosen.output}: {facts['examples']} rows")
    return int(chosen.strict and facts["unreadable"] > 0)


def stream(
    run: Run,
    data: Any,
    take: Callable[[pd.DataFrame], Any],
    *,
    coverage: float | None = None,
    strict: bool = False,
    report: str | None = None,
    augment: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Predict block by block: the memory that it takes does not grow with the data.

    Args:
      run: finished.
      data: as of `tfkit.Run.predict`, which explains the other arguments too.
      take: is given the predictions of each block.
      coverage: of prediction sets.
      strict: whether an example that cannot be read is an error.
      report: the name under which the evaluation is kept.
      augment: whether images are judged by the mean over views of them.
      how: other fields of `tfkit.inference.inputs.Asked`.

    Returns:
      How many `examples` there were and how many are `unreadable`; of labelled ones what the predictions are worth.
    """
    names, about = [*map(printable, run.labels)], run.provenance.get("data", {})
    if (shape := about.get("shape")) is None:
        raise RunError(f"{run.path} is no finished run of a classifier: nothing can be predicted by it.")
    task = run.task if coverage is None else run.task.at(coverage)
    if augment and (len(shape) != 3 or not task.each or coverage is not None or report is not None):
        raise ConfigError(
            "augment is for classes and labels of images, and what the run knows of its coverage and its accuracy is of"
            " single views.\n  Leave it out, or coverage and report."
        )
    asked = Asked(names, task, **how)
    found = open_data(data, shape=shape, asked=asked)
    trained_on_them = found.labelled and bool(in_data_of(run, _paths(data), test=False))
    if report is not None:
        _check_report(run, report, is_other=found.labelled and not trained_on_them)
    in_sets = _in_sets(run, coverage) if task.each else None
    noun = {0: "texts", 3: "images"}.get(len(shape), "rows")
    counts, measured = Counter(examples=0, unreadable=0), list[tuple[Example, np.ndarray]]()
    known = trained_on(run.path) if found.labelled else None
    decisive = set() if known is None else {*known.tolist()}
    _tell(f"Predicting {noun} with {run.path}.")
    total = len(found.examples) if isinstance(found.examples, list) else None
    with (
        _engine(run, shape, found.examples, moves=MOVES if augment else ()) as compute,
        doing("Predicting", total=total, unit=noun[:-1]) as progress,
    ):
        for block in batched(found.examples, _BLOCK):
            probabilities = np.full((len(block), len(names) if task.each else 2), np.nan, np.float32)
            if readable := [place for place, example in enumerate(block) if not example.error]:
                probabilities[readable] = compute([block[place] for place in readable])
            bad = [place for place, example in enumerate(block) if example.error]
            if bad and strict:
                first = block[bad[0]]
                raise DataError(f"{first.name}: {first.error}.\n  Without strict it is a row that says so.")
            probabilities[bad] = np.nan
            counts.update(examples=len(block), unreadable=len(bad))
            if found.labelled:
                pairs = [pair for pair in zip(block, probabilities, strict=True) if not pair[0].error]
                new = [pair for pair in pairs if not (decisive and content_digest(pair[0].value) in decisive)]
                counts["trained_on"] += len(pairs) - len(new)
                measured += ((dataclasses.replace(one, value=None), row) for one, row in new)
            take(_frame(block, probabilities, asked, in_sets, labelled=found.labelled))
            progress.advance(len(block))
    for note in found.notes:
        _tell(note)
    if counts["unreadable"]:
        _tell(f"{counts['unreadable']} of {counts['examples']} cannot be read: 'error' says why.")
    if seen := counts["trained_on"]:
        if report is not None and not measured:
            raise DataError(f"{run.path} was trained or validated on all of these: a report needs others.")
        _tell(f"Not evaluated, because the run was trained or validated on them, or on copies: {seen}.")
    facts = dict(counts) | (_evaluated(measured, asked) if found.labelled else {})
    if trained_on_them and known is None:
        _tell("The run was trained on a part of these: its report says what it is worth on others.")
    if report is not None and "evaluated" in facts:
        content = {"origin": listed(_paths(data), 3), **facts}
        files.write_json(run.path / OTHER_DATA / f"{report}.json", content)
        _tell(f"It is in {write_report(run)}, under 'On other data'.")
    return facts


def _tell(text: str) -> None:
    if process.is_verbose():
        tqdm.write(text, file=sys.stderr)


@contextlib.contextmanager
def _writer(output: str | Path | None, data: Any) -> Iterator[Callable[[pd.DataFrame], Any]]:
    """Yield what writes predictions to a file, which is there when the block has ended well."""
    if output is None:
        yield lambda frame: None
        return
    path = Path(output)
    if path.suffix not in (".csv", ".jsonl") or path.is_dir():
        raise ConfigError(f"The output {path} is no file of predictions: give it the ending .csv or .jsonl.")
    if path.resolve() in map(Path.resolve, _paths(data)):
        raise ConfigError(f"The output {path} is what is to be read: give it another name.")
    with files.new_file(path) as file:

        def write(frame: pd.DataFrame) -> None:
            is_table = path.suffix == ".csv"
            text = frame.to_csv(index=False, header=not file.tell()) if is_table else _lines(frame)
            file.write(text.encode("utf-8", "backslashreplace"))

        yield write


def _paths(data: Any) -> list[Path]:
    items = data if isinstance(data, list | tuple) else [data]
    return [Path(item) for item in items if isinstance(item, str | Path) and "\0" not in str(item)]


def _lines(frame: pd.DataFrame) -> str:
    return str(frame.to_json(orient="records", lines=True, force_ascii=False))


def _frame(
    block: Sequence[Example], probabilities: np.ndarray, asked: Asked, in_sets: Any, *, labelled: bool
) -> pd.DataFrame:
    names, failed, nothing = asked.class_names, [bool(one.error) for one in block], np.array(None, object)
    columns: dict[str, Any] = {"name": [example.name for example in block]}
    for name, values in asked.task.answers(probabilities, names).items():
        columns[name] = np.where(failed, nothing if values.dtype == object else np.float32(np.nan), values)
    for name, of_class in zip(names, probabilities.T, strict=True) if asked.task.each else ():
        while name in columns or name in RESERVED:
            name = f"class:{name}"
        columns[name] = of_class
    if labelled:
        columns["truth"] = [example.truth for example in block]
    if in_sets is not None:
        sets = np.array(["|".join(itertools.compress(names, row)) for row in in_sets(probabilities)], object)
        columns |= {"set": np.where(failed, nothing, sets), "abstain": np.where(failed, nothing, sets == "")}
    return pd.DataFrame(columns | {"error": [example.error or None for example in block]})


def _in_sets(run: Run, coverage: float | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what gives for probabilities [n, classes] which classes are in each prediction set, bool."""
    if coverage is None:
        return None
    refuse(run.task, "classes", "order", what="coverage", why="a set of its labels has none. Leave it out.")
    scores = np.asarray(run.read("calibration.json").get("scores", []), np.float64)
    if not scores.size:
        why = "it is private, of an earlier tfkit, or of too few validation examples.\n  Train anew"
        raise RunError(f"{run.path} has no scores in calibration.json to keep a coverage by: {why}.")
    prediction_sets(np.ones((1, 1), np.float32), scores, coverage)  # refuses before minutes are spent
    return lambda probabilities: prediction_sets(np.nan_to_num(probabilities), scores, coverage)


def _check_report(run: Run, report: str, *, is_other: bool) -> None:
    """Refuse, before anything is computed, an evaluation that cannot or may not be kept in the run folder."""
    if not re.fullmatch(r"\w[\w .-]{0,59}", report):
        raise ConfigError(f"{report!r} is no name of a report: at most 60 letters, digits, '.', '_', '-'.")
    if is_private(run):
        why = "what it says of these examples, which may be its own, is not kept there. Leave report out"
        raise PrivacyError(f"{run.path} was trained privately: {why}.")
    if not is_other:
        advice = "Give others, or say where they are: --labels, --label-column (labels=, label_column=)"
        raise DataError(f"A report needs true classes, of data that the run was not trained on.\n  {advice}.")
    if not run.finished and "time/total_seconds" not in run.metrics:  # by a report it would count as finished
        raise RunError(f"{run.path} has not come to its end: the command that began it goes on with it.")
    run.check_writable()


def _evaluated(measured: Sequence[tuple[Example, np.ndarray]], asked: Asked) -> dict[str, Any]:
    """Return what the predictions of labelled examples are worth, and say it."""
    given = [example.truth for example, _ in measured]
    unclear = {*unclear_commas(filter(None, given))} if asked.task.name == "value" else set()
    truths = [None if text in unclear else asked.label(text) for text in given]
    pairs_of = [*zip(measured, truths, strict=True)]
    others = Counter(example.truth for (example, _), truth in pairs_of if truth is None)
    facts: dict[str, Any] = {"unlabelled": others.pop(None, 0), "unknown_classes": dict(others)}
    if others:
        shown = listed([f"{name!r} ({count})" for name, count in others.items()])
        what = "classes of the run" if asked.task.each else "numbers, or their comma may be of thousands"
        _tell(f"Not evaluated, because these are no {what}: {shown}.")
    if known := [(example, row, truth) for (example, row), truth in pairs_of if truth is not None]:
        of, rows, labels = zip(*known, strict=True)
        about = {"names": [example.name for example in of], "class_names": asked.class_names}
        evaluation = asked.task.evaluation(np.stack(rows), labels=np.array(labels), **about)
        (low, high), score = evaluation.interval, asked.task.score
        interval = f"{low:.4f} to {high:.4f}, 95 % interval"
        name = asked.task.score_name.capitalize()
        _tell(f"{name} {evaluation.score:.4f} ({interval}) on {len(of)} examples.")
        # R2 is not defined where all numbers are one: JSON has no NaN.
        value, *ends = (of if np.isfinite(of) else None for of in (evaluation.score, low, high))
        facts |= {"evaluated": len(known), score: value, f"{score}_interval": ends, "confused": []}
        if "confusion" in evaluation.figures:
            pairs = confused_pairs(evaluation)
            mistakes = listed([f"{true} taken for {guess} ({count})" for true, guess, count in pairs], 3)
            _tell(f"Confused most: {mistakes or 'none'}.")
            facts["confused"] = [list(pair) for pair in pairs]
        elif not asked.task.each:
            _tell(f"It is {evaluation.in_words('examples')}.")
        languages = by_language(evaluation, np.array([example.language or "?" for example in of]))
        if 1 < len(languages) <= MOST_LANGUAGES:
            facts["languages"] = {printable(name): list(of) for name, of in languages.items()}
            of_each = [f"{name} {right:.4f} ({count})" for name, (count, right) in facts["languages"].items()]
            _tell(
                f"{asked.task.share.replace('_', ' ').capitalize()} of each language: {listed(of_each, 20)}."
            )
    return facts


@contextlib.contextmanager
def _engine(run: Run, shape: Sequence[int], examples: Any, *, moves: Any = ()) -> Iterator[Compute]:
    """Yield what computes probabilities, while the block runs."""
    model = run.model
    if len(shape) != 3 or any(_is_raw(example.value, shape) for example in examples):
        if moves:
            raise DataError(
                f"augment takes files, or arrays uint8 of the model's own size {[*shape]}. Leave it out."
            )
        yield lambda some: _called(model, some)
        return
    about = run.provenance["data"]
    range_ = tuple(about.get("pixel_range") or run.config.get("pixel_range") or FULL_RANGE)

    def pixels(example: Example) -> np.ndarray:
        if isinstance(example.value, np.ndarray):
            return example.value
        try:
            return resize(decode_image(example.value, at_least=2 * shape[0], pixel_range=range_), shape[0])
        except Unreadable as err:
            example.error = example.error or str(err)
            return np.zeros(shape, np.uint8)

    def scaled(images: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack([*images]).astype(np.float32) / np.float32(255)

    def by_model(some: Sequence[Example]) -> np.ndarray:
        # Those of the next batches are decoded while one is computed.
        batches = batched(pool.map(pixels, some), _BATCH)
        return np.concatenate([np.asarray(model.classify(scaled(batch))) for batch in batches])

    def by_litert(some: Sequence[Example]) -> np.ndarray:
        return interpreter(some, prepare=lambda few: scaled(map(pixels, few)))

    def by_both(some: Sequence[Example]) -> np.ndarray:
        probabilities = by_litert(some)
        if len(close := np.flatnonzero(run.task.close(probabilities, TOLERANCE))):
            probabilities[close] = by_model([some[int(place)] for place in close])
        return probabilities

    def by_views(some: Sequence[Example]) -> np.ndarray:
        images = [*pool.map(pixels, some)]
        views = [
            [Example(one.name, _moved(image, *by)) for one, image in zip(some, images, strict=True)]
            for by in moves
        ]
        return np.mean([compute(view) for view in views], axis=0)

    with contextlib.ExitStack() as opened:
        pool = ThreadPoolExecutor(joblib.cpu_count())
        opened.callback(pool.shutdown, cancel_futures=True)
        compute = by_model
        if len(examples) >= FEW and not stack.has_gpu():
            try:
                interpreter = opened.enter_context(ParallelInterpreter(_converted(run, model, shape)))
                sample = [examples[place] for place in draw(len(examples), _SAMPLE)]
                if (far := largest_difference(by_litert(sample), by_model(sample))) > TOLERANCE:
                    raise CheckError(f"LiteRT is {far:.2g} from the exported model")
                _tell(f"LiteRT computes: within {far:.1g} of the exported model on {len(sample)} of them.")
                compute = by_both
            except (CheckError, DataError, StackError, RuntimeError, ValueError) as error:
                _tell(f"TensorFlow computes: {str(error).splitlines()[0]}")
        yield by_views if moves else compute


def _moved(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return an image moved by so many 32nds of its side; what comes into view is its edge."""
    side = len(image)
    step = max(1, round(side / 32))
    rows, columns = (np.clip(np.arange(side) - by * step, 0, side - 1) for by in (down, right))
    return image[rows][:, columns]


def _is_raw(value: Any, shape: Sequence[int]) -> bool:
    """Return whether these are pixels that the exported model itself has to prepare."""
    return isinstance(value, np.ndarray) and (value.shape != tuple(shape) or value.dtype != np.uint8)


def _called(model: Any, examples: Sequence[Example]) -> np.ndarray:
    """Return what the exported model gives, called on batches of one shape, texts of like length together."""

    def alike(place: int) -> tuple[Any, ...]:
        value = examples[place].value
        return getattr(value, "shape", ()), str(getattr(value, "dtype", ""))

    outputs: list[np.ndarray] = []
    order = sorted(range(len(examples)), key=lambda place: (alike(place), len(examples[place].value)))
    for _, group in itertools.groupby(order, key=alike):
        for batch in batched((examples[place].value for place in group), _BATCH):
            is_text = isinstance(batch[0], str)
            given = [text.encode("utf-8", "replace") for text in batch] if is_text else np.stack(batch)
            outputs.append(np.asarray(model(stack.tf.constant(given))))
    return np.concatenate(outputs)[np.argsort(order)]


def _converted(run: Run, model: Any, shape: Sequence[int]) -> bytes:
    """Return the exported model of prepared pixels as TFLite, converted once and cached."""
    form = (images_per_call(shape[0]), *shape)

    def convert() -> bytes:
        _tell("The model is converted to LiteRT; the next time it is there.")
        return to_tflite(model.classify, input_shape=form)

    of = files.folder_digest(run.shared / SAVED_MODEL)
    key = files.digest_of("predict", of, form, packages.version("tensorflow"), _CONVERSION)
    return convert_once(key, convert)
