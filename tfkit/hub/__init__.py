"""Handles to verified SavedModels to layers."""

from tfkit.hub.backbone import Backbone
from tfkit.hub.embed import Embedded, embed
from tfkit.hub.features import Extraction, extract
from tfkit.hub.resolver import resolve
from tfkit.hub.text_encoder import TextEncoder
from tfkit.hub.text_resolver import resolve_text

__all__ = ["Backbone", "Embedded", "Extraction", "TextEncoder", "embed", "extract", "resolve", "resolve_text"]
