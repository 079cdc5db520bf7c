"""Editors complete the verbs' keyword arguments, and a type checker accepts what README and manual show."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mypy import api

from tests import keywords

ROOT = Path(__file__).parents[1]
# Some programs go on from others.
BEFORE = """
from typing import Any
import numpy as np
import tfkit
images: Any = None
tags: Any = None
values: Any = None
splits = tfkit.load_images("photos")
"""
WRONG = "import tfkit\ntfkit.train('photos', epoch=3)\ntfkit.train('photos', image_size='large')\n"


def test_the_keywords_are_those_of_the_settings():
    assert keywords.STUB.read_text() == keywords.text(), "uv run python -m tests.keywords --write"


@pytest.mark.slow
def test_the_programs_of_the_documents_have_the_right_types(tmp_path, monkeypatch):
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    programs = {"wrong": WRONG}
    for page in (ROOT / "README.md", *sorted((ROOT / "docs/manual").rglob("*.md"))):
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
        for number, block in enumerate(blocks):
            model = "" if "def build_model" in block else "build_model: Any = None\n"
            programs[f"{page.stem}_{number}".lower()] = BEFORE + model + block
    for name, program in programs.items():
        (tmp_path / f"{name}.py").write_text(program)
    words = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent", "--allow-redefinition"]
    printed, _, _ = api.run(
        [*words, "--cache-dir", str(tmp_path / "cache"), *map(str, tmp_path.glob("*.py"))]
    )
    errors = [line for line in printed.splitlines() if ": error:" in line]
    found = [line for line in errors if "/wrong.py" in line]
    assert len(found) == 2, printed
    assert '"epoch"' in found[0]
    assert '"image_size"' in found[1]
    assert errors == found
