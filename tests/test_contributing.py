"""CONTRIBUTING's example is a recipe."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def recipe(tmp_path):
    (program,) = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "count_classes.py").write_text(program)

    def call(*words, capsys):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["count_classes", *words])
            patch.syspath_prepend(tmp_path)
            runpy.run_module("count_classes", run_name="__main__", alter_sys=True)
        return ended.value.code, capsys.readouterr()

    return call


def test_it_counts_answers_in_json_and_refuses(recipe, photos, tmp_path, capsys):
    words = ("--data-dir", str(photos), "--run-dir", str(tmp_path / "run"))
    code, said = recipe(*words, capsys=capsys)
    assert code == 0
    assert re.search(r"data/train_examples +84$", said.out, flags=re.MULTILINE)
    code, said = recipe(*words, "--overwrite", "--json", capsys=capsys)
    assert code == 0
    assert json.loads(said.out)["metrics"]["data/train_examples"] == 84
    code, said = recipe("--data-dir", "nowhere", capsys=capsys)
    assert code == 2
    assert "--data-dir nowhere is not a folder" in said.err
    code, said = recipe("--help", capsys=capsys)
    assert "Folder with one subfolder a class." in said.out
