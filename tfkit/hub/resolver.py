"""From a handle to a verified encoder of text on this machine, and to what is known of it.

From a handle to a verified SavedModel on this machine, and to what is known of it.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tfkit.environment import files
from tfkit.errors import HubError
from tfkit.hub import bundled, saved_model
from tfkit.hub.catalogue import Handle, KnownText, find_image_model, find_text_model, parse
from tfkit.hub.fetch import (
    copy,
    describe,
    download_file,
    download_kaggle,
    extract,
    folder_digest,
    get,
    is_archive,
    locate,
    sha256_of,
    verify,
)
from tfkit.hub.images import Backbone
from tfkit.hub.saved_model import Interface
from tfkit.hub.texts import Part, TextEncoder, chained, native_length


def resolve(
    handle: str | Path,
    *,
    sha256: str | None = None,
    input_range: tuple[float, float] | None = None,
    timeout_seconds: float = 30,
    retries: int = 3,
) -> Backbone:
    """Find, fetch and verify a model.

    What is fetched goes into the cache (`$TFKIT_CACHE/hub`) when it is whole, and not before; from then on the
    handle needs no network. A cached model that is no longer what was fetched is fetched again.

    Args:
      handle: a bundled name ("efficientnet-lite0"), a known name (python -m tfkit models), an http(s) URL such as
        https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5, a kaggle.com model URL,
        a gs:// location, a SavedModel folder, or a .tar.gz of one.
      sha256: what the archive must have, in hex; for handles that come as an archive.
      input_range: the values that the model expects for black and for white, where it is known better than from
        the handle: (0, 255) for most that Keras exported.
      timeout_seconds: the longest wait for a server.
      retries: how often to try again after a failure that may pass.

    Returns:
      The model. `.check()` says whether it can do a job, `.layer()` makes it a Keras layer.

    Raises:
      HubError: it was not found, did not come, or is not whole.
    """
    found = parse(handle)
    path, digest = fetch(found, sha256=sha256, timeout_seconds=timeout_seconds, retries=retries)
    backbone = _describe(found, path, input_range)
    if backbone.input_range != (0, 1):
        digest = files.digest_of(digest, backbone.input_range)
    return replace(backbone, digest=digest, feature_size=backbone.feature_size or _measured(backbone))


def fetch(
    found: Handle, *, sha256: str | None = None, timeout_seconds: float = 30, retries: int = 3
) -> tuple[Path, str]:
    """The verified SavedModel folder, and the digest of its content, or of what a bundled one is made of."""
    packed = found.kind in ("http", "file") or found.location.endswith((".tar.gz", ".tgz", ".tar"))
    if sha256 is not None and not packed:
        raise HubError(
            f"{found.text} comes as no archive, so sha256= has nothing to compare with.\n"
            "  Leave it out; the digest of the model itself is in Backbone.digest."
        )

    if found.kind == "bundled":
        model = bundled.MODELS[found.location]
        entry = get(found.location, model.export, version=(model.sha256, bundled.EXPORT_VERSION))
        return entry.path, model.digest
    if found.kind in ("folder", "kaggle"):
        folder = Path(found.location) if found.kind == "folder" else download_kaggle(found.location)
        path = locate(folder, name=found.text)
        verify(path, name=found.text)
        return path, folder_digest(path)

    def make(folder: Path) -> str | None:
        fetched = folder.parent / "fetched"
        if found.kind == "http":
            download_file(found.location, fetched, timeout_seconds=timeout_seconds, retries=retries)
        elif found.kind == "remote":
            copy(found.location, fetched)
        else:
            shutil.copyfile(found.location, fetched)
        return _place(fetched, folder, name=found.text, sha256=sha256)

    if found.kind == "file":
        if not is_archive(Path(found.location)):
            raise HubError(f"{found.text} {describe(Path(found.location))}")
        entry = get(found.location, make, sha256=sha256, version=files.digest_of(Path(found.location)))
    else:
        entry = get(found.location, make, sha256=sha256)
    return entry.path, entry.digest


def _place(fetched: Path, folder: Path, *, name: str, sha256: str | None) -> str | None:
    """Put the SavedModel that is in `fetched`, an archive or a folder, into `folder`, verified."""
    found = None
    unpacked = fetched
    if fetched.is_file():
        found = sha256_of(fetched)
        if sha256 is not None and found != sha256.lower():
            raise HubError(
                f"{name}: its archive is not the expected one.\n  SHA-256 expected {sha256}\n"
                f"  SHA-256 found    {found}\n"
                "  Nothing of it was kept. If the publisher has changed the model and you trust it, give the second."
            )
        unpacked = folder.parent / "unpacked"
        extract(fetched, unpacked, name=name)
        fetched.unlink()
    path = locate(unpacked, name=name)
    verify(path, name=name)
    folder.rmdir()
    path.rename(folder)
    shutil.rmtree(unpacked, ignore_errors=True)
    return found


def _describe(found: Handle, path: Path, input_range: tuple[float, float] | None) -> Backbone:
    interface = saved_model.read(path)
    row = find_image_model(found.text) or find_image_model(found.location)
    size = next((t.shape[1] for t in interface.inputs if t.shape and len(t.shape) == 4), None)
    shown_range = input_range or (row.input_range if row else saved_model.input_range(path))
    low, high = shown_range or (0.0, 1.0)
    note = (
        f"{found.text} is taken to expect pixels in [0, 1], the TF Hub convention. "
        "If it expects others, say so: resolve(handle, input_range=(0, 255))."
    )
    output = interface.output
    return Backbone(
        handle=found.text,
        path=path,
        digest="",
        native_size=size or (row.image_size if row else _USUAL_SIZE if interface.takes_images else 0),
        fixed_size=size is not None,
        input_range=(float(low), float(high)),
        feature_size=(output.shape[-1] or 0) if output and output.shape else 0,
        parameters=interface.parameters,
        trainable_variables=interface.trainable_variables,
        licence=row.licence if row else "unknown",
        interface=interface,
        notes=() if shown_range or not interface.takes_images else (note,),
    )


def _measured(backbone: Backbone) -> int:
    """The length of the feature vectors where the model does not state it: from a trial; 0 if that fails."""
    from tfkit.environment.stack import tf

    if not backbone.interface.takes_images or backbone.interface.output is None:
        return 0
    size = backbone.native_size
    try:
        features = backbone.layer()(tf.zeros((1, size, size, 3)))
    except (tf.errors.OpError, ValueError, TypeError):
        return 0
    return int(features.shape[-1]) if len(features.shape) == 2 else 0


_USUAL_SIZE = 224


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
    found = parse(handle)
    path, digest = fetch(found, sha256=sha256)
    interface = saved_model.read(path)
    row = find_text_model(found.text) or find_text_model(found.location)
    model = bundled.text_model(found.location) if found.kind == "bundled" else None
    if preprocessor is None and model is not None:
        part: Part | None = _bundled_preprocessor(model, max_length or model.max_length)
    else:
        chosen = preprocessor or (row.preprocessor if row else None)
        part = _part(chosen) if chosen else None
    length = max_length or (native_length(part.interface) if part else None)
    encoder = TextEncoder(
        handle=found.text,
        path=path,
        digest=files.digest_of(digest, part.digest if part else None, length),
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
    entry = get(
        f"{model.name}-preprocessor",
        lambda folder: model.export_preprocessor(folder, max_length=length),
        version=version,
    )
    # Not that of the files: see `Bundled.digest`.
    return Part(
        handle=model.name,
        path=entry.path,
        digest=files.digest_of(*version),
        interface=saved_model.read(entry.path),
    )


def _part(handle: str | Path) -> Part:
    found = parse(handle)
    path, digest = fetch(found)
    return Part(handle=found.text, path=path, digest=digest, interface=saved_model.read(path))


def _output_key(interface: Interface, row: KnownText | None) -> str | None:
    names = {tensor.name for tensor in interface.outputs}
    wanted = [name for name in ((row.output if row else None), "pooled_output") if name in names]
    return wanted[0] if wanted else interface.output_key


def _feature_size(encoder: TextEncoder) -> int:
    """The length of the vectors; where the model does not state it, from a trial; 0 if that fails."""
    from tfkit.environment.stack import tf

    named = [tensor for tensor in encoder.interface.outputs if tensor.name == encoder.output_key]
    output = named[0] if named else encoder.interface.output
    if output is None or encoder.interface.way == "none":
        return 0
    if output.shape is not None:
        return (output.shape[-1] or 0) if len(output.shape) == 2 else 0
    try:
        vectors = chained(encoder, trainable=False)(tf.constant(["a text"]))
    except (tf.errors.OpError, ValueError, TypeError, AttributeError, KeyError):
        return 0
    return int(vectors.shape[-1]) if len(vectors.shape) == 2 else 0
