"""The page in a real Chromium, used as a person would; what JavaScript prepares is what training does."""

import contextlib
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

import tfkit
from tests.text.conftest import HARD, docstrings
from tfkit.__main__ import main
from tfkit.compression.sources import pixel_function
from tfkit.compression.variants import Gates, Variant
from tfkit.data.image_files import decode_image
from tfkit.data.pixels import resize, to_square
from tfkit.environment.files import Cache
from tfkit.environment.stack import tf
from tfkit.errors import CheckError, ConfigError, RunError, StackError
from tfkit.exporting import browser as exporting
from tfkit.exporting import tfjs
from tfkit.hub import bundled
from tfkit.text.tokenizers import WordPiece

pytestmark = pytest.mark.slow

SIZE = int(os.environ.get("SIZE", "32"))
DOCS = (Path(__file__).parents[2] / "docs/manual/how-to/browser.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
HOSTILE = ['<img src="x" onerror="document.title=1">', "digit & 1", "\u202edigit 2 </script>"]


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "photos"
    return tfkit.train(photos, run_dir=folder, image_size=SIZE, epochs=5, fine_tune_epochs=0, seed=1)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """A folder in which npm has installed LiteRT.js."""
    folder = tmp_path_factory.mktemp("npm")
    try:
        exporting.npm_install(exporting.PACKAGES, folder)
    except (StackError, FileNotFoundError) as error:
        pytest.skip(f"npm gets no LiteRT.js here: {error}")
    return folder


@pytest.fixture(scope="module")
def documented(run, runtime, tmp_path_factory):
    """Where the programs of the documentation have run, of a run without .tflite files; and what they printed.

    The runtime comes from npm, and the graph model runs in Node.
    """
    folder = tmp_path_factory.mktemp("documented")
    shutil.copytree(run.path, folder / "runs/photos")
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        for program in PROGRAMS:
            exec(program, {})
    return folder, printed.getvalue()


@pytest.fixture(scope="module")
def page(run, runtime, documented):
    """The page of float32, converted and proven by an export, and of int8, with hostile names of classes."""
    (run.path / "tflite").mkdir()
    shutil.copy(documented[0] / "runs/photos/browser/float32.tflite", run.path / "tflite")
    pixels = np.stack([resize(decode_image(path), SIZE) for path in pictures_of(run)]).astype(np.float32)
    model = run.model
    int8 = tfkit.convert(
        pixel_function(model.classify, keep=model), variant="int8", input_shape=(1, SIZE, SIZE, 3),
        representative_dataset=pixels, inference_input_type="uint8", inference_output_type="uint8",
    )  # fmt: skip
    (run.path / "tflite/int8.tflite").write_bytes(int8)
    run.labels = HOSTILE
    return tfkit.export(run, "browser", runtime=str(runtime))


def pictures_of(run):
    return sorted(Path(run.config["data_dir"]).glob("*/*.png"))


@pytest.fixture(scope="module")
def pictures(run, tmp_path_factory):
    """Twenty files: digits, photographs, and what decoders stumble over."""
    folder = tmp_path_factory.mktemp("pictures")
    china, flower = (Image.fromarray(image) for image in load_sample_images().images)
    china.save(folder / "china.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    flower.save(folder / "upright.png", exif=exif)
    flower.resize((17, 400)).save(folder / "narrow.bmp")
    alpha = flower.resize((64, 48))
    alpha.putalpha(Image.fromarray(np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))))
    alpha.save(folder / "alpha.png")
    china.resize((60, 60)).quantize(16).save(folder / "palette.gif")
    china.convert("L").resize((50, 31)).save(folder / "grey.png")
    return [*sorted(folder.iterdir()), *pictures_of(run)[::8][:14]]


