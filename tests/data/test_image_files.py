"""Image files of every format and depth, and folders of them as Splits."""

import io
import re
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

import tfkit
from tests.data.pictures import png
from tfkit.data import image_files, load_images
from tfkit.data.image_files import Unreadable, decode_image, read_head
from tfkit.data.pixels import FULL_RANGE, as_bytes
from tfkit.environment import pieces
from tfkit.errors import ConfigError, DataError, PrivacyError

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
    image = decode_image(path)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    for seen, meant in zip(colours(image), (RED, GREEN, BLUE), strict=True):
        assert np.abs(seen - meant).max() < 30
    path.rename(tmp_path / "image.jpe")  # the content decides, and not the name
    np.testing.assert_array_equal(decode_image(tmp_path / "image.jpe"), image)


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
    upright = decode_image(tmp_path / f"i.{ending}")
    assert upright.size == (60, 40)
    for seen, meant in zip(colours(upright), (RED, GREEN, BLUE), strict=True):
        assert np.abs(seen - meant).max() < 30


def paletted():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    return image


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("RGBA", (4, 4), (200, 0, 0, 51)), {}, (244, 204, 204)),
        (Image.new("LA", (4, 4), (0, 51)), {}, (204, 204, 204)),
        (paletted(), {"transparency": bytes([255, 51])}, (244, 204, 204)),
        (Image.new("RGB", (4, 4), (200, 0, 0)), {"transparency": (200, 0, 0)}, (255, 255, 255)),
    ],
)
def test_transparency_is_laid_over_white(tmp_path, image, options, expected):
    image.save(tmp_path / "image.png", **options)
    assert np.abs(np.asarray(decode_image(tmp_path / "image.png")).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0, 300, 32768, 65535])
def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path, channels, value):
    png(np.full((2, 2, channels), value, np.uint16), tmp_path / "deep.png")
    assert np.abs(np.asarray(decode_image(tmp_path / "deep.png")) - value / 257).max() <= 1


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (10, 10), colour) for colour in (RED, BLUE)]
    for ending in ("gif", "webp"):
        frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], duration=50)
        assert np.abs(np.asarray(decode_image(tmp_path / f"a.{ending}"))[5, 5].astype(int) - RED).max() < 30


def test_grey_and_cmyk(tmp_path):
    Image.new("L", (4, 4), 100).save(tmp_path / "grey.jpg")
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    assert np.abs(np.asarray(decode_image(tmp_path / "grey.jpg")).astype(int) - 100).max() <= 2
    assert np.asarray(decode_image(tmp_path / "print.jpg"))[4, 4].argmax() == 0


