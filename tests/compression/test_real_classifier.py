"""A real classifier as .tflite, with metadata: MediaPipe and infer.py find what Keras finds."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.compression.conftest import answers
from tfkit.compression.results import write_inference_script
from tfkit.environment.stack import litert, litert_schema

pytestmark = pytest.mark.slow

MEDIAPIPE = """
import json, sys
import numpy as np
sys.modules["tensorflow"] = None  # mediapipe takes it if it can; it must not need it
import mediapipe as mp
from mediapipe.tasks.python import BaseOptions, vision

images, files = np.load(sys.argv[1]), sys.argv[2:]
found = []
for file in files:
    options = vision.ImageClassifierOptions(base_options=BaseOptions(model_asset_path=file), max_results=1)
    with vision.ImageClassifier.create_from_options(options) as classifier:
        for image in images:
            result = classifier.classify(mp.Image(image_format=mp.ImageFormat.SRGB, data=image))
            best = result.classifications[0].categories[0]
            found.append([best.index, best.category_name, best.score])
print(json.dumps(found))
"""
"""A client of its own process: classifies all images with each model."""


def run(model, image):
    interpreter = litert.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (read,), (written,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(read["index"], image[None].astype(read["dtype"]))
    interpreter.invoke()
    scale, zero = written["quantization"]
    values = interpreter.get_tensor(written["index"])[0].astype(np.float32)
    return (values - zero) * scale if scale else values


def test_the_model_and_its_other_metadata_stay_and_its_buffers_are_aligned(classifier, with_labels):
    """Generated flatbuffer code aligns data to 4 bytes, where the schema asks for 16."""
    for name, model in with_labels.items():
        for image in classifier.images[:3]:
            np.testing.assert_array_equal(run(model, image), run(classifier.files[name], image))
        tables = litert_schema.Model.GetRootAs(model, 0)
        buffers = [tables.Buffers(index) for index in range(tables.BuffersLength())]
        starts = [one._tab.Vector(one._tab.Offset(4)) for one in buffers if not one.DataIsNone()]
        assert len(starts) > 50
        assert {start % 16 for start in starts} == {0}
        assert len(model) < len(classifier.files[name]) + 10_000
        before = litert_schema.ModelT.InitFromPackedBuf(classifier.files[name])
        after = litert_schema.ModelT.InitFromPackedBuf(model)
        added = {entry.name for entry in after.metadata} - {entry.name for entry in before.metadata}
        assert added == {b"TFLITE_METADATA"}
        signature = litert.Interpreter(model_content=model).get_signature_list()
        assert signature == litert.Interpreter(model_content=classifier.files[name]).get_signature_list()
        assert signature


def test_a_real_client_finds_the_classes_that_keras_finds(classifier, with_labels, tmp_path):
    """MediaPipe Tasks, 60 images of the test split, float32 and int8."""
    np.save(tmp_path / "images.npy", classifier.images)
    for name, model in with_labels.items():
        (tmp_path / f"{name}.tflite").write_bytes(model)
    files = [str(tmp_path / f"{name}.tflite") for name in with_labels]
    done = subprocess.run(
        [sys.executable, "-c", MEDIAPIPE, str(tmp_path / "images.npy"), *files],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    expected = classifier.probabilities.argmax(axis=1)
    for place, name in enumerate(with_labels):
        answers = found[place * len(expected) : (place + 1) * len(expected)]
        assert sum(index == best for (index, _, _), best in zip(answers, expected, strict=True)) >= 58, name
        for (index, label, score), image in zip(answers, classifier.images, strict=True):
            assert label == classifier.labels[index]
            # The pixels reach the model unchanged: its own scores come back, not those of a scaled image.
            assert score == pytest.approx(run(with_labels[name], image).max(), abs=1e-4)


def test_infer_answers_what_keras_answers(classifier, with_labels, python, tmp_path):
    """By the bytes of an int8 file; what it prints of a float32 one is in test_results."""
    (tmp_path / "model.tflite").write_bytes(with_labels["int8"])
    script, agreed = write_inference_script(tmp_path), 0
    for image, expected in zip(classifier.images[:8], classifier.probabilities[:8], strict=True):
        Image.fromarray(image).save(tmp_path / "photo.png")
        found = answers(python(script, tmp_path / "photo.png"))
        assert len(found) == 5
        assert list(found.values()) == sorted(found.values(), reverse=True)
        agreed += next(iter(found)) == classifier.labels[expected.argmax()]
    assert agreed >= 7
