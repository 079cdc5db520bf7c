"""infer.py runs where TensorFlow is not, and sees a picture as training does."""

import numpy as np
import pytest
from PIL import Image

from tests.compression.conftest import answers
from tests.data.pictures import KINDS, picture
from tfkit.compression import convert, with_metadata
from tfkit.compression.results import write_inference_script
from tfkit.data.image_files import decode_image
from tfkit.data.pixels import resize
from tfkit.environment.stack import litert, tf
from tfkit.litert import to_tflite


def corners(images):
    """A picture of 4 x 4 regions to 16 probabilities: small, and moved by every pixel that moves."""
    means = tf.reshape(tf.nn.avg_pool2d(images, 8, 8, "VALID"), [-1, 16, 3])
    return tf.nn.softmax(tf.reduce_sum(means * [0.02, 0.03, 0.05], axis=-1))


@pytest.fixture(scope="module")
def region_model():
    model = to_tflite(corners, input_shape=[1, 32, 32, 3])
    names = [f"region {place}" for place in range(16)]
    return with_metadata(
        model, name="regions", description="Bright regions.", labels=names, mean=0.0, std=1.0
    )


@pytest.fixture
def folder(tmp_path, region_model):
    (tmp_path / "model.tflite").write_bytes(region_model)
    write_inference_script(tmp_path)
    return tmp_path


def test_tensorflow_is_not_there(python):
    for name in ("tensorflow", "tf_keras", "tfkit", "flatbuffers"):
        done = python("-c", f"import {name}")
        assert "ModuleNotFoundError" in done.stderr, name
    assert python("-c", "import ai_edge_litert.interpreter, numpy, PIL.Image").returncode == 0


def photo():
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image("flower.jpg"))


def test_a_picture_is_seen_as_training_sees_it_from_anywhere(folder, python, tmp_path_factory):
    elsewhere, exif = tmp_path_factory.mktemp("elsewhere"), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    photo().resize((1600, 1100)).save(elsewhere / "photo.jpg", exif=exif)
    seen = resize(decode_image(elsewhere / "photo.jpg", at_least=2 * 32), 32)
    expected = corners(tf.cast(seen, tf.float32)[None]).numpy()[0]
    for label, score in answers(python(folder / "infer.py", "photo.jpg", cwd=elsewhere)).items():
        assert score == pytest.approx(expected[int(label.split()[1])], abs=6e-5)  # printed with four digits


@pytest.mark.parametrize("pixel_range", [(0, 65535), (100, 4000)])
@pytest.mark.parametrize("kind", KINDS)
def test_its_pixels_are_those_of_training(tmp_path, kind, pixel_range):
    """Value for value, in 16 bits by the range of the training; what Pillow cannot read whole is refused."""
    picture(kind, tmp_path / "picture", highest=4095 if pixel_range[1] == 4000 else 65535)
    script = write_inference_script(tmp_path, pixel_range=pixel_range).read_text()
    namespace = {}
    exec(script.split("if len(sys.argv)")[0], namespace)  # the definitions alone
    if kind.startswith("16 RGB") and pixel_range[1] == 4000:
        with pytest.raises(ValueError, match="16 bits a colour"):
            namespace["pixels"](tmp_path / "picture", 32, 32)
        return
    expected = resize(decode_image(tmp_path / "picture", at_least=64, pixel_range=pixel_range), 32)
    found = namespace["pixels"](tmp_path / "picture", 32, 32)
    assert np.abs(found - expected).max() <= (2 if kind.startswith("16 RGB") else 0)


def test_labels_may_stand_beside_the_model_or_be_absent(folder, python):
    photo().save(folder / "photo.jpg")
    named = answers(python(folder / "infer.py", folder / "photo.jpg"))
    (folder / "model.tflite").write_bytes(to_tflite(corners, input_shape=[1, 32, 32, 3]))
    numbered = answers(python(folder / "infer.py", folder / "photo.jpg"))
    assert list(numbered) == [label.replace("region", "class") for label in named]
    (folder / "labels.txt").write_text("".join(f"region {place}\n" for place in range(16)))
    assert answers(python(folder / "infer.py", folder / "photo.jpg")) == named


def test_thresholds_are_not_rounded(tmp_path):
    """Those of rare labels are small."""
    script = write_inference_script(tmp_path, thresholds=np.array([1.6e-6, 0.5])).read_text()
    assert "\nTHRESHOLDS = [1.6e-06, 0.5]" in script


