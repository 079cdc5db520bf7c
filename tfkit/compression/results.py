"""What a compression leaves in a run's folder: the files, what is known of them, the chosen one for the device.

The subject of a compression: a model, what it says of test examples, and the examples that stand for its inputs.

infer.py: the few lines that run a .tflite file, as a script that is read and copied.

The ids-in variant of a model of texts: for runtimes that lack the custom operations which cut a string.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.compression.compare import Comparison, quality
from tfkit.compression.converter_process import ConversionRequest, run_conversions
from tfkit.compression.metadata import with_metadata
from tfkit.compression.sources import pixel_function, saved
from tfkit.data.splits import FULL_RANGE, draw
from tfkit.environment import files
from tfkit.errors import CheckError, RunError, TfkitError, UsageError
from tfkit.litert.interpreter import opened
from tfkit.reporting.examples import load
from tfkit.reporting.tensorboard import write_variants
from tfkit.run import EVALUATION, LABELS, METRICS, SAVED_MODEL, TFLITE, VARIANTS
from tfkit.text.tokenizers import START

if TYPE_CHECKING:
    from tfkit.compression.choice import Choice, Gates
    from tfkit.compression.compare import Variant
    from tfkit.data.splits import Splits
    from tfkit.run import Run

DEVICE, DEVICE_IDS, PROBABILITIES = "device", "device_ids", "probabilities"
"""Signatures of an exported model of texts, and what they give."""

_CHECKED_TEXTS = 8
_TOLERANCE = 1e-3
_TYPICAL_OF = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """What is converted and what it is measured on.

    Attributes:
      model: see `tfkit.compression.sources.saved`.
      input_shape: of its input with a batch of 1, where the model does not say.
      read: examples by their positions, as the model takes them: [b, ...], images as pixels in 0..255.
      count: how many there are.
      expected: float32 [n, ..., c], what the original says of them.
      output: what that is, of `tfkit.training.outputs.OUTPUTS`.
      judged: a sentence, how that was known.
      labels: as `tfkit.training.outputs.as_labels` gives them; None where nobody knows.
      class_names: c of them; none where nobody knows.
      names: what the examples are called.
      examples: representative inputs [m, ...] as the model takes them, of several inputs by name; None where it may
        have none.
      takes: "images" (pixels in 0..255), "texts" (UTF-8) or "arrays".
      signature: of the model, where it has several.
      pixel_range: of images, what becomes 0 and 255 of 16-bit values.
    """

    model: Any
    input_shape: tuple[int, ...] | None
    read: Callable[[np.ndarray], np.ndarray]
    count: int
    expected: np.ndarray
    labels: np.ndarray | None
    class_names: Sequence[str]
    names: Sequence[str]
    examples: Any
    takes: str
    output: str = "probabilities"
    judged: str = ""
    signature: str | None = None
    pixel_range: tuple[int, int] = FULL_RANGE

    @property
    def typical(self) -> np.ndarray | None:
        """The input [1, ...] by which times are taken: for texts the one of median length, otherwise anything."""
        if self.takes != "texts":
            return None
        texts = self.read(draw(self.count, _TYPICAL_OF))
        by_length = np.argsort([len(text) for text in texts], kind="stable")
        return texts[by_length[[len(texts) // 2]]]

    @property
    def example_count(self) -> int:
        """Return how many representative examples there are: a sample already."""
        several = isinstance(self.examples, Mapping)
        return len(next(iter(self.examples.values())) if several else self.examples)

    @property
    def quality(self) -> dict[str, float]:
        """Of the original, see `tfkit.compression.compare.quality`."""
        return quality(self.expected, self.output, self.labels)


def of_run(run: Run, splits: Splits, *, examples: np.ndarray | None) -> Subject:
    """The exported model of a run, with the test split that it was measured on.

    Args:
      run: finished.
      splits: that it was trained on.
      examples: representative images, float32 [m, s, s, 3] in 0..255, or texts, bytes [m]; None for a private run
        without public ones.

    Raises:
      RunError: the run is of an earlier tfkit, or of other data.
      CheckError: its model does not say what evaluation.npz says.
    """
    loaded = run.model
    if not hasattr(loaded, "classify"):
        raise RunError(f"{run.path / SAVED_MODEL} was written by an earlier tfkit. Make the run anew.")
    measured, _ = load(run.path / EVALUATION)
    test = np.asarray(splits.indices["test"])
    if len(measured.labels) != len(test) or (measured.labels != splits.source.labels[test]).any():
        raise RunError(f"{run.path} was measured on other test examples than {splits.origin} has now.")
    tried = draw(len(test), _CHECKED_TEXTS)
    examples_tried = splits.source.read(test[tried])
    if splits.kind == "texts":
        said, specific = _of_texts(run, loaded, examples_tried)
    else:
        said, specific = _of_images(loaded, examples_tried, splits.pixel_range[:2])
    difference = float(np.abs(said - measured.probabilities[tried]).max())
    if difference > _TOLERANCE:
        raise CheckError(
            f"{run.path / SAVED_MODEL} gives other probabilities than {EVALUATION} holds"
            f" (by {difference:.3g}).\n  One of them was changed after the run. Make the run anew."
        )
    return Subject(
        read=lambda positions: splits.source.read(test[positions]),
        count=len(test),
        expected=measured.probabilities,
        labels=measured.labels,
        class_names=measured.class_names,
        names=measured.names,
        examples=examples,
        **specific,
    )


def _of_images(
    loaded: Any, images: np.ndarray, pixel_range: tuple[int, int]
) -> tuple[np.ndarray, dict[str, Any]]:
    """What the model says of some test images, and what a subject of images is."""
    model = pixel_function(loaded.classify, keep=loaded)
    return np.asarray(model(images.astype(np.float32))), {
        "model": model,
        "input_shape": (1, *images.shape[1:]),
        "takes": "images",
        "pixel_range": pixel_range,
    }


def _of_texts(run: Run, loaded: Any, texts: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """What the model says of some test texts as a device asks it, and what a subject of texts is."""
    from tfkit.environment.stack import tf

    if DEVICE not in loaded.signatures:
        raise RunError(
            f"{run.path / SAVED_MODEL} has no signature {DEVICE!r}: its encoder is a SavedModel that makes ids by"
            " operations that TFLite lacks.\n"
            "  Train on the bundled encoder, or with --model-handle light, whose tokenizers TFLite has."
        )
    said = [loaded.signatures[DEVICE](texts=tf.constant([text])) for text in texts]
    return np.concatenate([np.asarray(one[PROBABILITIES]) for one in said]), {
        "model": loaded,
        "signature": DEVICE,
        "input_shape": None,
        "takes": "texts",
    }


NAME = "infer.py"
KINDS = ("images", "texts", "arrays")


def write_inference_script(
    folder: Path, *, takes: str = "images", pixel_range: tuple[int, int] = FULL_RANGE
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

    Returns:
      Its path.

    Raises:
      UsageError: there is no script for that.
    """
    if takes not in KINDS:
        raise UsageError(f"There is no {NAME} for {takes!r}; there is one for each of: {', '.join(KINDS)}.")
    script = resources("tfkit.compression").joinpath(f"infer_{takes}.py.txt").read_text(encoding="utf-8")
    files.write_text(folder / NAME, script.replace(str(FULL_RANGE), str(tuple(pixel_range))))
    return folder / NAME


