"""compress: a finished run, or any SavedModel, to measured .tflite files and the chosen one."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack, cast

import numpy as np

from tfkit.calibration import temperature_of
from tfkit.compression import representative
from tfkit.compression.compare import ModelUnderTest, compare_all, measure, under_test
from tfkit.compression.convert import MEASURED, ConversionRequest, run_conversions
from tfkit.compression.error_localisation import NAME, selective_variant
from tfkit.compression.results import add_metadata, of_run, write_results
from tfkit.compression.sources import Source, pixel_function, saved
from tfkit.compression.techniques import Cluster, Prune, QuantizeAware, Technique, sentence
from tfkit.compression.variants import Choice, Gates, Table, choose
from tfkit.data.image_files import read_images
from tfkit.data.splits import Splits, draw
from tfkit.environment import files, process, stack
from tfkit.environment.process import counted
from tfkit.errors import CheckError, ConfigError, DataError, PrivacyError, RunError, TfkitError, UsageError
from tfkit.metrics import gives_logits
from tfkit.privacy.ledger import check_data, is_private
from tfkit.run import SAVED_MODEL, TFLITE, VARIANTS, Run
from tfkit.settings.jobs import KERAS, CompressConfig, trained_variants
from tfkit.settings.options import PrivateSettings
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings
from tfkit.training import fit
from tfkit.training.stage import Stage, class_weight
from tfkit.transfer import models
from tfkit.transfer.train import load, settings_of

if TYPE_CHECKING:
    from tfkit.settings import keywords

COMPARED = 1000
RANGED = 64
TRAINING = "training"
EPOCHS = {Prune: 20, Cluster: 5, QuantizeAware: 5}


class Candidate(NamedTuple):
    """A model to be converted: the one under test, or one that a technique has made of it.

    Attributes:
      technique: "prune0.8"; "" of the model as it is.
      model: of the same inputs; None of the model as it is.
      quantizations: what to convert it to.
      notes: what training did, measured.
    """

    technique: str
    model: Any
    quantizations: Sequence[str]
    notes: Sequence[str] = ()


@takes_settings(CompressConfig)
def compress(model: Any, **settings: Unpack[keywords.CompressKeywords]) -> Run:
    """Make the smallest TFLite file of a trained model that is still as good, and prove it.

    Args:
      model: a finished run or its folder; a SavedModel folder, a .keras or .h5 file; a model of Keras. All but a run
        need `representative_data`.
      settings: what the flags of recipes.compress_tflite are called: `max_size_kb`, `max_accuracy_drop`,
        `techniques`, `variants`, `representative_data`, `run_dir`...

    Returns:
      The run whose folder has tflite/ with all files, the chosen one as model.tflite, and variants.json; of a run that
      very run, unless `run_dir` names another.

    Raises:
      ConfigError: a setting is unknown or has a value that cannot be.
      CheckError: nothing keeps to the limits; all that was made is there, and the message names the nearest.
      TfkitError: see `tfkit.errors`.

    Example:
      run = tfkit.compress("runs/photos", max_accuracy_drop=0.01)
      run.metrics["lite/int8/size_bytes"]
    """
    source, values = model.path if isinstance(model, Run) else model, dict[str, Any](settings)
    if isinstance(source, str | Path):
        path, model = Path(source), None
        is_run = path.suffix not in KERAS and not (path / "saved_model.pb").is_file()
        values = {"from_run" if is_run else "saved_model": path, **values}
    if not isinstance(values.get("representative_data"), str | Path | None):
        raise ConfigError(
            "representative_data= is a file or a folder, which the same call finds again. Of arrays:"
            " numpy.savez('examples.npz', inputs=array, labels=labels). For a run: a folder of images, or a file with a"
            " text in each line."
        )
    return compress_model(from_keywords(CompressConfig, values, call="tfkit.compress"), model)


def compress_model(config: CompressConfig, model: Any = None) -> Run:
    """Do the job of `compress`, as `config` says; `model` stands for its --saved-model."""
    from tfkit import reporting

    path = config.from_run
    if sum(source is not None for source in (path, config.saved_model, model)) != 1:
        raise ConfigError("Give the model: either --from-run RUN or --saved-model FOLDER.")
    if path is None and (config.techniques or config.representative_data is None):
        raise ConfigError(
            "--saved-model needs --representative-data, images (or .npy, .npz) of what it will see, and takes no"
            " --techniques, which train: give --from-run, or use tfkit.compression on a Keras model."
        )
    origin = None if path is None else Run.open(path)
    if origin is not None and (config.run_dir is None or config.run_dir.resolve() == origin.path.resolve()):
        run = origin  # to make it anew would remove the model
        run.check_writable()
    else:
        folder = run_dir(config, recipe="compress_tflite")
        if model is not None and config.run_dir is None:  # which the settings do not tell from others
            folder = folder.with_name(f"{folder.name}-{_digest(model)[:8]}")
        # Files made before are made anew; a model that was trained there is nobody's to remove.
        is_rerun = (folder / VARIANTS).is_file() and not (folder / SAVED_MODEL).exists()
        run = Run.create(folder, config=as_dict(config), overwrite=config.overwrite or is_rerun)
    with run, run.timed("compress", keep=origin is None or not is_private(origin)) as record_times:
        if origin is not None:
            choice = _compress_run(run, origin, config)
        else:
            choice = _compress_saved_model(run, config.saved_model if model is None else model, config)
        process.say(f"\n{Table.read(run.read(VARIANTS))}")
        record_times()
        reporting.write_report(run)
    if choice.chosen is None:
        raise CheckError(f"{choice.verdict}\n  All of them are in {run.path / TFLITE}.")
    return run


def _compress_run(run: Run, origin: Run, config: CompressConfig) -> Choice:
    """Compress the model of the run `origin` into `run`, which may be the same."""
    origin_config: Any = settings_of(
        origin, otherwise=f"--saved-model {origin.path / SAVED_MODEL} --representative-data FOLDER"
    )
    if not origin.finished:
        raise RunError(f"{origin.path} has not come to its end. The command that began it goes on with it.")
    private = is_private(origin) or isinstance(origin_config, PrivateSettings)
    check_allowed(origin, config, private=private, of_texts=getattr(origin_config, "of_texts", False))
    batch_size = getattr(origin_config, "global_batch_size", None) or 32
    backbone, splits = load(origin_config, global_batch_size=batch_size)
    check_data(origin, splits)
    with (
        files.lock(run.path / f".{TFLITE}.lock", another="compresses this run"),
        of_run(origin, splits, examples=_load_examples(run, splits, config, private=private)) as tested,
    ):
        trained: list[Candidate] = []
        if private:
            run.note(
                "The run is private: quantization and pruning at once are post-processing, and leave its epsilon as it"
                " is. None of its training examples was looked at."
            )
            trained = [_prune_at_once(run, origin, config)] if config.techniques else []
        elif config.techniques:
            trained = train(
                run,
                models.rebuild(origin, cast(Any, backbone), splits),
                splits.replace(global_batch_size=batch_size),
                config,
                temperature=temperature_of(origin),
                class_weights=origin_config.class_weights,
            )
        return convert_and_choose(run, tested, config, trained=trained, private=private)


def _digest(model: Any) -> str:
    """Return what tells a model in memory from others: its layers and weights; of one without weights, its address."""
    rows = [(type(part).__name__, getattr(part, "activation", None)) for part in getattr(model, "layers", ())]
    kinds = [(kind, getattr(activation, "__name__", "")) for kind, activation in rows]
    weights = [variable.numpy().tobytes() for variable in getattr(model, "variables", ())]
    return files.digest_of(kinds, *(weights or [repr(model)]))


def check_allowed(origin: Run, config: CompressConfig, *, private: bool, of_texts: bool) -> None:
    """Refuse, before anything is trained, what a run's model does not allow.

    Raises:
      UsageError: techniques are asked for, of a model of texts.
      PrivacyError: private training examples would be looked at again.
    """
    if of_texts and config.techniques:
        raise UsageError(
            f"{origin.path} is of texts; --techniques {' '.join(config.techniques)} is for models of images.\n"
            "  Leave it out: dynamic has int8 weights, and needs no training."
        )
    culprits: list[str] = [technique for technique in config.techniques if technique != "prune"]
    if config.representative_data is None and set(config.variants) <= set(MEASURED):
        culprits += config.variants
    if private and culprits:
        raise PrivacyError(
            f"{origin.path} was trained privately, and {', '.join(culprits)} would look at its training examples again,"
            " which its epsilon does not cover.\n  What costs no privacy: --techniques prune (at once), --variants"
            " dynamic, or public examples of the same kind by --representative-data."
        )


def _compress_saved_model(run: Run, model: Any, config: CompressConfig) -> Choice:
    """Compress any model of one output."""
    with saved(model, input_shape=config.input_shape or None, signature=config.signature) as source:
        data, labels = _read_data(run, source, config)
        # Ranges are measured on some, and the files compared on the others: those of rare classes are not all for one.
        count, max_count = len(next(iter(data.values()))), representative.affordable(source.takes)
        batch = max(sizes[0] for sizes, _ in source.inputs.values())
        range_rows = draw(count, min(max_count, max(batch, count // 2)), seed=config.seed)
        test_rows = np.setdiff1d(np.arange(count), range_rows) if count > len(range_rows) else range_rows
        test_rows = test_rows[draw(len(test_rows), max(max_count, COMPARED), seed=config.seed)]
        examples, test_data = ({name: data[name][rows] for name in data} for rows in (range_rows, test_rows))
        tested = under_test(
            source,
            test_data,
            labels=None if labels is None else labels[test_rows],
            output=config.output,
            examples=representative.collect_representative(examples, source.takes),
        )
        if count < 2:
            run.note("There is one example: the ranges of int8 are measured on what they are compared on.")
        run.note(tested.output_note)
        if labels is None:
            run.note(
                "The true labels are not known (an array 'labels' in the .npz gives them): --max-accuracy-drop limits"
                " the share of other answers, of several yes or no 1 - F1, of values 1 - R2 against the original."
            )
        return convert_and_choose(run, tested, config)


def convert_and_choose(
    run: Run,
    tested: ModelUnderTest,
    config: CompressConfig,
    *,
    trained: Sequence[Candidate] = (),
    private: bool = False,
) -> Choice:
    """Convert, measure, choose, and write it all into a run's folder.

    Args:
      run: gets tflite/, metrics `lite/...`, pictures in TensorBoard.
      tested: the model as it is.
      config: which variants, and the limits.
      trained: what techniques made of it.
      private: whether the training examples of the run must not be looked at again.

    Returns:
      The choice, also where nothing keeps to the limits.

    Raises:
      UsageError, CheckError: as of `tfkit.convert`, where no variant at all can be made.
    """
    if {*MEASURED} & {*config.variants}:
        for doubt in representative.find_doubts(tested.examples or {}, tested.source.takes):
            run.warn(doubt)
    contents: dict[str, bytes] = {}
    failed: dict[str, Any] = {}
    notes: dict[str, list[str]] = {}
    for candidate in (Candidate("", None, config.variants), *trained):
        converted, reasons = _convert(run, tested, candidate, config)
        contents |= {name: add_metadata(content, tested, name=name) for name, content in converted.items()}
        failed |= reasons
        notes |= {name: list(candidate.notes) for name in converted}
    process.say(f"Measuring {counted(len(contents), 'variant')} on {counted(tested.count, 'example')} ...")
    comparisons, broken = compare_all(tested, contents)
    failed |= broken
    if not comparisons:
        lines = "\n  ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise CheckError(f"No variant could be made.\n  {lines}")
    drop, limit = comparisons["int8"].drop if "int8" in comparisons else 0.0, config.max_accuracy_drop
    # Of texts the tensors before and after the tokenizer are not of one kind.
    if drop > limit and "float32" in comparisons and tested.examples is not None and tested.takes != "texts":
        process.say(f"int8 loses {drop:.4f}: looking for the layers at which its error starts ...")
        request = _to_request(NAME, "int8", tested, config)
        content, location, outcome = selective_variant(
            tested, contents["float32"], contents["int8"], limit=limit, request=request
        )
        run.note(f"int8 loses {drop:.4f} (limit {limit:g}). {location} {outcome}")
        notes["int8"].append(location)
        if content is None:
            failed[NAME] = outcome
        else:
            contents[NAME], notes[NAME] = add_metadata(content, tested, name=NAME), [outcome]
            comparisons |= compare_all(tested, {NAME: contents[NAME]})[0]
    table = measure(tested, contents, comparisons, failed=failed, notes=notes)
    gates = Gates(**{field.name: getattr(config, field.name) for field in dataclasses.fields(Gates)})
    choice = choose(table.variants, gates)
    write_results(run, tested, table, comparisons, choice=choice, gates=gates, show_examples=not private)
    return choice


def _convert(
    run: Run, tested: ModelUnderTest, candidate: Candidate, config: CompressConfig
) -> tuple[dict[str, bytes], dict[str, TfkitError]]:
    """Return the variants of one model, and why others could not be made."""
    prefix, variants = f"{candidate.technique}+" if candidate.technique else "", list(candidate.quantizations)
    (shape, _), *_ = tested.source.inputs.values()
    context = saved(candidate.model, input_shape=shape) if prefix else contextlib.nullcontext(tested.source)
    with context as source:
        missing = [variant for variant in variants if variant in MEASURED]
        if tested.examples is None and not source.quantize_aware and missing:
            run.note(
                f"{' and '.join(missing)} left out: the training examples are private. Give public examples of the same"
                " kind by --representative-data, or take dynamic, which needs none."
            )
            variants = [variant for variant in variants if variant not in missing]
        process.say(f"Converting {candidate.technique or 'the model'} to {', '.join(variants)} ...")
        requests = [_to_request(f"{prefix}{variant}", variant, tested, config) for variant in variants]
        return run_conversions(source, requests, examples=tested.examples)


def _to_request(name: str, variant: str, tested: ModelUnderTest, config: CompressConfig) -> ConversionRequest:
    """Return a request: images go into an int8 file as the bytes that they are, probabilities come out as bytes."""
    dtype = "uint8" if variant == "int8" and tested.takes == "images" else "float32"
    return ConversionRequest(
        name=name,
        variant=variant,
        inference_input_type=dtype,
        inference_output_type=dtype,
        select_tf_ops=config.select_tf_ops,
    )


def stages(technique: str, config: CompressConfig, *, examples: Any = None) -> list[Technique]:
    """Return what "prune+cluster+qat" consists of: each keeps what those before it did.

    Args:
      technique: its parts, joined by "+".
      config: of the parts.
      examples: a batch of inputs, by which the ranges of qat begin.
    """
    parts = technique.split("+")
    options = {"preserve_sparsity": "prune" in parts}
    techniques: dict[str, Technique] = {
        "prune": Prune(
            final_sparsity=config.final_sparsity,
            schedule=config.pruning_schedule,
            structure=config.sparsity_structure,
        ),
        "cluster": Cluster(number_of_clusters=config.number_of_clusters, **options),
        "qat": QuantizeAware(preserve_clusters="cluster" in parts, examples=examples, **options),
    }
    return [techniques[part] for part in parts]


def train(
    run: Run,
    model: stack.keras.Model,
    splits: Splits,
    config: CompressConfig,
    *,
    temperature: float = 1.0,
    class_weights: str = "auto",
) -> list[Candidate]:
    """Train all techniques that are asked for, one after the other.

    Args:
      run: gets notes on what was decided, and in tflite/training/ a folder for each training, from which it is resumed;
        a finished one is not trained again.
      model: flat, compiled, of images in [0, 1]; its loss tells whether it gives logits.
      splits: that it was trained on, of the batch size of training.
      config: which techniques.
      temperature: of the run's exported model.
      class_weights: of the run's own training, see `tfkit.training.stage.class_weight`: what it learned of rare classes
        would be unlearned without them, and accuracy hardly tells.

    Raises:
      UsageError: a technique cannot take the model; all layers are looked at before any training.
      CheckError: training did not do what was asked for.
    """
    examples = representative.from_splits(splits, count=RANGED, seed=config.seed) / np.float32(255)
    chains = {technique: stages(technique, config, examples=examples) for technique in config.techniques}
    for part in [part for chain in chains.values() for part in chain]:
        run.note(sentence(part.treatments(model), technique=part.name))
    weights = class_weight(splits, when=class_weights, run=run)
    trained: dict[str, tuple[stack.keras.Model, list[str]]] = {"": (model, [])}
    candidates = []
    for technique, chain in chains.items():
        name = ""
        for part in chain:
            before, notes = trained[name]
            name = f"{name}+{part.name}" if name else part.name
            if name not in trained:
                folder = run.path / TFLITE / TRAINING / name
                after = _train_technique(folder, part, before, splits, config, weights)
                metrics = part.measure(before, after)
                numbers = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items())
                run.note(f"{name} is trained: {numbers}.")
                trained[name] = after, [*notes, f"{part.name}: {numbers}"]
        after, notes = trained[name]
        predict = functools.partial(after, training=False)
        quantizations = [variant for variant in trained_variants(technique) if variant in config.variants]
        to_probabilities = functools.partial(
            splits.task.probabilities, logits=gives_logits(model), temperature=temperature
        )
        pixel_model = pixel_function(predict, keep=after.variables, probabilities=to_probabilities)
        candidates.append(Candidate(name, pixel_model, quantizations, notes))
    return candidates


def _train_technique(
    folder: Path,
    technique: Technique,
    model: stack.keras.Model,
    splits: Splits,
    config: CompressConfig,
    weights: dict[int, float] | None,
) -> stack.keras.Model:
    from tfkit.reporting.keras_callbacks import Kernels

    epochs = config.epochs or EPOCHS[type(technique)]
    steps = epochs * splits.steps_per_epoch

    def build() -> Any:
        schedule = models.learning_rate_schedule(config.learning_rate, steps=steps)
        wrapped = technique.wrap(model, steps=steps)
        return models.compile_model(wrapped, stack.keras.optimizers.Adam(schedule), task=splits.task)

    settings = {
        "technique": folder.name, "stage": repr(technique), "epochs": epochs, "learning_rate": config.learning_rate,
        "global_batch_size": splits.global_batch_size, "seed": config.seed, "data": splits.source.fingerprint,
        "class_weights": weights is not None,
        "begins_with": files.digest_of(*(weight.tobytes() for weight in model.get_weights())),
    }  # fmt: skip
    # An earlier training of other settings is replaced, and what followed it too: that began with other weights.
    differs = (folder / "config.yaml").is_file() and Run.open(folder).config != settings
    process.say(
        f"Training {folder.name}: {counted(epochs, 'epoch')} of {counted(splits.steps_per_epoch, 'step')} ..."
    )
    with Run.create(folder, config=settings, overwrite=differs) as run:
        result = fit.train(
            build,
            splits,
            Stage(epochs=epochs, seed=config.seed, keep="last", class_weight=weights),
            run=run,
            strategy="one_device",
            callbacks=[*technique.callbacks(), Kernels(run.logdir)],
        )
    return technique.strip(result.model)


def _prune_at_once(run: Run, origin: Run, config: CompressConfig) -> Candidate:
    """Make the smallest weights of a private model zero: no example is needed for that."""
    model = stack.load_saved_model(origin.path / SAVED_MODEL)  # that of the run stays as it is
    prune = Prune(final_sparsity=config.final_sparsity, structure=config.sparsity_structure)
    sparsity = prune.prune_variables(list(model.variables_of_model))
    note = f"{prune.name}: sparsity {sparsity:.3f} of the kernels, made at once, without training after it"
    run.note(f"{note}.")
    quantizations = [variant for variant in ("float32", "int8", "dynamic") if variant in config.variants]
    return Candidate(prune.name, pixel_function(model.classify, keep=model), quantizations, [note])


def _load_examples(run: Run, splits: Splits, config: CompressConfig, *, private: bool) -> np.ndarray | None:
    """Return representative images or texts; none for a private run without public ones."""
    path = config.representative_data
    if path is None:
        return None if private else representative.from_splits(splits, seed=config.seed)
    if splits.kind == "texts":
        lines = [line for line in path.read_bytes().splitlines() if line.strip()] if path.is_file() else []
        if not lines:
            raise DataError(f"--representative-data {path} is no file with a text in each line.")
        return np.array(lines, dtype=object)
    size, pixel_range = int(splits.spec.shape[0]), splits.pixel_range[:2]
    pixels = read_images(path, image_size=size, count=representative.EXAMPLES, pixel_range=pixel_range)
    images = pixels.astype(np.float32)
    if not private and (difference := representative.compare_colours(images, splits, seed=config.seed)):
        run.warn(f"Beware of {path} as representative data: {difference}.")
    run.note(f"The ranges of integers are measured on {len(images)} images of {path}.")
    return representative.pin_range(images)


def _read_data(run: Run, source: Source, config: CompressConfig) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return what a SavedModel is tried on, and labels: the arrays of a .npy or .npz, or the images of a folder."""
    assert config.representative_data is not None
    path, names = config.representative_data, list(source.inputs)
    if path.suffix not in (".npy", ".npz"):
        shape, dtype = source.inputs[names[0]]
        if len(names) > 1 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
            raise DataError(f"The model takes {source.takes.description}, no pictures: give a .npy or .npz.")
        images = read_images(path, image_size=shape[1], count=COMPARED + representative.EXAMPLES)
        if dtype != "uint8":
            low, high = config.input_range
            images = images.astype(np.float32) / 255.0 * (high - low) + low
            run.note(f"Pictures are given as numbers from {low:g}, black, to {high:g} (--input-range).")
        return {names[0]: images}, None
    try:
        content: Any = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
        if isinstance(content, np.ndarray):
            content = {names[0]: content}
        keys = {name: name for name in (*names, "labels") if name in content}
        inputs = [key for key in content if key != "labels"]
        if len(names) == len(inputs) == 1:  # Keras numbers its inputs anew in each session
            keys[names[0]] = inputs[0]
        arrays = {name: np.atleast_1d(content[key]) for name, key in keys.items()}
    except (OSError, ValueError, EOFError) as err:
        raise DataError(f"--representative-data {path} cannot be read: {err}") from err
    counts = {name: len(values) for name, values in arrays.items()}
    if not set(names) <= set(arrays) or len(set(counts.values())) > 1 or not min(counts.values()):
        raise DataError(
            f"{path} holds {', '.join(content)}, and of what is taken so many examples: {counts}. Give a .npz of"
            f" {' and '.join(names)}, as many of each, and 'labels' where they are known."
        )
    return arrays, None if "labels" in names else arrays.pop("labels", None)
