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
from tfkit.environment import files, process, stack
from tfkit.environment.timeline import doing
from tfkit.errors import CheckError, ConfigError, DataError, PrivacyError, RunError, StackError
from tfkit.hub.features import images_per_call
from tfkit.inference.inputs import Example, Options, content_digest, in_data_of, open_data
from tfkit.litert import ParallelInterpreter, conversion_key, convert_once, to_tflite
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

FEW_EXAMPLES = 256
"""Below so many images a conversion to LiteRT costs more than it saves."""

RESERVED = ("name", "label", "probability", "truth", "set", "abstain", "error")
"""Columns of predictions; that of a class of such a name has "class:" before it."""

_FLAGS = ("augment", "coverage", "report", "text_column", "image_column", "label_column", "labels")
_BLOCK = 256  # examples that are read, computed and written together
_BATCH = 32
MOVES = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
"""By how many 32nds of its side an image is moved down and to the right for each of the views whose mean is taken."""
_SAMPLE = 16  # images that both engines must agree on

Compute = Callable[[Sequence[Example]], np.ndarray]
"""Examples to probabilities float32 [n, classes]; those that cannot be read get their error."""


def predict(run: Run, data: Any, *, output: str | Path | None = None, **settings: Any) -> pd.DataFrame:
    """Do what `tfkit.Run.predict` says."""
    frames: list[pd.DataFrame] = []
    with _writer(output, data) as write:

        def take(frame: pd.DataFrame) -> None:
            frames.append(frame)
            write(frame)

        facts = stream(run, data, take, **settings)
    predictions = pd.concat(frames, ignore_index=True)
    if isinstance(data, pd.DataFrame | pd.Series) and len(data) == len(predictions):
        predictions.index = data.index  # by which pandas joins them to their rows
    predictions.attrs.update(facts)
    return predictions


def command(arguments: argparse.Namespace) -> int:
    """Do what `python -m tfkit predict` was asked for; returns the exit code."""
    settings = {name: getattr(arguments, name) for name in _FLAGS}
    run, data = Run.open(arguments.folder), [*map(Path, arguments.data)]

    def show(frame: pd.DataFrame) -> None:
        columns = RESERVED if "label" in frame else ("name", "value", "low", "high", *RESERVED[1:])
        rows = frame[[name for name in columns if name in frame]]
        digits = "%.4f" if "label" in frame else "%.8g"  # a number may be of any size
        table = rows.to_csv(sep="\t", index=False, header=False, float_format=digits)
        tqdm.write(_to_lines(frame) if arguments.json else table, end="", file=sys.stdout)

    with _writer(arguments.output, data) as write:
        facts = stream(run, data, write if arguments.output else show, **settings)
    if arguments.output:
        print(json.dumps(facts) if arguments.json else f"{arguments.output}: {facts['examples']} rows")
    return int(arguments.strict and facts["unreadable"] > 0)


