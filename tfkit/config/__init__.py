"""A recipe's settings: one frozen dataclass, from the command line, from YAML, and back."""

from tfkit.config.base import RecipeConfig
from tfkit.config.devices import ReplicaConfig, StrategyConfig
from tfkit.config.images import ImageConfig, TransferConfig, WholeModelConfig
from tfkit.config.parse import as_dict, parse, run_dir
from tfkit.config.private import PrivateConfig

__all__ = [
    "ImageConfig",
    "PrivateConfig",
    "RecipeConfig",
    "ReplicaConfig",
    "StrategyConfig",
    "TransferConfig",
    "WholeModelConfig",
    "as_dict",
    "parse",
    "run_dir",
]
