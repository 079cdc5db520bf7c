"""The floors of the house, as import-linter holds them (pyproject.toml): they hold, and a breach is seen."""

import graphlib
import shutil
import subprocess
import sys
from pathlib import Path

import grimp

REPO = Path(__file__).parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)


def test_nothing_imports_from_a_higher_floor():
    done = lint(REPO)
    assert done.returncode == 0, done.stdout


def test_no_module_imports_one_that_imports_it():
    """Imports within functions and those for type checkers count too."""
    graph = grimp.build_graph("tfkit", "recipes", cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) - {name} for name in graph.modules}
    assert len(imports) > 60
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, with the cycle


def test_breaches_are_seen(tmp_path):
    for name in ("tfkit", "recipes"):
        shutil.copytree(REPO / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", tmp_path)
    breaches = [
        (
            "tfkit/data/extra.py",
            "from tfkit import training",
            "tfkit.data is not allowed to import tfkit.training",
        ),
        ("tfkit/data/more.py", "import tensorflow_hub", "tfkit is not allowed to import tensorflow_hub"),
        ("tfkit/hub/extra.py", "import recipes", "tfkit is not allowed to import recipes"),
        ("tfkit/misplaced.py", "", "misplaced"),
    ]
    for file, line, _ in breaches:
        (tmp_path / file).write_text(f"{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert [breach for _, _, breach in breaches if breach not in done.stdout] == []
