"""What `import tfkit` costs and offers."""

import ast
import pydoc
import subprocess
import sys
from pathlib import Path

import pytest

import tfkit

HEAVY = ("tensorflow", "tf_keras", "keras", "numpy", "pandas", "sklearn", "matplotlib", "PIL", "jinja2")


def imported_by(code: str) -> set[str]:
    """The top-level modules that a fresh process holds after `code`."""
    program = f"{code}\nimport sys; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.stack
@pytest.mark.parametrize(
    "code",
    [
        "import tfkit",
        "import tfkit.errors; from tfkit.environment import stack, files, packages, process",
        "import tfkit; tfkit.__version__, dir(tfkit), tfkit.errors.TfkitError",
        "from tfkit.environment.packages import versions; versions()",
        "import tfkit.__main__",
        "import contextlib, tfkit.__main__ as m\nwith contextlib.suppress(SystemExit): m.main(['--help'])",
    ],
)
def test_nothing_heavy_is_imported(code):
    assert not imported_by(code) & set(HEAVY)


@pytest.mark.parametrize("recipe", ["transfer_image", "compress_tflite", "search_text", "train_agent"])
def test_the_help_of_a_recipe_starts_nothing(recipe):
    code = f"from recipes import {recipe} as r\nfrom tfkit import cli\nimport contextlib\n"
    code += "with contextlib.suppress(SystemExit): cli.main(r.Config, r.run, ['--help'])"
    # The last two are the launcher's, and those of a word that nobody knows.
    assert not imported_by(code) & {*HEAVY, "joblib", "pickle", "difflib"}


def test_the_help_of_a_search_starts_nothing():
    code = "import contextlib\nfrom recipes import tune\nwith contextlib.suppress(SystemExit): "
    found = imported_by(code + "tune.main(['transfer_image', '--help'])")
    assert not found & {*HEAVY, "joblib", "optuna"}


def test_every_public_name_exists():
    for name in dir(tfkit):
        assert getattr(tfkit, name) is not None


def test_public_names_are_those_that_a_type_checker_sees():
    tree = ast.parse(Path(tfkit.__file__).with_suffix(".pyi").read_text())
    names = {alias.asname or alias.name for node in ast.walk(tree) for alias in getattr(node, "names", [])}
    names |= {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    assert set(dir(tfkit)) <= names


def test_the_help_fits_on_a_screen():
    text = pydoc.plain(pydoc.render_doc(tfkit))
    assert "tfkit.train(" in text
    assert len(text.splitlines()) <= 70
    assert max(map(len, text.splitlines())) <= 120


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'fitt'"):
        _ = tfkit.fitt
