"""One SavedModel of an encoder of text, and what such models call their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfkit.hub.saved_model import Interface

WORDS, MASK, TYPES = "input_word_ids", "input_mask", "input_type_ids"
"""What a preprocessor of TF Hub's convention gives, int32 [b, n]."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A verified SavedModel, and how it is called."""

    handle: str
    path: Path
    digest: str
    interface: Interface
