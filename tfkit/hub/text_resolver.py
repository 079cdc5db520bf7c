"""From a handle to a verified encoder of text on this machine, and to what is known of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tfkit import files
from tfkit.errors import HubError
from tfkit.hub import bundled, cache, handles, known_text, resolver, saved_model, text_layers
from tfkit.hub.known_text import KnownText
from tfkit.hub.saved_model import Interface
from tfkit.hub.text_encoder import TextEncoder
from tfkit.hub.text_part import Part


def resolve_text(
    handle: str | Path,
    *,
    preprocessor: str | Path | None = None,
    sha256: str | None = None,
    max_length: int | None = None,
) -> TextEncoder:
    """Find, fetch and verify an encoder of text, and the preprocessor that it needs.

    Both go into the cache as `resolve` puts models of images there.

    Args:
      handle: a bundled name ("minilm-l6-v2"), a known name (python -m tfkit models), an http(s) or kaggle.com URL
        such as https://tfhub.dev/google/universal-sentence-encoder/4, a gs:// location, a SavedModel folder, or a
        .tar.gz of one.
      preprocessor: the same for the model that makes ids of strings, where the encoder takes ids and is not one
        that `python -m tfkit models` lists with its preprocessor.
      sha256: what the encoder's archive must have, in hex; for handles that come as an archive.
      max_length: ids of a text at most, the two at its ends among them; None takes the preprocessor's own length,
        128 for most. Twice as many take twice as long, or longer.

    Returns:
      The encoder. `.check()` says whether it can do a job, `.layer()` makes it a Keras layer.

    Raises:
      HubError: a part was not found, did not come, or is not whole; or max_length is out of a bundled model's range.
    """
    found = handles.parse(handle)
    path, digest = resolver.fetch(found, sha256=sha256)
    interface = saved_model.read(path)
    row = known_text.find(found.text) or known_text.find(found.location)
    model = bundled.text_model(found.location) if found.kind == "bundled" else None
    if preprocessor is None and model is not None:
        part: Part | None = _bundled_preprocessor(model, max_length or model.max_length)
    else:
        chosen = preprocessor or (row.preprocessor if row else None)
        part = _part(chosen) if chosen else None
    length = max_length or (text_layers.native_length(part.interface) if part else None)
    encoder = TextEncoder(
        handle=found.text,
        path=path,
        digest=files.digest(digest, part.digest if part else None, length),
        preprocessor=part,
        interface=interface,
        output_key=_output_key(interface, row),
        feature_size=0,
        max_length=length,
        parameters=interface.parameters,
        trainable_variables=interface.trainable_variables,
        licence=row.licence if row else "unknown",
    )
    return replace(encoder, feature_size=_feature_size(encoder))


def _bundled_preprocessor(model: bundled.TextModel, length: int) -> Part:
    if not 3 <= length <= model.positions:
        raise HubError(
            f"max_length={length}: {model.name} takes 3 to {model.positions} ids of a text, two at its ends among"
            f" them; it was trained on {model.max_length}."
        )
    version = (model.vocabulary_sha256, length, bundled.EXPORT_VERSION)
    entry = cache.get(
        f"{model.name}-preprocessor",
        lambda folder: model.export_preprocessor(folder, max_length=length),
        version=version,
    )
    # Not that of the files: see `Bundled.digest`.
    return Part(
        handle=model.name,
        path=entry.path,
        digest=files.digest(*version),
        interface=saved_model.read(entry.path),
    )


def _part(handle: str | Path) -> Part:
    found = handles.parse(handle)
    path, digest = resolver.fetch(found)
    return Part(handle=found.text, path=path, digest=digest, interface=saved_model.read(path))


def _output_key(interface: Interface, row: KnownText | None) -> str | None:
    names = {tensor.name for tensor in interface.outputs}
    wanted = [name for name in ((row.output if row else None), "pooled_output") if name in names]
    return wanted[0] if wanted else interface.output_key


def _feature_size(encoder: TextEncoder) -> int:
    """The length of the vectors; where the model does not state it, from a trial; 0 if that fails."""
    from tfkit.stack import tf

    named = [tensor for tensor in encoder.interface.outputs if tensor.name == encoder.output_key]
    output = named[0] if named else encoder.interface.output
    if output is None or encoder.interface.way == "none":
        return 0
    if output.shape is not None:
        return (output.shape[-1] or 0) if len(output.shape) == 2 else 0
    try:
        vectors = text_layers.chained(encoder, trainable=False)(tf.constant(["a text"]))
    except (tf.errors.OpError, ValueError, TypeError, AttributeError, KeyError):
        return 0
    return int(vectors.shape[-1]) if len(vectors.shape) == 2 else 0
