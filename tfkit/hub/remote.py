"""Models that come by another road than http: cloud storage through TensorFlow, Kaggle through kagglehub."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tfkit import packages
from tfkit.errors import HubError


def copy(location: str, target: Path) -> None:
    """Copy a file or a folder from where TensorFlow's file system reads (gs://, ...) to the local path `target`.

    Time-outs and retries are those of that file system; its credentials too.
    """
    from tfkit.stack import tf

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
