"""AutoAugment: the published policies, of which each image draws one pair of operations; RandAugment: any two.

Sources: Cubuk et al. 2018 (arXiv:1805.09501), the policies for ImageNet and CIFAR-10 and the ranges of its table
of operations; what a geometric operation brings into view is grey, as in the authors' code. Cubuk et al. 2019
(arXiv:1909.13719).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from tfkit.data.pixels import Tensor
from tfkit.environment import stack

POLICIES = {
    "imagenet": """
        Posterize .4 8 Rotate .6 9;     Solarize .6 5 AutoContrast .6 0;  Equalize .8 0 Equalize .6 0
        Posterize .6 7 Posterize .6 6;  Equalize .4 0 Solarize .2 4;      Equalize .4 0 Rotate .8 8
        Solarize .6 3 Equalize .6 0;    Posterize .8 5 Equalize 1 0;      Rotate .2 3 Solarize .6 8
        Equalize .6 0 Posterize .4 6;   Rotate .8 8 Color .4 0;           Rotate .4 9 Equalize .6 0
        Equalize 0 0 Equalize .8 0;     Invert .6 0 Equalize 1 0;         Color .6 4 Contrast 1 8
        Rotate .8 8 Color 1 2;          Color .8 8 Solarize .8 7;         Sharpness .4 7 Invert .6 0
        ShearX .6 5 Equalize 1 0;       Color .4 0 Equalize .6 0;         Equalize .4 0 Solarize .2 4
        Solarize .6 5 AutoContrast .6 0;  Invert .6 0 Equalize 1 0;       Color .6 4 Contrast 1 8
        Equalize .8 0 Equalize .6 0""",
    "cifar": """
        Invert .1 0 Contrast .2 6;      Rotate .7 2 TranslateX .3 9;      Sharpness .8 1 Sharpness .9 3
        ShearY .5 8 TranslateY .7 9;    AutoContrast .5 0 Equalize .9 0;  ShearY .2 7 Posterize .3 7
        Color .4 3 Brightness .6 7;     Sharpness .3 9 Brightness .7 9;   Equalize .6 0 Equalize .5 0
        Contrast .6 7 Sharpness .6 5;   Color .7 7 TranslateX .5 8;       Equalize .3 0 AutoContrast .4 0
        TranslateY .4 3 Sharpness .2 6; Brightness .9 6 Color .2 8;       Solarize .5 2 Invert 0 0
        Equalize .2 0 AutoContrast .6 0;  Equalize .2 0 Equalize .6 0;    Color .9 9 Equalize .6 0
        AutoContrast .8 0 Solarize .2 8;  Brightness .1 3 Color .7 0;     Solarize .4 5 AutoContrast .9 0
        TranslateY .9 9 TranslateY .7 9;  AutoContrast .9 0 Solarize .8 3;  Equalize .8 0 Invert .1 0
        TranslateY .7 9 AutoContrast .9 0""",
}
"""A pair a sub-policy: operation, probability, magnitude from 0 to 9; operations without a magnitude have 0."""

_LEVELS = 9
_MAX_MAGNITUDES = {"ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150 / 331, "TranslateY": 150 / 331, "Rotate": 30,
            "Brightness": 0.9, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9}  # fmt: skip
"""Size of magnitude 9, to either side: parts of the side, degrees, the factor's distance from 1."""

_OPERATIONS = ("AutoContrast", "Equalize", "Solarize", "Posterize", *_MAX_MAGNITUDES)
_FILL_COLOUR = (128, 128, 128)


def policy(name: str) -> list[list[tuple[str, float, int]]]:
    """Return the 25 sub-policies of a policy: two operations each, with probability and magnitude (0 to 9).

    Args:
      name: "imagenet" or "cifar".
    """
    pairs = [pair.split() for line in POLICIES[name].strip().split("\n") for pair in line.split(";") if pair]
    return [[(pair[i], float(pair[i + 1]), int(pair[i + 2])) for i in (0, 3)] for pair in pairs]


def autoaugment(name: str) -> Callable[..., Tensor]:
    """Return a graph function that applies to each image one sub-policy of a published policy.

    Args:
      name: "imagenet" or "cifar".

    Returns:
      (images float32 [b, s, s, 3] in [0, 1], seeds int64 [b, 2]) -> images: the same for the same seeds.
    """
    pairs = policy(name)

    def augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for operation, probability, level in pairs[rng.integers(len(pairs))]:
            sign = rng.choice((-1, 1))
            if rng.random() < probability:
                image = apply(operation, image, level, sign)
        return image

    return _map_images(augment)


def randaugment(strength: float) -> Callable[..., Tensor]:
    """Return a graph function like that of `autoaugment`: two random operations of a magnitude of 0 to 1."""

    def augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        for operation in rng.choice(_OPERATIONS, 2):
            image = apply(operation, image, strength * _LEVELS, rng.choice((-1, 1)))
        return image

    return _map_images(augment)


def _map_images(augment: Callable[[Image.Image, np.random.Generator], Image.Image]) -> Callable[..., Tensor]:
    """Return a graph function that changes each image of a batch, with random numbers of its own seed."""
    tf = stack.tf

    def change_images(images: np.ndarray, seeds: np.ndarray) -> np.ndarray:
        pictures = map(Image.fromarray, np.rint(images * 255).astype(np.uint8))
        # Not the numbers of TensorFlow's generator: the policy drawn by the one that flips would go with the flip.
        rngs = map(np.random.default_rng, seeds.view(np.uint64))
        return np.stack([np.asarray(result) for result in map(augment, pictures, rngs)])

    def change_batch(images: Tensor, seeds: Tensor) -> Tensor:
        result = tf.numpy_function(change_images, [images, seeds], tf.uint8, stateful=False)
        return tf.ensure_shape(tf.cast(result, tf.float32) / 255.0, images.shape)

    return change_batch


def apply(operation: str, image: Image.Image, level: float, sign: int) -> Image.Image:
    """Return an image after an operation of Pillow's ImageOps, ImageEnhance or Image.

    Args:
      operation: as in a policy.
      image: in RGB.
      level: the magnitude from 0 to 9.
      sign: 1 or -1: the side to which the magnitude goes.
    """
    part = level / _LEVELS
    amount = sign * part * _MAX_MAGNITUDES.get(operation, 0.0)
    match operation:
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return getattr(ImageEnhance, operation)(image).enhance(1 + amount)
        case "Solarize":
            return ImageOps.solarize(image, math.ceil(255 * (1 - part)))
        case "Posterize":
            return ImageOps.posterize(image, 8 - round(4 * part))
        case "Invert" | "AutoContrast" | "Equalize":
            return getattr(ImageOps, operation.lower())(image)
        case "Rotate":
            return image.rotate(amount, resample=Image.Resampling.BILINEAR, fillcolor=_FILL_COLOUR)
    # Of the numbers of pixels; Pillow's are of their middles.
    matrix = {
        "ShearX": (1, amount, -amount / 2, 0, 1, 0), "TranslateX": (1, 0, amount * image.width, 0, 1, 0),
        "ShearY": (1, 0, 0, amount, 1, -amount / 2), "TranslateY": (1, 0, 0, 0, 1, amount * image.height),
    }[operation]  # fmt: skip
    transform, resample = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return image.transform(image.size, transform, matrix, resample=resample, fillcolor=_FILL_COLOUR)
