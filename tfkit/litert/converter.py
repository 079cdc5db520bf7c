"""Stock functions to TFLite."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tfkit import packages, stack
from tfkit.errors import CheckError

if TYPE_CHECKING:
    import tensorflow as tf


REMEDY = "Replace the layers that use them; TensorFlow itself runs the model as it is."


def to_tflite(
    model: Callable[[tf.Tensor], tf.Tensor], *, input_shape: Sequence[int | None], dtype: str = "float32"
) -> bytes:
    """A function as float32 TFLite, in this process: quick, for what is known to convert.

    Args:
      model: a tf_keras model, a hub.KerasLayer, a tf.function, or any other function that TensorFlow can
        trace: of one tensor, to one tensor. It is called as it infers, not as it trains.
      input_shape: of that tensor, with the batch. With a batch of 1 the interpreter plans its memory best;
        None makes an input that is resized.
      dtype: of that tensor; ids of words are "int32".

    Returns:
      The content of a .tflite file.

    Raises:
      CheckError: the model has operations that TFLite lacks, or cannot be converted for another reason.

    Example:
      >>> from tfkit.stack import tf
      >>> to_tflite(tf.nn.relu, input_shape=[1, 4])[4:8]
      b'TFL3'
    """
    from tfkit.stack import tf

    function = tf.function(lambda inputs: model(inputs), autograph=False).get_concrete_function(
        tf.TensorSpec(list(input_shape), dtype)
    )
    # The model itself is handed over only so that its variables live on.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    # Its default way saves all of the model as a SavedModel first, with every layer traced four times: 16 s
    # for EfficientNet-Lite0 where freezing the one function that is converted takes 1.3 s, for the same bytes.
    converter.experimental_lower_to_saved_model = False
    return converted(converter.convert)


def converted(convert: Callable[[], Any], *, remedy: str = REMEDY) -> bytes:
    """What a converter makes, or what is in its way, in words.

    Args:
      convert: such as the method of a tf.lite.TFLiteConverter.
      remedy: what to do about operations that TFLite lacks.

    Raises:
      CheckError: it fails.
    """
    try:
        with stack.quiet():
            return bytes(convert())
    except Exception as err:  # the converter's own error, and whatever TensorFlow raises on the way there
        if lacking := lacking_operations(str(err)):
            raise CheckError(
                f"The model does not convert to TFLite, which lacks {', '.join(lacking)}.\n  {remedy}"
            ) from err
        raise CheckError(f"The model does not convert to TFLite: {packages.first_line(err)}") from err


def lacking_operations(message: str) -> list[str]:
    """The operations that a message of the converter says TFLite lacks, without repetition.

    Example:
      >>> lacking_operations("TF Select ops: Betainc, Svd\\nDetails: ...\\nCustom ops: Foo")
      ['Betainc', 'Foo', 'Svd']
    """
    listed = re.findall(r"^\s*(?:TF Select|Custom) ops: (.+)$", message, flags=re.MULTILINE)
    return sorted({name.strip() for names in listed for name in names.split(",")})
