"""Every format, orientation and depth becomes the picture that a person sees."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from tfkit.data.image_files import Unreadable, longer_side, read_image

RED, GREEN, BLUE = (250, 10, 10), (10, 240, 10), (10, 10, 230)


def quarters(size=(60, 40)):
    """Red top left, green top right, blue below."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1] // 2))
    image.paste(GREEN, (size[0] // 2, 0, size[0], size[1] // 2))
    return image


def colours(image):
    pixels = np.asarray(image).astype(int)
    height, width = pixels.shape[:2]
    return pixels[height // 4, width // 4], pixels[height // 4, -width // 4], pixels[-height // 4, width // 4]


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "bmp", "webp"])
def test_every_format(tmp_path, ending):
    path = tmp_path / f"image.{ending}"
    quarters().save(path)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    for seen, meant in zip(colours(image), (RED, GREEN, BLUE), strict=True):
        assert np.abs(seen - meant).max() < 30


def test_the_content_decides_and_not_the_name(tmp_path):
    quarters().save(tmp_path / "image.jpg", format="PNG")
    assert tuple(colours(read_image(tmp_path / "image.jpg"))[0]) == RED


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_rotation(tmp_path, orientation, ending):
    stored = {
        1: [], 2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE], 6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    image = quarters()
    for step in stored[orientation]:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"i.{ending}", exif=exif)
    upright = read_image(tmp_path / f"i.{ending}")
    assert upright.size == (60, 40)
    for seen, meant in zip(colours(upright), (RED, GREEN, BLUE), strict=True):
        assert np.abs(seen - meant).max() < 30


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB key"])
def test_transparency_is_laid_over_white(tmp_path, mode):
    path = tmp_path / "image.png"
    if mode == "RGBA":
        Image.new("RGBA", (4, 4), (200, 0, 0, 51)).save(path)
        expected = (244, 204, 204)
    elif mode == "LA":
        Image.new("LA", (4, 4), (0, 51)).save(path)
        expected = (204, 204, 204)
    elif mode == "P":
        image = Image.new("P", (4, 4), 1)
        image.putpalette([9, 9, 9, 200, 0, 0])
        image.save(path, transparency=bytes([255, 51]))
        expected = (244, 204, 204)
    else:
        Image.new("RGB", (4, 4), (200, 0, 0)).save(path, transparency=(200, 0, 0))
        expected = (255, 255, 255)
    assert np.abs(np.asarray(read_image(path)).astype(int) - expected).max() <= 1


def png_16_bit(channels, value):
    """A 2 x 2 PNG with 16 bits a channel, which Pillow itself can only write in grey."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + struct.pack(">H", value) * channels * 2 for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 16, {1: 0, 3: 2}[channels], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, 300, 32768, 65535])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, channels, value):
    (tmp_path / "deep.png").write_bytes(png_16_bit(channels, value))
    assert np.abs(np.asarray(read_image(tmp_path / "deep.png")) - value / 257).max() <= 1


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (10, 10), colour) for colour in (RED, BLUE)]
    for ending in ("gif", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(np.asarray(read_image(tmp_path / f"a.{ending}"))[5, 5].astype(int) - RED).max() < 30


def test_grey_and_cmyk(tmp_path):
    Image.new("L", (4, 4), 100).save(tmp_path / "grey.jpg")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert np.abs(np.asarray(read_image(tmp_path / "grey.jpg")).astype(int) - 100).max() <= 2
    assert np.asarray(read_image(tmp_path / "print.jpg"))[4, 4].argmax() == 0


def test_a_big_jpeg_is_decoded_smaller_but_never_below_what_is_needed(tmp_path):
    quarters((2000, 1500)).save(tmp_path / "big.jpg")
    assert read_image(tmp_path / "big.jpg", at_least=448).size == (1000, 750)
    assert read_image(tmp_path / "big.jpg", at_least=1600).size == (2000, 1500)
    assert longer_side(tmp_path / "big.jpg") == 2000


def saved(image, form="PNG"):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def bomb():
    image = bytearray(saved(Image.new("1", (1, 1))))
    image[16:24] = struct.pack(">II", 60_000, 60_000)
    image[29:33] = struct.pack(">I", zlib.crc32(image[12:29]))
    return bytes(image)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
BROKEN = {
    "garbage": (bytes(range(256)) * 9, "not an image"),
    "text": (b"<html>404</html>", "not an image"),
    "truncated png": (saved(NOISE)[:5000], "truncated"),
    "truncated jpeg": (saved(NOISE, "JPEG")[:1500], "truncated"),
    "only a head": (saved(NOISE)[:40], "damaged at its start"),
    "bomb": (bomb(), "decompression bomb"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_unreadable_and_says_why(tmp_path, kind):
    content, reason = BROKEN[kind]
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        read_image(tmp_path / "broken.png")


def test_a_missing_file_is_unreadable(tmp_path):
    with pytest.raises(Unreadable, match="no such file"):
        read_image(tmp_path / "gone.png")
    assert longer_side(tmp_path / "gone.png") is None


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    quarters().save(tmp_path / "i.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")
    assert read_image(tmp_path / "i.jpg").size == (60, 40)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_a_huge_image_is_the_same_picture_at_a_fraction_of_its_size(tmp_path, mode):
    """Of 24 million pixels: bands, transparency and orientation make no difference that a model could see."""
    image = quarters((6000, 4000))
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    elif mode == "P":
        image = image.quantize(8)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "huge.png", compress_level=1, exif=exif)
    image.resize((600, 400)).save(tmp_path / "small.png", exif=exif)
    made = read_image(tmp_path / "huge.png", at_least=400)
    assert (made.mode, made.size) == ("RGB", (400, 600))
    expected = np.asarray(read_image(tmp_path / "small.png")).astype(int)
    assert np.abs(np.asarray(made) - expected).mean() < 1
    if mode == "P":
        assert read_image(tmp_path / "huge.png").size == (4000, 6000)


PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tfkit.data.image_files import read_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda path: read_image(Path(path), at_least=400), 4 * sys.argv[1:]))
print((peak() - before) * 1024)
"""


def test_memory_is_that_of_one_huge_image_however_many_threads_decode(tmp_path):
    """A file of 0.1 MB took 20 bytes a pixel in each thread; now it is its own 4 in one of them."""
    Image.new("RGBA", (6000, 4000), (10, 200, 30, 128)).save(tmp_path / "huge.png")
    words = [sys.executable, "-c", PEAK, tmp_path / "huge.png"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100, check=True)
    assert int(done.stdout) < 6000 * 4000 * 4 * 1.5


def test_a_huge_webp_is_refused_with_its_pixels(tmp_path):
    Image.new("RGB", (8200, 5000)).save(tmp_path / "huge.webp", lossless=True, quality=0, method=0)
    with pytest.raises(Unreadable, match=r"41,000,000 pixels.*JPEG"):
        read_image(tmp_path / "huge.webp", at_least=400)
