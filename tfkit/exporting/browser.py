"""A folder with a page that runs a model in any browser: the .tflite files, LiteRT.js, and what prepares an input.

What training does to a picture or a text is done in JavaScript (page/prepare.js). The runtime is no part of tfkit: it
comes from npm, from a folder or from an address, and each of its files is known by its SHA-256.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from tfkit import reporting
from tfkit.compression.compare import predict_original
from tfkit.compression.convert import ConversionRequest, run_conversions
from tfkit.compression.inspect import inspect
from tfkit.compression.results import DEVICE_IDS, FOLDER, IDS_MODEL, MODEL, VOCABULARY
from tfkit.compression.sources import Source, pixel_function, saved
from tfkit.compression.variants import Gates, Table
from tfkit.data.pixels import FULL_RANGE
from tfkit.environment import files, process
from tfkit.errors import CheckError, ConfigError, StackError
from tfkit.exporting import new_export
from tfkit.litert import ParallelInterpreter
from tfkit.metrics import largest_difference
from tfkit.run import LABELS, SAVED_MODEL, TFLITE, VARIANTS, Run
from tfkit.tasks import refuse
from tfkit.text.tokenizers import WORDS

VERSION = "2.5.3"
RUNTIME = {
    "core/dist/index.js": "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    "core/wasm/litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "core/wasm/litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "core/wasm/litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    "core/wasm/litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    "wasm-utils/dist/index.js": "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2",
}
"""Files of @litertjs/core and @litertjs/wasm-utils (Apache-2.0), and their SHA-256."""

ENTRIES = {"@litertjs/core": "core/dist/index.js", "@litertjs/wasm-utils": "wasm-utils/dist/index.js"}
NPM = "npm install --ignore-scripts"
PACKAGES = [f"{name}@{VERSION}" for name in ENTRIES]
_INSTALL = " ".join([NPM, *PACKAGES])
_ADVICE = f"""
  Where npm gets packages: {_INSTALL}
  and here --runtime THAT_FOLDER; or --runtime https://cdn.jsdelivr.net/npm for a page that is online."""

ABOUT = "about.json"
PAGE = Path(__file__).with_name("page")
_ADDRESS = r"(https://|http://(localhost|127\.0\.0\.1)\b)[\w.:/@~-]*"


def export_browser(run: Run, folder: Path, *, runtime: str | None = None, measure: bool = False) -> Path:
    """Write a page that tells the classes of pictures or texts in a browser, from which nothing is sent.

    Args:
      run: finished, of images or of texts with a WordPiece tokenizer.
      folder: where the page goes.
      runtime: where LiteRT.js is: a folder in which npm installed it, or the address of such a one, such as
        "https://cdn.jsdelivr.net/npm", which is written into the page; None: npm gets it, into tfkit's cache.
      measure: time each .tflite in headless Chromium (by Playwright), and show the fastest of those that keep to the
        limits of `tfkit.compress` first.

    Returns:
      The folder: index.html, and what `python -m http.server` serves with it.

    Raises:
      ConfigError: the run is of rows of numbers, or its tokenizer is not known in JavaScript.
      StackError: LiteRT.js is not there, and npm cannot get it; or there is nothing to measure with.
      CheckError: the .tflite made here, or the runtime, is not what it must be.
    """
    reason = "it shows the probability of each class. Take tflite/infer.py, or the target serving."
    refuse(run.task, "classes", "order", "labels", what="The page for browsers", why=reason)
    shape = shape_of(run)
    if not shape and not (run.path / SAVED_MODEL / "assets" / VOCABULARY).is_file():
        raise ConfigError(
            f"The tokenizer of {run.path} is not WordPiece, or reads whole documents: JavaScript here can do neither."
            "\n  Train on minilm-l6-v2 or with --model-handle light, and with --windows first."
        )
    if measure and importlib.util.find_spec("playwright") is None:
        raise StackError("--measure opens Chromium by Playwright, which is not here: pip install playwright")
    is_address = runtime is not None and "://" in runtime
    source = None if is_address else _find_runtime(runtime)
    is_deep = run.provenance["data"].get("pixel_range", [*FULL_RANGE]) != [*FULL_RANGE]
    about: dict[str, Any] = {"labels": run.labels, "deep": is_deep}
    with new_export(folder) as path:
        if source is not None:
            _copy(source, path / "runtime")
        _write_page(path, run, kind="pictures" if shape else "texts", address=runtime if is_address else None)
        write_inputs(run, path, shape)
        models = _collect_models(run, shape)
        for name, content in models.items():
            files.write_bytes(path / name, content)
        about["variants"] = _describe_models(run, models)
        input_shape = inspect(next(iter(models.values()))).inputs[0].shape
        about["size" if shape else "length"] = input_shape[1]
        files.write_json(path / ABOUT, about)
        if measure:
            about["variants"] = _measure_variants(run, path, about["variants"])
            files.write_json(path / ABOUT, about)
    process.say(
        "Open it: python -m http.server 8000 --bind 127.0.0.1"
        f" --directory {shlex.quote(str(folder))}   # http://127.0.0.1:8000"
    )
    return folder