FOLDER, IDS_MODEL, VOCABULARY, HOW = "ids", "model.tflite", "vocab.txt", "ids.txt"
WITHOUT_EXAMPLES = ("float32", "float16", "dynamic")
_CHECKED = 50

_HOW = """\
model.tflite takes the ids of one text, int32 [1, {length}]: {inputs}.
input_word_ids: that of [CLS], those of the pieces of the text ({most} at most, the rest is cut off), that of [SEP], and
to the end those of [PAD]. input_mask: 1 for each id, 0 for [PAD]. An id is the number of the line in vocab.txt, from 0.
How a text becomes pieces is WordPiece as BERT has it, lower case and accents folded: BertTokenizer of tensorflow-text
or of other libraries.
It gives the probabilities of the classes in labels.txt.
"""


def write_ids_variant(run: Run, subject: Subject, *, quantization: str) -> str | None:
    """Write tflite/ids/: the part of the model behind its tokenizer, with the vocabulary.

    Args:
      run: gets the folder.
      subject: of texts.
      quantization: of the chosen variant; "dynamic" stands for those that need examples of ids.

    Returns:
      What is said of it; None where the run's model lacks that part.
    """
    folder = run.path / TFLITE / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary = run.path / SAVED_MODEL / "assets" / VOCABULARY
    if DEVICE_IDS not in getattr(subject.model, "signatures", {}) or not vocabulary.is_file():
        return None
    if START not in vocabulary.read_text(encoding="utf-8").split("\n"):
        return None  # of another tokenizer than WordPiece
    variant = quantization if quantization in WITHOUT_EXAMPLES else "dynamic"
    with saved(subject.model, signature=DEVICE_IDS) as source:
        made = run_conversions(source, [ConversionRequest(name=variant, variant=variant)])[variant]
        inputs = source.inputs
    if isinstance(made, TfkitError):
        return f"There is no ids-in variant: {made}"
    agreement = _agreement(made, subject, vocabulary)
    length = next(iter(inputs.values()))[0][1]
    with files.new_folder(folder) as new:
        (new / IDS_MODEL).write_bytes(made)
        (new / HOW).write_text(_HOW.format(length=length, most=length - 2, inputs=", ".join(inputs)))
        for name, path in ((VOCABULARY, vocabulary), (LABELS, run.path / LABELS)):
            if path.is_file():
                shutil.copyfile(path, new / name)
    return (
        f"{TFLITE}/{FOLDER}/ is for runtimes without the operations of tensorflow-text: {variant},"
        f" {len(made) / 1000:,.0f} kB, takes ids; agreement {agreement:.3f} with the model from strings on"
        f" {min(_CHECKED, subject.count)} texts."
    )


