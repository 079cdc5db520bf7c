"""Train from a folder or a table to a finished run: tfkit.train, whose command line are the recipes that train."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from tfkit.distribution import strategies
from tfkit.environment.files import cache_root
from tfkit.environment.timeline import doing, stage
from tfkit.errors import ConfigError, DataError, RunError
from tfkit.run import CONFIG, EVALUATION, PRIVACY, PROVENANCE, Run
from tfkit.settings.options import (
    AUTO,
    EMBEDDED,
    LIGHT,
    SCATTERING,
    SCRATCH,
    UNCOVERED,
    DataConfig,
    ImageSettings,
    PrivateSettings,
    TextColumns,
    TextSettings,
    WholeModelSettings,
)
from tfkit.settings.parse import as_dict, from_keywords, parse, run_dir, takes_settings

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.hub.encoders import Encoder
    from tfkit.privacy.plan import DPSGD
    from tfkit.settings import keywords

PRIVATE_SIZE = 160
"""Small images are enlarged to this: better features than at 96, for a cost that is paid once."""

SCATTERED_SIZE = 32
"""Pixels of the largest grey images that private training takes scattering for by itself."""

SCRATCH_SIZE, EMBEDDED_SIZE = 64, 32

WORTH_WINDOWS, MEASURED, BYTES_A_PIECE = 0.05, 2000, 20
"""The share of longer texts from which on all windows are read, told by so many texts, by so many bytes for a piece."""


READING = (
    "label_column", "group_column", "split_column", "task", "class_order", "validation_fraction", "test_fraction",
)  # fmt: skip
"""Settings that the loaders take as they are."""

RECIPES: dict[str, type[DataConfig]] = {
    "transfer_image": ImageSettings,
    "transfer_text": TextSettings,
    "train_private": PrivateSettings,
    "train_distributed": WholeModelSettings,
}
"""The recipes that train, and their settings."""


@takes_settings(ImageSettings, TextSettings, PrivateSettings, WholeModelSettings)
def train(
    data: Any = None,
    labels: Any = None,
    *,
    model: str | None = None,
    privacy: DPSGD | None = None,
    trainable: Literal["auto", "all"] = "auto",
    **settings: Unpack[keywords.TrainKeywords],
) -> Run:
    """Train a classifier of images or texts on a pretrained model, measure it, export it, and write its report.

    A call that was interrupted goes on when it is made again; one that is finished is not repeated.

    Args:
      data: a folder with one subfolder a class of images or of texts, a table of texts (CSV, TSV, JSON, JSONL,
        Parquet), or of images where `image_column` is given, or the name of a data set: "digits", "mnist5k",
        "sentiment", "tfds:NAME". None: "digits". In memory (`tfkit.data.memory.cache_examples`): a pandas DataFrame of
        texts (of the paths of images where `image_column` is given); a pair, of images or texts and of their labels; a
        tf.data.Dataset of such pairs. They are written to the cache.
      labels: of examples in memory: `train(images, labels)` is `train((images, labels))`.
      model: a TF Hub or Kaggle URL, a SavedModel folder or a bundled name; "cnn" and "light" are small models of images
        and of texts that are trained from scratch. None: the bundled one for images or for texts.
      privacy: train with differential privacy; `target_epsilon=3` among the settings does the same, with the recipe's
        clipping norm of 0.3 in place of `DPSGD`'s 1.0.
      trainable: "auto": a head on the frozen model first, then perhaps all of it; "all": all layers of a model of
        images from the first step.
      settings: what the flags of recipes.transfer_image, transfer_text, train_private (with `privacy`) or
        train_distributed (with `trainable="all"`) are called: `run_dir`, `epochs`, `strategy`, `seed`... Where they
        have several defaults, the signature shows transfer_image's; `--help` of each shows its own.
        `continue_from` may be a finished `Run`: its recipe, and what it was trained with, hold where they are left out.

    Returns:
      The finished run.

    Raises:
      ConfigError: a setting is unknown or has a value that cannot be; settings that do not go together.
      TfkitError: see `tfkit.errors`.

    Example:
      run = tfkit.train("photos/", run_dir="runs/photos", epochs=10)
      run.metrics["test/accuracy"]
    """
    values: dict[str, Any] = {**settings}
    if model is not None:
        values["model_handle"] = model
    if labels is not None:
        if data is None or isinstance(data, str | Path):
            raise ConfigError("labels are of examples in memory. Those of a table: label_column=NAME.")
        data = (data, labels)
    if data is not None:
        values.update(data_settings(data, values))
    made_by = None
    if (earlier := values.get("continue_from")) is not None:
        values["continue_from"] = path = getattr(earlier, "path", earlier)
        made_by = Run.open(path).provenance.get("recipe", {}).get("name")
    if privacy is not None:
        values.update(_make_privacy_settings(privacy, values))
    private = {"target_epsilon", "noise_multiplier"} & values.keys()
    if private:
        recipe = "train_private"
    elif trainable == "all" or model == SCRATCH:
        recipe = "train_distributed"
    elif made_by in RECIPES:
        recipe = made_by
    else:
        recipe = "transfer_text" if _are_texts(values) else "transfer_image"
    if trainable == "all" and (private or _are_texts(values)):
        raise ConfigError(
            'trainable="all" is for images without privacy.\n  Private training of all layers: features=False.'
            "  Texts: fine_tune_epochs=3."
        )
    return train_classifier(from_keywords(RECIPES[recipe], values, call="tfkit.train"), recipe=recipe)


def train_classifier(config: Any, *, recipe: str) -> Run:
    """Do a recipe's job, or what an interrupted process left of it, or nothing where it is done.

    Args:
      config: of one of the classes in `RECIPES`.
      recipe: its name.

    Returns:
      The finished run; a worker that is not the chief can read it.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    strategies.locate(config)
    folder = run_dir(config, recipe=recipe)
    source = None
    if config.continue_from is not None:
        from tfkit.transfer import continuing

        source = continuing.find_source(config, folder, recipe=recipe)
        config = continuing.take_settings(config, source)
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            again = ", and spend its epsilon on the same people once more" if run.read(PRIVACY) else ""
            run.say(
                f"{run.path} holds the finished run of this very config; --overwrite would do it again{again}."
            )
            say_what_changed(config, run)
            return run
        from tfkit import reporting
        from tfkit.environment.packages import versions

        keep = not isinstance(config, PrivateSettings)
        with run.timed(keep=keep) as record_times, strategies.cluster_strategy(config, run) as strategy:
            run.versions = {**versions(), "strategy": strategies.describe(strategy)}
            _train(config, run, strategy, source, recipe=recipe)
            if run.is_chief:
                record_times()
                reporting.write_report(run)
    return run


