"""infer.py: the few lines that run a .tflite file, as a script that is read and copied."""

from __future__ import annotations

from importlib.resources import files as resources
from pathlib import Path

from tfkit import files
from tfkit.data import pixels
from tfkit.errors import UsageError

NAME = "infer.py"
KINDS = ("images", "texts", "arrays")


def write(folder: Path, *, takes: str = "images", pixel_range: tuple[int, int] = pixels.FULL_RANGE) -> Path:
    """Write infer.py, which runs the model.tflite that stands beside it; of images and arrays without TensorFlow.

    For images it needs ai-edge-litert, numpy and pillow, prepares a picture as training does (tfkit.data), feeds its
    pixels from 0 to 255, and takes the labels out of the .tflite file, where `tfkit.lite.metadata` puts them. For
    arrays it reads a .npy file for each input, and labels.txt where that stands beside it. For texts it also needs
    tensorflow-text, whose operations cut the string, and says what there is for devices without them.

    Args:
      folder: where it goes.
      takes: "images" or "texts" for a model of one of them to the scores of classes, "arrays" for any other.
      pixel_range: of images, what becomes 0 and 255 of 16-bit values.

    Returns:
      Its path.

    Raises:
      UsageError: there is no script for that.
    """
    if takes not in KINDS:
        raise UsageError(f"There is no {NAME} for {takes!r}; there is one for each of: {', '.join(KINDS)}.")
    script = resources("tfkit.lite").joinpath(f"infer_{takes}.py.txt").read_text(encoding="utf-8")
    files.write_text(folder / NAME, script.replace(str(pixels.FULL_RANGE), str(tuple(pixel_range))))
    return folder / NAME
