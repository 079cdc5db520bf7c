"""A folder with a page that runs a model in any browser: the .tflite files, LiteRT.js, and what prepares an input.

What training does to a picture or a text is done in JavaScript (page/prepare.js). The runtime is no part of tfkit: it
comes from npm, from a folder or from an address, and each of its files is known by its SHA-256.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import reporting
from tfkit.compression.convert import convert
from tfkit.compression.inspect import inspect
from tfkit.compression.results import DEVICE_IDS, FOLDER, IDS_MODEL, MODEL, VOCABULARY
from tfkit.compression.sources import pixel_function
from tfkit.data.splits import FULL_RANGE
from tfkit.environment import files, process
from tfkit.errors import CheckError, ConfigError, StackError
from tfkit.litert import ParallelInterpreter
from tfkit.run import SAVED_MODEL, TFLITE, VARIANTS, Run

VERSION = "2.5.3"
RUNTIME = {
    "core/dist/index.js": "e7daccc3a31eef890848a737ccb863ded5f046a6b40c3fdc0556495adeb5d9b3",
    "core/wasm/litert_wasm_internal.js": "68efb69f770e3f76aff36a377de629ca496c131b86ac0f0f4b592a1543a898eb",
    "core/wasm/litert_wasm_internal.wasm": "7280cf4471774867e385e6c3cd53e2b45e2975b80fea338fff4ef359b0865614",
    "core/wasm/litert_wasm_compat_internal.js": "4d8f894b7883654fd6e8439730aa41e79ceaab7d19184fc4f1f0b0f1a2a2c8a5",
    "core/wasm/litert_wasm_compat_internal.wasm": "5255c8ad06eabdbd2522cdebf6b22fc10faf74625c23a49b9e072570cd1fa41c",
    "wasm-utils/dist/index.js": "e0e20bc28ab001ac732cf40d15b6eebd24fb0deaeb95eeba5100f51eebf015f2",
}
"""What is taken of @litertjs/core and @litertjs/wasm-utils (Apache-2.0), and its SHA-256."""

ENTRIES = {"@litertjs/core": "core/dist/index.js", "@litertjs/wasm-utils": "wasm-utils/dist/index.js"}
INSTALL = f"npm install --ignore-scripts {' '.join(f'{name}@{VERSION}' for name in ENTRIES)}"

_CHECKED, _TOLERANCE = 8, 1e-4


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
    kind = {3: "pictures", 0: "texts"}.get(len(shape := run.provenance.get("data", {}).get("shape", [0])))
    if kind is None:
        raise ConfigError(f"{run.path} is of rows of numbers; a page is for pictures and texts.")
    if measure:
        _playwright()
    is_address = runtime is not None and "://" in runtime
    place = None if is_address else _runtime(runtime)
    low, high = run.provenance.get("data", {}).get("pixel_range", FULL_RANGE)
    about: dict[str, Any] = {"labels": run.labels, "deep": (low, high) != FULL_RANGE}
    with files.new_folder(folder) as new:
        if place is not None:
            _copy(place, new / "runtime")
        variants, models = _variants(run, shape)
        about["variants"] = variants
        for name, content in models.items():
            (new / name).write_bytes(content)
        if shape:
            about["size"] = shape[0]
        else:
            about["length"] = inspect(next(iter(models.values()))).inputs[0].shape[1]
            shutil.copyfile(run.path / SAVED_MODEL / "assets" / VOCABULARY, new / VOCABULARY)
        _write_page(new, kind=kind, labels=run.labels, runtime=runtime if is_address else None)
        files.write_json(new / "about.json", about)
        if measure:
            about["variants"] = _measured(run, new, variants)
            files.write_json(new / "about.json", about)
    process.say(
        f"Open it: python -m http.server --bind 127.0.0.1 --directory {folder} 8000   # http://127.0.0.1:8000"
    )
    return folder


def _variants(run: Run, shape: Any) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Return what is known of each .tflite of the run, the chosen one first, and their contents by file name."""
    compressed = run.read(VARIANTS)
    known = {row["name"]: row for row in compressed.get("variants", [])}
    folder = run.path / TFLITE
    if shape:
        models = {path.name: path.read_bytes() for path in folder.glob("*.tflite") if path.name != MODEL}
    else:
        models = {f"{FOLDER}.tflite": path.read_bytes() for path in folder.glob(f"{FOLDER}/{IDS_MODEL}")}
    inventories = {name: inspect(content) for name, content in models.items()}
    # LiteRT.js has none of TensorFlow's operations.
    models = {name: models[name] for name, one in inventories.items() if not (one.flex_ops or one.custom_ops)}
    models = models or {"float32.tflite": _converted(run, shape)}
    rows = []
    for name, content in sorted(
        models.items(), key=lambda item: item[0] != f"{compressed.get('chosen')}.tflite"
    ):
        (given,) = inspect(content).outputs
        quantized = {"scale": given.scale or 1.0, "zero_point": given.zero_point or 0}
        accuracy = known.get(Path(name).stem, {}).get("accuracy")
        row = {"name": Path(name).stem, "file": name, "size_bytes": len(content), "accuracy": accuracy}
        rows.append(row | quantized)
    return rows, models


