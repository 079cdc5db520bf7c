"""What `export RUN serving` writes, behind the servers it is for: they answer as the run's model does."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image

import tfkit
from tests.data.pictures import KINDS, picture
from tfkit.__main__ import main
from tfkit.environment.stack import keras, tf
from tfkit.errors import ConfigError, HubError, RunError

ROOT = Path(__file__).parents[2]
PATIENCE = 600
DOCS = (ROOT / "docs/manual/how-to/serving.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)
LIMIT = 16 * 2**20


def build_model():
    model = keras.Sequential([keras.layers.Flatten(input_shape=(24, 24, 3)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    splits = tfkit.load_images(photos, image_size=24)
    folder = tmp_path_factory.mktemp("served") / "runs/digits"
    run = tfkit.fit(build_model, splits, run_dir=folder, epochs=5, verbose=0)
    tfkit.report(run)
    return run


@pytest.fixture(scope="module")
def exported(run):
    assert main(["export", str(run.path), "serving"]) == 0
    return run.path / "serving"


def environment(requirements, folder, *more):
    """Python of an environment with what a server needs; TensorFlow's files are links into uv's cache."""
    uv = shutil.which("uv")
    install = f"uv pip install -r {requirements.name}"
    if uv is None:
        pytest.skip(f"no uv here, by which an environment is made: pip install uv; then {install}")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, folder], check=True)
    words = [uv, "pip", "install", "-q", "--python", folder, "-r", requirements, *more]
    try:
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the packages of {requirements.parent.name} do not come within {PATIENCE} s: {install}")
    if done.returncode and "No solution found" not in done.stderr:
        pytest.skip(f"the packages of {requirements.parent.name} cannot be reached: {install}")
    assert done.returncode == 0, done.stderr
    return folder / "bin/python"


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def served(words, port, log, **options):
    """The server's process, once it is ready; it is ended by its id."""
    with log.open("w") as out:
        process = subprocess.Popen(list(map(str, words)), stdout=out, stderr=out, **options)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(requests.ConnectionError):
                if requests.get(f"http://127.0.0.1:{port}/v2/models/digits/ready", timeout=PATIENCE).ok:
                    break
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


@pytest.fixture(scope="module")
def mlserver(exported, tmp_path_factory):
    """Ports of MLServer (HTTP, gRPC), started as README.txt says, but on ports that are free; and its process."""
    folder = tmp_path_factory.mktemp("mlserver")
    python = environment(exported / "mlserver/requirements.txt", folder / "env")
    shutil.copytree(exported / "mlserver", folder / "repository")
    settings = json.loads((folder / "repository/settings.json").read_text())
    names = ("http_port", "grpc_port", "metrics_port")
    ports = free_ports(3)
    (folder / "repository/settings.json").write_text(
        json.dumps({**settings, **dict(zip(names, ports, strict=True))})
    )
    words = [python.with_name("mlserver"), "start", folder / "repository"]
    with served(words, ports[0], folder / "log", cwd=folder) as process:
        yield {"http": ports[0], "grpc": ports[1], "process": process, "python": python}


@pytest.fixture(scope="module")
def kserve(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kserve")
    python = environment(exported / "kserve/requirements.txt", folder / "env")
    shutil.copytree(exported / "kserve", folder / "kserve")
    (port,) = free_ports(1)
    words = [python, folder / "kserve/serve.py", "--http_port", port]
    with served(words, port, folder / "log", cwd=folder) as process:
        yield {"http": port, "process": process}


def tensor(image, **changed):
    content = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(image.shape),
        "data": image.ravel().tolist(),
    }
    return {"inputs": [{**content, **changed}]}


def files(*contents):
    encoded = [base64.b64encode(content).decode() for content in contents]
    return {"inputs": [{"name": "images", "datatype": "BYTES", "shape": [len(encoded)], "data": encoded}]}


