"""What `recipes.compress_tflite` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tfkit.config import RecipeConfig, fields
from tfkit.errors import ConfigError
from tfkit.lite import model_files

TECHNIQUES = ("prune", "cluster", "qat")
MADE_OF = {"others": ("float32", "int8"), "qat": ("int8",)}
"""The variants of a model that was trained for the device."""
VARIANTS = ("float32", "float16", "dynamic", "int8", "int16x8", "weights8", "weights4")


@dataclass(frozen=True, kw_only=True)
class CompressConfig(RecipeConfig):
    """Which model, what is done to it, and what the result must keep to."""

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
        is_keras = self.saved_model.suffix in model_files.KERAS and self.saved_model.is_file()
        if not is_keras and not (self.saved_model / "saved_model.pb").is_file():
            raise ConfigError(f"--saved-model {self.saved_model} is no SavedModel: it has no saved_model.pb.")
        if self.techniques:
            raise ConfigError(
                "--techniques train the model, which a SavedModel does not allow: its layers are not known any more."
                "\n  Give --from-run, or use tfkit.compress on the Keras model from Python."
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
