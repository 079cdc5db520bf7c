"""README and manual say what is true: their commands and programs are run here, in the order in which they stand."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import forked
from tests.conftest import write_digits
from tfkit.environment.stack import keras

compare = importlib.import_module("tfkit.compression.compare")  # tfkit.compression's own name is the function
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MANUAL = ROOT / "docs/manual"
# Pages with a test of their own, which runs their programs.
OF_OTHERS = {
    "explanation/privacy.md": "tests/privacy/test_dp_model.py",
    "how-to/agents.md": "tests/recipes/test_train_agent.py",
    "how-to/browser.md": "tests/exporting/test_browser.py",
    "how-to/calibration.md": "tests/training/test_calibrated.py",
    "how-to/continuing.md": "tests/transfer/test_continuing.py",
    "how-to/explain.md": "tests/inference/test_explain.py",
    "how-to/languages.md": "tests/recipes/test_languages.py",
    "how-to/long_documents.md": "tests/transfer/test_long_documents.py",
    "how-to/predict.md": "tests/inference/test_predict.py",
    "how-to/private_images.md": "tests/transfer/test_scattered.py",
    "how-to/serving.md": "tests/exporting/test_serving.py",
    "how-to/tasks.md": "tests/transfer/test_labels.py",
    "how-to/tfx.md": "tests/exporting/test_tfx.py",
    "how-to/tune.md": "tests/recipes/test_tune.py",
    "map.md": "tests/compression/test_mlir.py",
}
PAGES = [
    ROOT / "README.md",
    *(p for p in sorted(MANUAL.rglob("*.md")) if str(p.relative_to(MANUAL)) not in OF_OTHERS),
]
BLOCKS = [
    block for page in PAGES
    for block in re.findall(r"^```(sh|python)\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
]  # fmt: skip
# What needs more than one machine, a scheduler, or half an hour: the test that runs it instead, or why none does.
ELSEWHERE = {
    "uv run pytest": "this is it",
    "https://": "tests/hub/test_fetch.py",
    "--hosts": "tests/distribution/test_launcher.py",
    "srun": "tests/distribution/test_slurm.py",
    "--engine ray": "tests/distribution/test_ray_engine.py",
    "tfkit doctor": "tests/environment/test_doctor.py",
    "-m benchmarks.": "takes from 3 to 60 minutes",
    "pip install": "needs an empty environment",
    ".ci/run": "it runs this",
    "git clone": "needs the published repository",
    "tensorboard --logdir": "tests/reporting/test_dashboards.py",
    "--model-handle multilingual": "tests/recipes/test_languages.py",
    "tfds:": "needs a network",
    "tfkit export runs/photos browser": "tests/exporting/test_browser.py",
    "tensorboard.notebook(": "tests/notebooks/test_one_process.py",
    "notebooks.make": "tests/notebooks/test_family.py",  # it writes into the repository
    "--cluster slurm": "tests/distribution/test_slurm.py",
}
# What takes minutes on the embedded data is done with smaller images, a smaller model or fewer epochs; on the user's
# own few images and texts each command is run as it stands.
FEWER = {
    "recipes.transfer_image": ("--image-size=48", "--epochs=5", "--fine-tune-epochs=0"),
    "recipes.transfer_text": ("--model-handle=light", "--epochs=2"),
    "recipes.train_distributed --strategy mirrored --logical-cpus 2 --epochs 2 --run-dir runs/rehearsal": (
        "--image-size=32",
    ),
}
# TensorFlow's port is open to every interface, and asks nobody who they are.
ALONE = f"unshare {'' if os.getuid() == 0 else '-r'} -n bash -c "


def commands(block: str) -> list[str]:
    lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


# A command that stands there twice is run once.
STEPS = [
    *dict.fromkeys(
        (kind, step)
        for kind, block in BLOCKS
        for step in (commands(block.removeprefix("pip install -q uv && ")) if kind == "sh" else [block])
    )
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What the README's user has: photos, scans, mails, reviews, documents."""
    folder = tmp_path_factory.mktemp("user")
    write_digits(folder / "photos", classes=3, each=40)
    write_digits(folder / "scans", classes=3, each=60)
    images = sorted((folder / "photos").rglob("*.png"))
    rows = [f"{image.relative_to(folder)},{image.parent.name}" for image in images]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]))
    photo = next((folder / "photos" / "digit 1").iterdir())
    for name in ("photo.jpg", "some.jpg"):
        shutil.copy(photo, folder / name)
    shutil.copytree(folder / "photos" / "digit 2", folder / "new_photos")
    asked = {
        "delivery": "Where is parcel {}?",
        "billing": "Invoice {} is wrong.",
        "praise": "I like lamp {}.",
    }
    mails = [f"{text.format(number)},{kind}" for kind, text in asked.items() for number in range(30)]
    (folder / "mails.csv").write_text("\n".join(["body,folder", *mails]))
    for kind, text in {"good": "I would buy it again", "bad": "It broke after a day"}.items():
        (folder / "reviews" / kind).mkdir(parents=True)
        for number in range(20):
            (folder / "reviews" / kind / f"{number}.txt").write_text(f"{text}, number {number}.")
    (folder / "documents").mkdir()
    (folder / "documents" / "terms.txt").write_text("You may end the contract at the end of a month.")
    (folder / "documents" / "menu.txt").write_text("Soup, bread, and an apple.")
    model = keras.Sequential([keras.Input([32, 32, 3]), keras.layers.Flatten(), keras.layers.Dense(3)])
    model.export(str(folder / "any_saved_model"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def short_measurements() -> Iterator[None]:
    """A file's latency is measured for less long, its memory in a fork: no test here looks at these numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "_SECONDS", 0.03)
        patch.setattr(compare, "subprocess", forked)
        yield


def build_model():
    model = keras.Sequential([keras.layers.Flatten(input_shape=(96, 96, 3)), keras.layers.Dense(3)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


NAMES = {"build_model": build_model}  # what the programs see of one another


def title(step: tuple[str, str]) -> str:
    return re.sub(r"\W+", " ", step[1].strip().splitlines()[0].replace("uv run python -m ", ""))[:60].strip()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "step"), STEPS, ids=map(title, STEPS))
def test_it_runs(kind, step, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if any(fragment in step for fragment in ELSEWHERE):
        return
    if kind == "python":
        program(step, folder)
    else:
        command(step)


def program(text: str, folder: Path) -> None:
    if "distribution.launch" in text:
        (folder / "program.py").write_text(text)
        shell(f"{sys.executable} program.py", alone=True)
    else:
        exec(compile(text, "README.md", "exec"), NAMES)


def command(line: str) -> None:
    words = shlex.split(line)
    if words[:4] != ["uv", "run", "python", "-m"]:
        shell(re.sub(r"^python ", f"{sys.executable} ", line), alone=False)
        return
    module = words[4:]
    module += FEWER.get(" ".join(module), ())
    if "launch" in module or "predict" in module:  # a process as the user starts it
        shell(shlex.join([sys.executable, "-m", *module]), alone="launch" in module)
    elif module[0] == "tfkit" or "--logical-cpus" in module:
        done = forked.run([sys.executable, "-m", *module], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr[-3000:]
    else:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", module)
            runpy.run_module(module[0], run_name="__main__", alter_sys=True)
        assert ended.value.code == 0


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def shell(line: str, *, alone: bool) -> None:
    done = subprocess.run(
        ALONE + shlex.quote(f"ip link set lo up; {line}") if alone else line,
        shell=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_what_is_shortened_stands_there():
    assert set(FEWER) <= {step.removeprefix("uv run python -m ") for _, step in STEPS}


def test_what_is_not_run_here_is_run_there():
    for place in ELSEWHERE.values():
        assert not place.startswith("tests/") or (ROOT / place).is_file()


@pytest.mark.slow
def test_the_benchmarks_can_be_called_as_the_pages_say():
    text = "".join(page.read_text() for page in (ROOT / "README.md", *MANUAL.rglob("*.md")))
    names = {*re.findall(r"python -m benchmarks\.(\w+)", text)}
    assert len(names) > 10
    for name in sorted(names):
        words = [sys.executable, "-m", f"benchmarks.{name}", "--help"]
        done = forked.run(words, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, (name, done.stderr[-2000:])


def test_every_page_is_run_somewhere():
    for page, place in OF_OTHERS.items():
        assert (MANUAL / page).is_file()
        assert (ROOT / place).is_file()


def test_the_readme_is_a_front_page():
    assert len(README.splitlines()) <= 200


def test_every_job_has_a_program_that_is_short():
    programs = re.findall(r"^```python\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
    assert len(programs) >= 5
    for program in programs:
        assert len([line for line in program.splitlines() if line.strip()]) <= 6


def test_the_commands_are_those_that_ci_runs():
    assert "pip install -q uv && uv run python -m recipes.transfer_image" in README
    assert "uv run pytest" in README
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()


STOCK = ("No module named", "tensorflow_privacy", "Only instances of", "GeneratorDatasetOp", "oneDNN")


def test_the_messages_that_it_explains_are_messages():
    """Of tfkit's own each is a piece of its source."""
    source = "".join(
        path.read_text() for folder in ("tfkit", "recipes") for path in (ROOT / folder).rglob("*.py")
    )
    page = (MANUAL / "how-to/troubleshooting.md").read_text()
    table = page[page.index("| what is printed |") :].split("\n\n")[0]
    messages = [
        message
        for row in table.splitlines()[2:]
        for message in re.findall(r"``(.+?)``(?!`)|`([^`]+)`", row.split(" | ")[0])
    ]
    assert len(messages) > 10
    for message in filter(None, (double or single for double, single in messages)):
        assert message in source or message.startswith(STOCK), message
