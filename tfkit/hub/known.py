"""Models that are known by name, and what is known of them."""

from __future__ import annotations


def feature_vector_of(handle: str) -> str | None:
    """The feature vector that belongs to a classifier's handle; None for any other handle."""
    return handle.replace("/classification/", "/feature_vector/") if "/classification/" in handle else None
