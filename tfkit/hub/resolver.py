"""From a handle to a verified SavedModel on this machine, and to what is known of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tfkit import files
from tfkit.errors import HubError
from tfkit.hub import (
    archive,
    bundled,
    cache,
    complete,
    download,
    formats,
    handles,
    known,
    remote,
    saved_model,
)
from tfkit.hub.backbone import Backbone
from tfkit.hub.handles import Handle


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
    found = handles.parse(handle)
    path, digest = fetch(found, sha256=sha256, timeout_seconds=timeout_seconds, retries=retries)
    backbone = _describe(found, path, input_range)
    if backbone.input_range != (0, 1):
        digest = files.digest(digest, backbone.input_range)
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
        entry = cache.get(found.location, model.export, version=(model.sha256, bundled.EXPORT_VERSION))
        return entry.path, model.digest
    if found.kind in ("folder", "kaggle"):
        folder = Path(found.location) if found.kind == "folder" else remote.download_kaggle(found.location)
        path = complete.locate(folder, name=found.text)
        complete.verify(path, name=found.text)
        return path, cache.folder_digest(path)

    def make(folder: Path) -> str | None:
        fetched = folder.parent / "fetched"
        if found.kind == "http":
            download.fetch(found.location, fetched, timeout_seconds=timeout_seconds, retries=retries)
        elif found.kind == "remote":
            remote.copy(found.location, fetched)
        else:
            shutil.copyfile(found.location, fetched)
        return _place(fetched, folder, name=found.text, sha256=sha256)

    if found.kind == "file":
        if not archive.is_archive(Path(found.location)):
            raise HubError(f"{found.text} {formats.describe(Path(found.location))}")
        entry = cache.get(found.location, make, sha256=sha256, version=files.digest(Path(found.location)))
    else:
        entry = cache.get(found.location, make, sha256=sha256)
    return entry.path, entry.digest


def _place(fetched: Path, folder: Path, *, name: str, sha256: str | None) -> str | None:
    """Put the SavedModel that is in `fetched`, an archive or a folder, into `folder`, verified."""
    found = None
    unpacked = fetched
    if fetched.is_file():
        found = cache.sha256(fetched)
        if sha256 is not None and found != sha256.lower():
            raise HubError(
                f"{name}: its archive is not the expected one.\n  SHA-256 expected {sha256}\n"
                f"  SHA-256 found    {found}\n"
                "  Nothing of it was kept. If the publisher has changed the model and you trust it, give the second."
            )
        unpacked = folder.parent / "unpacked"
        archive.extract(fetched, unpacked, name=name)
        fetched.unlink()
    path = complete.locate(unpacked, name=name)
    complete.verify(path, name=name)
    folder.rmdir()
    path.rename(folder)
    shutil.rmtree(unpacked, ignore_errors=True)
    return found


def _describe(found: Handle, path: Path, input_range: tuple[float, float] | None) -> Backbone:
    interface = saved_model.read(path)
    row = known.find(found.text) or known.find(found.location)
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
    from tfkit.stack import tf

    if not backbone.interface.takes_images or backbone.interface.output is None:
        return 0
    size = backbone.native_size
    try:
        features = backbone.layer()(tf.zeros((1, size, size, 3)))
    except (tf.errors.OpError, ValueError, TypeError):
        return 0
    return int(features.shape[-1]) if len(features.shape) == 2 else 0


_USUAL_SIZE = 224