def test_many_pictures_and_folders_get_a_line_each(folder, python):
    (folder / "new" / "deeper").mkdir(parents=True)
    places = {"photo.jpg": 1, "new/a.png": 3, "new/deeper/b.JPG": 5}
    for name, turn in places.items():
        photo().rotate(90 * turn).save(folder / name)
    (folder / "new" / "notes.txt").write_text("no picture, by its ending")
    expected = {
        name: next(iter(answers(python(folder / "infer.py", folder / name)).items())) for name in places
    }
    done = python(folder / "infer.py", folder / "photo.jpg", folder / "new")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert {name: (label, float(score)) for name, label, score in rows} == {
        str(folder / name): best for name, best in expected.items()
    }
    (folder / "new" / "broken.png").write_bytes((folder / "new" / "a.png").read_bytes()[:99])
    done = python(folder / "infer.py", folder / "new")
    assert done.returncode == 1
    assert done.stdout.count("\n") == 2
    assert "broken.png cannot be read as a picture" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_arguments_get_a_line(folder, python):
    (folder / "notes.txt").write_text("no picture")
    for arguments in ([], ["--help"], ["missing.jpg"], [folder / "notes.txt", "b.jpg"]):
        done = python(folder / "infer.py", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert done.stderr == "usage: python infer.py photo.jpg ... (or folders of them)\n"
    done = python(folder / "infer.py", folder / "notes.txt")
    assert done.returncode == 1
    assert done.stderr.count("\n") <= 2  # LiteRT announces its delegate
    assert "notes.txt cannot be read as a picture" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_arrays(python, tmp_path, kind):
    examples = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    asked = {"variant": kind, "input_shape": (1, 4), "representative_dataset": examples}
    types = {"inference_input_type": kind, "inference_output_type": kind}
    (tmp_path / "model.tflite").write_bytes(convert(tf.nn.softmax, **asked, **types))
    script = write_inference_script(tmp_path, takes="arrays")
    np.save(tmp_path / "one.npy", examples[0])
    expected = tf.nn.softmax(examples[0]).numpy()

    printed = python(script, tmp_path / "one.npy")
    values = [float(word) for word in printed.stdout.split("[")[1].strip("]\n").split()]
    np.testing.assert_allclose(values, expected, atol=0.02 if kind == "int8" else 1e-5)

    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\n")
    found = answers(python(script, tmp_path / "one.npy"))
    assert list(found) == ["abcd"[place] for place in np.argsort(-expected)]


def test_arrays_that_do_not_fit(python, tmp_path):
    (tmp_path / "model.tflite").write_bytes(to_tflite(tf.nn.relu, input_shape=[1, 4]))
    script = write_inference_script(tmp_path, takes="arrays")
    np.save(tmp_path / "five.npy", np.zeros(5))
    (tmp_path / "text.npy").write_text("no array")
    for arguments in ([], ["missing.npy"], [tmp_path / "five.npy"] * 2):
        done = python(script, *arguments)
        assert done.returncode == 2
        assert "usage: python infer.py array.npy" in done.stderr
        assert "[1, 4]" in done.stderr
    for name in ("five.npy", "text.npy"):
        done = python(script, tmp_path / name)
        assert f"{name} cannot be read as an array [1, 4]" in done.stderr
        assert "Traceback" not in done.stderr


def test_several_inputs_and_outputs(python, tmp_path):
    class Pair(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([1, 2], name="a"), tf.TensorSpec([1, 3], name="b")])
        def both(self, a, b):
            return {"sum": tf.reduce_sum(a, 1) + tf.reduce_sum(b, 1), "twice": 2 * b}

    model = convert(Pair().both.get_concrete_function())
    (tmp_path / "model.tflite").write_bytes(model)
    script = write_inference_script(tmp_path, takes="arrays")
    inputs = {2: np.array([1.0, 2.0]), 3: np.array([3.0, 4.0, 5.0])}
    order = [int(one["shape"][-1]) for one in litert.Interpreter(model_content=model).get_input_details()]
    for size, values in inputs.items():
        np.save(tmp_path / f"{size}.npy", values)
    done = python(script, *(tmp_path / f"{size}.npy" for size in order))
    assert done.returncode == 0, done.stderr
    assert " 15.0" in done.stdout
    assert "[ 6.  8. 10.]" in done.stdout
