"""Compression that trains: pruning, clustering, quantization-aware training, with tfmot, measured.

Each is a `Stage`: `wrapped = stage.wrap(model, steps=...)`, compile and fit it with `stage.callbacks()`, then
`stage.strip(wrapped)` is an ordinary model and `stage.measure(model, stripped)` says what came out, or raises.
"""

from tfkit.compress.clustering import Cluster
from tfkit.compress.pruning import Prune
from tfkit.compress.quantization import QuantizeAware
from tfkit.compress.stage import Stage, Treatment

__all__ = ["Cluster", "Prune", "QuantizeAware", "Stage", "Treatment"]
