"""Pretrained models: handles to verified SavedModels, to encoders, to layers and features."""

from tfkit.hub.encoders import Encoder, load_model
from tfkit.hub.features import Extraction, embed, extract
from tfkit.hub.fetch import Download

__all__ = ["Download", "Encoder", "Extraction", "embed", "extract", "load_model"]
