"""Export: raw input to class probabilities, as a SavedModel that needs no Keras and no tfkit."""

from tfkit.export.images import to_bytes
from tfkit.export.predicting import predict
from tfkit.export.saving import save

__all__ = ["predict", "save", "to_bytes"]
