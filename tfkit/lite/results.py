"""What a compression leaves in a run's folder: the files, what is known of them, the chosen one for the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tfkit import files
from tfkit import run as runs
from tfkit.lite import on_ids, snippet
from tfkit.lite.evaluate import Comparison
from tfkit.lite.metadata import with_metadata
from tfkit.tensorboard import lite_figures

if TYPE_CHECKING:
    from tfkit.lite.choice import Choice, Gates
    from tfkit.lite.subject import Subject
    from tfkit.lite.variants import Variant
    from tfkit.run import Run

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
    from tfkit.lite.inspect import inspect

    takes_float = inspect(model).inputs[0].dtype == "float32"
    return with_metadata(
        model,
        name=name,
        description=f"Tells {len(subject.class_names)} classes of images apart; takes their pixels, 0 to 255.",
        labels=subject.class_names,
        mean=0.0 if takes_float else None,
        std=1.0 if takes_float else None,
    )


def write(
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
    folder = run.path / runs.TFLITE
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
        snippet.write(folder, takes=subject.takes, pixel_range=subject.pixel_range)
        if subject.takes == "texts":
            _for_texts(run, subject, quantization=choice.chosen.quantization)
    content = as_json(subject, variants, made, choice=choice, gates=gates)
    files.write_json(run.path / runs.VARIANTS, content)
    _record(run, variants)
    lite_figures.write_variants(run.logdir, content)
    if show_examples and subject.takes != "arrays":
        _write_disagreements(run, subject, compared)


def _for_texts(run: Run, subject: Subject, *, quantization: str) -> None:
    """What goes beside a model of texts: an image's labels are inside of the file."""
    folder = run.path / runs.TFLITE
    files.write_text(folder / runs.LABELS, "".join(f"{name}\n" for name in subject.class_names))
    vocabulary = run.path / runs.SAVED_MODEL / "assets" / on_ids.VOCABULARY
    if vocabulary.is_file():
        files.write_bytes(folder / on_ids.VOCABULARY, vocabulary.read_bytes())
    if said := on_ids.write(run, subject, quantization=quantization):
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
    files.write_json(run.path / runs.METRICS, others)
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
    from tfkit import tensorboard

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
            tensorboard.write_texts(run.logdir, title, texts, captions=captions)
        else:
            tensorboard.write_images(run.logdir, title, shown, captions=captions)


def _class(subject: Subject, outputs: Any) -> str:
    place = int(outputs.reshape(-1).argmax())
    return str(subject.class_names[place]) if len(subject.class_names) else str(place)
