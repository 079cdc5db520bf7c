"""Compression that trains: pruning, clustering, quantization-aware training, with tfmot, measured.

Each is a `tfkit.compression.techniques.Technique`: `wrapped = technique.wrap(model, steps=...)`, compile and fit it
with its `callbacks()`, then `technique.strip(wrapped)` is an ordinary model and `technique.measure(model, stripped)`
says what came out, or raises.
"""

from tfkit.compression.compare import compare
from tfkit.compression.convert import VARIANTS, convert
from tfkit.compression.inspect import inspect, prove_int8
from tfkit.compression.metadata import read_metadata, with_metadata
from tfkit.compression.techniques import Cluster, Prune, QuantizeAware
from tfkit.compression.variants import Gates, Table, Variant, choose

__all__ = [
    "VARIANTS", "Cluster", "Gates", "Prune", "QuantizeAware", "Table", "Variant", "choose", "compare", "convert",
    "inspect", "prove_int8", "read_metadata", "with_metadata",
]  # fmt: skip
