"""From a handle to a verified encoder of images or texts on this machine, and to what is known of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tfkit.environment import files
from tfkit.errors import HubError
from tfkit.hub import bundled, saved_model
from tfkit.hub.catalogue import Known, Modality, find, parse
from tfkit.hub.encoders import Encoder, ImageEncoder, Part, TextEncoder, native_length, with_feature_size
from tfkit.hub.fetch import Download, bundled_model, fetch
from tfkit.hub.saved_model import Interface

_USUAL_SIZE = 224


def load_model(
    handle: str | Path,
    *,
    modality: Modality | None = None,
    preprocessor: str | Path | None = None,
    max_length: int | None = None,
    input_range: tuple[float, float] | None = None,
    sha256: str | None = None,
    download: Download = Download(),  # noqa: B008
) -> Encoder:
    """Find, fetch and verify a pretrained model of images or of texts.

    What is fetched goes into the cache (`$TFKIT_CACHE/hub`) when it is whole; from then on the handle needs no network.

    Args:
      handle: a bundled name ("efficientnet-lite0", "minilm-l6-v2"), a known name (python -m tfkit models), an http(s)
        URL such as https://tfhub.dev/google/universal-sentence-encoder/4, a kaggle.com model URL, a gs:// location, a
        SavedModel folder, or a .tar.gz of one.
      modality: "images" or "texts", where the model's inputs do not show it.
      preprocessor: handle of the model that makes ids of strings, where the model takes ids and is not one that
        `python -m tfkit models` lists with its preprocessor.
      max_length: ids of a text at most, the two at its ends among them; None takes the preprocessor's own length, 128
        for most. Twice as many take twice as long, or longer.
      input_range: the values that a model of images expects for black and for white, where it is known better than
        from the handle: (0, 255) for most that Keras exported.
      sha256: what the archive must have, in hex; for handles that come as an archive.
      download: how long to wait for a server, and how often to try again.

    Returns:
      An `Encoder`. `.check()` says whether it can do a job, `.layer()` makes it a Keras layer.

    Raises:
      HubError: it was not found, did not come, or is not whole; or max_length is out of a bundled model's range.
    """
    parsed = parse(handle)
    path, digest = fetch(parsed, sha256=sha256, download=download)
    interface = saved_model.read(path)
    row = find(parsed.text) or find(parsed.location)
    common: dict[str, Any] = {
        "handle": parsed.text,
        "path": path,
        "licence": row.licence if row else "unknown",
        "feature_size": 0,
    }
    known = modality or (row.modality if row else "texts" if interface.takes_texts else "images")
    if known == "images":
        encoder: Encoder = _image_encoder(interface, digest, row, input_range, common)
    else:
        part = _preprocessor(parsed.location, preprocessor, row, max_length)
        length = max_length or (native_length(part.interface) if part else None)
        if row and row.output in {tensor.name for tensor in interface.outputs}:
            interface = dataclasses.replace(interface, output_key=row.output)
        encoder = TextEncoder(
            **common,
            digest=files.digest_of(digest, part.digest if part else None, length),
            interface=interface,
            preprocessor=part,
            max_length=length,
        )
    return with_feature_size(encoder)


def _image_encoder(
    interface: Interface,
    digest: str,
    row: Known | None,
    input_range: tuple[float, float] | None,
    common: dict[str, Any],
) -> ImageEncoder:
    fixed = next((t.shape[1] for t in interface.inputs if t.shape and len(t.shape) == 4), None)
    usual = row.image_size if row else _USUAL_SIZE if interface.takes_images else 0
    shown_range = input_range or ((0.0, 1.0) if row else saved_model.input_range(common["path"]))
    low, high = shown_range or (0.0, 1.0)
    note = (
        f"{common['handle']} is taken to expect pixels in [0, 1], the TF Hub convention. "
        "If it expects others, say so: load_model(handle, input_range=(0, 255))."
    )
    return ImageEncoder(
        **common,
        digest=digest if (low, high) == (0, 1) else files.digest_of(digest, (float(low), float(high))),
        interface=interface,
        native_size=fixed or usual or 0,
        fixed_size=fixed is not None,
        input_range=(float(low), float(high)),
        notes=() if shown_range or not interface.takes_images else (note,),
    )


def _preprocessor(
    location: str, chosen: str | Path | None, row: Known | None, max_length: int | None
) -> Part | None:
    model = bundled.MODELS.get(location)
    if chosen is None and isinstance(model, bundled.TextModel):
        length = max_length or model.max_length
        if not 3 <= length <= model.positions:
            raise HubError(
                f"max_length={length}: {model.name} takes 3 to {model.positions} ids of a text, two at its ends among"
                f" them; it was trained on {model.max_length}."
            )
        handle, path = model.name, bundled_model(model.name, max_length=length)
        # Not that of the files: see `Bundled.digest`.
        digest = files.digest_of(model.vocabulary_sha256, length, bundled.EXPORT_VERSION)
    else:
        wanted = chosen or (row.preprocessor if row else None)
        if wanted is None:
            return None
        parsed = parse(wanted)
        handle, (path, digest) = parsed.text, fetch(parsed)
    return Part(handle=handle, path=path, digest=digest, interface=saved_model.read(path))
