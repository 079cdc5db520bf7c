"""The job of recipes.compress_tflite: a run of a recipe, or a stranger's SavedModel, to measured .tflite files.

What `recipes.compress_tflite` can be asked for.

The whole job: from a finished run, or any SavedModel, to measured variants and the chosen one.

Techniques on a run's model: trained one after the other, each in a folder of its own, so that it can be resumed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tfkit.compression import representative, results
from tfkit.compression.choice import Choice, Gates, choose
from tfkit.compression.clustering import Cluster
from tfkit.compression.compare import (
    Comparison,
    at,
    compare_outputs,
    convert_all,
    everything,
    judge,
    measure,
    original,
    predict,
    refuse_several_outputs,
)
from tfkit.compression.convert import WEIGHTS, weights_only
from tfkit.compression.converter_process import MEASURED, ConversionRequest
from tfkit.compression.error_localisation import NAME, selective_variant
from tfkit.compression.pruning import Prune
from tfkit.compression.quantization import QuantizeAware
from tfkit.compression.results import Made, Subject, of_run
from tfkit.compression.sources import KERAS, Source, pixel_function, saved
from tfkit.compression.techniques import Stage, sentence
from tfkit.data.image_files import read_images
from tfkit.data.splits import draw
from tfkit.environment import files, process
from tfkit.errors import CheckError, ConfigError, DataError, PrivacyError, RunError, UsageError
from tfkit.privacy.ledger import check_data, is_private
from tfkit.run import TFLITE, Run
from tfkit.settings import fields
from tfkit.settings.options import DataConfig, PrivateConfig, RecipeConfig, TextColumns
from tfkit.training import loop
from tfkit.training import stage as training_stage
from tfkit.transfer import models
from tfkit.transfer.load import load
from tfkit.transfer.models import rebuild

if TYPE_CHECKING:
    from tfkit.data.splits import Splits
    from tfkit.environment.stack import keras
    from tfkit.run import Run

TECHNIQUES = ("prune", "cluster", "qat")
MADE_OF = {"others": ("float32", "int8"), "qat": ("int8",)}
"""The variants of a model that was trained for the device."""
VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8", "weights8", "weights4")


@dataclass(frozen=True, kw_only=True)
class CompressConfig(RecipeConfig):
    """Which model, what is done to it, and what the result must keep to."""

    start_here = ("from_run", "saved_model", "run_dir", "max_size_kb", "max_accuracy_drop")

    from_run: Path | None = None
    """Finished run of transfer_image, transfer_text, train_private or train_distributed. The files go into its folder,
    unless --run-dir names another. Its model is a program: run a stranger's in a sandbox. Left out: --saved-model."""

    saved_model: Path | None = None
    """Instead of --from-run: any SavedModel folder, .keras or .h5 file. Needs --representative-data. A SavedModel is a
    program, which can read and write files: run a stranger's in a sandbox."""

    signature: str | None = None
    """Of the SavedModel, where it has several. Left out: the one that is served."""

    input_shape: tuple[fields.Count, ...] = ()
    """Of the SavedModel's input with the batch, where it leaves sizes open: 1 224 224 3. Left out: as it says."""

    input_range: tuple[float, float] = (0.0, 1.0)
    """What a SavedModel of float images expects for black and white."""

    output: Literal["auto", "probabilities", "logits", "sigmoid", "sigmoid_logits", "values"] = "auto"
    """What the SavedModel gives: of classes, of yes or no for each number, or real values. auto: found out by its
    last layer, the labels and what it gives, and said."""

    representative_data: Path | None = None
    """Folder of images, or .npy/.npz of inputs, by which the ranges of int8 are measured: drawn from all. An array
    "labels" in the .npz holds the true ones. For texts a file with one a line. Left out: training examples."""

    variants: tuple[
        Literal["float32", "float16", "dynamic", "int8", "int16x8", "weights8", "weights4"], ...
    ] = (
        "float32",
        "float16",
        "dynamic",
        "int8",
    )
    """Which files to make. weights8, weights4: by ai-edge-quantizer, weights alone."""

    techniques: tuple[str, ...] = ()
    """What training does first: prune, cluster, qat, or several, joined: prune+qat, prune+cluster+qat. Minutes
    each. Left out: none, the model is converted as it is."""

    final_sparsity: Annotated[float, fields.Range(gt=0, lt=1)] = 0.8
    """Share of zeros that pruning ends with."""

    pruning_schedule: Literal["polynomial", "constant"] = "polynomial"
    """How sparsity grows: step by step, or all at once."""

    sparsity_structure: Literal["unstructured", "block", "2:4"] = "unstructured"
    """Which weights become zero together. 2:4 has a sparsity of 0.5."""

    number_of_clusters: Annotated[int, fields.Range(ge=2)] = 16
    """Distinct values that clustering leaves in a kernel."""

    epochs: fields.Count | None = None
    """Epochs of each training. Left out: 20 of pruning, 5 of clustering, 5 of quantization-aware training."""

    learning_rate: fields.Positive = 3e-4
    """Of these trainings: the peak, after warm-up and before cosine decay."""

    max_size_kb: fields.Positive | None = None
    """Size of the file, in units of 1000 bytes, that the chosen variant may have. Left out: any."""

    gzipped: bool = False
    """Take the size of the gzipped file for that, as it is downloaded."""

    max_accuracy_drop: fields.Share = 0.01
    """Test accuracy that the chosen variant may lose; of real values R2. Without labels the share of answers that
    may differ, or 1 - R2 against the original."""

    max_latency_ms: fields.Positive | None = None
    """Median time for one example on one thread of this machine that it may take. Left out: any."""

    select_tf_ops: bool = False
    """Keep operations that TFLite lacks as TensorFlow's: the device then needs the Flex delegate."""

    @property
    def unused(self) -> tuple[str, ...]:
        """Return what describes a SavedModel, where there is a run; how to train, where nothing is trained."""
        of_saved_model = () if self.saved_model is not None else ("signature", "input_shape", "input_range")
        of_training = ("epochs", "learning_rate") if not self.techniques else ()
        parts = {part for technique in self.techniques for part in technique.split("+")}
        pruned = () if "prune" in parts else ("final_sparsity", "pruning_schedule", "sparsity_structure")
        return (
            *of_saved_model,
            *of_training,
            *pruned,
            *(() if "cluster" in parts else ("number_of_clusters",)),
        )

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        super().__post_init__()
        if (self.from_run is None) == (self.saved_model is None):
            raise ConfigError("Give the model: either --from-run RUN or --saved-model FOLDER.")
        if self.saved_model is not None:
            self._check_saved_model()
        elif self.signature or self.input_shape or self.output != "auto":
            raise ConfigError(
                "--signature, --input-shape and --output are of a --saved-model; a run's are known."
            )
        if not self.variants and not self.techniques:
            raise ConfigError("--variants is empty: nothing would be made.")
        self._check_techniques()

    def _check_techniques(self) -> None:
        for technique in self.techniques:
            made = MADE_OF["qat" if "qat" in check_technique(technique) else "others"]
            if not set(made) & set(self.variants):
                raise ConfigError(
                    f"--techniques {technique} trains a model of which {' and '.join(made)} can be made, and --variants"
                    f" names none of them: {' '.join(self.variants) or 'none'}. Add --variants {made[-1]}."
                )

    def _check_saved_model(self) -> None:
        assert self.saved_model is not None
        is_keras = self.saved_model.suffix in KERAS and self.saved_model.is_file()
        if not is_keras and not (self.saved_model / "saved_model.pb").is_file():
            raise ConfigError(f"--saved-model {self.saved_model} is no SavedModel: it has no saved_model.pb.")
        if self.techniques:
            raise ConfigError(
                "--techniques train the model, which a SavedModel does not allow: its layers are not known any more."
                "\n  Give --from-run, or use tfkit.compression on the Keras model from Python."
            )
        if self.representative_data is None:
            raise ConfigError(
                "--saved-model needs --representative-data: images (or .npy, .npz) of what it will see. On them the"
                " ranges of int8 are measured, and the files compared with the model."
            )