def shape_of(run: Run) -> list[int]:
    """Return the shape of one image, or [] of a text; ConfigError of anything else."""
    shape = run.provenance.get("data", {}).get("shape", [0])
    if len(shape) not in (0, 3):
        raise ConfigError(f"{run.path} is of rows of numbers; a page is for pictures and texts.")
    return list(shape)


@contextlib.contextmanager
def source_of(run: Run, shape: Sequence[int]) -> Iterator[Source]:
    """Open the part of the run's model that JavaScript feeds: from pixels in 0..255, or from the ids of a text."""
    model = run.model
    pixels = pixel_function(model.classify, keep=model) if shape else None
    with saved(pixels, input_shape=(1, *shape)) if shape else saved(model, signature=DEVICE_IDS) as source:
        yield source


def random_inputs(source: Source) -> dict[str, np.ndarray]:
    """Return random inputs by name, [n, ...]: a private run shows no examples."""
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, 256 if dtype == "float32" else 16 if name == WORDS else 2, (8, *shape[1:]))
        .astype(dtype)
        for name, (shape, dtype) in source.inputs.items()
    }  # fmt: skip


def write_inputs(run: Run, folder: Path, shape: Sequence[int]) -> None:
    """Write the JavaScript that prepares inputs, the labels, and of texts the vocabulary."""
    shutil.copyfile(PAGE / "prepare.js", folder / "prepare.js")
    shutil.copyfile(run.path / LABELS, folder / LABELS)
    if not shape:
        shutil.copyfile(run.path / SAVED_MODEL / "assets" / VOCABULARY, folder / VOCABULARY)


def call(words: Sequence[str], failure: str, *, advice: str = "", **options: Any) -> None:
    """Run another program; StackError with what it says last, and the advice, where it fails."""
    try:
        subprocess.run(words, capture_output=True, text=True, check=True, timeout=1200, **options)
    except (subprocess.SubprocessError, OSError) as err:
        raise StackError(
            f"{failure}: {str(getattr(err, 'stderr', None) or err).strip()[-400:]}{advice}"
        ) from err


def npm_install(packages: Sequence[str], folder: str | Path, *, advice: str = "") -> Path:
    """Let npm put packages below a folder, out of its own cache where it can; returns its node_modules."""
    flags = ["--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=1", "--prefix"]
    words = [*NPM.split(), *flags, str(folder), *packages]
    call(words, f"npm does not get {' '.join(packages)}", advice=advice, cwd=folder)
    return Path(folder, "node_modules")


def _collect_models(run: Run, shape: Sequence[int]) -> dict[str, bytes]:
    """Return the .tflite files of the run by name; one of float32, converted now and proven, where it has none."""
    folder = run.path / TFLITE
    if shape:
        models = {
            path.name: path.read_bytes() for path in sorted(folder.glob("*.tflite")) if path.name != MODEL
        }
    else:
        models = {f"{FOLDER}.tflite": path.read_bytes() for path in folder.glob(f"{FOLDER}/{IDS_MODEL}")}
    usable_models = {}
    for name, content in models.items():
        inventory = inspect(content)
        # LiteRT.js has none of TensorFlow's operations.
        if len(inventory.outputs) == 1 and not (inventory.flex_ops or inventory.custom_ops):
            usable_models[name] = content
    if usable_models:
        return usable_models
    process.say("Converting to float32 (tfkit.compress makes smaller files) ...")
    with source_of(run, shape) as source:
        contents, failed = run_conversions(source, [ConversionRequest(name="float32", variant="float32")])
        if failed:
            raise failed["float32"]
        inputs = random_inputs(source)
        expected = predict_original(source, inputs)
    with ParallelInterpreter(contents["float32"]) as interpreter:
        outputs = interpreter(inputs if len(inputs) > 1 else inputs.popitem()[1])
    difference = largest_difference(outputs, expected)
    if difference > 1e-4:
        raise CheckError(
            f"The float32 .tflite gives other probabilities than {run.path} (by {difference:.3g})."
        )
    return {"float32.tflite": contents["float32"]}


