"""The keyword arguments of tfkit's verbs, made of the settings: `uv run python -m tests.keywords --write`."""

import os
from collections.abc import Sequence
from typing import Literal, TypedDict

from tfkit.settings import jobs, options

_Path = str | os.PathLike[str]

class RecipeKeywords(TypedDict, total=False):
    """Shared by several of the following."""

    config: _Path | None
    run_dir: _Path | None
    overwrite: bool
    seed: int

class TextSourceKeywords(RecipeKeywords, total=False):
    """Shared by several of the following."""

    data_dir: _Path | None
    dataset: str
    data_file: _Path | None
    text_column: str | None
    preprocessor: str | None
    max_length: int | None

class TrainKeywords(TextSourceKeywords, total=False):
    """Of tfkit.train."""

    strategy: options.Strategy
    cluster: Literal["tf_config", "slurm"]
    logical_cpus: int
    backup_minutes: float
    backup_steps: int | None
    profile: bool
    global_batch_size: int | None
    batch_size_per_replica: int | None
    learning_rate_scaling: Literal["linear", "sqrt", "none"]
    warmup: float
    patience: int
    class_weights: Literal["auto", "always", "never"]
    calibrate: bool
    epochs: int | None
    learning_rate: float | None
    fine_tune_epochs: int | None
    fine_tune_minutes: float | None
    fine_tune_learning_rate: float
    unfreeze: Literal["all", "staged"]
    hidden: int | None
    dropout: float | None
    features: bool
    label_column: str | None
    group_column: str | None
    split_column: str | None
    task: options.Task
    class_order: Sequence[str]
    label_range: Sequence[float] | None
    validation_fraction: float
    test_fraction: float
    strict: bool
    model_handle: str
    sha256: str | None
    continue_from: _Path | None
    image_column: str | None
    input_range: Sequence[float] | None
    image_size: int | None
    pixel_range: Sequence[int] | None
    augment: options.Augment
    language_column: str | None
    windows: Literal["auto", "first", "all"]
    words: Literal["auto", "yes", "no"]
    layer_decay: float
    target_epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    l2_norm_clip: float | None
    mean_budget: float | None
    sampler: Literal["poisson", "shuffled"]
    accountant: Literal["pld", "rdp"]
    microbatch_size: int | None
    adaptive_clip_quantile: float | None
    expected_trials: int | None
    examples_per_group: int | None
    engine: Literal["tfkit", "tensorflow_privacy"]
    deterministic_noise: bool
    diagnostics: bool
    optimizer: Literal["adam", "sgd"]

class TuneKeywords(TrainKeywords, total=False):
    """Of tfkit.tune."""

    trials: int
    minutes: float | None
    target: Literal["loss", "accuracy"]
    model_handles: Sequence[str]
    search_whole: bool

class SearchKeywords(TextSourceKeywords, total=False):
    """Of tfkit.search."""

    model_handle: str | None
    interactive: bool
    queries_file: _Path | None
    top: int

class CompressKeywords(RecipeKeywords, total=False):
    """Of tfkit.compress."""

    from_run: _Path | None
    saved_model: _Path | None
    signature: str | None
    input_shape: Sequence[int]
    input_range: Sequence[float]
    output: Literal["auto", "probabilities", "logits", "sigmoid", "sigmoid_logits", "values"]
    representative_data: _Path | None
    variants: Sequence[jobs.Variant]
    techniques: Sequence[jobs.Technique]
    final_sparsity: float
    pruning_schedule: Literal["polynomial", "constant"]
    sparsity_structure: Literal["unstructured", "block", "2:4"]
    number_of_clusters: int
    epochs: int | None
    learning_rate: float
    max_size_kb: float | None
    gzipped: bool
    max_accuracy_drop: float
    max_latency_ms: float | None
    select_tf_ops: bool

class AuditKeywords(RecipeKeywords, total=False):
    """Of tfkit.audit."""

    attacks: Sequence[Literal["threshold", "logistic", "entropy", "forest", "mlp", "knn"]]
    shadows: int
    canaries: int
