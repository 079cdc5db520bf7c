"""Fetches one file over http(s): every wait is bounded, what may pass is tried again, what comes is counted."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tfkit.errors import HubError
from tfkit.process import watched

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


def fetch(url: str, path: Path, *, timeout_seconds: float, retries: int) -> str:
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
