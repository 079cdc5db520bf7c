"""The ids-in variant of a model of texts: for runtimes that lack the custom operations which cut a string."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import files
from tfkit import run as runs
from tfkit.data.drawn import draw
from tfkit.errors import TfkitError
from tfkit.lite import jobs
from tfkit.lite.source import saved
from tfkit.lite.subject import DEVICE_IDS
from tfkit.litert.interpreter import opened
from tfkit.text.wordpiece import START

if TYPE_CHECKING:
    from tfkit.lite.subject import Subject
    from tfkit.run import Run

FOLDER, MODEL, VOCABULARY, HOW = "ids", "model.tflite", "vocab.txt", "ids.txt"
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


def write(run: Run, subject: Subject, *, quantization: str) -> str | None:
    """Write tflite/ids/: the part of the model behind its tokenizer, with the vocabulary.

    Args:
      run: gets the folder.
      subject: of texts.
      quantization: of the chosen variant; "dynamic" stands for those that need examples of ids.

    Returns:
      What is said of it; None where the run's model lacks that part.
    """
    folder = run.path / runs.TFLITE / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    vocabulary = run.path / runs.SAVED_MODEL / "assets" / VOCABULARY
    if DEVICE_IDS not in getattr(subject.model, "signatures", {}) or not vocabulary.is_file():
        return None
    if START not in vocabulary.read_text(encoding="utf-8").split("\n"):
        return None  # of another tokenizer than WordPiece
    variant = quantization if quantization in WITHOUT_EXAMPLES else "dynamic"
    with saved(subject.model, signature=DEVICE_IDS) as source:
        made = jobs.run(source, [jobs.Request(name=variant, variant=variant)])[variant]
        inputs = source.inputs
    if isinstance(made, TfkitError):
        return f"There is no ids-in variant: {made}"
    agreement = _agreement(made, subject, vocabulary)
    length = next(iter(inputs.values()))[0][1]
    with files.new_folder(folder) as new:
        (new / MODEL).write_bytes(made)
        (new / HOW).write_text(_HOW.format(length=length, most=length - 2, inputs=", ".join(inputs)))
        for name, path in ((VOCABULARY, vocabulary), (runs.LABELS, run.path / runs.LABELS)):
            if path.is_file():
                shutil.copyfile(path, new / name)
    return (
        f"{runs.TFLITE}/{FOLDER}/ is for runtimes without the operations of tensorflow-text: {variant},"
        f" {len(made) / 1000:,.0f} kB, takes ids; agreement {agreement:.3f} with the model from strings on"
        f" {min(_CHECKED, subject.count)} texts."
    )


def _agreement(model: bytes, subject: Subject, vocabulary: Path) -> float:
    """With the original, on the ids that the vocabulary gives: what a reader of ids.txt does."""
    from tfkit.text import WordPiece

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
