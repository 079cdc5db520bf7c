"""Images of 16 bits: the range that a set uses, one for all of its images."""

import numpy as np
import pytest
from PIL import Image

import tfkit
from tfkit.data.image_files import Depth, choose_range
from tfkit.data.splits import FULL_RANGE, as_bytes
from tfkit.errors import ConfigError, DataError, PrivacyError


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


def read(splits):
    return splits.source.read(np.arange(len(splits.source.names)))


@pytest.mark.parametrize("offset", [0, 32768])
def test_what_the_set_uses_becomes_black_to_white(tmp_path, offset):
    """12 of 16 bits of an X-ray, and a CT whose zero lies in the middle; in 0..65535 they have four grey levels."""
    splits = tfkit.load_images(scans(tmp_path, low=700 + offset, high=900 + offset), image_size=40)
    low, high = splits.pixel_range[:2]
    assert splits.pixel_range.measured
    assert 560 + offset < low < 700 + offset < 900 + offset < high < 1050 + offset
    images = read(splits)
    assert len(np.unique(images)) > 100
    np.testing.assert_array_equal(images[0], as_bytes(splits.source.raw(0), (low, high)).repeat(3, -1))
    assert any(f"{low} to {high}" in note and "--pixel-range" in note for note in splits.notes)
    assert splits.provenance["pixel_range"] == [low, high]


def test_a_set_of_the_full_range_stays_as_it_is(tmp_path):
    splits = tfkit.load_images(scans(tmp_path, low=20000, high=60000), image_size=40)
    assert splits.pixel_range[:2] == FULL_RANGE
    expected = [np.rint(splits.source.raw(index) / 257.0) for index in range(24)]
    np.testing.assert_array_equal(read(splits), np.stack(expected).repeat(3, -1))


def test_training_alone_decides_and_others_are_clipped_and_it_is_said(tmp_path):
    splits = tfkit.load_images(scans(tmp_path, train=0, test=2000), image_size=40)
    assert splits.pixel_range.high < 1100
    assert (splits.source.read(splits.indices["test"]) == 255).all()
    assert any("clipped" in note and "24 of them" in note for note in splits.notes)


def test_a_range_can_be_given(tmp_path):
    scans(tmp_path)
    splits = tfkit.load_images(tmp_path, image_size=40, pixel_range=(0, 4095))
    assert (splits.pixel_range[:2], splits.pixel_range.measured) == ((0, 4095), False)
    np.testing.assert_array_equal(read(splits)[0], np.rint(splits.source.raw(0) / (4095 / 255)).repeat(3, -1))
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


def test_the_prepared_images_are_those_of_the_range(tmp_path):
    """A new image that changes the range changes what was prepared, and the key of what is computed from it."""
    first = tfkit.load_images(scans(tmp_path), image_size=40)
    again = tfkit.load_images(tmp_path, image_size=40)
    assert first.source.fingerprint == again.source.fingerprint
    given = tfkit.load_images(tmp_path, image_size=40, pixel_range=(0, 4095))
    assert given.source.fingerprint != first.source.fingerprint
    assert (read(given) != read(first)).any()
    np.testing.assert_array_equal(read(first), read(again))


def test_hot_pixels_and_broken_images_do_not_decide():
    rng = np.random.default_rng(0)
    images = [rng.integers(500, 1500, (200, 200, 1)).astype(np.uint16) for _ in range(120)]
    for image in images:
        image[0, :3], image[0, 3:6] = 65535, 0
    images[7][:] = 65535
    measured = [Depth.of(image) for image in images]
    found = choose_range(measured, images=120)
    assert 500 <= found.low < 505
    assert 1495 < found.high < 1500
    assert choose_range(measured[::-1], images=120) == found


def test_values_far_off_that_hide_the_rest_are_said(tmp_path):
    """A padding of 0 around values at 32768 and more: the range must hold both, and the rest keeps a few greys."""
    scans(tmp_path, low=33000, high=34000)
    for path in tmp_path.rglob("*.png"):
        values = np.asarray(Image.open(path)).copy()
        values[:10] = 0
        Image.fromarray(values).save(path)
    splits = tfkit.load_images(tmp_path, image_size=40)
    assert splits.pixel_range[:2] == FULL_RANGE
    assert any("grey levels or fewer" in note for note in splits.notes)


def test_private_training_does_not_look(tmp_path):
    """What the images use tells of single ones: the recipe takes the declared depth, tfkit.fit refuses."""
    from recipes import train_private
    from tfkit.privacy import DPSGD
    from tfkit.transfer.load import load

    scans(tmp_path)
    assert load(train_private.Config(data_dir=tmp_path), global_batch_size=1)[1].pixel_range[:2] == FULL_RANGE
    with pytest.raises(PrivacyError, match="pixel_range"):
        tfkit.fit(
            lambda: None,
            tfkit.load_images(tmp_path, image_size=40),
            run_dir=tmp_path / "run",
            epochs=1,
            privacy=DPSGD(target_epsilon=3, delta=1e-3),
        )
    assert not (tmp_path / "run").exists()
