"""Compression that trains: pruning, clustering, quantization-aware training, with tfmot, measured.

Each is a `Technique`: `wrapped = technique.wrap(model, steps=...)`, compile and fit it with its `callbacks()`, then
`technique.strip(wrapped)` is an ordinary model and `technique.measure(model, stripped)` says what came out, or raises.
"""

from tfkit.compression.benchmark import latency, peak_memory
from tfkit.compression.compare import compare
from tfkit.compression.convert import VARIANTS, convert
from tfkit.compression.inspect import Inventory, inspect, prove_int8
from tfkit.compression.metadata import read_metadata, with_metadata
from tfkit.compression.pruning import Prune
from tfkit.compression.quantization import QuantizeAware
from tfkit.compression.techniques import Cluster, Technique, Treatment
from tfkit.compression.variants import Choice, Gates, Table, Variant, choose

__all__ = [
    "VARIANTS",
    "Choice",
    "Cluster",
    "Gates",
    "Inventory",
    "Prune",
    "QuantizeAware",
    "Table",
    "Technique",
    "Treatment",
    "Variant",
    "choose",
    "compare",
    "convert",
    "inspect",
    "latency",
    "peak_memory",
    "prove_int8",
    "read_metadata",
    "with_metadata",
]