def _converted(run: Run, shape: Any) -> bytes:
    """Return the run's model as a float32 .tflite, proven on random inputs: a private run shows no examples."""
    from tfkit.environment.stack import tf

    process.say(
        "The run has no .tflite files yet (tfkit compress makes smaller ones): converting to float32 ..."
    )
    loaded, random = run.model, np.random.default_rng(0)
    inputs: Any
    if shape:
        content = convert(pixel_function(loaded.classify, keep=loaded), input_shape=(1, *shape))
        inputs = random.integers(0, 256, (_CHECKED, *shape)).astype(np.float32)
        expected = loaded.classify(tf.constant(inputs / np.float32(255)))
    else:
        if DEVICE_IDS not in loaded.signatures:
            raise ConfigError(
                f"The tokenizer of {run.path} is not WordPiece, which alone is known in JavaScript.\n"
                "  Train on the bundled encoder, or with --model-handle light."
            )
        content, signature = convert(loaded, signature=DEVICE_IDS), loaded.signatures[DEVICE_IDS]
        pieces = len((run.path / SAVED_MODEL / "assets" / VOCABULARY).read_text().split("\n")) - 1
        inputs = {
            name: random.integers("mask" in name, pieces if "word" in name else 1 + ("mask" in name),
                                  (_CHECKED, spec.shape[1]), np.int32)
            for name, spec in signature.structured_input_signature[1].items()
        }  # fmt: skip
        rows = [{name: tf.constant(ids[n : n + 1]) for name, ids in inputs.items()} for n in range(_CHECKED)]
        expected = np.concatenate([signature(**row)["probabilities"] for row in rows])
    with ParallelInterpreter(content) as interpreter:
        difference = float(np.abs(interpreter(inputs) - expected).max())
    if difference > _TOLERANCE:
        raise CheckError(
            f"The float32 .tflite gives other probabilities than {run.path} (by {difference:.3g})."
        )
    return content


def _runtime(runtime: str | None) -> Path:
    """Return the folder that holds the files of `RUNTIME`."""
    if runtime is None:
        return files.Cache("litertjs").get(VERSION, _install).path
    places = [Path(runtime, *parts) for parts in (("node_modules", "@litertjs"), ("@litertjs",), (), ("..",))]
    place = next((place for place in places if (place / "core/package.json").is_file()), None)
    if place is None:
        raise ConfigError(f"{runtime} holds no LiteRT.js. Get it into a folder: {INSTALL}")
    return place


def _install(folder: Path) -> Mapping[str, Any]:
    npm = shutil.which("npm")
    if npm is None:
        raise StackError(
            f"LiteRT.js {VERSION} is needed, and npm, which gets it, is not installed here.\n  Where npm is: {INSTALL}"
            "\n  and then --runtime THAT_FOLDER; or --runtime https://cdn.jsdelivr.net/npm for a page that is online."
        )
    process.say(f"Getting LiteRT.js {VERSION} by npm (12 MB) ...")
    with tempfile.TemporaryDirectory(prefix="tfkit-npm-") as scratch:
        words = [
            npm,
            *INSTALL.split()[1:],
            "--no-audit",
            "--no-fund",
            "--prefer-offline",
            "--prefix",
            scratch,
        ]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=scratch, timeout=600)
        if done.returncode:
            raise StackError(f"npm does not get LiteRT.js: {done.stderr.strip()[-300:]}\n  Try it: {INSTALL}")
        _copy(Path(scratch, "node_modules/@litertjs"), folder)
    return {"packages": list(ENTRIES)}


