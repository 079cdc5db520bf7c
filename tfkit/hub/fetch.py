"""The cache of resolved models: an entry is whole, or it is not there.

<cache>/hub/<name>-<key>/model/      the SavedModel
<cache>/hub/<name>-<key>/entry.json  its handle, digest, and the SHA-256 of the archive that it came in

Fetches one file over http(s): every wait is bounded, what may pass is tried again, what comes is counted.

What a file that is no archive of a SavedModel is, and how a SavedModel comes out of it.

Whether a SavedModel folder is whole, and where in a folder it is.

Unpacks a model's .tar.gz or .tar without trusting a byte of it.

Only regular files and folders below the target come out: links, devices, absolute names and `..` are refused, and
so is an archive that unpacks to more than `MAX_BYTES` or to more than `MAX_FILES` members. Owners, modes and times
in it are ignored.

Models that come by another road than http: cloud storage through TensorFlow, Kaggle through kagglehub.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from tfkit.environment import files, packages
from tfkit.environment.process import watched
from tfkit.errors import HubError
from tfkit.hub import saved_model

MAX_REDIRECTS = 10
MAX_BYTES = 16 << 30
MINIMUM_BYTES_PER_SECOND = 1024
TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
_CHUNK = 1 << 20


class _TransientError(Exception):
    """What another attempt may not meet."""

    def __init__(self, message: str, *, pause_seconds: float = 0) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


def download_file(url: str, path: Path, *, timeout_seconds: float, retries: int) -> str:
    """Write what a TF Hub server sends for `url` to `path`.

    The request is that of tensorflow_hub: GET url?tf-hub-format=compressed, and it follows redirects. An address
    that ends in .tar.gz, .tgz or .tar is asked for as it is, since a query would break a signed one.

    Args:
      url: http(s).
      path: of the new file.
      timeout_seconds: the longest wait for a connection, for the next byte, and the time in which a transfer must
        bring 1 KiB for each second.
      retries: how often to try again after a failure that may pass: no connection, a broken or stalled transfer,
        HTTP 408, 425, 429, 500, 502, 503, 504. The pauses double from half a second, or are the server's own.

    Returns:
      SHA-256 of the file, in hex.

    Raises:
      HubError: it did not come; the message says why and what to do.
    """
    for attempt in range(retries + 1):
        try:
            return _attempt(url, path, timeout_seconds=timeout_seconds)
        except _TransientError as error:
            if attempt == retries:
                attempts = f"{attempt + 1} attempts" if attempt else "1 attempt"
                raise HubError(
                    f"{url} could not be fetched: {error} ({attempts}).\n"
                    "  Try again later, or with a longer timeout_seconds= or more retries=; or fetch the .tar.gz in "
                    "another way and give its path. Without a network, 'efficientnet-lite0' works."
                ) from error
            time.sleep(max(error.pause_seconds, min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)))
        except OSError as error:
            raise HubError(f"{url} cannot be stored in {path.parent}: {error.strerror or error}.") from error
    raise ValueError(f"retries={retries} must not be negative")


def _attempt(url: str, path: Path, *, timeout_seconds: float) -> str:
    import requests
    import urllib3

    named = urlsplit(url).path.endswith((".tar.gz", ".tgz", ".tar"))
    try:
        with requests.Session() as session:
            session.max_redirects = MAX_REDIRECTS
            response = session.get(
                url,
                params={} if named else {"tf-hub-format": "compressed"},
                headers={"Accept-Encoding": "identity"},
                timeout=timeout_seconds,
                stream=True,
            )
            with response:
                _check_status(url, response)
                return _receive(url, response, path, timeout_seconds=timeout_seconds)
    except requests.TooManyRedirects as error:
        raise HubError(
            f"{url} is redirected more than {MAX_REDIRECTS} times: the server sends it round in a loop.\n"
            "  Check the handle; if it is right, only its server can repair this. Another source of the model, or a "
            "local .tar.gz, works meanwhile."
        ) from error
    except requests.exceptions.SSLError as error:
        raise HubError(
            f"{url}: the server's certificate cannot be trusted: {error}.\n"
            "  Behind a proxy with a certificate of its own, REQUESTS_CA_BUNDLE=file.pem names it."
        ) from error
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise _TransientError(f"nothing came for {timeout_seconds:g} s") from error
    except (requests.ConnectionError, urllib3.exceptions.HTTPError) as error:
        raise _TransientError(f"the connection failed: {_innermost(error)}") from error
    except requests.RequestException as error:
        raise HubError(f"{url} is not an address that can be fetched: {error}.") from error


def _check_status(url: str, response: Any) -> None:
    if response.status_code == 200:
        return
    status = f"HTTP {response.status_code} {response.reason}".strip()
    if response.status_code in TRANSIENT:
        after = response.headers.get("Retry-After", "")
        pause = float(after) if after.isdecimal() else 0.0
        raise _TransientError(f"the server says {status}", pause_seconds=min(pause, LONGEST_PAUSE_SECONDS))
    if response.status_code in (401, 403):
        fix = "The model wants a log-in or a licence to be accepted: fetch it in a browser and give the .tar.gz."
    elif response.status_code in (404, 410):
        fix = "Check the handle, its version too (the number at its end). python -m tfkit models lists known ones."
    else:
        fix = "Check the handle. python -m tfkit models lists known ones."
    raise HubError(f"{url} is not there: the server says {status}.\n  {fix}")


def _receive(url: str, response: Any, path: Path, *, timeout_seconds: float) -> str:
    from tqdm.auto import tqdm

    expected = int(response.headers.get("Content-Length") or -1)
    if expected > MAX_BYTES:
        raise HubError(f"{url} is {expected:,} bytes; a model has at most {MAX_BYTES:,}.")
    digest, received = hashlib.sha256(), 0
    window_start, window_bytes = time.monotonic(), 0
    progress = tqdm(
        total=max(expected, 0) or None,
        desc=url,
        unit="B",
        unit_scale=True,
        delay=1,
        leave=False,
        disable=not watched(),
    )
    with path.open("wb") as file, progress:
        # read1 hands over what has come; read would wait for a full chunk, and a trickle could hold it for ever.
        while chunk := response.raw.read1(_CHUNK, decode_content=False):
            file.write(chunk)
            digest.update(chunk)
            progress.update(len(chunk))
            received += len(chunk)
            window_bytes += len(chunk)
            if received > MAX_BYTES:
                raise HubError(f"{url} sends more than {MAX_BYTES:,} bytes, the most that a model has.")
            if (elapsed := time.monotonic() - window_start) > timeout_seconds:
                if window_bytes < MINIMUM_BYTES_PER_SECOND * elapsed:
                    raise _TransientError(f"the transfer stalled: {window_bytes} bytes in {elapsed:.3g} s")
                window_start, window_bytes = time.monotonic(), 0
    if expected not in (-1, received):
        raise _TransientError(f"the transfer broke off after {received:,} of {expected:,} bytes")
    return digest.hexdigest()


def _innermost(error: BaseException) -> BaseException:
    """The cause that says most: requests wraps urllib3's errors, which wrap the socket's."""
    inner = [getattr(error, "reason", None), *error.args]
    return next((_innermost(cause) for cause in inner if isinstance(cause, BaseException)), error)


_MAKE_SAVED_MODEL = (
    "Make a SavedModel of it: tf_keras.models.load_model('{path}').save('folder', save_format='tf'), "
    "with the classification layer cut off, and give that folder."
)
_KINDS = {
    "tflite": "is a TFLite model: its weights are fixed for one device's use. Give the SavedModel that it came from",
    "h5": f"is a Keras file in HDF5. {_MAKE_SAVED_MODEL}",
    "keras": f"is a Keras file, or another zip. {_MAKE_SAVED_MODEL}",
    "html": "is a web page, not a model: the address is that of a page about it, or wants you to log in",
    "pb": "is a part of a SavedModel. Give the folder that it is in",
    "torch": "is a PyTorch file. Give a SavedModel",
    "": "is neither a SavedModel folder nor a .tar.gz of one",
}
SUFFIXES = {
    ".tflite": "tflite",
    ".h5": "h5",
    ".hdf5": "h5",
    ".keras": "keras",
    ".pb": "pb",
    ".pth": "torch",
    ".pt": "torch",
}


def describe(path: Path) -> str:
    """A sentence on what the file is, by its first bytes, then by its name, and what to do with it."""
    with path.open("rb") as file:
        start = file.read(512)
    if start[4:8] == b"TFL3":
        kind = "tflite"
    elif start.startswith(b"\x89HDF\r\n\x1a\n"):
        kind = "h5"
    elif start.startswith(b"PK\x03\x04"):
        kind = "torch" if path.suffix in (".pt", ".pth") else "keras"
    elif start.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        kind = "html"
    else:
        kind = SUFFIXES.get(path.suffix.lower(), "")
    return _KINDS[kind].format(path=path) + "."


VARIABLES = "variables/variables"
_SHARD = re.compile(r"variables\.data-\d{5}-of-(\d{5})")


def locate(folder: Path, *, name: str) -> Path:
    """The SavedModel in `folder`: itself, or the only one among its subfolders.

    Raises:
      HubError: there is none, or more than one; the message says what is there in its place.
    """
    if (folder / "saved_model.pb").is_file():
        return folder
    inside = sorted(path.parent for path in folder.glob("*/saved_model.pb"))
    if len(inside) == 1:
        return inside[0]
    if inside:
        listed = ", ".join(path.name for path in inside)
        raise HubError(f"{name} holds several models: {listed}.\n  Give the folder of one of them.")
    others = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
    if others:
        raise HubError(f"{name} has no saved_model.pb. Its {others[0].name} {describe(others[0])}")
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    raise HubError(
        f"{name} has no saved_model.pb, neither at its root nor one level down (there is {found}).\n"
        "  So it is no SavedModel, or only a part of one."
    )


def verify(folder: Path, *, name: str) -> None:
    """Make sure that all that the SavedModel in `folder` needs is there, and that its weights are undamaged.

    Raises:
      HubError: a file is missing or cut short, or the checksum of a weight is wrong.
    """
    from tfkit.environment.stack import tf

    proto = saved_model.load_proto(folder)
    missing = [path for path in _assets(proto) if not (folder / path).is_file()]
    missing += _missing_variables(folder) if _has_variables(proto) else []
    if missing:
        raise HubError(
            f"{name} is incomplete: {', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} missing.\n"
            "  Fetch or export it again."
        )
    if (folder / f"{VARIABLES}.index").is_file():
        try:
            reader = tf.train.load_checkpoint(str(folder / VARIABLES))
            for variable in reader.get_variable_to_shape_map():
                reader.get_tensor(variable)  # which compares its checksum
        except (tf.errors.OpError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise HubError(
                f"{name}: its weights are damaged: {reason}\n  Fetch or export it again."
            ) from error


def _assets(proto: Any) -> list[str]:
    names = {asset.filename for graph in proto.meta_graphs for asset in graph.asset_file_def}
    return [f"assets/{name}" for name in sorted(names)]


def _has_variables(proto: Any) -> bool:
    """Whether any graph has variables to restore; a model can be all constants."""
    for graph in proto.meta_graphs:
        if any(node.WhichOneof("kind") == "variable" for node in graph.object_graph_def.nodes):
            return True
        if any(node.op in ("VarHandleOp", "VariableV2", "Variable") for node in graph.graph_def.node):
            return True
    return False


def _missing_variables(folder: Path) -> list[str]:
    missing = [] if (folder / f"{VARIABLES}.index").is_file() else [f"{VARIABLES}.index"]
    counts = {int(m[1]) for p in folder.glob("variables/*") if (m := _SHARD.fullmatch(p.name))} or {1}
    count = max(counts)
    shards = [f"{VARIABLES}.data-{i:05d}-of-{count:05d}" for i in range(count)]
    return missing + [shard for shard in shards if not (folder / shard).is_file()]


MAX_UNPACKED_BYTES = 16 << 30
MAX_FILES = 10_000
MAX_HEADER_BYTES = 1 << 20
_UNPACK_CHUNK = 1 << 20


def extract(
    archive: Path, folder: Path, *, name: str, max_bytes: int = MAX_UNPACKED_BYTES, max_files: int = MAX_FILES
) -> None:
    """Unpack `archive` into the empty `folder`.

    Args:
      archive: a .tar.gz or .tar file.
      folder: where to.
      name: what the errors call the archive.
      max_bytes: how much it may unpack to.
      max_files: how many members it may have.

    Raises:
      HubError: it is no such archive, not whole, not safe, or too large. `folder` may hold a part of it.
    """
    try:
        with _open(archive) as stream:
            bounded = _Bounded(stream, max_bytes=max_bytes + (1 << 20) + max_files * 2048)
            with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
                _extract(tar, folder, max_bytes=max_bytes, max_files=max_files)
            while bounded.read(_UNPACK_CHUNK):  # the checksum of a .gz stands at its very end
                pass
    except _Refused as error:
        raise HubError(
            f"{name}: its archive is not safe to unpack: {error}.\n"
            "  A SavedModel needs nothing of the kind. Take the model from another place, or unpack it yourself "
            "and give the folder."
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        if not is_archive(archive):
            raise HubError(f"{name} {describe(archive)}") from error
        raise HubError(
            f"{name}: its archive is cut short or damaged ({error}).\n"
            "  Nothing of it was kept. Try again; if it stays so, the copy at the source is damaged."
        ) from error
    except OSError as error:
        raise HubError(
            f"{name} cannot be unpacked into {folder.parent}: {error.strerror or error}."
        ) from error


def is_archive(path: Path) -> bool:
    """Whether the file starts like a .gz or a .tar."""
    return _is_gzip(path) or tarfile.is_tarfile(path)


class _Refused(Exception):
    """The archive holds what no model's archive holds."""


