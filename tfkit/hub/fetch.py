"""A model's files, brought here whole and safe, or not at all: downloads, archives, cloud storage, Kaggle."""

from __future__ import annotations

import gzip
import io
import itertools
import re
import shutil
import tarfile
import time
import zlib
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tfkit.environment import files, packages, stack
from tfkit.environment.files import Cache, folder_digest, sha256_of
from tfkit.environment.timeline import doing
from tfkit.errors import HubError
from tfkit.hub import bundled, saved_model
from tfkit.hub.catalogue import Handle

MODEL = "model"
MAX_BYTES, MAX_FILES = 16 << 30, 10_000
"""Of an archive, packed and unpacked."""
MINIMUM_BYTES_PER_SECOND = 1024
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_PAUSE_SECONDS = 30.0
_CHUNK = 1 << 20
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_FORMATS = (
    "A handle leads to a SavedModel: a folder, or a .tar.gz of one. A Keras file becomes one by tf_keras.models"
    ".load_model(...).save('folder', save_format='tf'). A saved_model.pb alone, a PyTorch or TFLite file, or a web page"
    " (a log-in?) cannot take its place."
)


class Download(NamedTuple):
    """Set how long to wait for a server, and how often to try again.

    Attributes:
      timeout_seconds: the longest wait for a connection, for the next byte, and the time in which a transfer must bring
        1 KiB for each second.
      retries: after a failure that may pass: no connection, a broken or stalled transfer, HTTP 408, 425, 429, 500, 502,
        503, 504. The pauses double from half a second, or are the server's own.
    """

    timeout_seconds: float = 30
    retries: int = 3


def fetch(handle: Handle, *, sha256: str | None = None, download: Download = Download()) -> tuple[Path, str]:  # noqa: B008
    """Return the verified SavedModel folder of a handle, and the digest of its content.

    What is fetched goes into the cache (`$TFKIT_CACHE/hub`) when it is whole, and not before; from then on the handle
    needs no network. A cached model that is no longer what was fetched is fetched again.

    Args:
      handle: see `tfkit.hub.catalogue.parse`.
      sha256: what the archive must have, in hex; for handles that come as an archive.
      download: of http(s).

    Raises:
      HubError: it was not found, did not come, or is not whole.
    """
    name, kind, location = handle
    sha256 = sha256 and sha256.lower()
    if sha256 is not None and kind not in ("http", "file") and not location.endswith(_ARCHIVES):
        raise HubError(f"{name} comes as no archive: sha256= has nothing to compare with. Leave it out.")
    if kind == "bundled":
        return bundled_model(location), bundled.MODELS[location].digest
    if kind in ("folder", "kaggle"):
        root = Path(location) if kind == "folder" else _download_kaggle(location)
        folder = saved_model.locate(root, name=name)
        saved_model.verify(folder, name=name)
        return folder, folder_digest(folder)

    def make(folder: Path) -> dict[str, Any]:
        temporary = folder / "fetched"
        temporary.mkdir()
        archive = temporary / "archive"
        if kind == "http":
            download_file(location, archive, download)
        else:
            copy(location, archive)
        info = _unpack(archive, folder / MODEL, name=name, sha256=sha256)
        shutil.rmtree(temporary)
        return info

    version = files.digest_of(Path(location)) if kind == "file" else 1
    key = f"{_make_slug(location)}-{files.digest_of(location, version)[:16]}"
    entry = Cache("hub").get(key, make, accept=lambda info: sha256 in (None, info["sha256"]))
    return entry.path / MODEL, entry.info["digest"]


def bundled_model(name: str, *, max_length: int | None = None) -> Path:
    """Return the SavedModel folder of a bundled model, or, with `max_length`, that of its preprocessor."""
    model = bundled.MODELS[name]
    key = f"{name}-{model.digest[:16]}" if max_length is None else f"{name}-preprocessor-{max_length}"

    def make(folder: Path) -> dict[str, Any]:
        if isinstance(model, bundled.TextModel) and max_length is not None:
            model.export_preprocessor(folder / MODEL, max_length=max_length)
        else:
            model.export(folder / MODEL)
        return {"model": model.digest}

    return Cache("hub").get(key, make, accept=lambda info: info["model"] == model.digest).path / MODEL