def check_technique(technique: str) -> tuple[str, ...]:
    """The parts of "prune+cluster+qat", in the order in which they are trained.

    Raises:
      ConfigError: a part is not known, stands twice, or comes too early.
    """
    parts = tuple(technique.split("+"))
    expected = tuple(name for name in TECHNIQUES if name in parts)
    if parts != expected:
        raise ConfigError(
            f"--techniques {technique!r} is not known: take {', '.join(TECHNIQUES)}, or several of them in this order,"
            " such as prune+qat."
        )
    return parts


_LEFT_OUT = (
    "{variants} left out: the ranges of integers are measured on examples, and the training examples are private."
    " Public ones of the same kind, given by --representative-data, do; or take dynamic, which needs none."
)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A model that a technique has trained, to be converted.

    Attributes:
      technique: "prune0.8".
      model: of the subject's inputs.
      quantizations: what to convert it to.
      notes: what training did, measured.
    """

    technique: str
    model: Any
    quantizations: Sequence[str]
    notes: Sequence[str] = ()


def compress(
    run: Run,
    subject: Subject,
    config: CompressConfig,
    *,
    trained: Sequence[Trained] = (),
    private: bool = False,
) -> Choice:
    """Convert, measure, choose, and write it all into a run's folder.

    Args:
      run: gets tflite/, metrics `lite/...`, pictures in TensorBoard.
      subject: the model as it is.
      config: which variants, and the limits.
      trained: what techniques made of it.
      private: whether the training examples of the run must not be looked at again.

    Returns:
      The choice, also where nothing keeps to the limits.

    Raises:
      UsageError, CheckError: as of `tfkit.convert`, where no variant at all can be made.
    """
    made = Made()
    _convert(run, made, subject, "", subject.model, config.variants, config)
    for one in trained:
        _convert(run, made, subject, one.technique, one.model, one.quantizations, config)
        for name in made.models:
            if name.rpartition("+")[0] == one.technique:
                made.notes.setdefault(name, []).extend(one.notes)
    if not made.models:
        listed = "\n  ".join(f"{name}: {reason}" for name, reason in made.failed.items())
        raise CheckError(f"No variant could be made.\n  {listed}")
    gates = Gates(
        max_size_kb=config.max_size_kb,
        max_accuracy_drop=config.max_accuracy_drop,
        max_latency_ms=config.max_latency_ms,
        gzipped=config.gzipped,
    )
    made.models = {
        name: results.described(content, subject, name=name) for name, content in made.models.items()
    }
    process.say(f"Measuring {len(made.models)} variants on {subject.count} examples ...")
    compared = compare(subject, made.models)
    _rescue(run, made, subject, config, compared)
    variants = measure(made.models, compared, notes=made.notes, example=subject.typical)
    choice = choose(variants, gates)
    results.write_results(
        run, subject, variants, made, compared, choice=choice, gates=gates, show_examples=not private
    )
    return choice


def compare(subject: Subject, models: Mapping[str, bytes]) -> dict[str, Comparison]:
    """Each file on all test examples, beside the original."""
    return {
        name: compare_outputs(
            predict(content, subject.read, subject.count),
            subject.expected,
            output=subject.output,
            labels=subject.labels,
            class_names=subject.class_names,
        )
        for name, content in models.items()
    }


def _convert(
    run: Run,
    made: Made,
    subject: Subject,
    technique: str,
    model: Any,
    quantizations: Sequence[str],
    config: CompressConfig,
) -> None:
    """Add the variants of one model to what was made."""
    prefix = f"{technique}+" if technique else ""
    with saved(model, input_shape=subject.input_shape, signature=subject.signature) as source:
        possible = list(quantizations)
        lacking = [one for one in possible if one in MEASURED] if subject.examples is None else []
        if lacking and not source.quantize_aware:
            run.note(_LEFT_OUT.format(variants=" and ".join(lacking)))
            possible = [one for one in possible if one not in lacking]
        requests = [
            _request(f"{prefix}{one}", one, subject, config) for one in possible if one not in WEIGHTS
        ]
        process.say(f"Converting {technique or 'the model'} to {', '.join(possible)} ...")
        examples = (
            None
            if subject.examples is None
            else representative.collect_representative(
                subject.examples, source.takes, count=subject.example_count
            )
        )
        content, failed = convert_all(source, requests, examples)
    made.models |= content
    made.failed |= failed
    float32 = content.get(f"{prefix}float32")
    for one in possible:
        if one in WEIGHTS and subject.takes == "texts":
            made.failed[f"{prefix}{one}"] = (
                "ai-edge-quantizer does not know the operations of tensorflow-text; dynamic has the same weights"
            )
        elif one in WEIGHTS and float32 is not None:
            made.models[f"{prefix}{one}"] = weights_only(float32, bits=WEIGHTS[one])
        elif one in WEIGHTS:
            made.failed[f"{prefix}{one}"] = "it is made of the float32 variant, which is not there"


def _request(name: str, variant: str, subject: Subject, config: CompressConfig) -> ConversionRequest:
    """Images go into an int8 file as the bytes that they are, and probabilities come out as bytes."""
    bytes_ = "uint8" if variant == "int8" and subject.takes == "images" else "float32"
    return ConversionRequest(
        name=name,
        variant=variant,
        inference_input_type=bytes_,
        inference_output_type=bytes_,
        select_tf_ops=config.select_tf_ops,
    )


def _rescue(
    run: Run, made: Made, subject: Subject, config: CompressConfig, compared: dict[str, Comparison]
) -> None:
    """Where int8 loses too much, keep the layers in float at which its error starts."""
    lost = compared["int8"].drop if "int8" in made.models else 0.0
    if lost <= config.max_accuracy_drop or "float32" not in made.models or subject.examples is None:
        return
    if subject.takes == "texts":  # tensors before and after the tokenizer are not of one kind
        return
    process.say(f"int8 loses {lost:.4f}: looking for the layers at which its error starts ...")
    content, located, outcome = selective_variant(
        subject,
        made.models["float32"],
        made.models["int8"],
        limit=config.max_accuracy_drop,
        request=_request(NAME, "int8", subject, config),
    )
    run.note(f"int8 loses {lost:.4f} (limit {config.max_accuracy_drop:g}). {located.sentence} {outcome}")
    made.notes.setdefault("int8", []).append(located.sentence)
    if content is not None:
        made.models[NAME] = results.described(content, subject, name=NAME)
        made.notes[NAME] = [outcome]
        compared |= compare(subject, {NAME: content})
    else:
        made.failed[NAME] = outcome


RANGED = 64
EPOCHS = {"prune": 20, "cluster": 5, "qat": 5}


def stages(technique: str, config: CompressConfig, *, examples: Any = None) -> list[Stage]:
    """What "prune+cluster+qat" consists of: each keeps what those before it did.

    Args:
      technique: its parts, joined by "+".
      config: of the parts.
      examples: a batch of inputs, by which the ranges of qat begin.
    """
    parts = check_technique(technique)
    made: list[Stage] = []
    for part in parts:
        if part == "prune":
            made.append(
                Prune(
                    final_sparsity=config.final_sparsity,
                    schedule=config.pruning_schedule,
                    structure=config.sparsity_structure,
                )
            )
        elif part == "cluster":
            made.append(
                Cluster(number_of_clusters=config.number_of_clusters, preserve_sparsity="prune" in parts)
            )
        else:
            made.append(
                QuantizeAware(
                    preserve_sparsity="prune" in parts,
                    preserve_clusters="cluster" in parts,
                    examples=examples,
                )
            )
    return made


def train(
    run: Run, folder: Path, model: keras.Model, splits: Splits, config: CompressConfig, *, batch_size: int
) -> list[Trained]:
    """Train all techniques that are asked for.

    Args:
      run: is told what was decided.
      folder: gets one folder for each training; a finished one is not trained again.
      model: flat, of images in [0, 1], to logits.
      splits: that it was trained on.
      config: which techniques.
      batch_size: of training.

    Raises:
      UsageError: a technique cannot take the model; all layers are looked at before any training.
      CheckError: training did not do what was asked for.
    """
    examples = representative.from_splits(splits, count=RANGED, seed=config.seed) / np.float32(255)
    chains = {technique: stages(technique, config, examples=examples) for technique in config.techniques}
    for chain in chains.values():
        for stage in chain:
            run.note(sentence(stage.treatments(model), technique=stage.name))
    if any("cluster" in technique and "qat" in technique for technique in chains):
        run.note(
            "Keras will warn that gradients of kernels do not exist in cluster+qat: their centroids have them, and"
            " that the kernels change is measured."
        )
    done: dict[str, tuple[keras.Model, list[str]]] = {}
    trained = []
    for technique, chain in chains.items():
        current, said, name = model, list[str](), ""
        for stage, part in zip(chain, technique.split("+"), strict=True):
            name = f"{name}+{stage.name}" if name else stage.name
            if name not in done:
                made, measured = _train(
                    folder / name, stage, current, splits, config, part=part, batch_size=batch_size
                )
                found = ", ".join(f"{what} {value:.4g}" for what, value in measured.items())
                run.note(f"{name} is trained: {found}.")
                done[name] = (made, [*said, f"{stage.name}: {found}"])
            current, said = done[name]
        wanted = MADE_OF["qat" if technique.endswith("qat") else "others"]
        trained.append(
            Trained(
                technique=name,
                model=pixel_function(
                    functools.partial(current, training=False), keep=current.variables, softmax=True
                ),
                quantizations=[one for one in wanted if one in config.variants],
                notes=said,
            )
        )
    return trained


def _train(
    folder: Path,
    stage: Stage,
    model: keras.Model,
    splits: Splits,
    config: CompressConfig,
    *,
    part: str,
    batch_size: int,
) -> tuple[keras.Model, dict[str, float]]:
    epochs = config.epochs or EPOCHS[part]
    own = splits.replace(global_batch_size=batch_size)
    steps = epochs * own.steps_per_epoch

    def build() -> Any:
        from tfkit.environment.stack import keras

        schedule = models.learning_rate_schedule(config.learning_rate, steps=steps)
        return models.compiled(stage.wrap(model, steps=steps), keras.optimizers.Adam(schedule))

    asked = {
        "technique": folder.name,
        "stage": repr(stage),
        "epochs": epochs,
        "learning_rate": config.learning_rate,
        "global_batch_size": batch_size,
        "seed": config.seed,
        "data": splits.source.fingerprint,
    }
    from tfkit.reporting.keras_callbacks import Kernels

    process.say(f"Training {folder.name}: {epochs} epochs of {own.steps_per_epoch} steps ...")
    with Run.create(folder, config=asked, overwrite=_differs(folder, asked)) as run:
        trained = loop.train(
            build,
            own,
            training_stage.Stage(epochs=epochs, seed=config.seed, keep="last"),
            run=run,
            strategy="one_device",
            callbacks=[*stage.callbacks(), Kernels(run.logdir)],
        )
    made = stage.strip(trained.model)
    return made, stage.measure(model, made)


def _differs(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether an earlier training in the folder was of other settings: it is then replaced."""
    return (folder / "config.yaml").is_file() and Run.open(folder).config != asked