@contextlib.contextmanager
def served(folder):
    """The address, on loopback, of a server that lends a folder to pages of any address."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self):
            self.send_header("Access-Control-Allow-Origin", "*")
            super().end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


class Visit:
    """A page that is open in Chromium, and what it did."""

    def __init__(self, browser, folder, **settings):
        self.stack = served(folder)
        self.address = self.stack.__enter__()
        self.context = browser.new_context(**settings)
        self.page = self.context.new_page()
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on(
            "console",
            lambda said: said.type == "error" and self.errors.append(f"{said.text} {said.location}"),
        )
        self.page.goto(self.address)
        self.page.wait_for_selector("#status:text('Ready.')", timeout=600_000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()
        self.stack.__exit__(None, None, None)

    def give(self, path):
        """Choose a file, as a person would; returns the first class that is shown."""
        self.page.evaluate("document.getElementById('status').textContent = ''")
        self.page.set_input_files("#file", path)
        self.page.wait_for_selector("#status:text-matches(' ms')", timeout=600_000)
        return self.page.locator("#classes li span").first.inner_text()

    def call(self, expression):
        return self.page.evaluate(f"import('./app.js').then((page) => {expression})")


def node(program, *arguments):
    code = f"import {{resize, WordPiece}} from '{exporting.PAGE}/prepare.js'; import fs from 'node:fs';\n{program}"
    words = ["node", "--input-type=module", "-e", code, *map(str, arguments)]
    subprocess.run(words, check=True, timeout=600)


def test_the_resize_is_that_of_training(tmp_path):
    random = np.random.default_rng(0)
    sizes = [(8, 8, 32), (31, 17, 24), (640, 427, 224), (3, 80, 96), (96, 96, 96), (1, 1, 16), (900, 33, 64)]
    for place, (width, height, _) in enumerate(sizes):
        image = random.integers(0, 256, (height, width, 3), np.uint8)
        image.tofile(tmp_path / f"{place}.in")
        np.save(tmp_path / f"{place}.npy", image)
    program = """
