"""Models that are known by name, and what their publishers say of them.

Sizes, ranges and feature sizes are from each model's page (github.com/tensorflow/tfhub.dev); a page that names no
licence is under Apache-2.0, the default that TF Hub's publishing guide states. Parameters are those of the network
without its classifier, to 0.1 million, counted in tf_keras.applications or derived from the network's paper.
"""

from __future__ import annotations

from dataclasses import dataclass

NOT_TRIED = "not tried here: no network"
TF1 = f"TF1 format, frozen only; {NOT_TRIED}"
TASK = "image features"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A model that a name stands for."""

    name: str
    handle: str
    image_size: int
    """Pixels a side that it was trained on."""
    fixed_size: bool
    feature_size: int
    parameters: int
    """Without a classifier; to 0.1 million for those that are not bundled."""
    note: str
    task: str = TASK
    licence: str = "Apache-2.0"
    input_range: tuple[float, float] = (0.0, 1.0)


def table() -> list[Known]:
    """The models that are known by name, the bundled ones first."""
    return list(_TABLE)


def find(handle: str) -> Known | None:
    """The known model of this name or handle."""
    wanted = handle.rstrip("/")
    return next((row for row in _TABLE if wanted in (row.name, row.handle)), None)


def names() -> list[str]:
    """The names that `resolve` takes."""
    return [row.name for row in _TABLE]


def feature_vector_of(handle: str) -> str | None:
    """The feature vector that belongs to a classifier's handle; None for any other handle.

    >>> feature_vector_of("https://tfhub.dev/google/imagenet/inception_v3/classification/5")
    'https://tfhub.dev/google/imagenet/inception_v3/feature_vector/5'
    """
    if "/classification/" not in handle:
        return None
    # The EfficientNets of tensorflow/ write it with a hyphen.
    ours = "feature-vector" if "/tensorflow/efficientnet/" in handle else "feature_vector"
    return handle.replace("/classification/", f"/{ours}/")


def _imagenet(name: str, version: int, size: int, features: int, millions: float) -> Known:
    return Known(
        name=name,
        handle=f"https://tfhub.dev/google/imagenet/{name}/feature_vector/{version}",
        image_size=size,
        fixed_size=True,
        feature_size=features,
        parameters=round(millions * 1e6),
        note=NOT_TRIED,
    )


def _efficientnet(name: str, version: int, size: int, millions: float, note: str) -> Known:
    return Known(
        name=f"efficientnet-{name}",
        handle=f"https://tfhub.dev/tensorflow/efficientnet/{name}/feature-vector/{version}",
        image_size=size,
        fixed_size=False,
        feature_size=1280,
        parameters=round(millions * 1e6),
        note=note,
    )


_TABLE = (
    Known(
        name="efficientnet-lite0",
        handle="efficientnet-lite0",
        image_size=224,
        fixed_size=False,
        feature_size=1280,
        parameters=3_413_024,
        note="bundled: needs no network",
    ),
    _imagenet("mobilenet_v2_100_224", 5, 224, 1280, 2.3),
    _imagenet("mobilenet_v3_small_100_224", 5, 224, 1024, 1.5),
    _imagenet("mobilenet_v3_large_100_224", 5, 224, 1280, 4.2),
    _imagenet("efficientnet_v2_imagenet1k_b0", 2, 224, 1280, 5.9),
    _imagenet("efficientnet_v2_imagenet1k_b1", 2, 240, 1280, 6.9),
    _imagenet("inception_v3", 5, 299, 2048, 21.8),
    _imagenet("resnet_v2_50", 5, 224, 2048, 23.6),
    Known(
        name="resnet_50",
        handle="https://tfhub.dev/tensorflow/resnet_50/feature_vector/1",
        image_size=224,
        fixed_size=True,
        feature_size=2048,
        parameters=23_600_000,
        note=NOT_TRIED,
    ),
    _efficientnet("b0", 1, 224, 4.0, NOT_TRIED),
    _efficientnet("lite1", 2, 240, 4.1, TF1),
    _efficientnet("lite2", 2, 260, 4.8, TF1),
    _efficientnet("lite3", 2, 300, 6.9, TF1),
    _efficientnet("lite4", 2, 380, 11.7, TF1),
    Known(
        name="bit-m-r50x1",
        handle="https://tfhub.dev/google/bit/m-r50x1/1",
        image_size=224,
        fixed_size=False,
        feature_size=2048,
        parameters=23_500_000,
        note=f"trained on ImageNet-21k; {NOT_TRIED}",
    ),
)
