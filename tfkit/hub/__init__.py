"""Handles to verified SavedModels to layers."""

from tfkit.hub.backbone import Backbone
from tfkit.hub.resolver import resolve

__all__ = ["Backbone", "resolve"]