def test_a_big_jpeg_is_decoded_smaller_but_never_below_what_is_needed(tmp_path):
    quarters((2000, 1500)).save(tmp_path / "big.jpg")
    assert decode_image(tmp_path / "big.jpg", at_least=448).size == (1000, 750)
    assert decode_image(tmp_path / "big.jpg", at_least=1600).size == (2000, 1500)
    assert read_head(tmp_path / "big.jpg") == (2000, False)


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
    "gone": (None, "no such file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_unreadable_and_says_why(tmp_path, kind):
    content, reason = BROKEN[kind]
    if content is not None:
        (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(Unreadable, match=reason):
        decode_image(tmp_path / "broken.png")


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_cost_the_picture(tmp_path):
    quarters().save(tmp_path / "i.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12garbage")
    assert decode_image(tmp_path / "i.jpg").size == (60, 40)


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
    made = decode_image(tmp_path / "huge.png", at_least=400)
    assert (made.mode, made.size) == ("RGB", (400, 600))
    expected = np.asarray(decode_image(tmp_path / "small.png")).astype(int)
    assert np.abs(np.asarray(made) - expected).mean() < 1
    if mode == "P":
        assert decode_image(tmp_path / "huge.png").size == (4000, 6000)


PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tfkit.data.image_files import decode_image
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda path: decode_image(Path(path), at_least=400), 4 * sys.argv[1:]))
print((peak() - before) * 1024)
"""


def test_memory_is_that_of_one_huge_image_however_many_threads_decode(tmp_path):
    """A file of 0.1 MB took 20 bytes a pixel in each thread; now it is its own 4 in one of them."""
    Image.new("RGBA", (6000, 4000), (10, 200, 30, 128)).save(tmp_path / "huge.png")
    words = [sys.executable, "-c", PEAK, tmp_path / "huge.png"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=True)
    assert int(done.stdout) < 6000 * 4000 * 4 * 1.5


def test_images_below_a_folder_without_hidden_ones_and_behind_links(tmp_path):
    for place, name in enumerate(("photos/a/1.png", "photos/.thumbs/1.png", "elsewhere/2.png")):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (8, 8), place).save(tmp_path / name)
    (tmp_path / "photos/b").symlink_to(tmp_path / "elsewhere")
    images = image_files.read_images(tmp_path / "photos", image_size=8, count=9)
    assert images[:, 0, 0, 0].tolist() == [0, 2]


def test_what_is_transparent_in_a_large_palette_is_white(tmp_path):
    """Its bands are white by then: an image in RGB has no palette whose colours could be transparent."""
    image = Image.new("P", (5000, 4000), 1)
    image.putpalette([*BLUE, *RED, *GREEN])
    image.paste(0, (0, 0, 2500, 4000))
    image.save(tmp_path / "large.png", transparency=bytes([0, 255, 128]))
    left, right, _ = colours(decode_image(tmp_path / "large.png", at_least=100))
    assert (left.tolist(), right.tolist()) == ([255, 255, 255], [*RED])


def test_a_huge_webp_is_refused_with_its_pixels(tmp_path):
    Image.new("RGB", (8200, 5000)).save(tmp_path / "huge.webp", lossless=True, quality=0, method=0)
    with pytest.raises(Unreadable, match=r"41,000,000 pixels.*JPEG"):
        decode_image(tmp_path / "huge.webp", at_least=400)


def scans(root, *, low=700, high=900, count=12, side=40, **splits):
    """A folder of two classes of noise around two greys, in 16 bits; `splits` adds test/ with another offset."""
    rng = np.random.default_rng(0)
    for split, offset in (splits or {"": 0}).items():
        for name, base in (("healthy", low), ("ill", high)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = base + offset + rng.normal(0, 30, (side, side))
                Image.fromarray(values.clip(0, 65535).astype(np.uint16)).save(folder / f"{number}.png")
    return root


def pixels(splits):
    return splits.source.read(np.arange(len(splits.source.names)))


@pytest.mark.parametrize("offset", [0, 32768])
def test_what_the_set_uses_becomes_black_to_white(tmp_path, offset):
    """12 of 16 bits of an X-ray, and a CT whose zero lies in the middle; in 0..65535 they have four grey levels."""
    splits = tfkit.load_images(scans(tmp_path, low=700 + offset, high=900 + offset), image_size=40)
    low, high = splits.pixel_range[:2]
    assert splits.pixel_range.measured
    assert 560 + offset < low < 700 + offset < 900 + offset < high < 1050 + offset
    images = pixels(splits)
    assert len(np.unique(images)) > 100
    np.testing.assert_array_equal(images[0], as_bytes(splits.source.raw(0), (low, high)).repeat(3, -1))
    assert any(f"{low} to {high}" in note and "--pixel-range" in note for note in splits.notes)
    assert splits.provenance["pixel_range"] == [low, high]


def test_a_set_of_the_full_range_stays_as_it_is(tmp_path):
    splits = tfkit.load_images(scans(tmp_path, low=20000, high=60000), image_size=40)
    assert splits.pixel_range[:2] == FULL_RANGE
    expected = [np.rint(splits.source.raw(index) / 257.0) for index in range(24)]
    np.testing.assert_array_equal(pixels(splits), np.stack(expected).repeat(3, -1))


def test_training_alone_decides_and_others_are_clipped_and_it_is_said(tmp_path):
    splits = tfkit.load_images(scans(tmp_path, train=0, test=2000), image_size=40)
    assert splits.pixel_range.high < 1100
    assert (splits.source.read(splits.indices["test"]) == 255).all()
    assert any("clipped" in note and "24 of them" in note for note in splits.notes)


def test_a_range_can_be_given(tmp_path):
    scans(tmp_path)
    splits = tfkit.load_images(tmp_path, image_size=40, pixel_range=(0, 4095))
    assert (splits.pixel_range[:2], splits.pixel_range.measured) == ((0, 4095), False)
    expected = np.rint(splits.source.raw(0) / (4095 / 255)).repeat(3, -1)
    np.testing.assert_array_equal(pixels(splits)[0], expected)
    fill(tmp_path / "eight")
    for pixel_range, said in (((0, 4095), 1), (FULL_RANGE, 0)):
        notes = tfkit.load_images(tmp_path / "eight", image_size=40, pixel_range=pixel_range).notes
        assert sum("0 to 4095 changes nothing: no image has 16 bits" in note for note in notes) == said
    with pytest.raises(DataError, match="pixel_range"):
        tfkit.load_images(tmp_path, image_size=40, pixel_range=(5, 5))
    from recipes import transfer_image

    with pytest.raises(ConfigError, match="--pixel-range"):
        transfer_image.Config(data_dir=tmp_path, pixel_range=(0, 65536))


def test_eight_bits_beside_sixteen_are_taken_as_they_are(tmp_path):
    scans(tmp_path)
    Image.new("L", (40, 40), 77).save(tmp_path / "ill" / "eight.png")
    splits = tfkit.load_images(tmp_path, image_size=40)
    (place,) = (index for index, name in enumerate(splits.source.names) if "eight" in name)
    assert (splits.source.read(np.asarray([place])) == 77).all()
    assert any("24 of 25 images have 16 bits" in note for note in splits.notes)


def test_the_prepared_images_are_those_of_the_range(tmp_path, monkeypatch):
    """Another range changes what was prepared, and the key of what is computed from it."""
    first = tfkit.load_images(scans(tmp_path), image_size=40)
    again = tfkit.load_images(tmp_path, image_size=40)
    assert first.source.fingerprint == again.source.fingerprint
    with monkeypatch.context() as patched:
        patched.setattr(image_files, "read_image", lambda path: pytest.fail(f"{path} was decoded again"))
        assert tfkit.load_images(tmp_path, image_size=40).pixel_range == first.pixel_range
    given = tfkit.load_images(tmp_path, image_size=40, pixel_range=(0, 4095))
    assert given.source.fingerprint != first.source.fingerprint
    assert (pixels(given) != pixels(first)).any()
    np.testing.assert_array_equal(pixels(first), pixels(again))


def test_private_training_does_not_look(tmp_path):
    """What the images use tells of single ones: the recipe takes the declared depth, tfkit.fit refuses."""
    from recipes import train_private
    from tfkit.privacy import DPSGD
    from tfkit.transfer.train import load

    scans(tmp_path)
    assert load(train_private.Config(data_dir=tmp_path), global_batch_size=1)[1].pixel_range[:2] == FULL_RANGE
    splits, privacy = tfkit.load_images(tmp_path, image_size=40), DPSGD(target_epsilon=3, delta=1e-3)
    with pytest.raises(PrivacyError, match="pixel_range"):
        tfkit.fit(lambda: None, splits, run_dir=tmp_path / "run", epochs=1, privacy=privacy)
    assert not (tmp_path / "run").exists()


def picture(path, seed, size=(30, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def fill(root, classes="ab", count=12, start=0):
    for label, name in enumerate(classes):
        for number in range(count):
            picture(root / name / f"{number}.png", seed=start + 1000 * label + number, size=(20 + number, 30))
    return root


def names(splits):
    return {split: [splits.source.names[i] for i in indices] for split, indices in splits.indices.items()}


def test_every_image_is_in_one_split_with_its_label_and_pixels(tmp_path):
    splits = load_images(fill(tmp_path), image_size=32)
    assert sorted(np.concatenate(list(splits.indices.values()))) == list(range(24))
    assert splits.class_names == ("a", "b")
    assert splits.origin == f"{tmp_path}/"
    index = splits.source.names.index("b/5.png")
    assert splits.source.labels[index] == 1
    original = Image.open(tmp_path / "b/5.png")
    np.testing.assert_array_equal(splits.source.raw(index), np.asarray(original))
    wide = original.resize((32, original.height), Image.Resampling.BILINEAR)
    expected = np.asarray(wide.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(splits.source.read(np.asarray([3, index]))[1], expected)


def test_unreadable_images_are_named_skipped_and_counted(tmp_path):
    fill(tmp_path)
    (tmp_path / "a/bad.jpg").write_bytes(b"no image at all")
    (tmp_path / "b/cut.png").write_bytes((tmp_path / "b/1.png").read_bytes()[:300])
    (tmp_path / "b/zero.png").touch()
    splits = load_images(tmp_path, image_size=32)
    assert sorted(path for path, _ in splits.skipped) == ["a/bad.jpg", "b/cut.png", "b/zero.png"]
    assert sum(map(len, splits.indices.values())) == len(splits.source.names) == 24
    assert "3 images cannot be used" in splits.notes[0]
    index = splits.source.names.index("b/9.png")
    np.testing.assert_array_equal(splits.source.raw(index), np.asarray(Image.open(tmp_path / "b/9.png")))
    # Again, from the store: nothing is forgotten.
    assert load_images(tmp_path, image_size=32).skipped == splits.skipped
    with pytest.raises(DataError, match=r"3 images cannot be used: .*b/zero\.png"):
        load_images(tmp_path, image_size=32, strict=True)


def test_a_class_without_readable_images_is_an_error(tmp_path):
    fill(tmp_path)
    for number in range(4):
        (tmp_path / f"c/{number}.png").parent.mkdir(exist_ok=True)
        (tmp_path / f"c/{number}.png").write_bytes(b"broken" * 9)
    with pytest.raises(DataError, match=r"(?s)fewer than 3 images: 'c' \(0\).*not an image.*: 4 \(c/0\.png"):
        load_images(tmp_path)


def test_given_splits_are_kept_and_a_missing_one_is_cut_from_train(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        fill(tmp_path / split, start=10_000 * number)
    splits = load_images(tmp_path, image_size=16)
    for split, folder in (("train", "train/"), ("validation", "val/"), ("test", "test/")):
        assert len(names(splits)[split]) == 24
        assert all(name.startswith(folder) for name in names(splits)[split])
    shutil.rmtree(tmp_path / "val")
    splits = load_images(tmp_path, image_size=16, validation_fraction=0.25)
    assert splits.counts["validation"] == {"a": 3, "b": 3}
    assert all(name.startswith("train/") for name in names(splits)["validation"])
    assert len(names(splits)["test"]) == 24
    assert any("no validation split: 25% of train" in note for note in splits.notes)


def test_the_same_image_in_two_splits_and_in_two_classes_is_reported(tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        fill(tmp_path / split, start=10_000 * number)
    assert load_images(tmp_path, image_size=16).duplicates == 0
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "test/a/copy.png")
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "train/b/other class.png")
    splits = load_images(tmp_path, image_size=16)
    assert splits.duplicates == 1
    assert any(re.match(r"Validation or test images .* earlier split: 1\.", note) for note in splits.notes)
    assert any(re.match(r"Identical image files in two classes: 3", note) for note in splits.notes)


def test_the_fingerprint_follows_the_contents_and_the_size(tmp_path):
    fill(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)

    def fingerprint(folder, size=16):
        return load_images(tmp_path / folder, image_size=size).source.fingerprint

    assert fingerprint("one") == fingerprint("two")
    assert fingerprint("one") != fingerprint("one", 17)
    picture(tmp_path / "two/a/1.png", seed=99, size=(33, 33))
    assert fingerprint("one") != fingerprint("two")


def test_small_images_are_trained_small(tmp_path):
    fill(tmp_path / "small")
    assert load_images(tmp_path / "small").source.shape == (96, 96, 3)
    picture(tmp_path / "small" / "a" / "0.png", seed=1, size=(900, 900))  # the median decides
    assert load_images(tmp_path / "small").source.shape == (96, 96, 3)


def test_the_images_whose_heads_are_read_are_drawn(tmp_path):
    """Of each scene two files: every second one would be of one kind."""
    for number in range(500):
        path = tmp_path / "ab"[number >= 250] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new(*(("RGB", (30, 4)) if number % 2 else ("L", (20, 4))), number % 251).save(path)
    splits = load_images(tmp_path, image_size=8)
    assert (splits.grey, splits.side) == (False, 25)


def test_what_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(DataError, match="image_size is 0"):
        load_images(fill(tmp_path), image_size=0)
    with pytest.raises(DataError, match="pip install tensorflow-datasets"):
        load_images("tfds:beans")


def test_a_killed_preparation_goes_on_from_its_pieces(tmp_path, monkeypatch):
    (tmp_path / "photos" / "one").mkdir(parents=True)
    (tmp_path / "photos" / "two").mkdir()
    for number in range(80):
        Image.new("RGB", (40, 40), (3 * number, 0, 255 - 3 * number)).save(
            tmp_path / "photos" / ("one", "two")[number % 2] / f"{number:02}.png"
        )
    (tmp_path / "photos" / "one" / "10.png").write_bytes(b"no image")
    expected = load_images(tmp_path / "photos", image_size=32).source
    monkeypatch.setenv("TFKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pieces, "ALONE", 79)
    decoded = []
    decode = image_files.decode_image

    def interrupted(path, **options):
        decoded.append(path.name)
        if len(decoded) == 50:
            raise OSError("the disk is gone")
        return decode(path, **options)

    monkeypatch.setattr(image_files, "decode_image", interrupted)
    with pytest.raises(OSError, match="disk is gone"):
        load_images(tmp_path / "photos", image_size=32)
    (piece,) = (path for path in (tmp_path / "cache" / "pieces").iterdir() if path.is_dir())
    assert piece.name.endswith("-0-32")
    del decoded[:]
    monkeypatch.setattr(
        image_files, "decode_image", lambda path, **how: decoded.append(path) or decode(path, **how)
    )
    source = load_images(tmp_path / "photos", image_size=32).source
    assert len(decoded) == 80 - 32
    assert (source.names, source.fingerprint) == (expected.names, expected.fingerprint)
    every = np.arange(79)
    np.testing.assert_array_equal(source.read(every), expected.read(every))
    assert not any((tmp_path / "cache" / "pieces").iterdir())