COMPARED = 1000
TRAINING = "training"
_PRIVATE = (
    "The run is private: quantization, and pruning without training after it, are post-processing of its model and"
    " leave its epsilon as it is. None of its training examples was looked at."
)


def from_run(run: Run, origin: Run, its_config: DataConfig, config: CompressConfig) -> Choice:
    """Compress the model of a run.

    Args:
      run: gets the files; may be the very run.
      origin: the finished run whose model it is.
      its_config: of the recipe that made it.
      config: what is asked for.

    Raises:
      RunError: it is not finished, or not as the recipe left it.
      DataError: its data changed; representative images that are not like those of training.
      PrivacyError: a technique that would train on private examples.
    """
    if not origin.finished:
        raise RunError(f"{origin.path} has not come to its end. The command that began it goes on with it.")
    private = is_private(origin) or isinstance(its_config, PrivateConfig)
    _check_private(origin, config, private=private)
    batch_size = getattr(its_config, "global_batch_size", None) or 32
    backbone: Any = None
    if isinstance(its_config, TextColumns) and its_config.of_texts:
        _check_texts(origin, config)
    backbone, splits = load(its_config, global_batch_size=batch_size)
    check_data(origin, splits)
    with files.lock_or_wait(run.path / f".{TFLITE}.lock", another="compresses this run"):
        subject = of_run(origin, splits, examples=_examples(run, splits, config, private=private))
        if private:
            run.note(_PRIVATE)
            trained = _pruned_at_once(run, origin, config)
        elif config.techniques:
            model = rebuild(origin, backbone, splits)
            folder = run.path / TFLITE / TRAINING
            trained = train(run, folder, model, splits, config, batch_size=batch_size)
        else:
            trained = []
        return compress(run, subject, config, trained=trained, private=private)