def say_what_changed(config: Any, run: Run) -> None:
    """Say so where the files of a finished run's data are newer than the run, which does not know them."""
    source = config.data_dir or config.data_file
    if source is None or not source.exists() or source.resolve().is_relative_to(cache_root().resolve()):
        return
    results = [path for name in (PROVENANCE, EVALUATION) if (path := run.path / name).is_file()]
    trained = min((path.stat().st_mtime for path in results), default=math.inf)
    with doing(f"Looking for what is new in {source}"):
        # A folder is changed by what is added, taken away or renamed in it, whatever the dates of its files.
        changed = any(path.lstat().st_mtime > trained for path in (source, *source.rglob("*")))
    if changed:
        run.say(
            f"{source} has changed since, and the run does not know what is new there: --overwrite trains anew, and"
            f" another --run-dir with --continue-from {run.path} goes on from it."
        )


def load(config: Any, *, global_batch_size: int | None = None) -> tuple[Encoder | None, Splits]:
    """Load the pretrained model, checked for what is asked of it, and the splits, of images or of texts.

    Args:
      config: of a class in `RECIPES`.
      global_batch_size: of the splits; None: that of the config, or 1 where it is still open.

    Returns:
      The model, None where it is one that is trained from scratch, and splits in the form that suits it.

    Raises:
      HubError: the model is not there, or not for this.
      DataError: the examples cannot serve.
    """
    from tfkit.data.groups import limit_groups

    encoder, splits = _load(config, global_batch_size or config.global_batch_size or 1)
    if isinstance(config, PrivateSettings) and config.examples_per_group is not None:
        splits = limit_groups(splits, config.examples_per_group)
    labels = splits.source.labels[splits.indices["train"]]
    return encoder, splits.replace(task=splits.task.prepared(labels, config.label_range))


