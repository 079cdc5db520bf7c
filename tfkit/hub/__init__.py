"""Handles to verified SavedModels to layers."""

from tfkit.hub.features import Embedded, Extraction, embed, extract
from tfkit.hub.images import Backbone
from tfkit.hub.resolver import resolve, resolve_text
from tfkit.hub.texts import TextEncoder

__all__ = ["Backbone", "Embedded", "Extraction", "TextEncoder", "embed", "extract", "resolve", "resolve_text"]
