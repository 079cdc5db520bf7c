"""Selective quantization: all in int8 but a few operations, by TensorFlow's own quantization debugger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np


def selective(
    converter: Any,
    representative: Callable[[], Iterator[Mapping[str, np.ndarray]]],
    keep: Sequence[str],
) -> bytes:
    """Convert with some operations left in float32.

    Args:
      converter: a tf.lite.TFLiteConverter, set up for int8 with its representative dataset.
      representative: the same dataset.
      keep: names of the tensors that these operations make, as the float32 .tflite has them.

    Source: tensorflow.org/lite/performance/quantization_debugger
    """
    from tfkit.stack import tf

    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=list(keep))
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=representative, debug_options=options
    )
    return bytes(debugger.get_nondebug_quantized_model())
