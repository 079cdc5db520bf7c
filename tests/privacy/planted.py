"""Private data with canaries in everything that is somebody's, and a search for them in every byte of a run folder."""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import gzip
import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import write_digits
from tfkit.data import Splits
from tfkit.environment import files

EACH = {"digit 0": 101, "digit 1": 107, "digit 2": 113}
"""Images of a class, beside those that are planted."""

IN_IMAGES = (
    "zqPatientMueller", "zqPatientUnreadable", "zqPatientEmpty", "zqPatientTwice", "zqPatientOtherClass", "zqWard7",
    "zqPatientHidden", "zqPatientList", "zqPatientOutside", "zqExifArtist", "zqExifComment", "zqPngText", "zqPngPacked",
    "zqPatientLink",
)  # fmt: skip
IN_TEXTS = (
    "zqletterword", "zqtwiceword", "zqcontradicted", "zqunlabelled", "zqlongword", "zqothercolumn", "zqrareword",
)  # fmt: skip


def images(folder: Path) -> Path:
    """Three classes of handwritten digits, each file with a canary in its name, and some in what is in it."""
    from PIL import Image, PngImagePlugin

    write_digits(folder, classes=3, each=max(EACH.values()), prefix="zqPatientMueller-")
    for name, count in EACH.items():
        for path in sorted((folder / name).iterdir())[count:]:
            path.unlink()
    zero = sorted((folder / "digit 0").iterdir())
    ward = folder / "digit 0" / "zqWard7"
    ward.mkdir()
    shutil.move(zero[0], ward / zero[0].name)
    exif = Image.Exif()
    exif[0x013B], exif[0x9286] = "zqExifArtist", "zqExifComment"
    Image.open(zero[1]).save(ward / "one.jpg", exif=exif)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "zqPngText")
    text.add_text("Packed", "zqPngPacked " * 40, zip=True)
    Image.open(zero[2]).save(ward / "two.png", pnginfo=text)
    shutil.copy(zero[3], folder / "digit 0" / "zqPatientTwice.png")
    shutil.copy(zero[4], folder / "digit 1" / "zqPatientOtherClass.png")
    (folder / "digit 1" / "zqPatientUnreadable.png").write_bytes(b"no image")
    (folder / "digit 1" / "zqPatientEmpty.png").touch()
    (folder / "digit 0" / "zqPatientLink.png").symlink_to(zero[5])
    (folder / "digit 2" / ".zqPatientHidden.png").touch()
    (folder / "digit 2" / "zqPatientList.txt").write_text("zqPatientList")
    shutil.copy(zero[6], folder / "zqPatientOutside.png")
    return folder


def texts(path: Path) -> Path:
    """A table of letters of two wards: rare words, repeated and contradicting ones, one without a label."""
    said = {"east": "The patient has a fever and zqletterword {}.", "west": "A broken arm, zqletterword {}."}
    rows = [[text.format(n), ward, "zqothercolumn"] for n in range(53) for ward, text in said.items()]
    rows += [["Seen zqtwiceword", "east", ""]] * 3
    rows += [["Maybe zqcontradicted", "east", ""], ["Maybe zqcontradicted", "west", ""]]
    rows += [["Nobody knows zqunlabelled", "", ""], ["On and on zqlongword " * 400, "west", "zqrareword"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["body", "ward", "note"], *rows])
    return path


def secrets(splits: Splits, *data: Path) -> dict[str, bytes]:
    """What tells the examples again: digests of all and of each file, and where they were prepared."""
    digests = {"fingerprint": splits.source.fingerprint, "division": splits.provenance["division"]}
    for path in (found for one in data for found in (one.rglob("*") if one.is_dir() else [one])):
        if path.is_file():
            digests[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()[:24]
    return {
        **{f"hex of {name}": digest.encode() for name, digest in digests.items()},
        **{f"bytes of {name}": bytes.fromhex(digest) for name, digest in digests.items()},
        "cache": str(files.cache_root()).encode(),
    }


def leaks(folder: Path, words: tuple[str, ...], more: dict[str, bytes]) -> list[tuple[str, str]]:
    """(canary, file) for each that is in some file of the folder or in its name, in any encoding, unpacked."""
    wanted = dict(more)
    for word in words:
        # NumPy keeps strings in four bytes a character.
        for encoding in ("utf-8", "utf-16-le", "utf-32-le"):
            wanted[f"{word} in {encoding}"] = word.lower().encode(encoding)
    found = []
    for path in sorted(folder.rglob("*")):
        contents = pieces(path.read_bytes()) if path.is_file() else ()
        for content in (str(path.relative_to(folder)).encode(), *contents):
            both = content, content.lower()
            found += [
                (name, str(path)) for name, value in wanted.items() if any(value in one for one in both)
            ]
    return found


def numbers(folder: Path) -> Iterator[tuple[str, int]]:
    """(file, number) for every whole number in JSON, YAML, CSV and the run's own words."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".yaml", ".csv", ".txt", ".md", ".html"):
            text = path.read_text(encoding="utf-8", errors="replace")
            text = re.sub(r"<svg.*?</svg>|<style.*?</style>", "", text, flags=re.DOTALL)
            if path.suffix == ".csv":
                text = text.replace(",", " ")
            for number in re.findall(r"(?<![\w.#-])(?<!\d,)\d{2,}(?!\w|%|[.,]\d)", text):
                yield str(path), int(number)


def pieces(content: bytes) -> Iterator[bytes]:
    """The bytes themselves, and what is packed in them: zip (npz, metadata of .tflite), gzip, PNG, base64."""
    yield content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            for name in packed.namelist():
                yield name.encode()
                yield from pieces(packed.read(name))
    if content[:2] == b"\x1f\x8b":
        yield from pieces(gzip.decompress(content))
    for start in (match.start() for match in re.finditer(rb"\x89PNG\r\n\x1a\n", content)):
        yield from _texts(content[start:])
    for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
        with contextlib.suppress(binascii.Error):
            yield from pieces(base64.b64decode(packed))


def _texts(content: bytes) -> Iterator[bytes]:
    """The text of a PNG, packed or not."""
    from PIL import Image, UnidentifiedImageError

    with contextlib.suppress(UnidentifiedImageError, OSError, SyntaxError, ValueError):
        image = Image.open(io.BytesIO(content))
        image.load()  # what stands behind the pixels too
        yield from (str(text).encode() for text in image.info.values())