class _Bounded:
    """A stream that ends in an error rather than in a full disk or memory."""

    def __init__(self, stream: gzip.GzipFile | io.BufferedReader, *, max_bytes: int) -> None:
        self._stream, self._max_bytes = stream, max_bytes

    def read(self, size: int = -1) -> bytes:
        # Contents are read in chunks, so a longer read is tarfile taking in an extended header at once.
        if not 0 <= size <= max(_UNPACK_CHUNK, MAX_HEADER_BYTES):
            raise _Refused(f"a header of {size:,} bytes")
        self._check()
        return self._stream.read(size)

    def seek(self, position: int) -> int:
        self._stream.seek(position)
        self._check()
        return position

    def tell(self) -> int:
        return self._stream.tell()

    def _check(self) -> None:
        if self._stream.tell() > self._max_bytes:
            raise _Refused(f"it unpacks to more than {self._max_bytes:,} bytes")


def _open(archive: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(archive) if _is_gzip(archive) else archive.open("rb")


def _is_gzip(archive: Path) -> bool:
    with archive.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _extract(tar: tarfile.TarFile, folder: Path, *, max_bytes: int, max_files: int) -> None:
    total = 0
    for count, member in enumerate(tar, start=1):
        total += member.size
        if count > max_files:
            raise _Refused(f"it has more than {max_files:,} members")
        if total > max_bytes:
            raise _Refused(f"it unpacks to more than {max_bytes:,} bytes")
        target = folder / _safe_name(member)
        try:
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                shutil.copyfileobj(tar.extractfile(member), file, _UNPACK_CHUNK)  # type: ignore[arg-type]
        except (FileExistsError, NotADirectoryError) as error:
            raise _Refused(f"{member.name!r} is in it twice, or is a file and a folder") from error


def _safe_name(member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\0" in member.name:
        raise _Refused(f"the member {member.name!r} leaves the folder")
    if member.issym() or member.islnk():
        raise _Refused(f"the member {member.name!r} is a link to {member.linkname!r}")
    if not (member.isreg() or member.isdir()):
        raise _Refused(f"the member {member.name!r} is neither a file nor a folder")
    return name


def copy(location: str, target: Path) -> None:
    """Copy a file or a folder from where TensorFlow's file system reads (gs://, ...) to the local path `target`.

    Time-outs and retries are those of that file system; its credentials too.
    """
    from tfkit.environment.stack import tf

    gfile = tf.io.gfile
    location = location.rstrip("/")
    try:
        if not gfile.isdir(location):
            gfile.copy(location, str(target), overwrite=True)
            return
        for folder, _, files in gfile.walk(location):
            inside = target / folder.removeprefix(location).strip("/")
            inside.mkdir(parents=True, exist_ok=True)
            for file in files:
                gfile.copy(f"{folder.rstrip('/')}/{file}", str(inside / file), overwrite=True)
    except tf.errors.UnimplementedError as error:
        scheme = location.split("://")[0]
        raise HubError(
            f"{location}: this TensorFlow cannot read {scheme}://.\n"
            "  Copy the folder here by the storage's own tool, and give its path."
        ) from error
    except tf.errors.NotFoundError as error:
        raise HubError(
            f"{location} is not there. Check the handle, and that it is public or you are logged in."
        ) from error
    except tf.errors.OpError as error:
        raise HubError(
            f"{location} cannot be read: {error.message.splitlines()[0]}\n"
            "  Check the network and the storage's credentials; or copy the folder here and give its path."
        ) from error


def download_kaggle(handle: str) -> Path:
    """The folder in kagglehub's own cache that holds owner/model/framework/variation[/version]."""
    if importlib.util.find_spec("kagglehub") is None:
        raise HubError(
            f"{handle} is a model on Kaggle, and the package that fetches from there is not installed.\n"
            f"  Install it: {packages.command('kagglehub')}\n"
            "  Or download the .tar.gz from the model's page and give its path; or take the model's tfhub.dev "
            "address; or, without a network, 'efficientnet-lite0'."
        )
    import kagglehub

    try:
        return Path(kagglehub.model_download(handle))
    except Exception as error:  # kagglehub lets requests', its own and OS errors through
        raise HubError(
            f"{handle} could not be fetched from Kaggle: {error}\n"
            "  Check the handle on the model's page, the network, and kagglehub's log-in (some models want one)."
        ) from error


ENTRY = "entry.json"
MODEL = "model"


@dataclass(frozen=True)
class Entry:
    """A model in the cache."""

    path: Path
    digest: str
    sha256: str | None


def get(
    handle: str, make: Callable[[Path], str | None], *, sha256: str | None = None, version: object = 1
) -> Entry:
    """The cached model of `handle`, made when it is absent, damaged, or not of this SHA-256.

    Args:
      handle: what it is cached under.
      make: fills an empty folder with a whole SavedModel, and returns the SHA-256 of the archive that it
        came in, if it came in one. What it raises leaves the cache as it was.
      sha256: what the archive must have.
      version: part of the key.

    Returns:
      The entry. Processes that ask for one handle at a time wait for the first, and take what it made.
    """
    root = files.cache_dir("hub")
    name = f"{_slug(handle)}-{files.digest_of(handle, version)[:16]}"
    with files.lock(root / ".locks" / name):
        entry = _read(root / name)
        if entry is None or (sha256 is not None and entry.sha256 != sha256):
            for left_over in root.glob(f".{name}.*"):  # of a process that was killed: the lock is ours
                shutil.rmtree(left_over, ignore_errors=True)
            with files.new_folder(root / name) as folder:
                (folder / MODEL).mkdir()
                found = make(folder / MODEL)
                content = {"handle": handle, "sha256": found, "digest": folder_digest(folder / MODEL)}
                files.write_json(folder / ENTRY, content)
            entry = Entry(root / name / MODEL, str(content["digest"]), found)
        return entry


def folder_digest(folder: Path) -> str:
    """Digest of a folder: the names and contents of all files below it."""
    parts: list[object] = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        parts += [path.relative_to(folder).as_posix(), path]
    return files.digest_of(*parts)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> Entry | None:
    """The entry in `folder`, or None if there is none, or its content is not what was put there."""
    if not folder.is_dir():
        return None
    try:
        content = json.loads((folder / ENTRY).read_text())
        entry = Entry(folder / MODEL, content["digest"], content["sha256"])
        if folder_digest(entry.path) == entry.digest:
            return entry
    except (OSError, ValueError, KeyError, TypeError):
        pass
    files.say_damaged(folder)
    return None


def _slug(handle: str) -> str:
    """The readable part of an entry's name: the last parts of the handle."""
    return (
        re.sub(r"[^A-Za-z0-9.]+", "-", handle.split("://")[-1].split("?")[0]).strip("-.")[-60:].lstrip("-.")
    )