def _load(config: Any, global_batch_size: int) -> tuple[Encoder | None, Splits]:
    with stage("import", "Importing what reads the data"):
        from tfkit import data, hub
        from tfkit.data.pixels import FULL_RANGE

    options = {"global_batch_size": global_batch_size, "seed": config.seed, "strict": config.strict}
    options |= {name: getattr(config, name) for name in READING}
    source = config.data_file or config.data_dir or config.dataset
    private = isinstance(config, PrivateSettings)
    is_whole = not config.features if private else isinstance(config, WholeModelSettings)
    trainable = is_whole or bool(getattr(config, "fine_tune_epochs", None))
    if isinstance(config, TextColumns) and config.of_texts:
        encoder: Any = None
        if config.model_handle != LIGHT:
            settings = {name: getattr(config, name) for name in ("preprocessor", "sha256", "max_length")}
            encoder = hub.load_model(config.encoder_handle, modality="texts", **settings).check(
                trainable=trainable
            )
        columns = {name: getattr(config, name) for name in ("text_column", "language_column")}
        splits = data.load_texts(source, **columns, **options)
        if encoder is not None and _reads_all(config, encoder, splits):
            encoder = encoder.with_windows()
        return encoder, splits
    # In private training never what the images use, which would tell of single ones.
    options["pixel_range"] = config.pixel_range or (FULL_RANGE if private else None)
    options["image_column"] = config.image_column
    if config.model_handle == SCRATCH:
        size = config.image_size or (SCRATCH_SIZE if config.names_data else EMBEDDED_SIZE)
        return None, data.load_images(source, image_size=size, **options)
    handle: str = config.model_handle
    if handle == AUTO:
        splits = data.load_images(source, image_size=config.image_size, **options)
        # By the format of the set, which is taken as public; `train_private` says so.
        is_small = splits.side <= SCATTERED_SIZE >= (config.image_size or 0)
        is_suitable = config.features and splits.grey and is_small and splits.task.name == "classes"
        handle = SCATTERING if is_suitable else DataConfig.model_handle
    backbone = hub.load_model(
        handle, modality="images", sha256=config.sha256, input_range=config.input_range
    ).check(image_size=config.image_size, trainable=trainable)
    options["native_size"] = backbone.native_size
    image_size = config.image_size or (backbone.native_size if backbone.fixed_size else None)
    splits = data.load_images(source, image_size=image_size, **options)
    enlarged = min(PRIVATE_SIZE, backbone.native_size)
    if image_size is None and private and config.features and int(splits.spec.shape[0]) < enlarged:
        splits = data.load_images(source, image_size=enlarged, **options)
    return backbone.for_images(int(splits.spec.shape[0])), splits


def job_of(config: Any, encoder: Encoder | None) -> Any:
    """Return what trains by these settings: `fine_tune`, `train_at_once` or `train_private`.

    Args:
      config: of a recipe.
      encoder: None: a model that is trained from scratch.
    """
    from tfkit.transfer.fine_tuning import fine_tune, train_at_once
    from tfkit.transfer.private import train_private

    if isinstance(config, PrivateSettings):
        return train_private
    return train_at_once if isinstance(config, WholeModelSettings) or encoder is None else fine_tune


def _reads_all(config: Any, encoder: Encoder, splits: Splits) -> bool:
    """Return whether texts are read whole, as asked, else by how many training texts are longer than a window."""
    from tfkit.data.splits import draw

    if config.windows != "auto" or encoder.tokenizer is None:
        return config.windows == "all"
    is_tuned = isinstance(config, TextSettings) and config.fine_tune_epochs
    if isinstance(config, PrivateSettings) or is_tuned or not config.features:
        return False
    train, room = splits.indices["train"], encoder.tokenizer.max_length - 2
    texts = splits.source.read(train[draw(len(train), MEASURED)])
    # The beginning of a text tells whether it is longer than a window.
    pieces = encoder.tokenizer.tokenize([text[: BYTES_A_PIECE * room] for text in texts])
    return bool((pieces.row_lengths().numpy() > room).mean() > WORTH_WINDOWS)


def settings_of(run: Run, *, recipes: tuple[str, ...] = tuple(RECIPES), otherwise: str) -> DataConfig:
    """Return the settings of the recipe that made a run.

    Args:
      run: of a recipe.
      recipes: whose runs will do.
      otherwise: what does the job for other runs: a call of Python, or flags.

    Raises:
      RunError: none of these recipes made it.
    """
    _ = run.config  # which names a malformed file as every reader of a run does
    recipe = run.provenance.get("recipe", {}).get("name")
    if recipe not in recipes:
        raise RunError(
            f"{run.path} was made by {recipe or 'no recipe'}; this takes runs of {' and '.join(recipes)}."
            f"\n  For others: {otherwise}."
        )
    is_earlier = hasattr(RECIPES[recipe], "windows") and "windows" not in run.config  # there were none yet
    words = ["--config", str(run.path / CONFIG), *(["--windows", "first"] if is_earlier else [])]
    return parse(RECIPES[recipe], words, prog=recipe, description="")