def stream(
    run: Run,
    data: Any,
    take: Callable[[pd.DataFrame], Any],
    *,
    coverage: float | None = None,
    strict: bool = False,
    report: str | None = None,
    augment: bool = False,
    **settings: Any,
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
      settings: other fields of `tfkit.inference.inputs.Options`.

    Returns:
      How many `examples` there were and how many are `unreadable`; of labelled ones what the predictions are worth.
    """
    names, data_facts = [*map(printable, run.labels)], run.provenance.get("data", {})
    if (shape := data_facts.get("shape")) is None:
        raise RunError(f"{run.path} is no finished run of a classifier: nothing can be predicted by it.")
    task = run.task if coverage is None else run.task.at(coverage)
    if augment and (len(shape) != 3 or not task.each or coverage is not None or report is not None):
        raise ConfigError(
            "augment is for classes and labels of images, and what the run knows of its coverage and its accuracy is of"
            " single views.\n  Leave it out, or coverage and report."
        )
    columns = {name: run.config.get(name) for name in (*_FLAGS[3:6], "language_column")}
    options = Options(names, task, **settings, own_columns=columns)
    source = open_data(data, shape=shape, options=options)
    is_own_data = source.labelled and bool(in_data_of(run, _to_paths(data), test=False))
    if report is not None:
        _check_report(run, report, is_other=source.labelled and not is_own_data)
    to_sets = _build_sets(run, coverage) if task.each else None
    noun = {0: "texts", 3: "images"}.get(len(shape), "rows")
    counts, labelled_rows = Counter(examples=0, unreadable=0), list[tuple[Example, np.ndarray]]()
    digests = trained_on(run.path) if source.labelled else None
    known_digests = set() if digests is None else {*digests.tolist()}
    _print(f"Predicting {noun} with {run.path}.")
    total = len(source.examples) if isinstance(source.examples, list) else None
    with (
        _engine(run, shape, source.examples, moves=MOVES if augment else ()) as compute,
        doing("Predicting", total=total, unit=noun[:-1]) as progress,
    ):
        for block in batched(source.examples, _BLOCK):
            probabilities = np.full((len(block), len(names) if task.each else 2), np.nan, np.float32)
            if good_rows := [index for index, example in enumerate(block) if not example.error]:
                probabilities[good_rows] = compute([block[index] for index in good_rows])
            bad_rows = [index for index, example in enumerate(block) if example.error]
            if bad_rows and strict:
                item = block[bad_rows[0]]
                raise DataError(f"{item.name}: {item.error}.\n  Without strict it is a row that says so.")
            probabilities[bad_rows] = np.nan
            counts.update(examples=len(block), unreadable=len(bad_rows))
            if source.labelled:
                rows = [row for row in zip(block, probabilities, strict=True) if not row[0].error]
                new_rows = [
                    row
                    for row in rows
                    if not (known_digests and content_digest(row[0].value) in known_digests)
                ]
                counts["trained_on"] += len(rows) - len(new_rows)
                labelled_rows += ((dataclasses.replace(item, value=None), row) for item, row in new_rows)
            take(_to_frame(block, probabilities, options, to_sets, labelled=source.labelled))
            progress.advance(len(block))
    for note in source.notes:
        _print(note)
    if counts["unreadable"]:
        _print(f"{counts['unreadable']} of {counts['examples']} cannot be read: 'error' says why.")
    if count := counts["trained_on"]:
        if report is not None and not labelled_rows:
            raise DataError(f"{run.path} was trained or validated on all of these: a report needs others.")
        _print(f"Not evaluated, because the run was trained or validated on them, or on copies: {count}.")
    facts = dict(counts) | (_evaluate(labelled_rows, options) if source.labelled else {})
    if is_own_data and digests is None:
        _print("The run was trained on a part of these: its report says what it is worth on others.")
    if report is not None and "evaluated" in facts:
        content = {"origin": listed(_to_paths(data), 3), **facts}
        files.write_json(run.path / OTHER_DATA / f"{report}.json", content)
        _print(f"It is in {write_report(run)}, under 'On other data'.")
    return facts


def _print(text: str) -> None:
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
    if path.resolve() in map(Path.resolve, _to_paths(data)):
        raise ConfigError(f"The output {path} is what is to be read: give it another name.")
    with files.new_file(path) as file:

        def write(frame: pd.DataFrame) -> None:
            is_table = path.suffix == ".csv"
            text = frame.to_csv(index=False, header=not file.tell()) if is_table else _to_lines(frame)
            file.write(text.encode("utf-8", "backslashreplace"))

        yield write


def _to_paths(data: Any) -> list[Path]:
    items = data if isinstance(data, list | tuple) else [data]
    return [Path(item) for item in items if isinstance(item, str | Path) and "\0" not in str(item)]


def _to_lines(frame: pd.DataFrame) -> str:
    return str(frame.to_json(orient="records", lines=True, force_ascii=False))


def _to_frame(
    block: Sequence[Example], probabilities: np.ndarray, options: Options, to_sets: Any, *, labelled: bool
) -> pd.DataFrame:
    names, is_failed, null = options.class_names, [bool(item.error) for item in block], np.array(None, object)
    columns: dict[str, Any] = {"name": [example.name for example in block]}
    for name, values in options.task.answers(probabilities, names).items():
        columns[name] = np.where(is_failed, null if values.dtype == object else np.float32(np.nan), values)
    for name, column in zip(names, probabilities.T, strict=True) if options.task.each else ():
        while name in columns or name in RESERVED:
            name = f"class:{name}"
        columns[name] = column
    if labelled:
        truths = [example.truth for example in block]
        if options.task.name == "labels":  # "b|a" and lists in the form of the predicted ones
            rows = map(options.label, truths)
            truths = [
                text if row is None else "|".join(itertools.compress(names, row))
                for text, row in zip(truths, rows, strict=True)
            ]
        columns["truth"] = truths
    if to_sets is not None:
        sets = np.array(["|".join(itertools.compress(names, row)) for row in to_sets(probabilities)], object)
        columns |= {"set": np.where(is_failed, null, sets), "abstain": np.where(is_failed, null, sets == "")}
    return pd.DataFrame(columns | {"error": [example.error or None for example in block]})


def _build_sets(run: Run, coverage: float | None) -> Callable[[np.ndarray], np.ndarray] | None:
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


def _evaluate(predictions: Sequence[tuple[Example, np.ndarray]], options: Options) -> dict[str, Any]:
    """Return what the predictions of labelled examples are worth, and say it."""
    texts = [example.truth for example, _ in predictions]
    unclear_texts = {*unclear_commas(filter(None, texts))} if options.task.name == "value" else set()
    truths = [None if text in unclear_texts else options.label(text) for text in texts]
    labelled_rows = [*zip(predictions, truths, strict=True)]
    unknown = Counter(example.truth for (example, _), truth in labelled_rows if truth is None)
    facts: dict[str, Any] = {"unlabelled": unknown.pop(None, 0), "unknown_classes": dict(unknown)}
    if unknown:
        text = listed([f"{name!r} ({count})" for name, count in unknown.items()])
        noun = "classes of the run" if options.task.each else "numbers, or their comma may be of thousands"
        _print(f"Not evaluated, because these are no {noun}: {text}.")
    if known_rows := [(example, row, truth) for (example, row), truth in labelled_rows if truth is not None]:
        examples, rows, labels = zip(*known_rows, strict=True)
        identity = {"names": [example.name for example in examples], "class_names": options.class_names}
        evaluation = options.task.evaluation(np.stack(rows), labels=np.array(labels), **identity)
        (low, high), score = evaluation.interval, options.task.score
        interval = f"{low:.4f} to {high:.4f}, 95 % interval"
        name = options.task.score_name.capitalize()
        _print(f"{name} {evaluation.score:.4f} ({interval}) on {len(examples)} examples.")
        # R2 is not defined where all numbers are one: JSON has no NaN.
        value, *ends = (number if np.isfinite(number) else None for number in (evaluation.score, low, high))
        facts |= {"evaluated": len(known_rows), score: value, f"{score}_interval": ends, "confused": []}
        facts["metrics"] = {name.removeprefix("test/"): of for name, of in evaluation.metrics().items()}
        if "confusion" in evaluation.figures:
            pairs = confused_pairs(evaluation)
            mistakes = listed([f"{true} taken for {guess} ({count})" for true, guess, count in pairs], 3)
            _print(f"Confused most: {mistakes or 'none'}.")
            facts["confused"] = [list(pair) for pair in pairs]
        elif not options.task.each:
            _print(f"It is {evaluation.in_words('examples')}.")
        languages = by_language(evaluation, np.array([example.language or "?" for example in examples]))
        if 1 < len(languages) <= MOST_LANGUAGES:
            facts["languages"] = {printable(name): list(values) for name, values in languages.items()}
            shares = [f"{name} {share:.4f} ({count})" for name, (count, share) in facts["languages"].items()]
            _print(
                f"{options.task.share.replace('_', ' ').capitalize()} of each language: {listed(shares, 20)}."
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
        yield lambda block: _call_model(model, block)
        return
    data_facts = run.provenance["data"]
    levels = tuple(data_facts.get("pixel_range") or run.config.get("pixel_range") or FULL_RANGE)

    def read_pixels(example: Example) -> np.ndarray:
        if isinstance(example.value, np.ndarray):
            return example.value
        try:
            return resize(decode_image(example.value, at_least=2 * shape[0], pixel_range=levels), shape[0])
        except Unreadable as err:
            example.error = example.error or str(err)
            return np.zeros(shape, np.uint8)

    def scale(images: Iterable[np.ndarray]) -> np.ndarray:
        return np.stack([*images]).astype(np.float32) / np.float32(255)

    def run_model(block: Sequence[Example]) -> np.ndarray:
        # Those of the next batches are decoded while one is computed.
        batches = batched(pool.map(read_pixels, block), _BATCH)
        return np.concatenate([np.asarray(model.classify(scale(batch))) for batch in batches])

    def run_litert(block: Sequence[Example]) -> np.ndarray:
        return interpreter(block, prepare=lambda part: scale(map(read_pixels, part)))

    def run_both(block: Sequence[Example]) -> np.ndarray:
        probabilities = run_litert(block)
        if len(close_rows := np.flatnonzero(run.task.close(probabilities, TOLERANCE))):
            probabilities[close_rows] = run_model([block[int(index)] for index in close_rows])
        return probabilities

    def run_views(block: Sequence[Example]) -> np.ndarray:
        images = [*pool.map(read_pixels, block)]
        views = [
            [Example(example.name, _move(image, *by)) for example, image in zip(block, images, strict=True)]
            for by in moves
        ]
        return np.mean([compute(view) for view in views], axis=0)

    with contextlib.ExitStack() as exit_stack:
        pool = ThreadPoolExecutor(joblib.cpu_count())
        exit_stack.callback(pool.shutdown, cancel_futures=True)
        compute = run_model
        if len(examples) >= FEW_EXAMPLES and not stack.has_gpu():
            try:
                interpreter = exit_stack.enter_context(ParallelInterpreter(_convert(run, model, shape)))
                sample = [examples[index] for index in draw(len(examples), _SAMPLE)]
                if (gap := largest_difference(run_litert(sample), run_model(sample))) > TOLERANCE:
                    raise CheckError(f"LiteRT is {gap:.2g} from the exported model")
                _print(f"LiteRT computes: within {gap:.1g} of the exported model on {len(sample)} of them.")
                compute = run_both
            except (CheckError, DataError, StackError, RuntimeError, ValueError) as error:
                _print(f"TensorFlow computes: {str(error).splitlines()[0]}")
        yield run_views if moves else compute


def _move(image: np.ndarray, down: int, right: int) -> np.ndarray:
    """Return an image moved by so many 32nds of its side; what comes into view is its edge."""
    side = len(image)
    step = max(1, round(side / 32))
    rows, columns = (np.clip(np.arange(side) - by * step, 0, side - 1) for by in (down, right))
    return image[rows][:, columns]


def _is_raw(value: Any, shape: Sequence[int]) -> bool:
    """Return whether these are pixels that the exported model itself has to prepare."""
    return isinstance(value, np.ndarray) and (value.shape != tuple(shape) or value.dtype != np.uint8)


def _call_model(model: Any, examples: Sequence[Example]) -> np.ndarray:
    """Return what the exported model gives, called on batches of one shape, texts of like length together."""

    def get_form(index: int) -> tuple[Any, ...]:
        value = examples[index].value
        return getattr(value, "shape", ()), str(getattr(value, "dtype", ""))

    outputs: list[np.ndarray] = []
    order = sorted(range(len(examples)), key=lambda index: (get_form(index), len(examples[index].value)))
    for _, group in itertools.groupby(order, key=get_form):
        for batch in batched((examples[index].value for index in group), _BATCH):
            is_text = isinstance(batch[0], str)
            inputs = [text.encode("utf-8", "replace") for text in batch] if is_text else np.stack(batch)
            outputs.append(np.asarray(model(stack.tf.constant(inputs))))
    return np.concatenate(outputs)[np.argsort(order)]


def _convert(run: Run, model: Any, shape: Sequence[int]) -> bytes:
    """Return the exported model of prepared pixels as TFLite, converted once and cached."""
    form = (images_per_call(shape[0]), *shape)

    def convert() -> bytes:
        _print("The model is converted to LiteRT; the next time it is there.")
        return to_tflite(model.classify, input_shape=form)

    digest = files.folder_digest(run.shared / SAVED_MODEL)
    return convert_once(conversion_key("predict", digest, form), convert)
