"""The settings of the other jobs: a search for settings or documents, an audit, an agent, compression."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tfkit.environment.files import nearest
from tfkit.errors import ConfigError
from tfkit.settings import fields
from tfkit.settings.options import EMBEDDED, RecipeConfig, TextSource


@dataclass(frozen=True, kw_only=True)
class TuneConfig(RecipeConfig):
    """The settings of a search for the best settings of a recipe that trains."""

    start_here = ("data_dir", "trials", "minutes", "target", "run_dir")

    trials: fields.Count = 20
    """Settings that are tried. In private training their number is drawn by chance, and this is its mean."""

    minutes: fields.Positive | None = None
    """Time after which no further trial begins, counted over all calls. Left out: no limit."""

    target: Literal["loss", "accuracy"] = "loss"
    """Measure on the validation split that decides. In private training it is the accuracy, with noise."""

    model_handles: tuple[str, ...] = ()
    """Pretrained models to choose from, in place of --model-handle. Left out: that one alone."""

    search_whole: bool = False
    """Let each trial be the whole recipe, and search augmentation and fine-tuning too: minutes a trial. Off: a trial is
    a head on stored features, of a second or so; what the recipe does after that, it does for the best one."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TextSource):
    """The documents, the encoder, and the questions."""

    start_here = ("data_dir", "data_file", "query", "model_handle", "run_dir")
    layout = "<text>.txt"

    data_dir: Path | None = None
    """Folder of .txt, .md, .rst or .html files, at any depth. Left out: --data-file, or what --run-dir holds."""

    dataset: str = EMBEDDED
    """Embedded data, where there is neither: sentiment (embedded: short messages)."""

    model_handle: str | None = None
    """TF Hub or Kaggle model URL, local SavedModel folder, .tar.gz, or a bundled name (python -m tfkit models lists
    them). A SavedModel is a program: run a stranger's in a sandbox. Left out: minilm-l6-v2, or the one of the index
    that is there."""

    query: tuple[str, ...] = ()
    """Questions, in words; an existing index answers them without reading documents. Left out: --queries-file; in a
    terminal, questions that you type; else none: only the index is made."""

    interactive: bool = False
    """Answer questions from standard input too, one a line."""

    queries_file: Path | None = None
    """A file with a question a line, instead of --query."""

    top: fields.Count = 5
    """Documents that are shown for each question."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if (path := self.queries_file) is not None and not path.is_file():
            raise ConfigError(f"--queries-file {path} is not a file.{nearest(path)}")
        if self.text_column is not None and self.data_file is None:
            raise ConfigError("--text-column is of a table: give it as --data-file.")
        if self.dataset != EMBEDDED:
            raise ConfigError(f"--dataset is {self.dataset!r}; {EMBEDDED} is the one that is embedded.")


@dataclass(frozen=True, kw_only=True)
class AuditConfig(RecipeConfig):
    """The attacks. --run-dir names the run that is attacked; its model and settings stay as they are."""

    start_here = ("run_dir", "attacks", "shadows", "canaries", "seed")

    attacks: tuple[Literal["threshold", "logistic", "entropy", "forest", "mlp", "knn"], ...] = (
        "threshold", "logistic",
    )  # fmt: skip
    """Attackers: threshold (of the loss), logistic, entropy, forest, mlp, knn. The last three take minutes."""

    shadows: fields.NonNegativeInt = 0
    """Shadow models for LiRA, trained as the run's head was: 16 give a strong attack. 0: no LiRA."""

    canaries: fields.NonNegativeInt = 0
    """Of runs on texts: train the head anew with so many made-up codes once, as many 4 and as many 16 times among its
    texts, and measure their exposure: 10 tell enough. 0: none."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.run_dir is None:
            raise ConfigError("--run-dir is missing: the folder of the run that is to be attacked.")
        if self.shadows and (self.shadows < 4 or self.shadows % 2):
            raise ConfigError(f"--shadows is {self.shadows}; an even number of 4 or more is needed, or 0.")


@dataclass(frozen=True, kw_only=True)
class AgentConfig(RecipeConfig):
    """The agent, what it learns, and for how long."""

    start_here = ("agent", "environment", "steps", "run_dir", "seed")

    agent: Literal["dqn", "linucb"] = "dqn"
    """dqn: a double deep Q-network, in an environment of gym. linucb: a contextual bandit, which is shown handwritten
    digits one after the other and told only whether the class that it chose is right."""

    environment: Literal["CartPole-v1", "CartPole-v0"] = "CartPole-v1"
    """Of dqn: where it acts. Episodes of v1 end after 500 steps, those of v0 after 200."""

    steps: fields.Count | None = None
    """Actions of training. Left out: 15000 of dqn, of linucb one for each training digit."""

    learning_rate: Annotated[float, fields.Range(gt=0, le=0.1)] = 5e-4
    """Of dqn: of its optimizer, Adam, before cosine decay."""

    @property
    def unused(self) -> dict[str, str]:
        """Return what describes a deep Q-network, where there is none."""
        names = ("environment", "learning_rate") if self.agent == "linucb" else ()
        return dict.fromkeys(names, "--agent dqn")


Variant = Literal["float32", "float16", "dynamic", "int8", "int16x8", "weights8", "weights4"]
Technique = Literal[
    "prune", "cluster", "qat", "prune+cluster", "prune+qat", "cluster+qat", "prune+cluster+qat"
]

KERAS = (".keras", ".h5", ".hdf5")
"""Suffixes of the files of whole models of Keras."""


@dataclass(frozen=True, kw_only=True)
class CompressConfig(RecipeConfig):
    """The model, what is done to it, and what the result must keep to."""

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
    """Values of black and white that a SavedModel of float images expects."""

    output: Literal["auto", "probabilities", "logits", "sigmoid", "sigmoid_logits", "values"] = "auto"
    """Outputs of the SavedModel: of classes, of yes or no for each number, or real values. auto: found out by its
    last layer, the labels and what it gives, and said."""

    representative_data: Path | None = None
    """Folder of images, or .npy/.npz of inputs, by which the ranges of int8 are measured: drawn from all. An array
    "labels" in the .npz holds the true ones. For texts a file with one a line. Left out: training examples."""

    variants: tuple[Variant, ...] = ("float32", "float16", "dynamic", "int8")
    """Files to make. weights8, weights4: by ai-edge-quantizer, weights alone."""

    techniques: tuple[Technique, ...] = ()
    """Training before the conversion: one, or several, joined in this order. Minutes each. Left out: none, the model is
    converted as it is."""

    final_sparsity: Annotated[float, fields.Range(gt=0, lt=1)] = 0.8
    """Share of zeros that pruning ends with."""

    pruning_schedule: Literal["polynomial", "constant"] = "polynomial"
    """Growth of the sparsity: step by step, or all at once."""

    sparsity_structure: Literal["unstructured", "block", "2:4"] = "unstructured"
    """Weights that become zero together. 2:4 has a sparsity of 0.5."""

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
    """Test accuracy that the chosen variant may lose; of several yes or no micro F1, of real values R2. Without labels
    the share of answers that may differ, or 1 - F1 or 1 - R2 against the original."""

    max_latency_ms: fields.Positive | None = None
    """Median time for one example on one thread of this machine that it may take. Left out: any."""

    select_tf_ops: bool = False
    """Keep operations that TFLite lacks as TensorFlow's: the device then needs the Flex delegate."""

    @property
    def unused(self) -> dict[str, str]:
        """Return what describes a SavedModel, where there is a run; how to train, where nothing is trained."""
        parts = "+".join(self.techniques)
        uses = {
            "--saved-model": ("signature input_shape input_range", self.from_run is None),
            "--techniques": ("epochs learning_rate", bool(parts)),
            "--techniques prune": ("final_sparsity pruning_schedule sparsity_structure", "prune" in parts),
            "--techniques cluster": ("number_of_clusters", "cluster" in parts),
        }
        return {name: use for use, (names, is_used) in uses.items() if not is_used for name in names.split()}

    def __post_init__(self) -> None:
        """Check what can be checked without the model."""
        super().__post_init__()
        if self.from_run is not None and (self.signature or self.input_shape or self.output != "auto"):
            raise ConfigError("--signature, --input-shape and --output are for --saved-model, not a run.")
        path = self.saved_model
        if path is not None and self.from_run is not None:
            raise ConfigError("Give one model: --from-run RUN or --saved-model FOLDER.")
        is_file = path is not None and path.suffix in KERAS and path.is_file()
        if path is not None and not is_file and not (path / "saved_model.pb").is_file():
            raise ConfigError(f"--saved-model {path} is no SavedModel: it has no saved_model.pb.")
        if not self.variants:
            raise ConfigError("--variants is empty: nothing would be made.")
        for technique in self.techniques:
            variants = trained_variants(technique)
            if not set(variants) & set(self.variants):
                raise ConfigError(
                    f"--techniques {technique} trains a model of which {' and '.join(variants)} can be made, and"
                    f" --variants names none of them: {' '.join(self.variants)}. Add --variants {variants[-1]}."
                )


def trained_variants(technique: str) -> tuple[str, ...]:
    """Return the variants of a model that was trained for the device."""
    return ("int8",) if "qat" in technique.split("+") else ("float32", "int8")
