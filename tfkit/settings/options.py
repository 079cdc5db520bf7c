"""The settings of training, and what all recipes share: one frozen dataclass a subject, several make a Config."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tfkit.environment import cluster, files
from tfkit.errors import ConfigError
from tfkit.settings import fields

ENCODER, EMBEDDED = "minilm-l6-v2", "sentiment"
SCRATCH = "cnn"
"""The model handle that stands for a small network of images trained from scratch."""

SCATTERING = "scattering"
AUTO = "auto"
"""The model handle of private training that stands for the bundled model that suits what is public of the data."""

LIGHT = "light"
"""The model handle that stands for a small model trained from scratch, on a vocabulary of its own."""
UNCOVERED = "looks at validation examples, which epsilon does not cover"
"""Reason that a private run is not calibrated."""

_WINDOWS = "--windows all is for a frozen encoder's stored features: not for light, --no-features"

Strategy = Literal[
    "auto", "one_device", "mirrored", "multi_worker_mirrored", "central_storage", "parameter_server", "tpu"
]  # fmt: skip
Augment = Literal["none", "light", "standard", "randaugment", "autoaugment", "autoaugment-cifar"]
Task = Literal["auto", "classes", "order", "labels", "value"]


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Hold what every recipe takes."""

    start_here: ClassVar[tuple[str, ...]] = ("data_dir", "model_handle", "run_dir", "epochs", "strategy")
    """The flags that --help begins with."""

    given_names: ClassVar[frozenset[str]] = frozenset()
    """Of an object that was made of a command line, of keywords or of YAML: the settings that they named."""

    config: Path | None = None
    """YAML file with any of these settings (a run's config.yaml replays it); flags override it.
    Left out: flags alone."""

    run_dir: Path | None = None
    """Folder for all that the run makes. Left out: runs/ and a name made of the recipe and its settings."""

    overwrite: bool = False
    """Replace what an earlier run left in the run folder."""

    json: bool = False
    """Print one JSON object at the end, and everything else to stderr: run_dir, metrics, files, exit_code; or error."""

    quiet: bool = False
    """Print the closing lines and warnings alone."""

    debug: bool = False
    """Show the traceback of an error."""

    seed: fields.Seed = 0
    """Of the splits, the initial weights, the order, the augmentation and the dropout."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        fields.check(self, label=fields.flag)

    @property
    def unused(self) -> dict[str, str]:
        """Return the settings that the others leave without a meaning, no part of what was asked; and what has one."""
        return {}


@dataclass(frozen=True, kw_only=True)
class SourceConfig(RecipeConfig):
    """The examples."""

    layout: ClassVar[str] = "<class>/<image>"
    """Of the files in --data-dir, for messages."""

    data_dir: Path | None = None
    """Folder with one subfolder a class, or with train/, validation/ and test/ of such. Left out: --dataset."""

    dataset: str = "digits"
    """Data where there is no --data-dir: digits or mnist5k (embedded), or tfds:NAME (tensorflow-datasets)."""

    @property
    def names_data(self) -> bool:
        """Return whether the data are a folder or a file, and not an embedded set."""
        return self.data_dir is not None or getattr(self, "data_file", None) is not None

    @property
    def unused(self) -> dict[str, str]:
        """Return the name of a set, where the data are a folder or a file."""
        return {"dataset": "data without --data-dir and --data-file"} if self.names_data else {}

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        folder, file = self.data_dir, getattr(self, "data_file", None)
        if folder is not None and file is not None:
            raise ConfigError("--data-file and --data-dir are both given: the data come from one of them.")
        if folder is not None and not folder.is_dir():
            is_table = folder.is_file() and hasattr(self, "data_file")
            kind = "a file: give it as --data-file" if is_table else "not a folder"
            expected = f"Expected {folder}/{self.layout}.{files.nearest(folder)}"
            raise ConfigError(f"--data-dir {folder} is {kind}. {expected}")
        if file is not None and not file.is_file():
            from tfkit.data.memory import TABLE
            from tfkit.data.records import is_records

            if file.name == TABLE:
                raise ConfigError(
                    f"{file}, which kept the examples of a run that were in memory, is gone.\n"
                    "  The call that trained it, with the same examples, puts it there again: tfkit.train(...)."
                )
            if not is_records(file):
                expected = "a file, nor a folder of TFRecords. For a folder: --data-dir."
                raise ConfigError(f"--data-file {file} is not {expected}{files.nearest(file)}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(SourceConfig):
    """The examples, and the pretrained model."""

    label_column: str | None = None
    """The column of the labels in --data-file; several of 1 and 0, joined by commas: even,prime. Left out: found by its
    name where that is plain."""

    group_column: str | None = None
    """The column in --data-file of what an example belongs to with others, such as the patient or the sender: all of
    one are in one split. Left out: examples are cut one by one."""

    split_column: str | None = None
    """The column in --data-file with train, validation or test in each row; what it lacks is held out from train.
    Left out: all rows are cut."""

    task: Task = "auto"
    """Meaning of the labels: one of several classes; likewise, in an order; any of several labels ("a|b");
    or a real number. auto: what the column shows, which a note says; classes where they are folders."""

    class_order: tuple[str, ...] = ()
    """Of --task order: the classes from the lowest to the highest. Left out: they are numbers."""

    label_range: tuple[float, float] | None = None
    """Of --task value in private training, which needs it: what the numbers lie between, known without the data.
    Numbers beyond are taken as its ends. Left out: what the training examples have."""

    validation_fraction: Annotated[float, fields.Range(gt=0, lt=1)] = 0.15
    """Share of each class that is held out for validation. Data with splits of their own keep them."""

    test_fraction: Annotated[float, fields.Range(gt=0, lt=1)] = 0.15
    """Share of each class that is held out for the test. Data with splits of their own keep them."""

    strict: bool = False
    """Make an example that cannot be read an error instead of skipping it."""

    model_handle: str = "efficientnet-lite0"
    """TF Hub or Kaggle model URL, gs:// or local SavedModel folder, .tar.gz, or a bundled name
    (python -m tfkit models lists them). A SavedModel is a program: run a stranger's in a sandbox."""

    sha256: str | None = None
    """SHA-256 of the archive that is downloaded. Left out: it is not checked."""

    continue_from: Path | None = None
    """Finished run of this recipe, not private, whose weights this one starts from, with more epochs, more data, or
    more or fewer classes. Its model, sizes, seed and data hold where they are left out here. Left out: no run."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.label_range is not None and self.task != "value":
            raise ConfigError(f"--label-range is for --task value; the task is {self.task}.")
        if self.validation_fraction + self.test_fraction > 0.7:
            shares = f"--validation-fraction {self.validation_fraction:g} and --test-fraction {self.test_fraction:g}"
            raise ConfigError(f"{shares} are more than 0.7 together: too few examples are left to train on.")
        low, high = self.label_range or (0.0, 1.0)
        if not low < high:
            raise ConfigError(f"--label-range is {low:g} {high:g}; expected two numbers in their order.")


@dataclass(frozen=True, kw_only=True)
class StrategyConfig(RecipeConfig):
    """The devices and processes that train, and how often they save. The result does not depend on these."""

    strategy: Strategy = "auto"
    """tf.distribute strategy. auto: all workers of the launcher or of --cluster; else mirrored where there are two
    GPUs or more; else one_device."""

    cluster: Literal["tf_config", "slurm"] = "tf_config"
    """Who the workers are: TF_CONFIG in the environment (python -m tfkit launch sets it), or Slurm's srun."""

    logical_cpus: fields.NonNegativeInt = 0
    """Split the CPU into so many devices, to rehearse --strategy mirrored without GPUs. 0: leave it whole."""

    backup_minutes: fields.Positive = 5.0
    """Longest time between backups within an epoch. They are made at the ends of epochs too."""

    backup_steps: fields.Count | None = None
    """Within an epoch, a backup every so many steps besides. Left out: by the clock alone."""

    profile: bool = False
    """Trace training steps 10 to 20 for TensorBoard's Profile page, which `pip install xprof` brings."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.logical_cpus and self.strategy not in ("auto", "mirrored"):
            raise ConfigError(f"--logical-cpus is for --strategy mirrored; the strategy is {self.strategy}.")
        if self.logical_cpus and self.strategy == "auto":
            object.__setattr__(self, "strategy", "mirrored")


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig(StrategyConfig):
    """Say how to train: how large a batch is, what a batch that grows with the replicas does, when it ends."""

    global_batch_size: fields.Count = 32
    """Examples in a training step, over all replicas."""

    batch_size_per_replica: fields.Count | None = None
    """Examples in a training step on each replica, instead of --global-batch-size, which then grows with them."""

    learning_rate_scaling: Literal["linear", "sqrt", "none"] = "linear"
    """Growth of the learning rate with a batch that grew by --batch-size-per-replica: linear, or its root."""

    warmup: fields.Share = 0.1
    """Share of a stage's steps over which the learning rate rises to its peak; 0: none."""

    patience: fields.Count = 5
    """Epochs without a lower validation loss after which a stage stops; the best epoch's weights are kept."""

    class_weights: Literal["auto", "always", "never"] = "auto"
    """Weigh classes by rarity. auto: when the largest has over 3 times the examples of the smallest."""

    calibrate: bool = True
    """Fit a temperature to the validation split, so that probabilities mean what they say, and take the scores of sets
    of classes from it. The most probable class stays the same."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(ReplicaConfig):
    """Say how to train a classifier on a pretrained model: first its head, then perhaps all of it."""

    epochs: fields.Count = 30
    """Epochs of the head, on the frozen model, at most."""

    learning_rate: fields.Positive = 3e-3
    """Of the head: the peak, after warm-up and before cosine decay."""

    fine_tune_epochs: fields.NonNegativeInt | None = None
    """Of the whole model after that, at most. Left out: 5 (texts: 3), or as many as --fine-tune-minutes allows."""

    fine_tune_minutes: fields.Positive | None = None
    """Fine-tuning has as many epochs as fit this time, told by the first steps. Left out: 1 on a CPU, and any where
    there is a GPU or where --fine-tune-epochs is given."""

    fine_tune_learning_rate: fields.Positive = 3e-4
    """Of the whole model: the peak."""

    unfreeze: Literal["all", "staged"] = "all"
    """staged: a third of the fine-tuning epochs goes to the later half of the model (bundled ones)."""

    hidden: fields.NonNegativeInt | None = None
    """Units of a layer between the features and the classes; 0: none. Left out: 0 for images, 1024 for texts."""

    dropout: fields.Share | None = None
    """Share of what the last layer gets that is dropped in training. Left out: 0.2, or 0.5 after a layer between."""

    features: bool = True
    """Compute the frozen model's features once and store them; off: run it in every epoch."""

    augment = "none"  # what has no augmentation has this
    layer_decay = 1.0


