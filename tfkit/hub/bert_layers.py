"""What BERT has that stock tf_keras layers do not: small layers without kernels, so that Dense holds them all.

keras.layers.MultiHeadAttention keeps its kernels as [inputs, heads, size] and multiplies by einsum; TFLite's fully
connected operation, which is what it quantizes best, has a kernel of two axes.
"""

from __future__ import annotations

from typing import Any

from tfkit.environment.stack import keras, tf


class Places(keras.layers.Layer):
    """Adds to each token's vector those of its position and of its type.

    Call: float32 [b, n, d], or [it, types int32 [b, n]]; without types all are of type 0. `longest`: of n; a .tflite
    then holds no vectors of positions beyond it. None: as many as there are positions.
    """

    def __init__(self, *, positions: int, types: int = 2, longest: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._counts = {"positions": positions, "types": types, "longest": longest}

    def build(self, shapes: Any) -> None:
        """One vector for each position and each type."""
        size = shapes[0][-1] if isinstance(shapes, list) else shapes[-1]
        self.positions = self.add_weight("positions", (self._counts["positions"], size))
        self.types = self.add_weight("types", (self._counts["types"], size))

    def call(self, inputs: Any) -> Any:
        """float32 [b, n, d]."""
        x, types = inputs if isinstance(inputs, list) else (inputs, None)
        kind = self.types[0] if types is None else tf.gather(self.types, types)
        return x + self.positions[: self._counts["longest"]][: tf.shape(x)[1]] + kind

    def get_config(self) -> dict[str, Any]:
        """What makes another one."""
        return {**super().get_config(), **self._counts}


class Attention(keras.layers.Layer):
    """Each token's mean of the values of all tokens, weighed by how its query meets their keys, for each head.

    Call: [queries, keys, values float32 [b, n, d], mask int32 [b, n]]; what the mask has 0 for is not looked at.
    """

    def __init__(self, *, heads: int, **options: Any) -> None:
        super().__init__(**options)
        self._heads = heads

    def call(self, inputs: Any) -> Any:
        """float32 [b, n, d]."""
        queries, keys, values, mask = inputs
        width = queries.shape[-1]
        length = tf.shape(queries)[1]

        def split(x: Any) -> Any:
            return tf.transpose(tf.reshape(x, [-1, length, self._heads, width // self._heads]), [0, 2, 1, 3])

        scores = tf.matmul(split(queries * (width // self._heads) ** -0.5), split(keys), transpose_b=True)
        hidden = (1.0 - tf.cast(mask, scores.dtype)) * -1e9
        weights = tf.nn.softmax(scores + hidden[:, tf.newaxis, tf.newaxis, :])
        return tf.reshape(tf.transpose(tf.matmul(weights, split(values)), [0, 2, 1, 3]), [-1, length, width])

    def get_config(self) -> dict[str, Any]:
        """What makes another one."""
        return {**super().get_config(), "heads": self._heads}


class Mean(keras.layers.Layer):
    """The mean of the vectors of a text's tokens, at length 1.

    Call: [float32 [b, n, d], mask int32 [b, n]].
    """

    def call(self, inputs: Any) -> Any:
        """float32 [b, d]."""
        x, mask = inputs
        weights = tf.cast(mask, x.dtype)[..., tf.newaxis]
        mean = tf.reduce_sum(x * weights, axis=1) / tf.maximum(tf.reduce_sum(weights, axis=1), 1.0)
        return tf.math.l2_normalize(mean, axis=-1)
