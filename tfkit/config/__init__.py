"""A recipe's settings: one frozen dataclass, from the command line, from YAML, and back."""

from tfkit.config.base import RecipeConfig
from tfkit.config.data import DataConfig
from tfkit.config.devices import ReplicaConfig, StrategyConfig
from tfkit.config.images import ImageConfig, ImageModelConfig, ImageTransferConfig
from tfkit.config.parse import EXIT_CODES, as_dict, parse, run_dir
from tfkit.config.private import PrivateConfig
from tfkit.config.texts import TextColumns, TextConfig, TextTransferConfig
from tfkit.config.transfer import TransferConfig, WholeModelConfig

__all__ = [
    "EXIT_CODES",
    "DataConfig",
    "ImageConfig",
    "ImageModelConfig",
    "ImageTransferConfig",
    "PrivateConfig",
    "RecipeConfig",
    "ReplicaConfig",
    "StrategyConfig",
    "TextColumns",
    "TextConfig",
    "TextTransferConfig",
    "TransferConfig",
    "WholeModelConfig",
    "as_dict",
    "parse",
    "run_dir",
]
