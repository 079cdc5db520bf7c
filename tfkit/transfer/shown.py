"""What of the examples is shown, in TensorBoard and in the report: pictures of images, the beginnings of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tfkit import tensorboard
from tfkit.data import Splits
from tfkit.data.drawn import draw
from tfkit.evaluation import Evaluation
from tfkit.exhibits import Excerpts, Exhibits, Pictures
from tfkit.run import Run

if TYPE_CHECKING:
    from tfkit.text.tokenizer import Tokenizer

SAMPLES = 16
PROJECTED = 1000
MEASURED_TEXTS = 20_000
NAME = 80  # characters of a text as the name of a point


def samples(run: Run, splits: Splits) -> None:
    """Some training examples, under the names of their classes."""
    train = splits.indices["train"]
    shown = train[draw(len(train), SAMPLES, classes=splits.source.labels[train])]
    captions = [splits.class_names[label] for label in splits.source.labels[shown]]
    if splits.kind == "images":
        tensorboard.write_images(run.logdir, "samples", splits.source.read(shown), captions=captions)
    elif splits.kind == "texts":
        texts = [str(splits.source.raw(int(index))) for index in shown]
        tensorboard.write_texts(run.logdir, "samples", texts, captions=captions)


def mistakes(run: Run, measured: Evaluation, splits: Splits) -> Exhibits | None:
    """The worst mistakes, which go into TensorBoard and, with what is returned, into the report."""
    if splits.kind == "images":
        pictures = Pictures.of(measured, splits)
        captions = [measured.mistake(index) for index in pictures.worst]
        tensorboard.write_images(run.logdir, "worst_mistakes", pictures.worst_images, captions=captions)
        return pictures
    if splits.kind == "texts":
        excerpts = Excerpts.of(measured, splits)
        captions = [measured.mistake(index) for index in excerpts.worst]
        texts = [str(text) for text in excerpts.worst_texts]
        tensorboard.write_texts(run.logdir, "worst_mistakes", texts, captions=captions)
        for language, (count, accuracy) in excerpts.by_language(measured).items():
            run.record({f"test/accuracy/{language}": accuracy, f"test/examples/{language}": count})
        return excerpts
    return None


def points(run: Run, features: np.ndarray, measured: Evaluation, splits: Splits) -> None:
    """What the last layer saw of the test split, float32 [n, d], in the Projector."""
    shown = draw(len(measured.labels), PROJECTED)
    indices = splits.indices["test"][shown]
    texts = splits.kind == "texts"
    tensorboard.write_projector(
        run.logdir,
        features[shown],
        labels=[measured.class_names[measured.labels[index]] for index in shown],
        names=[str(splits.source.raw(int(index)))[:NAME] for index in indices]
        if texts
        else [measured.names[index] for index in shown],
        images=splits.source.read(indices) if splits.kind == "images" else None,
    )


def tokens(run: Run, tokenizer: Tokenizer, splits: Splits) -> None:
    """How long the texts are in tokens, how many are cut, and how much of them the vocabulary does not know."""
    from tfkit.stack import tf

    train = splits.indices["train"]
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), MEASURED_TEXTS)).astype(int))]
    lengths, unknown = [], 0
    for start in range(0, len(chosen), 256):
        pieces = tokenizer.tokenize(tf.constant(splits.source.read(chosen[start : start + 256])))
        lengths.append(pieces.row_lengths().numpy())
        unknown += int((pieces.flat_values.numpy() == tokenizer.id_of("[UNK]")).sum())
    counts = np.concatenate(lengths)
    room = tokenizer.max_length - 2
    tensorboard.write_lengths(run.logdir, "tokens", np.minimum(counts, 4 * room))
    cut, lost = float((counts > room).mean()), unknown / max(int(counts.sum()), 1)
    run.record(
        {
            "data/median_tokens": float(np.median(counts)),
            "data/cut_share": cut,
            "data/unknown_token_share": lost,
        }
    )
    run.note(
        f"The median text has {np.median(counts):.0f} tokens, the longest {counts.max()}; {cut:.1%} are cut to {room}."
        f" {lost:.2%} of the tokens are not in the vocabulary."
    )
