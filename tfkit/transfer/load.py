"""What surrounds the training: where data and model came from, and what came out, measured and exported.

What of the examples is shown, in TensorBoard and in the report: pictures of images, the beginnings of texts.

What a recipe's settings name: the model and the data.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit import data, hub
from tfkit.data.splits import FULL_RANGE, Splits, draw
from tfkit.hub.texts import TextEncoder
from tfkit.metrics import Evaluation
from tfkit.privacy.ledger import register
from tfkit.reporting import examples
from tfkit.reporting.examples import Examples
from tfkit.reporting.tensorboard import (
    best,
    write_confusion,
    write_hparams,
    write_images,
    write_layout,
    write_lengths,
    write_pr_curves,
    write_projector,
    write_roc,
    write_statement,
    write_texts,
)
from tfkit.run import EVALUATION, PRIVACY, Run
from tfkit.settings.options import DataConfig, ImageConfig, PrivateConfig, TextColumns
from tfkit.training.export import save

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.hub.images import Backbone
    from tfkit.hub.texts import TextEncoder
    from tfkit.text.tokenizers import Tokenizer
    from tfkit.transfer.models import Classifier

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
        write_images(run.logdir, "samples", splits.source.read(shown), captions=captions)
    elif splits.kind == "texts":
        texts = [str(splits.source.raw(int(index))) for index in shown]
        write_texts(run.logdir, "samples", texts, captions=captions)


def mistakes(run: Run, measured: Evaluation, splits: Splits) -> Examples | None:
    """Return the worst mistakes for the report, and write them into TensorBoard."""
    if splits.kind not in ("images", "texts"):
        return None
    shown = Examples.of(measured, splits)
    captions = [measured.mistake(index) for index in shown.worst]
    write = write_images if splits.kind == "images" else write_texts
    write(run.logdir, "worst_mistakes", shown.worst_inputs, captions=captions)
    for language, (count, accuracy) in shown.by_language(measured).items():
        run.record({f"test/accuracy/{language}": accuracy, f"test/examples/{language}": count})
    return shown


def points(run: Run, features: np.ndarray, measured: Evaluation, splits: Splits) -> None:
    """What the last layer saw of the test split, float32 [n, d], in the Projector."""
    shown = draw(len(measured.labels), PROJECTED)
    indices = splits.indices["test"][shown]
    texts = splits.kind == "texts"
    write_projector(
        run.logdir,
        features[shown],
        labels=[measured.class_names[measured.labels[index]] for index in shown],
        names=[str(splits.source.raw(int(index)))[:NAME] for index in indices]
        if texts
        else [measured.names[index] for index in shown],
        images=splits.source.read(indices) if splits.kind == "images" else None,
    )


def shown_tokens(run: Run, tokenizer: Tokenizer, splits: Splits) -> None:
    """How long the texts are in tokens, how many are cut, and how much of them the vocabulary does not know."""
    from tfkit.environment.stack import tf

    train = splits.indices["train"]
    chosen = train[np.unique(np.linspace(0, len(train) - 1, min(len(train), MEASURED_TEXTS)).astype(int))]
    lengths, unknown = [], 0
    for start in range(0, len(chosen), 256):
        pieces = tokenizer.tokenize(tf.constant(splits.source.read(chosen[start : start + 256])))
        lengths.append(pieces.row_lengths().numpy())
        unknown += int((pieces.flat_values.numpy() == tokenizer.id_of("[UNK]")).sum())
    counts = np.concatenate(lengths)
    room = tokenizer.max_length - 2
    write_lengths(run.logdir, "tokens", np.minimum(counts, 4 * room))
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


PRIVATE_SIZE = 160
"""Small images are enlarged to this: better features than at 96, for a cost that is paid once."""

SCRATCH = "cnn"
"""The model handle that stands for a small network trained from scratch."""

SCRATCH_SIZE, EMBEDDED_SIZE = 64, 32


def load(
    config: DataConfig, *, global_batch_size: int, trainable: bool
) -> tuple[Backbone | TextEncoder, Splits]:
    """The model and the splits that a recipe's settings name, of images or of texts; arguments and errors as below."""
    if isinstance(config, TextColumns) and config.of_texts:
        return load_encoder_and_texts(config, global_batch_size=global_batch_size, trainable=trainable)
    assert isinstance(config, ImageConfig)
    return load_backbone_and_images(config, global_batch_size=global_batch_size, trainable=trainable)


def load_texts(config: TextColumns, *, global_batch_size: int) -> Splits:
    """Splits of the texts that the settings name.

    Raises:
      DataError: they cannot serve.
    """
    return data.load_texts(
        config.data_file or config.data_dir or config.dataset,
        text_column=config.text_column,
        label_column=config.label_column,
        language_column=config.language_column,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
    )


def load_encoder_and_texts(
    config: TextColumns, *, global_batch_size: int, trainable: bool
) -> tuple[TextEncoder, Splits]:
    """The encoder, checked, and splits of texts.

    Args:
      config: which.
      global_batch_size: of the splits.
      trainable: whether the encoder is to be trained too.

    Raises:
      HubError: the model is not there, or not for this.
      DataError: the texts cannot serve.
    """
    encoder = hub.resolve_text(
        config.encoder_handle,
        preprocessor=config.preprocessor,
        sha256=config.sha256,
        max_length=config.max_length,
    ).check(trainable=trainable)
    return encoder, load_texts(config, global_batch_size=global_batch_size)


