"""A recipe's settings: one frozen dataclass, from the command line, from YAML, and back."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from tfkit import files
from tfkit.errors import ConfigError

# Where a run goes and how it talks: not part of what was asked, so config.yaml leaves them out.
_ABOUT_THE_CALL = ("config", "run_dir", "overwrite", "debug")


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """What every recipe takes."""

    config: Path | None = None
    """YAML file with any of these settings (a run's config.yaml replays it); flags override it."""

    run_dir: Path | None = None
    """Folder for all that the run makes. Left out: runs/ and a name made of the recipe and its settings."""

    overwrite: bool = False
    """Replace what an earlier run left in the run folder."""

    debug: bool = False
    """Show the traceback of an error."""

    seed: int = 0
    """Of the splits, the initial weights, the order, the augmentation and the dropout."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""


@dataclass(frozen=True, kw_only=True)
class ImageConfig(RecipeConfig):
    """Which images, and which model made for images."""

    data_dir: Path | None = None
    """Folder with one subfolder a class, or with train/, validation/ and test/ of such. Left out: --dataset."""

    dataset: str = "digits"
    """Where there is no --data-dir: digits or mnist5k (embedded), or tfds:NAME (tensorflow-datasets)."""

    strict: bool = False
    """Make an unreadable image an error instead of skipping it."""

    model_handle: str = "efficientnet-lite0"
    """TF Hub or Kaggle model URL, gs:// or local SavedModel folder, .tar.gz, or a bundled name
    (python -m tfkit models lists them)."""

    sha256: str | None = None
    """What the downloaded archive must hash to."""

    input_range: tuple[float, float] | None = None
    """What the model expects for black and white. Left out: what is known of it, else 0 1 (TF Hub's convention)."""

    image_size: int | None = None
    """Side in pixels. Left out: what the model was made for, or 96 for images smaller than that."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ConfigError(
                f"--data-dir {self.data_dir} is not a folder. Expected {self.data_dir}/<class>/<image>."
            )
        if self.image_size is not None and not 16 <= self.image_size <= 1024:
            raise ConfigError(f"--image-size is {self.image_size}; a side of 16 to 1024 pixels is expected.")


@dataclass(frozen=True, kw_only=True)
class TransferConfig(RecipeConfig):
    """How to train a classifier on a pretrained backbone: first its head, then perhaps all of it."""

    global_batch_size: int = 32
    """Examples in a training step, over all replicas."""

    epochs: int = 30
    """Of the head, on the frozen backbone, at most."""

    learning_rate: float = 3e-3
    """Of the head: the peak, after warm-up and before cosine decay."""

    fine_tune_epochs: int | None = None
    """Of the whole model after that, at most. Left out: 5 on a GPU, and on a CPU where an epoch has at most
    20 megapixels; else 0."""

    fine_tune_learning_rate: float = 3e-4
    """Of the whole model: the peak."""

    unfreeze: Literal["all", "staged"] = "all"
    """staged: a third of the fine-tuning epochs goes to the later half of the backbone (bundled ones)."""

    patience: int = 5
    """Epochs without a lower validation loss after which a stage stops; the best epoch's weights are kept."""

    augment: Literal["none", "light", "standard", "randaugment"] = "none"
    """Random changes of the training images. Switches stored features off."""

    features: bool = True
    """Compute the frozen backbone's features once and store them; off: run the backbone in every epoch."""

    class_weights: Literal["auto", "always", "never"] = "auto"
    """Weigh classes by rarity. auto: when the largest has over 3 times the examples of the smallest."""

    strategy: Literal["auto", "one_device", "mirrored"] = "auto"
    """tf.distribute strategy. auto: mirrored where there are two GPUs or more."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        for name in ("global_batch_size", "epochs", "learning_rate", "fine_tune_learning_rate", "patience"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be above 0.")
        if self.fine_tune_epochs is not None and self.fine_tune_epochs < 0:
            raise ConfigError(f"--fine-tune-epochs is {self.fine_tune_epochs}; 0 trains the head alone.")


@dataclass(frozen=True, kw_only=True)
class PrivateConfig(RecipeConfig):
    """How to train a classifier on a public pretrained backbone with differential privacy."""

    target_epsilon: float | None = None
    """Privacy budget: the noise is chosen so that it is not exceeded. Left out, and no --noise-multiplier: 3."""

    delta: float | None = None
    """Probability with which epsilon may fail. Left out: 1e-5, or less for more than 10,000 examples."""

    noise_multiplier: float | None = None
    """Standard deviation of the noise in units of the clipping norm, instead of --target-epsilon."""

    l2_norm_clip: float = 0.3
    """Length to which the gradient of each example is cut."""

    global_batch_size: int | None = None
    """Expected examples in a training step, over all replicas: the true number is random and private.
    Left out: all, up to 4096 of features and 256 of images."""

    epochs: int | None = None
    """Each is so many steps that an example is expected once. Left out: 80 on features, 15 on images."""

    learning_rate: float | None = None
    """The peak, after warm-up and before cosine decay. Left out: larger for more examples and more epsilon."""

    features: bool = True
    """Train a head on stored features of the frozen backbone; off: train all layers (bundled backbones)."""

    mean_budget: float = 0.2
    """Share of the budget for a noisy mean of the features, which is taken off each example's; 0: none is released."""

    sampler: Literal["poisson", "shuffled"] = "poisson"
    """poisson: each example enters each step by chance. shuffled: once an epoch, which costs far more epsilon."""

    accountant: Literal["pld", "rdp"] = "pld"
    """What epsilon is computed by: privacy loss distributions, or Rényi divergences (never tighter)."""

    microbatch_size: int | None = None
    """Examples that go through the model at a time. Left out: chosen; the result does not depend on it."""

    adaptive_clip_quantile: float | None = None
    """Share of examples that is to stay unclipped: the clipping norm follows, at a cost that is accounted."""

    deterministic_noise: bool = False
    """Noise and samples from --seed, for tests: repeatable and NOT private."""

    diagnostics: bool = False
    """Log loss, gradient norms and the clipped share of the training examples: without noise, so they leak."""

    strategy: Literal["auto", "one_device", "mirrored"] = "auto"
    """tf.distribute strategy. auto: mirrored where there are two GPUs or more."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data."""
        super().__post_init__()
        for name in ("global_batch_size", "epochs", "learning_rate", "l2_norm_clip"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be above 0.")
        if not 0 <= self.mean_budget < 1:
            raise ConfigError(
                f"--mean-budget is {self.mean_budget}; a share from 0 (none) to below 1 is expected."
            )
        if self.target_epsilon is None and self.noise_multiplier is None:
            object.__setattr__(self, "target_epsilon", 3.0)


C = TypeVar("C", bound=RecipeConfig)


def parse(config_class: type[C], arguments: Sequence[str], *, prog: str, description: str) -> C:
    """Read a command line, and the YAML file that its `--config` names.

    A setting of the file becomes the flag of the same name and is read by the same parser, so that both
    are checked alike.

    Args:
      config_class: a frozen dataclass below `RecipeConfig`; its field docstrings are the help texts.
      arguments: without the program's name.
      prog: how the program is called in the help text.
      description: the help text's first paragraph.

    Raises:
      ConfigError: the file is unreadable, has unknown keys or values that cannot be.
      SystemExit: 0 after --help, 2 after a wrong flag (tyro explains it).
    """
    import tyro

    config = _config_flag(arguments)
    from_file = _flags_of(config, config_class) if config else []
    return tyro.cli(
        config_class,
        prog=prog,
        description=description,
        args=[*from_file, *arguments],
        config=(tyro.conf.HelptextFromCommentsOff,),
    )


def as_dict(config: RecipeConfig) -> dict[str, Any]:
    """What was asked, as plain values for config.yaml; a path that exists becomes absolute: it replays anywhere."""
    return {
        field.name: _plain(getattr(config, field.name))
        for field in dataclasses.fields(config)
        if field.name not in _ABOUT_THE_CALL
    }


def run_dir(config: RecipeConfig, *, recipe: str) -> Path:
    """The folder that was asked for, or one whose name the same settings always give."""
    if config.run_dir is not None:
        return config.run_dir
    return Path("runs") / f"{recipe}-{files.digest(sorted(as_dict(config).items()))[:8]}"


def _config_flag(arguments: Sequence[str]) -> Path | None:
    for position, argument in enumerate(arguments):
        if argument == "--config" and position + 1 < len(arguments):
            return Path(arguments[position + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _flags_of(path: Path, config_class: type[RecipeConfig]) -> list[str]:
    settings = _read_yaml(path)
    names = [
        field.name for field in dataclasses.fields(config_class) if field.name not in ("config", "debug")
    ]
    flags: list[str] = []
    problems = []
    for name, value in settings.items():
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            problems.append(f"unknown key {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
            continue
        flag = f"--{str(name).replace('_', '-')}"
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, list):
            flags += [flag, *map(str, value)]
        else:
            flags.append(f"{flag}={value}")
    if problems:
        raise ConfigError(f"{path}: " + "\n  ".join(problems) + f"\n  Known keys: {', '.join(names)}.")
    return flags


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        settings = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} must hold `name: value` lines; it holds a {type(settings).__name__}.")
    return settings


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value.resolve()) if value.exists() else str(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