def _agreement(model: bytes, subject: Subject, vocabulary: Path) -> float:
    """With the original, on the ids that the vocabulary gives: what a reader of ids.txt does."""
    from tfkit.text.tokenizers import WordPiece

    interpreter = opened(model, threads=1)
    runner = interpreter.get_signature_runner()
    details = runner.get_input_details()
    length = int(next(iter(details.values()))["shape"][1])
    pieces = tuple(vocabulary.read_text(encoding="utf-8").split("\n")[:-1])
    tokenizer = WordPiece(vocabulary=pieces, max_length=length)
    tried = draw(subject.count, _CHECKED)
    texts = subject.read(tried)
    rows = tokenizer.dense(texts, length=length)
    said: list[Any] = []
    for place in range(len(texts)):
        fed = {name: np.asarray(rows[name][place : place + 1]) for name in details}
        (probabilities,) = runner(**fed).values()
        said.append(probabilities[0])
    return float(np.mean(np.argmax(said, axis=1) == subject.expected[tried].argmax(axis=1)))


MODEL = "model.tflite"
WORST = 8
_RECORDED = ("accuracy", "accuracy_drop", "agreement", "r2", "r2_drop", "rmse", "error")


@dataclass(kw_only=True)
class Made:
    """What was made so far, by the names of the variants.

    Attributes:
      models: contents of .tflite files.
      failed: why a variant could not be made.
      notes: what was done to a variant, and found.
    """

    models: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def described(model: bytes, subject: Subject, *, name: str) -> bytes:
    """A classifier of images with its labels and its scaling inside; any other model as it is."""
    if not (subject.takes == "images" and len(subject.class_names)):
        return model
    from tfkit.compression.inspect import inspect

    takes_float = inspect(model).inputs[0].dtype == "float32"
    return with_metadata(
        model,
        name=name,
        description=f"Tells {len(subject.class_names)} classes of images apart; takes their pixels, 0 to 255.",
        labels=subject.class_names,
        mean=0.0 if takes_float else None,
        std=1.0 if takes_float else None,
    )