def ask(port, content, *, path="/v2/models/digits/infer", **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    url, headers = f"http://127.0.0.1:{port}{path}", {"Content-Type": "application/json", **headers}
    return requests.post(url, body, headers=headers, timeout=PATIENCE)


def probabilities(answer):
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    return np.reshape(output["data"], output["shape"])


PIXELS = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
MALFORMED = {
    "a shape that does not fit": tensor(PIXELS, shape=[1, 5, 5, 3]),
    "a shape beyond memory": tensor(PIXELS, shape=[10**12, 10**12, 4, 3]),
    "a shape that is left open": tensor(PIXELS, shape=[-1, 4, 4, 3]),
    "three axes": tensor(PIXELS, shape=[4, 4, 3]),
    "five channels": tensor(np.zeros((1, 2, 2, 5), int)),
    "no image": tensor(PIXELS[:0]),
    "300": tensor(PIXELS.astype(int) + 260),
    "a half": tensor(PIXELS / 2),
    "rows of two lengths": tensor(PIXELS, data=[[1], [1, 2]]),
    "a word": tensor(PIXELS, data="abc"),
    "two inputs": {"inputs": tensor(PIXELS)["inputs"] * 2},
    "no input": {"inputs": []},
    "another object": {"images": [1]},
    "a list": [1, 2],
    "a file that is none": files(b"nothing"),
    "a picture of 16 bits": None,
    "half a picture": None,
    "a picture of too many pixels": None,
    "pictures of too many pixels together": None,
    "257 pictures": None,
    "no JSON": b"{oh",
    "bytes": bytes(range(256)),
    "nothing": b"",
    "brackets": b"[" * 100_000,
    "100 MB": b'{"inputs": [' + b"0," * (50 * 2**20) + b"0]}",
}


@pytest.fixture(scope="module")
def malformed(tmp_path_factory):
    folder, large, part = tmp_path_factory.mktemp("files"), io.BytesIO(), io.BytesIO()
    picture("16 RGB", folder / "deep")
    picture("CMYK", folder / "jpeg")
    Image.new("1", (6000, 6000)).save(large, "PNG")
    Image.new("1", (3000, 3000)).save(part, "PNG")
    made = {
        "a picture of 16 bits": files((folder / "deep").read_bytes()),
        "half a picture": files((folder / "jpeg").read_bytes()[:400]),
        "a picture of too many pixels": files(large.getvalue()),
        "pictures of too many pixels together": files(*[part.getvalue()] * 3),
        "257 pictures": files(*[(folder / "jpeg").read_bytes()] * 257),
    }
    return {**MALFORMED, **made}


def listening(port):
    """The addresses at which somebody listens on this port, as /proc writes them."""
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


@pytest.mark.slow
def test_mlserver_answers_200_at_once_as_the_model_does_whatever_else_it_is_sent(run, mlserver, malformed):
    """Images of ten sizes, as tensors and as files of all kinds, with a malformed request between every ten."""
    rng, port, model = np.random.default_rng(0), mlserver["http"], run.model
    sizes, contents, expected = rng.integers(8, 64, (10, 2)), [], []
    for number in range(200):
        image = rng.integers(0, 256, (1, *sizes[number % 10], 3 + number % 2), dtype=np.uint8)
        contents.append(tensor(image) if number % 3 else files(encoded(image[0])))
        expected.append(model(image).numpy())
    wrong = [content for content in malformed.values() if len(content) < LIMIT]
    mixed = [(index, content) for index, content in enumerate(contents)]
    for place, content in enumerate(wrong):
        mixed.insert(place * 10, (None, content))

    def answered(entry):
        began = time.monotonic()
        return entry[0], ask(port, entry[1]), time.monotonic() - began

    with ThreadPoolExecutor(len(mixed)) as clients:
        answers = list(clients.map(answered, mixed))
    found = {index: probabilities(answer) for index, answer, _ in answers if index is not None}
    assert sorted(found) == list(range(200))
    for index, row in found.items():
        np.testing.assert_allclose(row, expected[index], atol=1e-5)
    refused = [answer for index, answer, _ in answers if index is None]
    assert len(refused) == len(wrong)
    assert all(400 <= answer.status_code < 500 for answer in refused)
    assert mlserver["process"].poll() is None


def encoded(pixels):
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


@pytest.mark.slow
def test_both_servers_listen_on_loopback_only(mlserver, kserve):
    for port in (mlserver["http"], mlserver["grpc"], kserve["http"]):
        addresses = listening(port)
        assert addresses
        assert all(address.endswith("0100007F") for address in addresses)  # 127.0.0.1, and ::ffff:127.0.0.1


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_decoded_as_training_did(kind, run, mlserver, tmp_path):
    picture(kind, tmp_path / "a")
    answer = ask(mlserver["http"], files((tmp_path / "a").read_bytes()))
    if kind.startswith("16"):
        assert answer.status_code == 400
        assert "16 bits" in answer.text
    else:
        expected = run.model(tfkit.read_image(tmp_path / "a")).numpy()
        np.testing.assert_allclose(probabilities(answer)[0], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mlserver", "kserve"])
@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_are_refused_and_the_server_lives(engine, case, malformed, request):
    server = request.getfixturevalue(engine)
    for _ in range(20):  # who is refused while still sending may find the connection closed
        with contextlib.suppress(requests.ConnectionError):
            answer = ask(server["http"], malformed[case])
            break
    assert 400 <= answer.status_code < 500, answer.text
    if case == "100 MB":
        assert answer.status_code == 413
    assert "Traceback" not in answer.text
    assert probabilities(ask(server["http"], tensor(PIXELS))).shape == (1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mlserver", "kserve"])
def test_a_compressed_request_is_not_unpacked(engine, request):
    server = request.getfixturevalue(engine)
    answer = ask(server["http"], b"\x1f\x8b\x08\x00", **{"Content-Encoding": "gzip"})
    assert answer.status_code == 415


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [[1], {}, {"instances": "abc"}, {"instances": []}, {"instances": [[1], [1, 2]]}, {"instances": [{"a": 1}]},
     {"instances": [{"b64": 3}]}, {"instances": [None]}, b"{oh", b""],
)  # fmt: skip
def test_kserve_refuses_malformed_instances(content, kserve):
    answer = ask(kserve["http"], content, path="/v1/models/digits:predict")
    assert 400 <= answer.status_code < 500, answer.text


@pytest.mark.slow
def test_kserve_answers_as_the_model_does_by_both_protocols(run, kserve):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (1, *size, 3), dtype=np.uint8) for size in ((9, 30), (24, 24), (50, 7))]
    model = run.model
    expected = np.concatenate([model(image).numpy() for image in images])
    instances = [image[0].tolist() for image in images]
    file = {"b64": base64.b64encode(encoded(images[0][0])).decode()}
    content = {"instances": [*instances, file]}
    answer = ask(kserve["http"], content, path="/v1/models/digits:predict")
    assert answer.status_code == 200, answer.text
    np.testing.assert_allclose(answer.json()["predictions"], [*expected, expected[0]], atol=1e-5)
    for image, row in zip(images, expected, strict=True):
        np.testing.assert_allclose(probabilities(ask(kserve["http"], tensor(image)))[0], row, atol=1e-5)


