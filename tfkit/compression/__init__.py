"""Compression that trains: pruning, clustering, quantization-aware training, with tfmot, measured.

Each is a `Stage`: `wrapped = stage.wrap(model, steps=...)`, compile and fit it with `stage.callbacks()`, then
`stage.strip(wrapped)` is an ordinary model and `stage.measure(model, stripped)` says what came out, or raises.
"""

from tfkit.compression.choice import Choice, Gates, choose
from tfkit.compression.clustering import Cluster
from tfkit.compression.compare import Table, Variant, compare, latency, peak_memory
from tfkit.compression.convert import VARIANTS, convert
from tfkit.compression.inspect import Inventory, inspect, prove_int8
from tfkit.compression.metadata import read_metadata, with_metadata
from tfkit.compression.pruning import Prune
from tfkit.compression.quantization import QuantizeAware
from tfkit.compression.techniques import Stage, Treatment

__all__ = [
    "VARIANTS",
    "Choice",
    "Cluster",
    "Gates",
    "Inventory",
    "Prune",
    "QuantizeAware",
    "Stage",
    "Table",
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