def write_results(
    run: Run,
    subject: Subject,
    variants: Sequence[Variant],
    made: Made,
    compared: Mapping[str, Comparison],
    *,
    choice: Choice,
    gates: Gates,
    show_examples: bool,
) -> None:
    """Write tflite/ (each file under its name, the chosen one as model.tflite, infer.py, variants.json) and the rest.

    Args:
      run: gets also metrics `lite/...` and pictures in TensorBoard.
      subject: what was compressed.
      variants: measured.
      made: their files.
      compared: what they said.
      choice: among them.
      gates: by which it was made.
      show_examples: whether test images may be shown.
    """
    folder = run.path / TFLITE
    folder.mkdir(exist_ok=True)
    for variant in variants:
        files.write_bytes(folder / variant.file, made.models[variant.name])
    names = {variant.file for variant in variants} | {MODEL}
    for old in folder.glob("*.tflite"):
        if old.name not in names:  # of an earlier call: variants.json no longer tells of it
            old.unlink()
    if choice.chosen is None:
        (folder / MODEL).unlink(missing_ok=True)
    else:
        files.write_bytes(folder / MODEL, made.models[choice.chosen.name])
        write_inference_script(folder, takes=subject.takes, pixel_range=subject.pixel_range)
        if subject.takes == "texts":
            _for_texts(run, subject, quantization=choice.chosen.quantization)
    content = as_json(subject, variants, made, choice=choice, gates=gates)
    files.write_json(run.path / VARIANTS, content)
    _record(run, variants)
    write_variants(run.logdir, content)
    if show_examples and subject.takes != "arrays":
        _write_disagreements(run, subject, compared)


def _for_texts(run: Run, subject: Subject, *, quantization: str) -> None:
    """What goes beside a model of texts: an image's labels are inside of the file."""
    folder = run.path / TFLITE
    files.write_text(folder / LABELS, "".join(f"{name}\n" for name in subject.class_names))
    vocabulary = run.path / SAVED_MODEL / "assets" / VOCABULARY
    if vocabulary.is_file():
        files.write_bytes(folder / VOCABULARY, vocabulary.read_bytes())
    if said := write_ids_variant(run, subject, quantization=quantization):
        run.note(said)


def as_json(
    subject: Subject, variants: Sequence[Variant], made: Made, *, choice: Choice, gates: Gates
) -> dict[str, Any]:
    """What variants.json holds."""
    limits = asdict(gates)
    return {
        "source": {"accuracy": None, **subject.quality, "examples": subject.count},
        "examples": subject.count,
        "output": subject.output,
        "notes": [subject.judged] if subject.judged else [],
        "gates": limits,
        "chosen": choice.chosen.name if choice.chosen else None,
        "verdict": choice.verdict,
        "variants": [variant.as_dict() for variant in variants],
        "failed": [{"name": name, "reason": reason} for name, reason in made.failed.items()],
    }


def _record(run: Run, variants: Sequence[Variant]) -> None:
    # Those of variants of an earlier call are no longer there.
    others = {name: value for name, value in run.metrics.items() if not name.startswith("lite/")}
    files.write_json(run.path / METRICS, others)
    numbers: dict[str, float] = {}
    for variant in variants:
        scope = f"lite/{variant.name}"
        numbers[f"{scope}/size_bytes"] = variant.size_bytes
        numbers[f"{scope}/gzipped_bytes"] = variant.gzipped_bytes
        known = {name: getattr(variant, name) for name in _RECORDED} | {"latency_ms": variant.latency}
        numbers |= {
            f"{scope}/{name}": value for name, value in known.items() if value == value and value is not None
        }
    run.record(numbers)


def _write_disagreements(run: Run, subject: Subject, compared: Mapping[str, Comparison]) -> None:
    """Images or texts on which a variant and the original differ, those first of which the original was surest."""
    from tfkit.reporting.tensorboard import write_images, write_texts

    for name, comparison in compared.items():
        worst = comparison.worst[:WORST]
        if not len(worst):
            continue
        flat = comparison.outputs.reshape(len(comparison.outputs), -1)
        captions = [
            f"{_class(subject, subject.expected[place])} → {_class(subject, flat[place])}" for place in worst
        ]
        shown, title = subject.read(worst), f"lite/{name}"
        if subject.takes == "texts":
            texts = [text.decode("utf-8", errors="replace") for text in shown]
            write_texts(run.logdir, title, texts, captions=captions)
        else:
            write_images(run.logdir, title, shown, captions=captions)


def _class(subject: Subject, outputs: Any) -> str:
    place = int(outputs.reshape(-1).argmax())
    return str(subject.class_names[place]) if len(subject.class_names) else str(place)