@dataclass(frozen=True, kw_only=True)
class ImageConfig(DataConfig):
    """The images, and the pretrained model of images."""

    data_file: Path | None = None
    """Table with a row an image, instead of --data-dir: its path from the folder of the table on, and its label; or
    TFRecords of tf.Examples with images."""

    image_column: str | None = None
    """The column of the paths in --data-file. Left out: found by its name where that is plain."""

    input_range: tuple[float, float] | None = None
    """Values of black and white that the model expects. Left out: those known of it, else 0 1 (TF Hub's convention)."""

    image_size: Annotated[int, fields.Range(ge=16, le=1024)] | None = None
    """Side in pixels. Left out: what the model was made for, or 96 for images smaller than that."""

    pixel_range: tuple[int, int] | None = None
    """Black and white of PNGs of 16 bits: 0 4095 for 12 bits. Left out: what the training images use; in private
    training 0 65535, since it would tell of them."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.image_column is not None and self.data_file is None:
            raise ConfigError("--image-column is of a table: give it as --data-file.")
        low, high = self.pixel_range or (0, 1)
        if not 0 <= low < high <= 65535:
            raise ConfigError(f"--pixel-range is {low} {high}; expected two of 0 to 65535, in order.")


@dataclass(frozen=True, kw_only=True)
class TextSource(SourceConfig):
    """The texts, and how they are read."""

    data_file: Path | None = None
    """CSV, TSV, JSON, JSONL (also .gz, .zip) or Parquet with a row a text, or TFRecords of tf.Examples (a file, a
    folder or a pattern), instead of --data-dir."""

    text_column: str | None = None
    """The column of the texts. Left out: found by its name where that is plain."""

    preprocessor: str | None = None
    """Handle of the model that makes ids of strings. Left out: the one that belongs to the encoder."""

    max_length: Annotated[int, fields.Range(ge=4, le=512)] | None = None
    """Tokens of a text, or of a window of it, at most. Left out: what the encoder was made for."""


@dataclass(frozen=True, kw_only=True)
class TextColumns(TextSource, DataConfig):
    """The columns of texts and labels in a table."""

    language_column: str | None = None
    """A column of languages: accuracy is then reported for each of them too. Left out: for all together."""

    windows: Literal["auto", "first", "all"] = "auto"
    """Part of a text of more than --max-length tokens that is read: all, in windows of so many, or the first of them.
    auto: all, where over 5 % of the training texts are longer and no encoder is fine-tuned; the first in private
    training, since it would tell of them."""

    words: Literal["auto", "yes", "no"] = "auto"
    """Count word pieces beside the encoder (TF-IDF). auto: where that lowers the loss on the validation split by more
    than chance does; not beside light, which stays small."""

    @property
    def of_texts(self) -> bool:
        """Return whether the data are texts, where they could be images too."""
        if getattr(self, "image_column", None) is not None:
            return False
        if self.data_dir is None:
            return self.data_file is not None or self.dataset == EMBEDDED
        from tfkit.data.folders import IMAGES, TEXTS

        # Of classes, and of splits of classes.
        paths = itertools.chain(self.data_dir.glob("*/*.*"), self.data_dir.glob("*/*/*.*"))
        endings = {path.suffix.lower() for path in paths}
        return bool(endings & TEXTS.suffixes) and not endings & IMAGES.suffixes

    @property
    def encoder_handle(self) -> str:
        """Return the model for texts; the bundled one where the handle is that of images which nobody changed."""
        return ENCODER if self.model_handle in (DataConfig.model_handle, AUTO) else self.model_handle


@dataclass(frozen=True, kw_only=True)
class ImageSettings(ImageConfig, TransferConfig):
    """Say what to train on, from which backbone, for how long."""

    start_here = ("data_dir", "model_handle", "run_dir", "epochs", "fine_tune_epochs")

    augment: Augment = "none"
    """Random changes of the training images. Switches stored features off."""


@dataclass(frozen=True, kw_only=True)
class TextSettings(TextColumns, TransferConfig):
    """Say what to train on, from which encoder, for how long."""

    start_here = ("data_file", "data_dir", "model_handle", "run_dir", "epochs")
    layout = "<class>/<text>.txt"

    data_dir: Path | None = None
    """Folder with one subfolder a class and a .txt file a text, instead of --data-file."""

    dataset: str = EMBEDDED
    """Embedded data, where there is neither: sentiment (short messages, negative, neutral or positive)."""

    model_handle: str = ENCODER
    """TF Hub or Kaggle model URL, local SavedModel folder, .tar.gz, a bundled name (python -m tfkit models lists
    them), or light: a small model trained from scratch. A SavedModel is a program: run a stranger's in a sandbox."""

    learning_rate: fields.Positive = 1e-3

    fine_tune_learning_rate: fields.Positive = 5e-5
    """Of the whole model: the peak, for its last layer and the head."""

    layer_decay: Annotated[float, fields.Range(gt=0, le=1)] = 0.85
    """In fine-tuning each layer learns at this share of the rate of the layer above it; 1: all alike."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        is_frozen = self.features and not self.fine_tune_epochs and self.model_handle != LIGHT
        if self.windows == "all" and not is_frozen:
            raise ConfigError(f"{_WINDOWS}, --fine-tune-epochs.\n  --max-length 512 reads more of each text.")

    @property
    def of_texts(self) -> bool:
        """Return that all of these are."""
        return True

    @property
    def encoder_handle(self) -> str:
        """Return the model as it was asked for."""
        return self.model_handle


@dataclass(frozen=True, kw_only=True)
class PrivateSettings(TextColumns, ImageConfig, StrategyConfig):
    """Say what to train on, from which model, and how private."""

    start_here = ("data_dir", "model_handle", "run_dir", "epochs", "target_epsilon")

    dataset: str = "digits"
    """Data where there is no --data-dir or --data-file: digits, mnist5k (embedded images), sentiment (embedded texts),
    or tfds:NAME (tensorflow-datasets)."""

    model_handle: str = AUTO
    """TF Hub or Kaggle model URL, gs:// or local SavedModel folder, .tar.gz, a bundled name (python -m tfkit models
    lists them), or light. A SavedModel is a program: run a stranger's in a sandbox. auto: of classes of grey images of
    up to 32 pixels scattering, which has no weights; of others efficientnet-lite0; of texts minilm-l6-v2."""

    target_epsilon: fields.Positive | None = None
    """Privacy budget epsilon: the noise is chosen so that it is not exceeded.
    Left out, and no --noise-multiplier: 3."""

    delta: Annotated[float, fields.Range(gt=0, lt=1)] | None = None
    """Probability with which epsilon may fail. Left out: 1e-5, or less for more than 10,000 examples."""

    noise_multiplier: Annotated[float, fields.Range(ge=0)] | None = None
    """Standard deviation of the noise in units of the clipping norm, instead of --target-epsilon."""

    l2_norm_clip: fields.Positive | None = None
    """Length to which the gradient of each example is cut. Left out: 0.3, on scattering features 0.05."""

    global_batch_size: fields.Count | None = None
    """Expected examples in a training step, over all replicas: the true number is random and private.
    Left out: all, or a quarter on scattering features; up to 4096 of features and 256 of images."""

    epochs: fields.Count | None = None
    """Epochs, each of so many steps that an example is expected once. Left out: 80 on features, 15 on images;
    on scattering features 40, or as many as make 400 steps."""

    learning_rate: fields.Positive | None = None
    """The peak, after warm-up: for classes on features of a network of images it stays, elsewhere a cosine follows.
    Left out: larger for more examples and more epsilon."""

    features: bool = True
    """Train a head on stored features of the frozen backbone; off: train all layers (bundled backbones)."""

    mean_budget: fields.Share | None = None
    """Share of the budget for a noisy mean of the features, which is taken off each example's; 0: none is released.
    Left out: 0.2, of scattering features 0."""

    sampler: Literal["poisson", "shuffled"] = "poisson"
    """poisson: each example enters each step by chance. shuffled: once an epoch, which costs far more epsilon."""

    accountant: Literal["pld", "rdp"] = "pld"
    """Method by which epsilon is computed: privacy loss distributions, or Rényi divergences (never tighter)."""

    microbatch_size: fields.Count | None = None
    """Examples that go through the model at a time. Left out: chosen; the result does not depend on it."""

    adaptive_clip_quantile: Annotated[float, fields.Range(gt=0, lt=1)] | None = None
    """Share of examples that is to stay unclipped: the clipping norm follows, at a cost that is accounted.
    Left out: the norm stays."""

    expected_trials: Annotated[int, fields.Range(ge=2)] | None = None
    """This training is one of so many on average, of which the best is released, as recipes.tune does: the noise is
    that of the whole search, and so is epsilon. Left out: one training by itself."""

    examples_per_group: fields.Count | None = None
    """Epsilon is of all examples of one group of --group-column together, such as a patient, of which so many train at
    most: the fewer, the less noise. Left out: epsilon is of one example."""

    words: Literal["auto", "yes", "no"] = "no"
    """Refused: a model of words would be fitted to the texts without noise."""

    continue_from: Path | None = None
    """Refused: tfkit does not account the epsilon of two runs on the same people together. Left out: no run."""

    engine: Literal["tfkit", "tensorflow_privacy"] = "tfkit"
    """Who clips: tfkit, or TF Privacy's DPModel, on one replica and on models that it clips rightly."""

    deterministic_noise: bool = False
    """Noise and samples from --seed, for tests: repeatable and NOT private."""

    calibrate: bool = False
    """Refused: validation examples, which epsilon does not cover, would be looked at."""

    diagnostics: bool = False
    """Log loss, gradient norms and the clipped share of the training examples: without noise, so they leak."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.continue_from is not None:
            raise ConfigError(
                "--continue-from and privacy do not go together: tfkit does not account what two runs spend on the same"
                " people.\n  Train anew, with --target-epsilon and --epochs of the whole."
            )
        has_servers = self.strategy == "auto" and cluster.current().parameter_servers
        if self.strategy == "parameter_server" or has_servers:
            raise ConfigError(
                "Parameter servers do not go together with privacy: the accountant counts steps that all take together."
                "\n  Take --strategy mirrored or multi_worker_mirrored (python -m tfkit launch --workers N)."
            )
        if self.words == "yes":
            raise ConfigError("--words yes and privacy do not go together: it has no noise. Leave it out.")
        if self.model_handle == LIGHT:  # which is trained with its embedding
            object.__setattr__(self, "features", False)
        if self.windows == "all" and not self.features:
            raise ConfigError(f"{_WINDOWS}.")
        if self.task == "value" and self.label_range is None:
            raise ConfigError(
                "--task value and privacy need --label-range LOW HIGH: what the numbers lie between, known without the"
                " data, whose own range would tell of single ones."
            )
        if self.calibrate:
            raise ConfigError(f"--calibrate {UNCOVERED}.\n  Leave it out.")
        if self.target_epsilon is not None and self.noise_multiplier is not None:
            raise ConfigError("--target-epsilon and --noise-multiplier both decide the noise: give one.")
        if self.target_epsilon is None and self.noise_multiplier is None:
            object.__setattr__(self, "target_epsilon", 3.0)
        if self.examples_per_group is not None and self.group_column is None:
            raise ConfigError("--examples-per-group needs --group-column, the column that says who is who.")
        if self.expected_trials is not None:  # of which the other accountant knows no bound
            object.__setattr__(self, "accountant", "rdp")


@dataclass(frozen=True, kw_only=True)
class WholeModelSettings(ImageConfig, ReplicaConfig):
    """Say what to train, on what, for how long."""

    model_handle: str = SCRATCH
    """cnn: a small convolutional network from scratch. Else a backbone, all of whose layers are trained: what
    recipes.transfer_image takes."""

    epochs: fields.Count = 10
    """Epochs at most."""

    learning_rate: fields.Positive = 1e-3
    """The peak, after warm-up and before cosine decay."""

    optimizer: Literal["adam", "sgd"] = "adam"
    """sgd has a momentum of 0.9."""

    augment: Augment = "none"
    """Random changes of the training images."""