def from_saved_model(run: Run, config: CompressConfig) -> Choice:
    """Compress any SavedModel of one output.

    Args:
      run: gets the files.
      config: which, and the data on which ranges are measured and the variants compared.

    Raises:
      UsageError: as of `tfkit.convert`; more outputs than one.
      DataError: the data do not fit.
    """
    with saved(
        config.saved_model, input_shape=config.input_shape or None, signature=config.signature
    ) as source:
        refuse_several_outputs(source)
        data, labels, names = _data(source, config)
        # Ranges are measured on some, and the files compared on the others.
        for_ranges, others = _divided(len(names), labels, source, seed=config.seed)
        examples, _ = everything(source, {name: values[for_ranges] for name, values in data.items()})
        compared, _ = everything(source, {name: values[others] for name, values in data.items()})
        expected = original(source, compared)
        true = None if labels is None else labels[others]
        judged = judge(source, expected, output=config.output, labels=true, class_names=())
    if len(names) < 2:
        run.note("There is one example: the ranges of int8 are measured on the one on which it is compared.")
    subject = Subject(
        model=config.saved_model,
        input_shape=config.input_shape or None,
        read=at(compared),
        count=len(expected),
        expected=expected,
        output=judged.output,
        judged=judged.sentence,
        labels=judged.labels,
        class_names=(),
        names=[names[place] for place in others],
        examples=examples,
        takes="arrays",
        signature=config.signature,
    )
    run.note(subject.judged)
    if labels is None:
        run.note(
            "Nobody knows the true labels here (an array 'labels' in the .npz gives them): "
            + ("1 - R2 against the original" if judged.output == "values" else "the share of other answers")
            + f" stands for what is lost, with the limit --max-accuracy-drop {config.max_accuracy_drop:g}."
        )
    return compress(run, subject, config)