def _train(config: Any, run: Run, strategy: Any, source: Run | None, *, recipe: str) -> None:
    with stage("import", "Importing what trains and measures"):
        from tfkit.transfer.baseline import compare_with_baseline
        from tfkit.transfer.continuing import Start
        from tfkit.transfer.results import conclude, describe
        from tfkit.transfer.words import mix_words

    private = isinstance(config, PrivateSettings)
    if not private:
        config = strategies.scale_to_replicas(config, strategy, run)
    encoder: Any
    encoder, splits = load(config)
    if private and config.task == "auto" and splits.task.name != "classes":
        raise ConfigError(
            f"The labels look like those of another task, and privacy has to be told: --task {splits.task.name}."
            "\n  A decision by the data would tell of them."
        )
    start = Start() if source is None else Start.of(source, run, splits)
    describe(run, encoder, splits, recipe=recipe, show_examples=not private)
    is_unseen: Any = () if private else start.remember(run, splits, encoder=encoder)
    options = {} if private else {"start": start}
    classifier = job_of(config, encoder)(run, encoder, splits, config, strategy=strategy, **options)
    if run.is_chief:
        if private:
            run.note(f"Calibration is left off: it {UNCOVERED}.")
        if splits.kind == "texts" and not private:
            # A small model stays small, and keeps its int8 form, unless words are asked for.
            when = "no" if config.words == "auto" and encoder is None else config.words
            classifier = mix_words(run, classifier, splits, when=when)
        evaluation = conclude(run, classifier, splits, calibrated=config.calibrate, show_examples=not private)
        if 0 < sum(is_unseen) < len(is_unseen):
            share = float(evaluation.right[is_unseen].mean())
            run.record({f"test/{splits.task.share}_never_seen": share})
        if splits.kind == "texts" and not private:
            compare_with_baseline(run, splits, evaluation, pretrained=encoder is not None)


def data_settings(data: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that read the data of a call: a folder, a table, the name of a set, or what is in memory.

    Raises:
      ConfigError: the settings name data too.
      DataError: it is not there, or cannot be examples.
    """
    if twice := [name for name in ("data_dir", "data_file", "dataset") if settings.get(name) is not None]:
        raise ConfigError(f"The data are given twice, as they are and by {twice[0]}=. Leave out one of them.")
    if not isinstance(data, str | os.PathLike):
        from tfkit.data.memory import cache_examples

        return cache_examples(data, **{name: settings.get(name) for name in ("image_column", "task")})
    from tfkit.data.records import is_records

    path, records = Path(data), is_records(Path(data))
    if records or path.exists():
        return {"data_dir" if path.is_dir() and not records else "data_file": path}
    if str(data) in ("digits", "mnist5k", EMBEDDED) or str(data).startswith("tfds:"):
        return {"dataset": str(data)}
    raise DataError(
        f"There is no {path}: neither a folder, nor a file, nor a data set."
        "\n  Data sets that need no files: digits, mnist5k (images), sentiment (texts), tfds:NAME."
    )


def _are_texts(settings: dict[str, Any]) -> bool:
    """Return whether the data, or else the model, are of texts."""
    if settings.get("model_handle") == LIGHT:
        return True
    if settings.get("image_column") is not None:
        return False
    kinds = {"data_dir": Path, "data_file": Path, "dataset": str}
    sources = {name: kind(settings[name]) for name, kind in kinds.items() if settings.get(name) is not None}
    return TextColumns(**sources).of_texts


def _make_privacy_settings(privacy: DPSGD, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that say the same as the object, all of them but those that it leaves out."""
    from tfkit.privacy.plan import DPSGD

    if not isinstance(privacy, DPSGD):
        raise ConfigError(f"privacy is {privacy!r}; expected a tfkit.DPSGD, such as DPSGD(target_epsilon=3).")
    values = {name: value for name, value in vars(privacy).items() if value is not None}
    if values.pop("release_noise", None):
        raise ConfigError(
            "privacy.release_noise is chosen by tfkit.train: mean_budget= says how much it may cost."
        )
    if names := sorted(set(values) & set(settings)):
        raise ConfigError(
            f"{names[0]} is given twice: in privacy=DPSGD(...) and as {names[0]}=. Leave one of them out."
        )
    return values