def _unpack(source: Path, target: Path, *, name: str, sha256: str | None) -> dict[str, Any]:
    """Put the SavedModel that is in `source`, an archive or a folder, to `target`, verified."""
    actual, folder = None, source
    if source.is_file():
        actual, folder = sha256_of(source), source.with_name("unpacked")
        if sha256 not in (None, actual):
            raise HubError(
                f"{name}: its archive is not the expected one, and was not kept. If you trust it, give the second.\n"
                f"  SHA-256 expected {sha256}\n  SHA-256 found    {actual}"
            )
        extract(source, folder, name=name)
    path = saved_model.locate(folder, name=name)
    saved_model.verify(path, name=name)
    path.rename(target)
    return {"handle": name, "sha256": actual, "digest": folder_digest(target)}


def download_file(url: str, path: Path, download: Download) -> None:
    """Write what a TF Hub server sends for `url` to `path`.

    The request is that of tensorflow_hub: GET url?tf-hub-format=compressed, and it follows redirects. An address
    that ends in .tar.gz, .tgz or .tar is requested as it is, since a query would break a signed one.

    Raises:
      HubError: it did not come; the message says why and what to do.
    """
    import requests
    import urllib3

    for attempt in itertools.count(1):
        try:
            _receive(url, path, download.timeout_seconds)
            break
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            response = getattr(error, "response", None)
            is_transient = response is None or response.status_code in _TRANSIENT
            if not is_transient or attempt > download.retries:
                raise HubError(
                    f"{url} could not be fetched: {error} (attempts: {attempt}).\n  Check the handle and its version"
                    " (python -m tfkit models lists known ones). A slow server: download=tfkit.hub.Download("
                    "timeout_seconds=..., retries=...). A log-in, a licence or a certificate"
                    " (REQUESTS_CA_BUNDLE=file.pem names a proxy's own): fetch the .tar.gz in another way and give its"
                    " path. Without a network, 'efficientnet-lite0' works."
                ) from error
            retry_after = "" if response is None else response.headers.get("Retry-After", "")
            pause = float(retry_after) if retry_after.isdecimal() else 0.5 * 2 ** (attempt - 1)
            time.sleep(min(pause, _LONGEST_PAUSE_SECONDS))
        except OSError as error:
            raise HubError(f"{url} cannot be stored in {path.parent}: {error.strerror or error}.") from error


def _receive(url: str, path: Path, timeout_seconds: float) -> None:
    import requests

    query = {} if urlsplit(url).path.endswith(_ARCHIVES) else {"tf-hub-format": "compressed"}
    with requests.Session() as session:
        session.max_redirects, session.headers["Accept-Encoding"] = 10, "identity"
        response = session.get(url, params=query, timeout=timeout_seconds, stream=True)
        with response, path.open("wb") as file:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length") or 0)
            received, window_start, window_bytes = 0, time.monotonic(), 0
            with doing(url, total=total or None, unit="byte", unit_scale=True, leave=False) as progress:
                # read1 hands over what has come; read would wait for a full chunk, which a trickle never fills.
                while chunk := response.raw.read1(_CHUNK, decode_content=False):
                    received += file.write(chunk)
                    progress.advance(len(chunk))
                    if max(received, total) > MAX_BYTES:
                        raise HubError(f"{url} sends more than {MAX_BYTES:,} bytes: that is no model.")
                    if (seconds := time.monotonic() - window_start) > timeout_seconds:
                        if received - window_bytes < MINIMUM_BYTES_PER_SECOND * seconds:
                            raise requests.Timeout(f"the transfer stalled after {received:,} bytes")
                        window_start, window_bytes = time.monotonic(), received