def _divided(
    count: int, labels: np.ndarray | None, source: Source, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Examples for the ranges, and others to compare on: drawn from all."""
    most, batch = (
        representative.affordable(source.takes),
        max(shape[0] for shape, _ in source.inputs.values()),
    )
    classes = labels if labels is not None and labels.ndim == 1 and labels.dtype.kind != "f" else None
    for_ranges = draw(count, min(most, max(batch, count // 2)), classes=classes, seed=seed)
    others = np.setdiff1d(np.arange(count), for_ranges) if count > len(for_ranges) else for_ranges
    return for_ranges, others[draw(len(others), max(most, COMPARED), seed=seed)]


def _check_texts(origin: Run, config: CompressConfig) -> None:
    if config.techniques:
        raise UsageError(
            f"{origin.path} is of texts; --techniques {' '.join(config.techniques)} is for models of images: most"
            " weights of one of texts are tables of pieces and layers of attention, which these do not reach.\n"
            "  Leave it out: dynamic has int8 weights, and needs no training."
        )


def _check_private(origin: Run, config: CompressConfig, *, private: bool) -> None:
    trains = [technique for technique in config.techniques if technique != "prune"]
    if private and trains:
        raise PrivacyError(
            f"{origin.path} was trained privately, and {', '.join(trains)} would look at its training examples again,"
            " which its epsilon does not cover.\n"
            "  Quantization, and pruning without training after it, are post-processing and cost no privacy:"
            " --techniques prune, or none."
        )
    if private and config.representative_data is None and set(config.variants) <= set(MEASURED):
        raise PrivacyError(
            f"{origin.path} was trained privately: the ranges of {' and '.join(config.variants)} would be measured on"
            " its training examples, which its epsilon does not cover.\n"
            "  Give public examples of the same kind by --representative-data, or add --variants dynamic, which needs"
            " none."
        )


def _examples(run: Run, splits: Splits, config: CompressConfig, *, private: bool) -> np.ndarray | None:
    """Representative images or texts; none for a private run without public ones."""
    if config.representative_data is None:
        return None if private else representative.from_splits(splits, seed=config.seed)
    if splits.kind == "texts":
        return _lines(config.representative_data)
    size = int(splits.spec.shape[0])
    given, _ = read_images(
        config.representative_data,
        image_size=size,
        count=representative.EXAMPLES,
        pixel_range=splits.pixel_range[:2],
    )
    images = given.astype(np.float32)
    if not private and (
        found := representative.lint(images, representative.from_splits(splits, seed=config.seed))
    ):
        run.warn(f"Beware of {config.representative_data} as representative data: {'; '.join(found)}.")
    run.note(f"The ranges of integers are measured on {len(images)} images of {config.representative_data}.")
    return representative.pinned(images)


def _lines(path: Path) -> np.ndarray:
    """The texts of a file, one a line."""
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as err:
        raise DataError(
            f"--representative-data {path} cannot be read ({err.strerror}): for texts it is a file, one text a line."
        ) from err
    if not lines:
        raise DataError(f"--representative-data {path} has no line with a text.")
    return np.array(lines, dtype=object)


def _pruned_at_once(run: Run, origin: Run, config: CompressConfig) -> list[Trained]:
    """The private model with its smallest weights zero: no example is needed for that."""
    if not config.techniques:
        return []
    loaded = origin.model
    prune = Prune(final_sparsity=config.final_sparsity, structure=config.sparsity_structure)
    sparsity = prune.prune_variables(list(loaded.variables_of_model))
    said = f"{prune.name}: sparsity {sparsity:.3f} of the kernels, made at once, without training after it"
    run.note(f"{said}.")
    wanted = [one for one in ("float32", "int8", "dynamic") if one in config.variants]
    model = pixel_function(loaded.classify, keep=loaded)
    return [Trained(technique=prune.name, model=model, quantizations=wanted, notes=[said])]


def _data(source: Source, config: CompressConfig) -> tuple[dict[str, Any], np.ndarray | None, list[str]]:
    """What a SavedModel is tried on, labels, and names: the rows of a .npy or .npz, or the images of a folder."""
    assert config.representative_data is not None
    path, names = config.representative_data, list(source.inputs)
    shape, dtype = source.inputs[names[0]]
    labels = None
    if path.suffix in (".npy", ".npz"):
        data = _arrays(path, names)
        labels = data.pop("labels", None) if "labels" not in names else None
        counts = {name: len(values) for name, values in data.items()}
        if labels is not None:
            counts["labels"] = len(labels)
        if len(set(counts.values())) > 1 or not min(counts.values()):
            raise DataError(f"{path} holds examples of different numbers, or none: {counts}.")
        return data, labels, [f"{path.name}/{row}" for row in range(counts[names[0]])]
    if len(names) > 1 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise DataError(
            f"{config.saved_model} takes {source.takes.described}, which is no square image: --representative-data must"
            " be a .npy or .npz of its inputs."
        )
    images, files_ = read_images(path, image_size=shape[1], count=COMPARED + representative.EXAMPLES)
    return {names[0]: images if dtype == "uint8" else _scaled(images, config.input_range)}, None, files_


def _arrays(path: Path, names: list[str]) -> dict[str, Any]:
    try:
        content: Any = np.load(path, allow_pickle=False, mmap_mode="r" if path.suffix == ".npy" else None)
    except (OSError, ValueError, EOFError) as err:
        raise DataError(f"--representative-data {path} cannot be read: {err}") from err
    if isinstance(content, np.ndarray):
        if len(names) > 1:
            raise DataError(f"{path} has one array; the model takes {', '.join(names)}: give a .npz of them.")
        return {names[0]: content if content.ndim else content[np.newaxis]}
    if missing := [name for name in names if name not in content.files]:
        raise DataError(
            f"{path} has no array {missing[0]!r}, which the model takes; it has {', '.join(content.files)}."
        )
    return {name: np.atleast_1d(content[name]) for name in (*names, "labels") if name in content.files}


def _scaled(images: np.ndarray, input_range: tuple[float, float]) -> np.ndarray:
    low, high = input_range
    return images.astype(np.float32) / 255.0 * (high - low) + low