@pytest.mark.slow
def test_the_programs_of_the_docs_print_what_they_show(run, photos, mlserver, kserve):
    folder = run.path.parents[1]
    shutil.copy(next((photos / "digit 2").iterdir()), folder / "photo.png")
    ports = {"8080": mlserver["http"], "8081": mlserver["grpc"], "8090": kserve["http"]}
    assert len(PROGRAMS) == 3
    for program, shown in PROGRAMS:
        for documented, port in ports.items():
            program = program.replace(documented, str(port))
        # MLServer's environment has the client for gRPC.
        python = mlserver["python"] if "tritonclient" in program else sys.executable
        done = subprocess.run([python, "-c", program], cwd=folder, capture_output=True, text=True)
        assert (done.stdout, done.returncode) == (shown, 0), done.stderr


@pytest.mark.slow
def test_warm_up_requests_are_those_of_tensorflow_serving(exported, run, tmp_path, monkeypatch):
    uv = shutil.which("uv")
    package = f"tensorflow-serving-api=={tf.__version__}"
    install = ["pip", "install", "-q", "--no-deps", "--target", tmp_path, package]
    if uv is None or subprocess.run([uv, *install]).returncode:
        pytest.skip(f"needs uv, and {package}")
    monkeypatch.syspath_prepend(tmp_path)
    from tensorflow_serving.apis import prediction_log_pb2

    path = exported / "tensorflow_serving/digits/1"
    records = tf.data.TFRecordDataset(str(path / "assets.extra/tf_serving_warmup_requests"))
    loaded, rows = tf.saved_model.load(str(path)), []
    for record in records.as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record)
        assert log.SerializeToString(deterministic=True) == record  # no field of it is unknown
        asked = log.predict_log.request
        assert asked.model_spec.name == "digits"
        inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in asked.inputs.items()}
        rows.append(len(loaded.signatures["serving_default"](**inputs)["probabilities"]))
    assert rows == [1, 16]