def extract(
    archive: Path, folder: Path, *, name: str, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES
) -> None:
    """Unpack `archive` into `folder`: regular files and folders below it, by tarfile's data filter.

    Args:
      archive: a .tar.gz or .tar file.
      folder: where to.
      name: what the errors call the archive.
      max_bytes: how much it may unpack to.
      max_files: how many members it may have.

    Raises:
      HubError: it is no such archive, not whole, not safe, or too large. `folder` may hold a part of it.
    """
    members: set[PurePosixPath] = set()
    total = 0

    def check_member(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        nonlocal total
        total += member.size
        if total > max_bytes or len(members) >= max_files:
            raise tarfile.FilterError(f"it unpacks to more than {max_bytes:,} bytes or {max_files:,} members")
        if member.issym() or member.islnk():
            raise tarfile.FilterError(f"the member {member.name!r} is a link to {member.linkname!r}")
        if PurePosixPath(member.name) in members:
            raise tarfile.FilterError(f"{member.name!r} is in it twice")
        members.add(PurePosixPath(member.name))
        return tarfile.data_filter(member, path)

    try:
        with archive.open("rb") as file:
            is_gzip = file.read(2) == b"\x1f\x8b"
        with gzip.open(archive) if is_gzip else archive.open("rb") as stream:
            limited_stream = _BoundedStream(stream, max_bytes=max_bytes + _CHUNK + max_files * 2048)
            with tarfile.open(fileobj=limited_stream, mode="r:") as tar:  # type: ignore[call-overload]
                tar.extractall(folder, filter=check_member)
            while limited_stream.read(_CHUNK):  # the checksum of a .gz stands at its very end
                pass
    except (tarfile.FilterError, FileExistsError, NotADirectoryError) as error:
        raise HubError(
            f"{name}: its archive is not safe to unpack: {error}.\n  A SavedModel needs nothing of the kind. Take the"
            " model from another place, or unpack it yourself and give the folder."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise HubError(
            f"{name}: its archive is cut short or damaged, or is none ({error}). Try again.\n  {_FORMATS}"
        ) from error
    except OSError as error:
        raise HubError(
            f"{name} cannot be unpacked into {folder.parent}: {error.strerror or error}."
        ) from error


class _BoundedStream:
    """A stream that ends in an error rather than in a full disk or memory."""

    def __init__(self, stream: gzip.GzipFile | io.BufferedReader, *, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        # Contents are read in chunks, so a longer read is tarfile taking in an extended header at once.
        if not 0 <= size <= _CHUNK:
            raise tarfile.FilterError(f"a header of {size:,} bytes")
        self.seek(self.tell())
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        if position > self._max_bytes:
            raise tarfile.FilterError(f"it unpacks to more than {self._max_bytes:,} bytes")
        return self._stream.seek(position)


def copy(location: str, target: Path) -> None:
    """Copy a file or a folder from where TensorFlow's file system reads (gs://, a path, ...) to the path `target`.

    Time-outs and retries are those of that file system; its credentials too.
    """
    gfile = stack.tf.io.gfile
    location = location.rstrip("/")
    try:
        if not gfile.isdir(location):
            gfile.copy(location, str(target), overwrite=True)
            return
        for folder, _, names in gfile.walk(location):
            subfolder = target / folder.removeprefix(location).strip("/")
            subfolder.mkdir(parents=True, exist_ok=True)
            for name in names:
                gfile.copy(f"{folder.rstrip('/')}/{name}", str(subfolder / name), overwrite=True)
    except stack.tf.errors.OpError as error:
        raise HubError(
            f"{location} cannot be read by this TensorFlow: {error.message.splitlines()[0]}\n"
            "  Check the handle, the network and the storage's credentials; or copy the folder here by the storage's"
            " own tool, and give its path."
        ) from error


def _download_kaggle(handle: str) -> Path:
    """Return the folder in kagglehub's own cache that holds owner/model/framework/variation[/version]."""
    try:
        import kagglehub
    except ImportError as error:
        raise HubError(
            f"{handle} is a model on Kaggle, and the package that fetches from there is not installed.\n"
            f"  Install it: {packages.command('kagglehub')}\n  Or give the path of the .tar.gz from the model's page."
        ) from error
    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:  # kagglehub lets requests', its own and OS errors through
        raise HubError(
            f"{handle} could not be fetched from Kaggle: {error}\n"
            "  Check the handle on the model's page, the network, and kagglehub's log-in (some models want one)."
        ) from error


def _make_slug(handle: str) -> str:
    """Return the readable part of an entry's name: the last parts of the handle."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", handle.split("://")[-1].split("?")[0])[-60:].strip("-.")