def _copy(place: Path, folder: Path) -> None:
    """Copy the files of `RUNTIME`, if they are what they must be."""
    for name, digest in RUNTIME.items():
        if not (place / name).is_file() or files.sha256_of(place / name) != digest:
            raise CheckError(f"{place / name} is not that of LiteRT.js {VERSION}. Get it anew: {INSTALL}")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / name, folder / name)


def _write_page(folder: Path, *, kind: str, labels: list[str], runtime: str | None) -> None:
    """Write index.html, whose policy forbids every connection but to where it and the runtime are, and its files."""
    from jinja2 import Environment

    if runtime is not None and not re.fullmatch(
        r"(https://|http://(localhost|127\.0\.0\.1)\b)[\w.:/@~-]*", runtime
    ):
        raise ConfigError(
            f"--runtime {runtime} is no folder, and no plain address that begins with https://."
        )
    at = {
        name: f"./runtime/{entry}" if runtime is None
        else f"{runtime.rstrip('/')}/{name}@{VERSION}/{entry.split('/', 1)[1]}"
        for name, entry in ENTRIES.items()
    }  # fmt: skip
    sums = {at[name]: f"sha256-{_base64(bytes.fromhex(RUNTIME[entry]))}" for name, entry in ENTRIES.items()}
    imports = json.dumps({"imports": at, "integrity": sums})
    own = "'self'" if runtime is None else f"'self' {'/'.join(runtime.split('/')[:3])}"
    known = f"'sha256-{_base64(hashlib.sha256(imports.encode()).digest())}'"
    policy = (
        f"default-src 'none'; script-src {own} 'wasm-unsafe-eval' {known};"
        f" connect-src {own}; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = resources("tfkit.exporting").joinpath("page")
    environment = Environment(autoescape=True, trim_blocks=True)
    shown = ", ".join(labels[:4]) + (", ..." if len(labels) > 4 else "")
    template = environment.from_string(page.joinpath("index.html.j2").read_text(encoding="utf-8"))
    html = template.render(title=f"Which is it: {shown}?", kind=kind, policy=policy, imports=imports)
    files.write_text(folder / "index.html", html)
    for name in ("app.js", "prepare.js", "style.css"):
        files.write_text(folder / name, page.joinpath(name).read_text(encoding="utf-8"))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _playwright() -> Any:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as err:
        raise StackError("--measure opens Chromium by Playwright: pip install playwright") from err
    return sync_playwright


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine alone, while the block runs; yields its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def _measured(run: Run, folder: Path, variants: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Time each .tflite in headless Chromium; returns the variants, the fastest within the limits first."""
    process.say("Timing each .tflite in headless Chromium ...")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with served(folder) as address, _playwright()() as playwright:
        try:
            # Root cannot have Chromium's sandbox.
            browser = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.getuid() != 0)
            page = browser.new_page()
            page.goto(address)
            times = page.evaluate("import('./app.js').then((page) => page.measure())")
        except Exception as err:  # whatever Playwright raises: no browser, no answer
            raise StackError(f"Chromium does not run the page: {str(err).splitlines()[0]}\n  "
                             "Install it: python -m playwright install chromium") from err  # fmt: skip
    compressed = run.read(VARIANTS)
    drops = {row["name"]: row["accuracy_drop"] or 0.0 for row in compressed.get("variants", [])}
    limit = compressed.get("gates", {}).get("max_accuracy_drop", 0.0)
    ordered = sorted(variants, key=lambda row: (drops.get(row["name"], 0.0) > limit, times[row["name"]]))
    listed = ", ".join(f"{row['name']} {times[row['name']]:.1f} ms" for row in ordered)
    sentence = (
        f"One example in headless Chromium {browser.version}: {listed}; {ordered[0]['name']} is shown first."
    )
    if os.access(run.path, os.W_OK):
        run.note(sentence)
        run.record({f"browser/{name}_ms": milliseconds for name, milliseconds in times.items()})
        reporting.write_report(run)
    else:
        process.say(sentence)
    return [row | {"milliseconds": times[row["name"]]} for row in ordered]