const [folder, sizes] = process.argv.slice(1);
JSON.parse(sizes).forEach(([width, height, size], place) => fs.writeFileSync(
    `${folder}/${place}.out`, resize(fs.readFileSync(`${folder}/${place}.in`), width, height, size)));"""
    node(program, tmp_path, json.dumps(sizes))
    for place, (_, _, size) in enumerate(sizes):
        image = np.load(tmp_path / f"{place}.npy")
        made = np.fromfile(tmp_path / f"{place}.out", np.uint8).reshape(size, size, 3).astype(int)
        np.testing.assert_array_equal(made, resize(Image.fromarray(image), size))
        np.testing.assert_array_equal(made, to_square(image, size))


def test_the_pieces_are_those_of_the_tokenizer(tmp_path):
    pieces = bundled.MODELS["minilm-l6-v2"].tokenizer(max_length=128).vocabulary
    random = np.random.default_rng(0)
    plain, _ = docstrings(np, json, shutil)
    mixed = ["".join(map(chr, random.choice([*range(32, 0x530), *range(0x5D0, 0x700), *range(0x900, 0xE00),
                                             *range(0x1E00, 0x2400), *range(0x3000, 0x30FF), *range(0x4E00, 0x4F00),
                                             *range(0xAC00, 0xAC80), *range(0xFB00, 0xFFF0), *range(0x1F600, 0x1F640)],
                                            40))) for _ in range(150)]  # fmt: skip
    hard = [text.decode(errors="replace") for text in HARD] + ["", "[UNK]s", "a" * 100, "a" * 101, "é" * 51]
    texts = [*hard, *mixed, *plain[:150]]
    assert len(texts) > 200
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    (tmp_path / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    program = """
const [folder] = process.argv.slice(1), tokenizer = new WordPiece(fs.readFileSync(`${folder}/vocab.txt`, 'utf8'), 128);
const rows = JSON.parse(fs.readFileSync(`${folder}/texts.json`)).map((text) => tokenizer.row(text));
fs.writeFileSync(`${folder}/rows.json`, JSON.stringify(rows.map(({ids, mask}) => [[...ids], [...mask]])));"""
    node(program, tmp_path)
    given = np.array(json.loads((tmp_path / "rows.json").read_text()))
    expected = WordPiece(vocabulary=pieces, max_length=128).dense(texts, length=128)
    for made, name in zip(given.swapaxes(0, 1), ("input_word_ids", "input_mask"), strict=True):
        np.testing.assert_array_equal(made, expected[name])


def test_twenty_pictures_get_the_classes_that_keras_gives(browser, run, page, pictures, screenshot):
    model, differences = run.model, []
    assert len(pictures) == 20
    with Visit(browser, page, viewport={"width": 800, "height": 860}) as visit:
        for path in pictures:
            shown = visit.give(path)
            given = visit.call("page.picture(document.getElementById('file').files[0])")
            expected = model(tfkit.read_image(path)).numpy()
            assert shown == HOSTILE[expected.argmax()], path
            trained = resize(decode_image(path), SIZE)[np.newaxis] / np.float32(255)
            if path.suffix == ".png":  # decoders of JPEG round in their own ways
                differences.append(np.abs(given - model.classify(tf.constant(trained)).numpy()[0]).max())
        assert len(differences) > 15
        assert max(differences) < 1e-5
        assert re.match(r"float32 took [\d.]+ ms: ", visit.page.inner_text("#status"))
        screenshot(visit.page, "browser-page")
        # As bytes: the same classes where the model is sure.
        visit.page.select_option("#variant", index=1)
        visit.page.wait_for_selector("#status:text-matches('int8 took')")
        for path in pictures[6:]:
            assert visit.give(path) == HOSTILE[model(tfkit.read_image(path)).numpy().argmax()]
        assert visit.errors == []
        assert [url for url in visit.requests if not url.startswith((visit.address, "data:"))] == []
        assert visit.page.title() != "1"


def test_the_policy_keeps_what_is_given_in_the_page(browser, page):
    with Visit(browser, page) as visit:
        refused = """new Promise((tell) => {
            document.addEventListener('securitypolicyviolation', (event) => tell(event.effectiveDirective));
            fetch('http://127.0.0.1:9/').catch(() => {}); })"""
        assert visit.page.evaluate(refused) == "connect-src"


def test_anybody_can_use_it(browser, page, pictures, tmp_path):
    from axe_playwright_python.sync_playwright import Axe

    with Visit(browser, page, viewport={"width": 360, "height": 740}, color_scheme="dark") as visit:
        visit.give(pictures[-1])
        options = {"runOnly": ["wcag2a", "wcag2aa", "best-practice"], "resultTypes": ["violations"]}
        assert Axe().run(visit.page, options=options).response["violations"] == []
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 360
        order = []
        for _ in range(5):
            visit.page.keyboard.press("Tab")
            order.append(visit.page.evaluate("document.activeElement.id"))
        assert {"camera", "variant", "measure"} <= {*order, "file"}
        (tmp_path / "notes.txt").write_text("no picture")
        visit.page.set_input_files("#file", tmp_path / "notes.txt")
        visit.page.wait_for_selector("#status:text('no picture that the browser can read')")


def test_the_camera(browser, page):
    words = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    second = browser.browser_type.launch(executable_path=program, args=words, chromium_sandbox=False)
    try:
        with Visit(second, page) as visit:
            visit.page.click("#camera")
            visit.page.click("button:text('Take the picture')", timeout=600_000)
            visit.page.wait_for_selector("#status:text-matches(' ms')", timeout=600_000)
            assert visit.page.locator("#picture").evaluate("canvas => canvas.width") > 100
            assert visit.errors == []
    finally:
        second.close()


@pytest.fixture(scope="module")
def mails(tmp_path_factory):
    import scipy.stats

    folder = tmp_path_factory.mktemp("mails")
    texts, labels = docstrings(np, scipy.stats)
    kinds = ["arrays", "statistics"]
    import pandas as pd

    rows = pd.DataFrame({"text": texts, "label": [kinds[label] for label in labels]})
    rows.groupby("label").head(100).to_csv(folder / "mails.csv", index=False)
    return tfkit.train(folder / "mails.csv", model_handle="light", run_dir=folder / "run", epochs=3, seed=1)


def test_texts(browser, mails, runtime):
    folder = tfkit.export(mails, "browser", runtime=str(runtime))
    with pytest.raises(ConfigError, match=r"export .* browser"):
        tfkit.export(mails, "tfjs")
    texts, model = [*docstrings(json, shutil)[0][:10], "", "Ünïcode 你好 😀"], mails.model
    with Visit(browser, folder) as visit:
        for text in texts:
            expected = model(tf.constant([text])).numpy()[0]
            visit.page.fill("#text", text)
            visit.page.click("button:text('Classify')")
            given = visit.call(f"page.text({json.dumps(text)})")
            assert (
                visit.page.locator("#classes li span").first.inner_text() == mails.labels[expected.argmax()]
            )
            np.testing.assert_allclose(given, expected, atol=1e-5)
        assert visit.errors == []


def test_a_runtime_that_is_somewhere_else(browser, run, runtime, page, tmp_path, pictures):
    """An address instead of a copy: the page asks there for the runtime, and for nothing else."""
    layout = tmp_path / "npm/@litertjs"
    for package in ("core", "wasm-utils"):
        shutil.copytree(
            runtime / "node_modules/@litertjs" / package, layout / f"{package}@{exporting.VERSION}"
        )
    with pytest.raises(ConfigError, match="https://"):
        tfkit.export(run, "browser", output=tmp_path / "page", runtime='http://example.org/"><script>')
    assert not (tmp_path / "page").exists()

    with served(tmp_path / "npm") as address:
        folder = tfkit.export(run, "browser", output=tmp_path / "page", runtime=address)
        assert not (folder / "runtime").exists()
        with Visit(browser, folder) as visit:
            assert (
                visit.give(pictures[-1])
                == HOSTILE[run.model(tfkit.read_image(pictures[-1])).numpy().argmax()]
            )
            assert any(url.startswith(f"{address}/@litertjs/core@") for url in visit.requests)
            asked = (visit.address, address, "data:")
            assert [url for url in visit.requests if not url.startswith(asked)] == []
            assert visit.errors == []


def test_what_is_refused(run, page, runtime, tmp_path, capsys):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/thesis.txt").write_text("mine")
    with pytest.raises(RunError, match="other things"):
        tfkit.export(run, "browser", output=tmp_path / "theirs", runtime=str(runtime))
    with pytest.raises(ConfigError, match="npm install"):
        tfkit.export(run, "browser", output=tmp_path / "new", runtime=str(tmp_path / "theirs"))
    other = tmp_path / "other"
    shutil.copytree(runtime, other)
    with (other / "node_modules/@litertjs/core/wasm/litert_wasm_internal.js").open("a") as file:
        file.write("fetch('//evil.example')")
    with pytest.raises(CheckError, match=r"litert_wasm_internal\.js"):
        tfkit.export(run, "browser", output=tmp_path / "new", runtime=str(other))
    assert not (tmp_path / "new").exists()
    for words, said in (
        ([str(run.path), "brows"], "did you mean browser?"),
        ([str(run.path), "browser", "--dtype", "float16"], "no option 'dtype'"),
        ([str(run.path), "tfjs", "--dtype", "uint8"], "4 of 20"),
        ([str(tmp_path), "browser"], "holds no run"),
    ):
        assert main(["export", *words]) == 2
        assert said in capsys.readouterr().err


def test_limits_are_those_of_compress():
    """Of labels it is micro F1 that is limited: nearly all pairs of a picture and a label are a no, and right."""
    known = {
        "quantization": "int8",
        "size_bytes": 2000,
        "gzipped_bytes": 900,
        "agreement": 0.99,
        "max_difference": 0.3,
    }
    drops = {"float32": 0.0, "int8": 0.2}
    rows = [
        Variant(name=name, accuracy_drop=0.004, micro_f1_drop=drop, **known).as_dict()
        for name, drop in drops.items()
    ]
    gates = dataclasses.asdict(Gates(max_accuracy_drop=0.01))
    content = {"variants": rows, "failed": [], "examples": 9, "gates": gates}
    assert exporting.beyond_limits(content) == {"int8"}
    gates["max_size_kb"] = 1.5
    assert exporting.beyond_limits(content) == {"float32", "int8"}
    gates["max_watts"] = 1.0  # of a later version
    assert exporting.beyond_limits(content) == {"float32", "int8"}
    assert exporting.beyond_limits({}) == set()


def test_measure(browser, run, page, runtime, capsys):  # which it starts by itself too
    words = ["export", str(run.path), "browser", "--measure", "--runtime", str(runtime)]
    assert main(words) == 0
    about = json.loads((page / "about.json").read_text())
    times = {row["name"]: row["milliseconds"] for row in about["variants"]}
    assert times.keys() == {"float32", "int8"}
    assert run.metrics["browser/int8_ms"] == times["int8"] > 0
    assert "headless Chromium" in (run.path / "report.html").read_text()


def test_tensorflow_js_in_chromium_gives_what_it_gives_in_node(browser, run, page, pictures, tmp_path):
    """By its wasm back end; and what a picture takes there and in LiteRT.js, in turn."""
    name, parts = (
        "model",
        ("core/dist/tf-core", "converter/dist/tf-converter", "backend-wasm/dist/tf-backend-wasm"),
    )
    folder = tfkit.export(run, "tfjs", output=tmp_path / name)
    (tmp_path / "node_modules").symlink_to(Cache("tfjs").folder / tfjs.VERSION / "node_modules")
    scripts = [f'<script src="node_modules/@tensorflow/tfjs-{part}.min.js"></script>' for part in parts]
    (tmp_path / "index.html").write_text("".join(scripts))
    images = np.stack([resize(decode_image(path), SIZE) for path in pictures])
    (takes,) = json.loads((folder / "model.json").read_text())["signature"]["inputs"]
    expected, _ = tfjs._run_in_node(folder, {takes: images.astype(np.float32)})
    load = """async () => {
        tf.wasm.setWasmPaths('node_modules/@tensorflow/tfjs-backend-wasm/dist/');
        await tf.setBackend('wasm');
        globalThis.model = await tf.loadGraphModel('model/model.json');
        globalThis.run = async (values, shape) => {
            const image = tf.tensor(values, shape, 'float32'), began = performance.now();
            const row = await model.predict(image).data();
            return [[...row], performance.now() - began];
        } }"""
    litert = (
        "import('./app.js').then(async (page) => (await page.run({image: new Uint8Array(%s)})).milliseconds)"
    )
    with served(tmp_path) as address, Visit(browser, page) as visit:
        theirs, took = browser.new_page(), {"TensorFlow.js": [], "LiteRT.js": []}
        theirs.goto(address)
        theirs.evaluate(load)
        assert theirs.evaluate("tf.getBackend()") == "wasm"
        for image, row in zip(images, expected, strict=True):
            values = image.ravel().tolist()
            given, milliseconds = theirs.evaluate(f"run({values}, {[1, *image.shape]})")
            np.testing.assert_allclose(given, row, atol=1e-4)
            took["TensorFlow.js"].append(milliseconds)
            took["LiteRT.js"].append(visit.page.evaluate(litert % values))
        theirs.close()
    print({name: round(float(np.median(milliseconds)), 1) for name, milliseconds in took.items()})


def test_the_programs_of_the_documentation(documented):
    folder, printed = documented
    assert len(PROGRAMS) == 2
    assert re.search(r"^ +(\[.*\])$", DOCS, re.MULTILINE)[1] in printed
    assert "['.json']" in printed
    assert "In Node (wasm)" in printed
    size = sum(path.stat().st_size for path in (folder / "runs/photos/tfjs").glob("*.bin"))
    assert 6e6 < size < 7e6