def test_each_folder_is_whole_and_says_nothing_of_the_examples(exported, run, photos):
    for folder in ("mlserver/digits/saved_model", "kserve/saved_model", "tensorflow_serving/digits/1"):
        for path in (path for path in (run.path / "saved_model").rglob("*") if path.is_file()):
            copy = exported / folder / path.relative_to(run.path / "saved_model")
            assert copy.read_bytes() == path.read_bytes()
            assert not copy.is_symlink()
    assert (exported / "mlserver/digits/labels.txt").read_text().splitlines() == run.labels
    places = (os.fsencode(photos), os.fsencode(run.path))
    told = {
        path
        for path in exported.rglob("*")
        if path.is_file()
        for place in places
        if place in path.read_bytes()
    }
    assert not told


@pytest.mark.parametrize("name", ["", "a b", "../up", "é", "x" * 65])
def test_a_name_that_no_address_can_have_is_refused(name, run, tmp_path, capsys):
    with pytest.raises(ConfigError, match="--name"):
        tfkit.export(run, "serving", output=tmp_path / "a", name=name)
    assert main(["export", str(run.path), "serving", "--output", str(tmp_path / "a"), "--name", name]) == 2
    assert "--name" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_a_damaged_model_is_refused_and_what_was_there_stays(run, tmp_path):
    shutil.copytree(run.path, tmp_path / "my run", ignore=shutil.ignore_patterns("serving"))
    output = tfkit.export(tmp_path / "my run", "serving")
    assert (output / "mlserver/my-run/model-settings.json").is_file()  # a name that an address can have
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    (data,) = (tmp_path / "my run/saved_model/variables").glob("*data*")
    content = data.read_bytes()
    data.unlink()
    data.write_bytes(content[: len(content) // 2])
    with pytest.raises(HubError, match="saved_model"):
        tfkit.export(tmp_path / "my run", "serving")
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("signatures", [[], ["serving_default"]])
def test_a_model_that_no_run_exports_is_refused(signatures, run, tmp_path):
    shutil.copytree(run.path, tmp_path / "run", ignore=shutil.ignore_patterns("serving", "saved_model"))
    module, spec = tf.Module(), tf.TensorSpec([None], tf.float32)
    module.add = tf.function(lambda a, b: {"sum": a + b}, input_signature=[spec, spec], autograph=False)
    chosen = dict.fromkeys(signatures, module.add)
    tf.saved_model.save(module, str(tmp_path / "run/saved_model"), signatures=chosen)
    with pytest.raises(RunError, match="serving_default"):
        tfkit.export(tmp_path / "run", "serving")
    assert not (tmp_path / "run/serving").exists()
