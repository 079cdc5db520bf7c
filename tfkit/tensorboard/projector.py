"""The points of TensorBoard's Projector."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfkit import files
from tfkit.errors import CheckError
from tfkit.tensorboard.figures import printable

FOLDER = "projector"
MOST_POINTS = 2000
# Browsers refuse textures above 8192 pixels a side, phones above 4096.
SPRITE_SIDE = 4096
THUMBNAIL_SIDE = 64


def write_projector(
    logdir: Path,
    features: np.ndarray,
    *,
    labels: Sequence[str],
    names: Sequence[str] | None = None,
    images: np.ndarray | None = None,
) -> None:
    """Feature vectors as points that the Projector shows, coloured by class, drawn as their images.

    Beyond 2,000 points it takes every second, third, ... one: the browser computes t-SNE and UMAP itself.

    Args:
      logdir: the folder of the whole run; the Projector's configuration goes to its root.
      features: float32 [n, d], finite.
      labels: n class names.
      names: n names of the examples.
      images: uint8 [n, h, w, 3].

    Raises:
      CheckError: the lengths do not agree, or a feature is not finite.
    """
    features = np.asarray(features, np.float32)
    _check(features, labels=labels, names=names, images=images)
    kept = slice(None, None, math.ceil(len(features) / MOST_POINTS))
    with files.new_folder(logdir / FOLDER) as folder:
        np.savetxt(folder / "tensors.tsv", features[kept], fmt="%.6g", delimiter="\t")
        columns = {"class": labels[kept], **({"name": names[kept]} if names is not None else {})}
        files.write_text(folder / "metadata.tsv", _table(columns))
        if images is not None:
            thumbnails = _thumbnails(images[kept])
            files.write_bytes(folder / "sprite.png", _sprite(thumbnails))
    _write_config(logdir, thumbnail=thumbnails.shape[1:3] if images is not None else None)


def _check(features: np.ndarray, **others: Sequence[object] | np.ndarray | None) -> None:
    if features.ndim != 2 or not features.size:
        raise CheckError(f"features must be float32 [n, d]; found {list(features.shape)}.")
    for name, values in others.items():
        if values is not None and len(values) != len(features):
            raise CheckError(f"{len(values)} {name} for {len(features)} feature vectors.")
    if not np.isfinite(features).all():
        raise CheckError(f"{int((~np.isfinite(features)).any(axis=1).sum())} feature vectors are not finite.")


def _table(columns: dict[str, Sequence[str]]) -> str:
    """Tab-separated rows as the Projector reads them.

    One column must be without a header and two need one; an empty line would shift all that follow.
    """
    rows = zip(
        *([printable(str(value)) or "(no name)" for value in values] for values in columns.values()),
        strict=True,
    )
    lines = ["\t".join(row) for row in rows]
    header = ["\t".join(columns)] if len(columns) > 1 else []
    return "\n".join([*header, *lines]) + "\n"


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Images small enough that all of them fit into one sprite: uint8 [n, h, w, 3]."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(images)))
    side = min(THUMBNAIL_SIDE, SPRITE_SIDE // columns)
    height, width = images.shape[1:3]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.stack([np.asarray(Image.fromarray(image).resize(size)) for image in images])


def _sprite(thumbnails: np.ndarray) -> bytes:
    """All thumbnails in one PNG, row by row, as many columns as rows."""
    from PIL import Image

    count, height, width, _ = thumbnails.shape
    columns = math.ceil(math.sqrt(count))
    sheet = np.full((columns * height, columns * width, 3), 255, np.uint8)
    for place, image in enumerate(thumbnails):
        row, column = divmod(place, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = image
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "PNG")
    return file.getvalue()


def _write_config(logdir: Path, *, thumbnail: tuple[int, int] | None) -> None:
    from google.protobuf import text_format
    from tensorboard.plugins import projector

    config = projector.ProjectorConfig()
    embedding = config.embeddings.add()
    embedding.tensor_name = "test features"
    embedding.tensor_path = f"{FOLDER}/tensors.tsv"
    embedding.metadata_path = f"{FOLDER}/metadata.tsv"
    if thumbnail is not None:
        height, width = thumbnail
        embedding.sprite.image_path = f"{FOLDER}/sprite.png"
        embedding.sprite.single_image_dim.extend([width, height])
    files.write_text(logdir / "projector_config.pbtxt", text_format.MessageToString(config))
