"""The scattering transform as a tf_keras model: two layers of wavelets, whose filters are formulas and no weights.

An image is convolved with Morlet wavelets of two scales and eight angles, the moduli of the smaller scale once more
with the wavelets of the larger one, and all of it is averaged over about four pixels. Nothing is learned.

Sources: Mallat 2012 (arXiv:1101.2286); Bruna and Mallat 2013 (arXiv:1203.1513); Oyallon and Mallat 2015
(arXiv:1412.8659). The numbers are those of kymatio 0.3.0 (Andreux et al. 2020, arXiv:1812.11214): its filters, its
order of channels, and its borders, which are reflected by a few pixels and then taken as periodic.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfkit.environment.stack import keras, tf

STRIDE, ANGLES = 4, 8
PATHS = 1 + 2 * ANGLES + ANGLES**2
"""Numbers for each place: of order 0, of order 1 by two scales, of order 2."""
GROUPS, EPSILON = 27, 1e-5  # of the normalisation
_SIGMA, _FREQUENCY = 0.8, 3 / 4 * np.pi  # of the smaller scale; the other is twice as large
_SLANT = 4 / ANGLES
_RADII = 8, 15  # beyond which a wavelet is less than a millionth
_PI = 3.1415  # by which kymatio divides
_BRIGHTNESS = 0.299, 0.587, 0.114  # ITU-R BT.601, as Pillow has it
_TINY = 1e-12  # keeps the gradient of a modulus finite where it is 0


def scattering(*, colours: bool, image_size: int | None = None) -> keras.Model:
    """Build the scattering transform, with group normalisation of each image by itself.

    Args:
      colours: transform red, green and blue; else their brightness alone.
      image_size: pixels a side, at least 8; None takes any.

    Returns:
      float32 [batch, image_size, image_size, 3] in [0, 1] to float32 [batch, feature_size(...)]; its layer "scattering"
      gives [batch, image_size // 4, image_size // 4, 81], or 243 with colours.

    Source: Tramèr and Boneh 2021 (arXiv:2011.11660) for the normalisation.
    """
    layers = keras.layers
    inputs = keras.Input((image_size, image_size, 3), name="image")
    x = Scattering(colours=colours, name="scattering")(inputs)
    # In float32: variances are too small for float16.
    normalize = layers.GroupNormalization(
        GROUPS, epsilon=EPSILON, center=False, scale=False, dtype="float32", name="normalized"
    )
    x = normalize(x)
    return keras.Model(inputs, layers.Flatten(name="features")(x), name="scattering")


def feature_size(image_size: int, *, colours: bool) -> int:
    """Return how many numbers `scattering` makes of an image of so many pixels a side.

    >>> feature_size(28, colours=False), feature_size(32, colours=True)
    (3969, 15552)
    """
    return (image_size // STRIDE) ** 2 * PATHS * (3 if colours else 1)


class Scattering(keras.layers.Layer):
    """Transform images [b, s, s, 3] in [0, 1] to [b, s // 4, s // 4, 81], or 243 with colours: those of red first."""

    def __init__(self, *, colours: bool, **options: Any) -> None:
        super().__init__(**{**options, "trainable": False, "dtype": "float32"})
        self._colours = colours

    def call(self, images: Any) -> Any:
        """Return float32 [b, s // 4, s // 4, channels]."""
        x = images if self._colours else tf.reduce_sum(images * _BRIGHTNESS, axis=-1, keepdims=True)
        side, channels = x.shape[1] or tf.shape(x)[1], x.shape[-1]
        places = side // STRIDE
        border = (places + 2) * STRIDE - side
        padding = [border // 2, (border + 1) // 2]
        x = _to_planes(tf.pad(x, [[0, 0], padding, padding, [0, 0]], "REFLECT"))
        small = tf.concat([x, _convolve(x, scale=0)], axis=-1)
        large = _average(_convolve(_to_planes(small), scale=1), places, scale=1)
        paths = tf.concat([_average(small, places, scale=0), _join(large, places, 1 + ANGLES)], axis=-1)
        return _join(paths, places, channels)

    def get_config(self) -> dict[str, Any]:
        """Return what makes another one."""
        return {**super().get_config(), "colours": self._colours}


def _make_wavelets(scale: int) -> np.ndarray:
    """Return the real and the imaginary parts of the wavelets of a scale: float32 [k, k, 1, 16]."""
    radius, sigma, frequency = _RADII[scale], _SIGMA * 2**scale, _FREQUENCY / 2**scale
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    kernels = []
    for angle in (ANGLES // 2 - 1 - np.arange(ANGLES)) * np.pi / ANGLES:
        along = rows * np.cos(angle) + columns * np.sin(angle)
        across = columns * np.cos(angle) - rows * np.sin(angle)
        envelope = np.exp(-(along**2 + (_SLANT * across) ** 2) / (2 * sigma**2))
        envelope /= 2 * _PI * sigma**2 / _SLANT
        wave = envelope * np.exp(1j * frequency * along)
        kernels.append(wave - envelope * wave.sum() / envelope.sum())  # whose sum is 0
    # A convolution turns its kernel over, tf.nn.conv2d does not.
    filters = np.stack(kernels, axis=-1)[::-1, ::-1, np.newaxis]
    return np.concatenate([filters.real, filters.imag], axis=-1).astype(np.float32)


def _convolve(planes: Any, *, scale: int) -> Any:
    """Return the moduli of planes [n, p, p, 1], taken as periodic, convolved: [n, p / 2^scale, p / 2^scale, 8]."""
    radius = _RADII[scale]
    planes = tf.concat([planes[:, -radius:], planes, planes[:, :radius]], axis=1)
    planes = tf.concat([planes[:, :, -radius:], planes, planes[:, :, :radius]], axis=2)
    parts = tf.nn.conv2d(planes, _make_wavelets(scale), strides=2**scale, padding="VALID")
    real, imaginary = tf.split(parts, 2, axis=-1)
    return tf.sqrt(real**2 + imaginary**2 + _TINY)


def _average(maps: Any, places: Any, *, scale: int) -> Any:
    """Return Gaussian means of maps [n, p, p, c], taken as periodic, at every fourth pixel but the outermost ones.

    Args:
      maps: at 1 / 2^scale of the size of the image with its borders.
      places: of a side: that there are of them.
      scale: 0 or 1.

    Returns:
      float32 [n, places, places, c].
    """
    side = (places + 2) * (STRIDE >> scale)
    numbers = tf.range(side)
    frequencies = 2 * np.pi / tf.cast(side, tf.float32) * tf.cast(numbers - side // 2, tf.float32)
    gains = np.sqrt(np.pi / _PI) * tf.exp(-((2 * _SIGMA / 2**scale * frequencies) ** 2) / 2)
    centres = (STRIDE >> scale) * tf.range(1, places + 1)
    distances = tf.cast(centres[:, tf.newaxis] - numbers, tf.float32)
    waves = tf.cos(distances[..., tf.newaxis] * frequencies)
    weights = tf.linalg.matvec(waves, gains) / tf.cast(side, tf.float32)
    channels = maps.shape[-1]
    rows = tf.matmul(weights, tf.reshape(maps, [-1, side, side * channels]))
    columns = tf.matmul(weights, tf.reshape(rows, [-1, side, channels]))
    return tf.reshape(columns, [-1, places, places, channels])


def _to_planes(maps: Any) -> Any:
    """Return maps [n, p, p, c] as planes [n c, p, p, 1]."""
    side = maps.shape[1] or tf.shape(maps)[1]
    return tf.reshape(tf.transpose(maps, [0, 3, 1, 2]), [-1, side, side, 1])


def _join(planes: Any, places: Any, channels: int) -> Any:
    """Return what came of `channels` planes each, [n channels, p, p, c], as [n, p, p, channels c]."""
    depth = planes.shape[-1]
    grid = tf.reshape(planes, [-1, channels, places, places, depth])
    return tf.reshape(tf.transpose(grid, [0, 2, 3, 1, 4]), [-1, places, places, channels * depth])