def load_backbone_and_images(
    config: ImageConfig, *, global_batch_size: int, trainable: bool
) -> tuple[Backbone, Splits]:
    """The backbone, checked, and splits of images of the size that suits it.

    Args:
      config: which.
      global_batch_size: of the splits.
      trainable: whether the backbone is to be trained too.

    Raises:
      HubError: the model is not there, or not for this.
      DataError: the images cannot serve.
    """
    backbone = hub.resolve(config.model_handle, sha256=config.sha256, input_range=config.input_range).check(
        image_size=config.image_size, trainable=trainable
    )
    find = functools.partial(
        data.load_images,
        config.data_dir or config.dataset,
        native_size=backbone.native_size,
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
        pixel_range=_pixel_range(config),
    )
    size = config.image_size or (backbone.native_size if backbone.fixed_size else None)
    splits = find(image_size=size)
    enlarged = min(PRIVATE_SIZE, backbone.native_size)
    on_private_features = isinstance(config, PrivateConfig) and config.features
    if size is None and on_private_features and int(splits.spec.shape[0]) < enlarged:
        splits = find(image_size=enlarged)
    return backbone, splits


def load_any(config: ImageConfig, *, global_batch_size: int) -> tuple[Backbone | None, Splits]:
    """The same for a model that is trained in all its layers: of a backbone, or None for `SCRATCH`."""
    if config.model_handle != SCRATCH:
        return load_backbone_and_images(config, global_batch_size=global_batch_size, trainable=True)
    return None, data.load_images(
        config.data_dir or config.dataset,
        image_size=config.image_size or (SCRATCH_SIZE if config.data_dir else EMBEDDED_SIZE),
        global_batch_size=global_batch_size,
        seed=config.seed,
        strict=config.strict,
        pixel_range=_pixel_range(config),
    )


def _pixel_range(config: ImageConfig) -> tuple[int, int] | None:
    """Return what was asked; in private training never what the images use, which would tell of single ones."""
    return config.pixel_range or (FULL_RANGE if isinstance(config, PrivateConfig) else None)


def describe(
    run: Run,
    backbone: Backbone | TextEncoder | None,
    splits: Splits,
    *,
    recipe: str,
    show_examples: bool = True,
) -> None:
    """Write down where data and model came from, and what was decided about them.

    Args:
      run: gets provenance.json, labels.txt, and, where examples are shown, notes on them, counts and TensorBoard's
        samples.
      recipe: the name under which `python -m recipes.NAME` does it again.
      backbone: what is transferred; None: nothing, the model is trained from scratch.
      splits: of images or texts.
      show_examples: off: what was found in the data is printed, and not kept; see `tfkit.privacy.ledger`.

    Raises:
      DataError: a private run was begun on other data.
    """
    run.labels = splits.class_names
    run.provenance = {
        "recipe": {"name": recipe},
        "data": splits.provenance if show_examples else register(run, splits),
        "model": backbone.origin if backbone is not None else {"handle": "a network trained from scratch"},
    }
    for note in backbone.notes if backbone is not None else ():
        run.note(note)
    for note in splits.notes:
        (run.note if show_examples else run.say)(note)
    run.decide(**_decided(run, backbone, splits))
    if show_examples:
        run.record({"data/skipped_files": len(splits.skipped), "data/other_files": splits.other_files})
        run.record({f"data/{split}_examples": len(indices) for split, indices in splits.indices.items()})
        samples(run, splits)
        if isinstance(backbone, TextEncoder) and backbone.tokenizer is not None:
            shown_tokens(run, backbone.tokenizer, splits)


def _decided(run: Run, backbone: Backbone | TextEncoder | None, splits: Splits) -> dict[str, Any]:
    """The settings of data and model that may be left out, as they became."""
    decided: dict[str, Any] = dict(getattr(splits.source, "columns", {}))
    if splits.kind == "images":
        decided["image_size"] = int(splits.source.shape[0])
    if isinstance(backbone, TextEncoder):
        decided["max_length"] = backbone.max_length
        if run.is_chief and run.config.get("model_handle") == DataConfig.model_handle:
            decided["model_handle"] = backbone.handle  # the default is one for images
    return decided


def conclude(run: Run, classifier: Classifier, splits: Splits, *, show_examples: bool = True) -> None:
    """Measure the classifier on the test split, export it, and draw what came out.

    Args:
      run: gets metrics.json, saved_model/, evaluation.npz and TensorBoard's pictures.
      classifier: the trained model.
      splits: of images or texts.
      show_examples: off: test examples are numbered instead of named, and none is shown.

    Raises:
      CheckError: the exported model is not the trained one.
    """
    measured = classifier.evaluation if show_examples else classifier.evaluation.numbered()
    run.record(measured.metrics("test"))
    run.record(save(classifier.model, run, splits, evaluation=measured))
    shown = mistakes(run, measured, splits) if show_examples else None
    examples.save(run.path / EVALUATION, measured, shown)
    write_confusion(run.logdir, measured)
    write_pr_curves(run.logdir, measured)
    write_roc(run.logdir, measured)
    history = run.history
    run.record(best(history))
    write_hparams(run.logdir, run.config, run.metrics)
    write_layout(run.logdir, map(str, history.columns))
    if statement := run.read(PRIVACY):
        write_statement(run.logdir, [statement["in_words"]])
    if show_examples:
        points(run, classifier.test_features, measured, splits)
