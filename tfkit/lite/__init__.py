"""From a trained model to the smallest TFLite file that is still as good, and the proof.

tfkit.lite.convert(model, variant="int8", representative_dataset=images)   # bytes
print(tfkit.lite.compare(model, inputs=images, labels=labels))             # a table
tfkit.lite.inspect(content).summary                                        # "int8: 100.0 % of MACs; ..."
"""

from tfkit.lite.benchmark import latency, peak_memory
from tfkit.lite.census import Census, prove_int8
from tfkit.lite.choice import Choice, Gates, choose
from tfkit.lite.compare import compare
from tfkit.lite.convert import VARIANTS, convert
from tfkit.lite.inspect import inspect
from tfkit.lite.metadata import read_metadata, with_metadata
from tfkit.lite.variants import Table, Variant

__all__ = [
    "VARIANTS",
    "Census",
    "Choice",
    "Gates",
    "Table",
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
