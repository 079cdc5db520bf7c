"""Handles to verified SavedModels to layers."""

from tfkit.hub.backbone import Backbone
from tfkit.hub.features import Extraction, extract
from tfkit.hub.resolver import resolve

__all__ = ["Backbone", "Extraction", "extract", "resolve"]
