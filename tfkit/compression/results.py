"""Read what a compression needs of a run and leaves in its tflite/: the files, the chosen one, the script that runs it.

infer.py is for each kind of input a script that is read and copied. A model of texts also gets a variant that takes
ids, for runtimes that lack the custom operations which cut a string.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files as resources
from pathlib import Path

import numpy as np

from tfkit.compression.compare import Comparison, ModelUnderTest, compare_outputs, predict_original, quality
from tfkit.compression.convert import ConversionRequest, run_conversions
from tfkit.compression.inspect import inspect, operation_table
from tfkit.compression.metadata import with_metadata
from tfkit.compression.sources import pixel_function, saved
from tfkit.compression.variants import Choice, Gates, Table
from tfkit.data.pixels import FULL_RANGE
from tfkit.data.splits import Splits, draw
from tfkit.environment import files
from tfkit.environment.timeline import stage
from tfkit.errors import CheckError, RunError
from tfkit.litert import ParallelInterpreter
from tfkit.metrics import largest_difference
from tfkit.reporting.examples import load
from tfkit.reporting.tensorboard import write_images, write_texts, write_variants
from tfkit.run import EVALUATION, LABELS, SAVED_MODEL, TFLITE, VARIANTS, Run
from tfkit.tasks import CLASSES, Classes, Labels, Value
from tfkit.text.tokenizers import START, WordPiece
from tfkit.training.outputs import answers

DEVICE, DEVICE_IDS = "device", "device_ids"
"""Signatures of an exported model of texts."""

MODEL = "model.tflite"
NAME = "infer.py"
WORST = 8

_CHECKED_EXAMPLES = 8
_TOLERANCE = 1e-3
_RECORDED = ("size_bytes", "gzipped_bytes", "accuracy", "accuracy_drop", "agreement", "r2", "r2_drop", "rmse", "error",
             "micro_f1", "micro_f1_drop", "latency_ms")  # fmt: skip


@contextlib.contextmanager
def of_run(run: Run, splits: Splits, *, examples: np.ndarray | None) -> Iterator[ModelUnderTest]:
    """Open the exported model of a run, with the test split that it was measured on, while the block runs.

    Args:
      run: finished.
      splits: that it was trained on.
      examples: representative images, float32 [m, s, s, 3] in 0..255, or texts, bytes [m]; None for a private run
        without public ones.

    Raises:
      RunError: the run is of texts by a tokenizer that TFLite lacks.
      CheckError: its model does not give what evaluation.npz holds.
    """
    loaded = run.model
    evaluation, _ = load(run.path / EVALUATION)
    test = np.asarray(splits.indices["test"])
    if splits.kind == "texts":
        if DEVICE not in loaded.signatures:
            raise RunError(
                f"{run.path / SAVED_MODEL} has no signature {DEVICE!r}: its encoder makes ids by operations that TFLite"
                " lacks.\n  Train on the bundled encoder, or with --model-handle light."
            )
        context = saved(loaded, signature=DEVICE, folder=run.path / SAVED_MODEL)
    else:
        pixel_model = pixel_function(loaded.classify, keep=loaded)
        context = saved(pixel_model, input_shape=(1, *splits.source.shape), folder=run.path / SAVED_MODEL)
    with context as source:
        rows = draw(len(test), _CHECKED_EXAMPLES)
        outputs = predict_original(source, dict.fromkeys(source.inputs, splits.source.read(test[rows])))
        difference = largest_difference(outputs, evaluation.probabilities[rows])
        if difference > _TOLERANCE:
            raise CheckError(
                f"{run.path / SAVED_MODEL} gives other outputs than {EVALUATION} holds (by {difference:.3g})."
                "\n  One of them was changed after the run. Make the run anew."
            )
        yield ModelUnderTest(
            source=source,
            read=lambda positions: splits.source.read(test[positions]),
            count=len(test),
            expected=evaluation.probabilities,
            output=splits.task.output,
            labels=evaluation.labels,
            thresholds=getattr(evaluation, "thresholds", None),
            reach=getattr(evaluation, "quantiles", [None])[0],
            class_names=evaluation.class_names,
            examples=None if examples is None else dict.fromkeys(source.inputs, examples),
            takes=splits.kind,
            pixel_range=splits.pixel_range[:2],
            origin=run,
        )


def write_inference_script(
    folder: Path,
    *,
    takes: str = "images",
    pixel_range: tuple[int, int] = FULL_RANGE,
    thresholds: np.ndarray | None = None,
    reach: float | None = None,
) -> Path:
    """Write infer.py, which runs the model.tflite that stands beside it; of images and arrays without TensorFlow.

    For images it needs ai-edge-litert, numpy and pillow, prepares a picture as training does (tfkit.data), feeds its
    pixels from 0 to 255, and takes the labels out of the .tflite file, where the metadata has them. For
    arrays it reads a .npy file for each input, and labels.txt where that stands beside it. For texts it also needs
    tensorflow-text, whose operations cut the string, and says what there is for devices without them.

    Args:
      folder: where it goes.
      takes: "images" or "texts" for a model of one of them to the scores of classes, "arrays" for any other.
      pixel_range: of images, what becomes 0 and 255 of 16-bit values.
      thresholds: of labels: from which score on an example has one.
      reach: of numbers: by how many scales an interval of 90 % goes beyond the mean.

    Returns:
      Its path.
    """
    script = resources("tfkit.compression").joinpath(f"infer_{takes}.py.txt").read_text(encoding="utf-8")
    script = script.replace(str(FULL_RANGE), str(tuple(pixel_range)))
    edges = [] if thresholds is None else [float(edge) for edge in thresholds]
    script = script.replace("REACH = None", f"REACH = {None if reach is None else round(float(reach), 6)}")
    files.write_text(folder / NAME, script.replace("THRESHOLDS = []", f"THRESHOLDS = {edges}"))
    return folder / NAME


FOLDER, IDS_MODEL, VOCABULARY, README = "ids", "model.tflite", "vocab.txt", "ids.txt"
_WITHOUT_EXAMPLES = ("float32", "float16", "dynamic")
_CHECKED_TEXTS = 50


def write_ids_variant(run: Run, tested: ModelUnderTest, *, quantization: str) -> str | None:
    """Write the vocabulary, and tflite/ids/: the part of the model behind its tokenizer, for which it is.

    Args:
      run: gets the folder.
      tested: of texts.
      quantization: of the chosen variant; "dynamic" stands for those that need examples of ids.

    Returns:
      A note on it; None where the model lacks that part, or is of no run.
    """
    folder, origin = run.path / TFLITE / FOLDER, tested.origin
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary = origin.path / SAVED_MODEL / "assets" / VOCABULARY if origin else Path()
    if origin is None or not vocabulary.is_file():
        return None
    files.write_bytes(folder.parent / VOCABULARY, vocabulary.read_bytes())
    pieces = tuple(vocabulary.read_text(encoding="utf-8").split("\n"))
    # Of another tokenizer than WordPiece it has no such piece, and no such signature.
    if START not in pieces or DEVICE_IDS not in (loaded := origin.model).signatures:
        return None
    variant = quantization if quantization in _WITHOUT_EXAMPLES else "dynamic"
    with saved(loaded, signature=DEVICE_IDS) as source:
        contents, failed = run_conversions(source, [ConversionRequest(name=variant, variant=variant)])
        inputs = source.inputs
    if failed:
        return f"There is no ids-in variant: {failed[variant]}"
    length = next(iter(inputs.values()))[0][1]
    # On the ids that the vocabulary gives: what a reader of ids.txt does.
    positions = draw(tested.count, _CHECKED_TEXTS)
    rows = WordPiece(vocabulary=pieces[:-1], max_length=length).dense(tested.read(positions), length=length)
    with ParallelInterpreter(contents[variant]) as interpreter:
        outputs = interpreter({name: np.asarray(rows[name]) for name in inputs})
    agreement = compare_outputs(
        outputs, tested.expected[positions], output=tested.output, thresholds=tested.thresholds
    ).agreement
    with files.new_folder(folder) as path:
        (path / IDS_MODEL).write_bytes(contents[variant])
        text = resources("tfkit.compression").joinpath(README).read_text(encoding="utf-8")
        (path / README).write_text(text.format(length=length, most=length - 2, inputs=", ".join(inputs)))
        shutil.copyfile(vocabulary, path / VOCABULARY)
        shutil.copyfile(origin.path / LABELS, path / LABELS)
    return (
        f"{TFLITE}/{FOLDER}/ is for runtimes without the operations of tensorflow-text: {variant}, takes ids; agreement"
        f" {agreement:.3f} with the model from strings on {len(positions)} texts."
    )


def add_metadata(model: bytes, tested: ModelUnderTest, *, name: str) -> bytes:
    """Return a classifier of images with its labels and its scaling inside; any other model as it is."""
    if tested.takes != "images" or tested.output == "values":
        return model
    mean, std = (0.0, 1.0) if inspect(model).inputs[0].dtype == "float32" else (None, None)
    description = f"Tells {len(tested.class_names)} classes of images apart; takes their pixels, 0 to 255."
    return with_metadata(
        model, name=name, description=description, labels=tested.class_names, mean=mean, std=std
    )


@stage("figures", "Writing the files and what they are worth")
def write_results(
    run: Run,
    tested: ModelUnderTest,
    table: Table,
    comparisons: Mapping[str, Comparison],
    *,
    choice: Choice,
    gates: Gates,
    show_examples: bool,
) -> None:
    """Write tflite/ (each file under its name, the chosen one as model.tflite, infer.py, variants.json) and the rest.

    Args:
      run: gets also metrics `lite/...` and pictures in TensorBoard.
      tested: what was compressed.
      table: its variants.
      comparisons: by the name of the variant.
      choice: among them.
      gates: by which it was made.
      show_examples: whether test images may be shown.
    """
    folder = run.path / TFLITE
    folder.mkdir(exist_ok=True)
    model_files = {variant.file: table.models[variant.name] for variant in table.variants}
    if choice.chosen is not None:
        model_files[MODEL] = table.models[choice.chosen.name]
    for name, model in model_files.items():
        files.write_bytes(folder / name, model)
    for path in folder.glob("*.tflite"):
        if path.name not in model_files:  # of an earlier call: variants.json no longer tells of it
            path.unlink()
    if choice.chosen is not None:
        names = ("takes", "pixel_range", "thresholds", "reach")
        write_inference_script(folder, **{name: getattr(tested, name) for name in names})
        if tested.takes == "texts":  # an image's labels are inside of the file
            # What a stranger's logits or one number mean is not known: infer.py prints them without labels.
            has_known_meaning = (
                tested.output == "probabilities" or tested.thresholds is not None or tested.reach is not None
            )
            labels = tested.class_names if has_known_meaning else ()
            files.write_text(folder / LABELS, "".join(f"{label}\n" for label in labels))
            if note := write_ids_variant(run, tested, quantization=choice.chosen.quantization):
                run.note(note)
        if tested.reach is not None and tested.labels is not None:
            # One scale of integers is of the number and of its spread: far from 0 little is left of the latter.
            pair = (comparisons[choice.chosen.name].outputs, tested.expected)
            rate, model_rate = (
                np.mean(np.abs(tested.labels - rows[:, 0]) <= tested.reach * rows[:, 1]) for rows in pair
            )
            run.note(
                f"90 % intervals of {choice.chosen.name} hold {rate:.3f} of the numbers, the model's {model_rate:.3f}."
            )
    scores = quality(tested.expected, tested.output, tested.labels, tested.thresholds)
    content = {
        "source": {"accuracy": None, **scores, "examples": tested.count},
        "examples": tested.count,
        "output": tested.output,
        "notes": list(table.notes),
        "gates": asdict(gates),
        "chosen": choice.chosen.name if choice.chosen else None,
        "verdict": choice.verdict,
        "variants": [variant.as_dict() for variant in table.variants],
        "operations": operation_table(
            {"original": tested.source.op_counts}
            | {name: inspect(model).op_counts for name, model in table.models.items()}
        ),
        "failed": [{"name": name, "reason": reason} for name, reason in table.failed.items()],
    }
    files.write_json(run.path / VARIANTS, content)
    metrics: dict[str, float] = {}
    for variant in table.variants:
        row = variant.as_dict() | {"latency_ms": variant.latency}
        metrics |= {f"lite/{variant.name}/{name}": row[name] for name in _RECORDED if row[name] is not None}
    run.record(metrics, instead_of="lite/")
    write_variants(run.logdir, content)
    if show_examples and tested.takes != "arrays":
        for name, comparison in comparisons.items():
            _write_disagreements(run, tested, name, comparison)


def _write_disagreements(run: Run, tested: ModelUnderTest, name: str, comparison: Comparison) -> None:
    """Write images or texts that a variant gives another class, those first of which the original was surest.

    Where there are none, those of an earlier file of this name go.
    """
    if tested.expected.ndim > 2:  # an answer for each word of a text has no caption
        return
    worst, names = comparison.worst[:WORST], tested.class_names
    outputs = (array.reshape(len(array), -1)[worst] for array in (tested.expected, comparison.outputs))
    arrays = [answers(array, tested.output, tested.thresholds) for array in outputs]
    task: Classes = Value() if tested.output == "values" else CLASSES
    if arrays[0].ndim > 1 and len(names) == arrays[0].shape[1]:
        task = Labels()
    elif arrays[0].ndim > 1:  # one sigmoid, whose no and yes are classes
        arrays = [array[:, 0] for array in arrays]
    captions = [" → ".join(task.words(value, names) for value in pair) for pair in zip(*arrays, strict=True)]
    examples = tested.read(worst) if len(worst) else np.array([])
    if tested.takes == "texts":
        texts = [text.decode("utf-8", errors="replace") for text in examples]
        write_texts(run.logdir, f"lite/{name}", texts, captions=captions)
    else:
        write_images(run.logdir, f"lite/{name}", examples, captions=captions)