def _describe_models(run: Run, models: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Return what the page says of each file, the chosen one first."""
    compressed = run.read(VARIANTS)
    rates = {f"{row['name']}.tflite": row["accuracy"] for row in compressed.get("variants", [])}
    rows = []
    for name, content in sorted(
        models.items(), key=lambda item: item[0] != f"{compressed.get('chosen')}.tflite"
    ):
        (output,) = inspect(content).outputs
        row = {"name": Path(name).stem, "file": name, "size_bytes": len(content), "accuracy": rates.get(name)}
        rows.append(row | {"scale": output.scale or 1.0, "zero_point": output.zero_point or 0})
    return rows


def _find_runtime(runtime: str | None) -> Path:
    """Return the folder that holds the files of `RUNTIME`."""
    if runtime is None:
        return files.Cache("litertjs").get(VERSION, _install).path
    source = Path(runtime, "node_modules", "@litertjs")
    if not source.is_dir():
        raise ConfigError(f"--runtime {runtime!r} holds no LiteRT.js. Get it there: {_INSTALL}")
    return source


def _install(folder: Path) -> Mapping[str, Any]:
    process.say(f"Getting LiteRT.js {VERSION} by npm (12 MB) ...")
    with tempfile.TemporaryDirectory(prefix="tfkit-npm-") as scratch:
        _copy(npm_install(PACKAGES, scratch, advice=_ADVICE) / "@litertjs", folder)
    return {}


def _copy(source: Path, folder: Path) -> None:
    """Copy the files of `RUNTIME`, if they are what they must be."""
    for name, digest in RUNTIME.items():
        if not (source / name).is_file() or files.sha256_of(source / name) != digest:
            raise CheckError(f"{source / name} is not that of LiteRT.js {VERSION}: {_INSTALL}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / name)


def _write_page(folder: Path, run: Run, *, kind: str, address: str | None) -> None:
    """Write index.html, whose policy forbids every connection but to where it and the runtime are, and its files."""
    from jinja2 import Environment

    if address is not None and not re.fullmatch(_ADDRESS, address):
        raise ConfigError(
            f"--runtime {address} is no folder, and no plain address that begins with https://."
        )
    urls = {name: f"./runtime/{entry}" for name, entry in ENTRIES.items()}
    if address is not None:
        base = address.rstrip("/")
        urls = {name: f"{base}/{name}@{VERSION}/{entry.split('/', 1)[1]}" for name, entry in ENTRIES.items()}
    sums = {urls[name]: f"sha256-{_encode(bytes.fromhex(RUNTIME[entry]))}" for name, entry in ENTRIES.items()}
    imports = json.dumps({"imports": urls, "integrity": sums})
    hosts = f"'self' {'/'.join(address.split('/')[:3])}" if address else "'self'"
    digest = f"'sha256-{_encode(hashlib.sha256(imports.encode()).digest())}'"
    policy = (
        f"default-src 'none'; script-src {hosts} 'wasm-unsafe-eval' {digest}; connect-src {hosts}; style-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    source = (PAGE / "index.html.j2").read_text()
    template = Environment(autoescape=True, trim_blocks=True).from_string(source)
    html = template.render(labels=run.labels, kind=kind, policy=policy, imports=imports)
    files.write_text(folder / "index.html", html)
    for name in ("app.js", "style.css"):
        shutil.copyfile(PAGE / name, folder / name)


def _encode(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _time_models(folder: Path) -> tuple[dict[str, float], str]:
    """Return the milliseconds of each .tflite in headless Chromium, by name, and its version."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        with sync_playwright() as playwright:
            # Root cannot have Chromium's sandbox.
            browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.getuid() != 0)
            page = browser.new_page()
            # Answered here: no port is opened.
            page.route(
                "http://localhost/**",
                lambda route: route.fulfill(path=folder / unquote(urlsplit(route.request.url).path[1:])),
            )
            page.goto("http://localhost/index.html")
            return page.evaluate("import('./app.js').then((page) => page.measure())"), browser.version
    except Exception as err:  # whatever Playwright raises: no browser, no answer
        raise StackError(f"Chromium does not run the page: {str(err).splitlines()[0]}\n  "
                         "Install it: python -m playwright install chromium") from err  # fmt: skip


def beyond_limits(compressed: Mapping[str, Any]) -> set[str]:
    """Return the names of the variants of a variants.json that do not keep to all the limits it was made for."""
    names = {field.name for field in dataclasses.fields(Gates)}
    gates = Gates(**{name: limit for name, limit in compressed.get("gates", {}).items() if name in names})
    return {row.name for row in (Table.read(compressed).variants if compressed else ()) if gates.misses(row)}


def _measure_variants(run: Run, folder: Path, variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time each .tflite; returns the variants, the fastest within the limits first."""
    process.say("Timing each .tflite in headless Chromium ...")
    with ThreadPoolExecutor(1) as thread:  # without an event loop, which a notebook has
        times, version = thread.submit(_time_models, folder).result()
    excess = beyond_limits(run.read(VARIANTS))
    rows = sorted(variants, key=lambda row: (row["name"] in excess, times[row["name"]]))
    text = ", ".join(f"{row['name']} {times[row['name']]:.1f} ms" for row in rows)
    sentence = f"One example in headless Chromium {version}: {text}; {rows[0]['name']} is shown first."
    if os.access(run.path, os.W_OK):
        run.note(sentence)
        run.record({f"browser/{name}_ms": milliseconds for name, milliseconds in times.items()})
        reporting.write_report(run)
    else:
        process.say(sentence)
    return [row | {"milliseconds": times[row["name"]]} for row in rows]
