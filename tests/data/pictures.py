"""Image files of every kind that a camera, a scanner or a drawing program leaves."""

import struct
import zlib

import numpy as np
from PIL import Image

KINDS = ["RGB", "L", "1", "P", "RGBA", "LA", "P with transparency", "CMYK", "GIF", "turned"]
KINDS += ["16", "16 with transparency", "16 RGB", "16 RGBA", "16 turned"]


def picture(kind, path, *, highest=65535):
    """Write one; 16-bit values go to `highest`."""
    rng = np.random.default_rng(3)
    colours = rng.integers(0, 256, (31, 47, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    if kind == "turned":
        Image.fromarray(colours[..., :3]).save(path, "PNG", exif=exif)
    elif kind == "16 turned":
        Image.fromarray(rng.integers(0, highest + 1, (31, 47), dtype=np.uint16)).save(path, "PNG", exif=exif)
    elif kind == "GIF":
        Image.fromarray(colours[..., :3]).quantize(16).save(path, "GIF")
    elif kind.startswith("16"):
        channels = {"16": 1, "16 with transparency": 1, "16 RGB": 3, "16 RGBA": 4}[kind]
        values = rng.integers(0, highest + 1, (31, 47, channels), dtype=np.uint16)
        values[:8] = 700
        png(values, path, key=700 if "with" in kind else None)
    elif kind == "CMYK":
        Image.fromarray(colours, "CMYK").save(path, "JPEG")
    elif kind.startswith("P"):
        image = Image.fromarray(colours[..., :3]).quantize(16)
        image.save(path, "PNG", **({"transparency": bytes(range(0, 256, 16))} if "with" in kind else {}))
    elif kind == "LA":
        Image.fromarray(np.ascontiguousarray(colours[..., 2:]), "LA").save(path, "PNG")
    else:
        Image.fromarray(colours, "RGBA").convert(kind).save(path, "PNG")


def png(values, path, key=None):
    """Write a PNG of 16 bits with 1 to 4 channels; `key` is the grey value that is transparent."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = chunk(b"IHDR", header) + (chunk(b"tRNS", struct.pack(">H", key)) if key is not None else b"")
    content += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
