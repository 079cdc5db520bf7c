"""Attribute what a classifier says to parts of its input: Grad-CAM, integrated gradients, occlusion of words."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tfkit.environment import stack
from tfkit.environment.timeline import track
from tfkit.training.export import batched
from tfkit.transfer.baseline import UNSPACED

CELLS = 4
"""A side of a feature map has so many at least: of EfficientNet-Lite0 at 64 pixels the last one has 2, and no more than
chance of the mass was in the quarter of the image where the object was (0.24); with 4 it was 0.53, with 8 0.32."""

STEPS = 32
BASELINES = (0.0, 1.0)
MOST_PIECES = 300
_AT_A_TIME = 16


def grad_cam(model: stack.keras.Model, images: np.ndarray, classes: np.ndarray) -> np.ndarray | None:
    """Return which places of the images spoke for a class, by the last feature map of at least 4 by 4 cells.

    Args:
      model: functional, float32 [b, s, s, 3] in [0, 1] to logits [b, c].
      images: float32 [n, s, s, 3] in [0, 1].
      classes: int64 [n]: of each image the class that is asked about.

    Returns:
      float32 [n, s, s] in [0, 1], the largest of an image 1, all 0 where nothing spoke for the class; None where the
      model has no convolution of its own, such as a hub.KerasLayer.

    Source: Selvaraju et al. 2017 (arXiv:1610.02391).
    """
    tf, features = stack.tf, _find_feature_map(model)
    if features is None:
        return None
    # Recorded is what is differentiated: a tape over the whole model would go back to its first layer.
    below, above = stack.keras.Model(model.input, features), stack.keras.Model(features, model.output)
    maps = []
    for start in range(0, len(images), _AT_A_TIME):
        activations = below(tf.constant(images[start : start + _AT_A_TIME], tf.float32), training=False)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(activations)
            logits = above(activations, training=False)
            scores = tf.gather(logits, classes[start : start + _AT_A_TIME], axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(scores, activations), axis=[1, 2], keepdims=True)
        heat = tf.nn.relu(tf.reduce_sum(weights * activations, axis=-1, keepdims=True))
        maps.append(tf.image.resize(heat, images.shape[1:3])[..., 0].numpy())
    return scaled(np.concatenate(maps))


def _find_feature_map(model: stack.keras.Model) -> Any:
    """Return the last tensor [b, h, w, c] behind a convolution that has cells enough; None where there is none."""
    layers, feature_map, has_convolution = stack.keras.layers, None, False
    for layer in model.layers:
        has_convolution = has_convolution or isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D)
        shape = tuple(layer.output.shape) if has_convolution else ()
        if len(shape) == 4 and min(shape[1:3]) >= CELLS:
            feature_map = layer.output
    return feature_map


def integrated_gradients(
    classify: Callable[[Any], Any], images: np.ndarray, classes: np.ndarray, *, steps: int = STEPS
) -> np.ndarray:
    """Return how much each pixel adds to a probability on the way from a black and from a white image, on average.

    Over an image they sum to its probability less the mean of those of black and of white, but for the error of the
    sum over steps.

    Args:
      classify: float32 [b, s, s, 3] in [0, 1] to probabilities float32 [b, c].
      images: float32 [n, s, s, 3] in [0, 1].
      classes: int64 [n]: of each image the class that is asked about.
      steps: on each way.

    Returns:
      float32 [n, s, s].

    Source: Sundararajan et al. 2017 (arXiv:1703.01365).
    """
    tf, parts = stack.tf, (np.arange(steps, dtype=np.float32) + 0.5) / steps
    attributions = np.zeros(images.shape, np.float32)
    for place, image in enumerate(track(images, "Explaining", unit="image")):
        batches = np.split(parts, range(_AT_A_TIME, steps, _AT_A_TIME))
        for baseline, shares in itertools.product(BASELINES, batches):
            batch = tf.constant(baseline + shares[:, None, None, None] * (image - baseline), tf.float32)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(batch)
                of_class = classify(batch)[:, int(classes[place])]
            slopes = tape.gradient(of_class, batch).numpy().sum(axis=0)
            attributions[place] += (image - baseline) * slopes / (steps * len(BASELINES))
    return attributions.sum(axis=-1)


def heat_of(attributions: np.ndarray) -> np.ndarray:
    """Return `integrated_gradients` as a picture: sizes without signs, neighbouring pixels together, in [0, 1].

    Args:
      attributions: float32 [n, s, s].
    """
    from scipy.ndimage import gaussian_filter

    width = attributions.shape[1] / 32
    return scaled(gaussian_filter(np.abs(attributions), (0, width, width)))


def scaled(maps: np.ndarray) -> np.ndarray:
    """Return maps of numbers from 0 on, [n, h, w], each as float32 in [0, 1]."""
    largest = maps.max(axis=(1, 2), keepdims=True)
    return (maps / np.where(largest > 0, largest, 1)).astype(np.float32)


def pieces_of(text: str) -> list[str]:
    """Cut a text into words, each with what stands before the next, at most 300: of longer texts several are a piece.

    Of scripts that put no spaces between words each character is a piece.

    >>> pieces_of("Don't panic, it is 东西.")
    ["Don't ", 'panic, ', 'it ', 'is ', '东', '西', '.']
    """
    starts = [match.start() for match in re.finditer(f"[{UNSPACED}]|[^\\s{UNSPACED}]+", text)]
    edges = [0, *starts[1:]][:: max(1, -(-len(starts) // MOST_PIECES))]
    return [text[start:end] for start, end in itertools.pairwise([*edges, len(text)])]


def occlusion(
    classify: Callable[[Any], Any], text: str, label: int | None = None
) -> tuple[np.ndarray, list[tuple[str, float]]]:
    """Return what each word adds to the probability of a class: it is left out, and the probability falls by so much.

    Args:
      classify: strings [b] to probabilities float32 [b, c].
      text: not empty.
      label: the class that is asked about; None: the most probable one.

    Returns:
      The probabilities of the whole text, float32 [c], and its pieces in their order, each with its weight in [-1, 1]:
      above 0 it speaks for the class.

    Source: Zeiler and Fergus 2014 (arXiv:1311.2901), of parts of images; Li et al. 2016 (arXiv:1612.08220), of words.
    """
    tf, pieces = stack.tf, pieces_of(text)
    variants = ("".join(pieces[:place] + pieces[place + 1 :]) for place in range(len(pieces)))
    texts = (variant.encode("utf-8", "replace") for variant in itertools.chain([text], variants))
    probabilities = np.concatenate([classify(tf.constant(batch)) for batch in batched(texts, _AT_A_TIME)])
    of_class = probabilities[:, probabilities[0].argmax() if label is None else label]
    return probabilities[0], [*zip(pieces, (of_class[0] - of_class[1:]).tolist(), strict=True)]
