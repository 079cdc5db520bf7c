"""Several runs on one page: what differs is shown, what would mislead is said, what is no run is refused."""

import re

import numpy as np
import pytest

from tests.reporting.finished_runs import CLASSES, HOSTILE, PRIVATE, Page, digits, full_run
from tfkit import __main__, reporting
from tfkit.data import from_arrays
from tfkit.environment import files
from tfkit.errors import ConfigError, RunError
from tfkit.regression import ValueEvaluation
from tfkit.reporting.comparison import report
from tfkit.reporting.examples import save
from tfkit.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two alike, one weaker, and one private, of other data, below a folder with a name like an address."""
    folder = tmp_path_factory.mktemp("runs")
    full_run(folder / "first")
    weaker = full_run(folder / "weaker", smoothing=1e-3, config={"epochs": 7, HOSTILE: 1})
    weaker.versions = {"python": "3.12", "packages": {"tensorflow": "2.21.0", "numpy": "2"}}
    other = full_run(folder / "javascript:alert(4)" / "first", privacy=PRIVATE)
    other.provenance = {"data": {"origin": "b", "fingerprint": "g", "division": "d", "shape": [8, 8, 3]}}
    return folder


def cells(page, heading):
    """The name of a row to its cells, of the table below that heading."""
    table = re.search(rf">{heading}</h2>.*?<tbody>(.*?)</tbody>", page.source, flags=re.DOTALL)[1]
    rows = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL) for row in table.split("</tr>")]
    return {row[0]: [cell.strip() for cell in row[1:]] for row in rows if row}


@pytest.fixture(scope="module")
def pair(folder):
    return Page(
        reporting.write_comparison([Run(folder / "first"), Run(folder / "weaker")], folder / "pair.html")
    )


def test_only_what_differs_is_shown(pair):
    settings = cells(pair, "Settings that differ")
    assert settings == {"epochs": ["5", "7"], "&lt;script&gt;alert(1)&lt;/script&gt;": ["–", "1"]}
    assert cells(pair, "Environments: what differs") == {"python": ["3.11", "3.12"], "numpy": ["–", "2"]}
    assert "None of the runs made a promise of privacy." in pair.text


def test_the_difference_is_tested_on_the_same_examples(pair):
    ours, theirs = (digits(smoothing=smoothing)[0] for smoothing in (1.0, 1e-3))
    right, right_there = ours.predicted == ours.labels, theirs.predicted == theirs.labels
    lost, won = int((right & ~right_there).sum()), int((~right & right_there).sum())
    assert lost > won
    beside = cells(pair, "Overview")["beside the best"]
    assert beside[0] == "the best"
    assert beside[1].startswith(f"{lost} more wrong, {won} more right; by chance: p = ")
    assert float(beside[1].split("= ")[1]) < 0.05
    assert "All were tested on the very same examples." in pair.text
    assert cells(pair, "Overview")["best TFLite variant"] == ["int8", "int8"]


def test_the_same_examples_at_another_size_are_the_same_ones(tmp_path):
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8), np.arange(40) % 2
    cases = {"small": (8, 0), "large": (16, 0), "cut anew": (8, 1)}
    for name, (size, seed) in cases.items():
        full_run(tmp_path / name).provenance = {
            "data": from_arrays(images, labels, image_size=size, seed=seed).provenance
        }
    for name, said in (
        ("large", "All were tested on the very same"),
        ("cut anew", "not all tested on the same"),
    ):
        runs = [Run(tmp_path / "small"), Run(tmp_path / name)]
        assert said in Page(reporting.write_comparison(runs, tmp_path / "page.html")).text


def test_curves_lie_over_each_other(pair):
    assert len(pair.figures) == 3
    assert all(">first<" in svg and ">weaker<" in svg for svg in pair.figures)
    assert "validation accuracy over the epochs" in pair.alternatives[0]


def test_classes_are_those_first_in_which_the_runs_differ(pair):
    rows = list(cells(pair, "Recall of each class, the least even one first").values())
    shares = np.array([[float(cell.removesuffix(" %")) for cell in row] for row in rows])
    spread = np.ptp(shares, axis=1)
    assert len(rows) == len(CLASSES)
    assert np.all(np.diff(spread) <= 0.1)
    assert spread[0] > 1


def test_other_data_and_several_private_runs_are_remarked_on(folder):
    private = folder / "javascript:alert(4)" / "first"
    page = Page(reporting.write_comparison([Run(folder / "first"), Run(private)], folder / "compare.html"))
    assert "not all tested on the same examples" in page.text
    assert "adds up" not in page.text
    assert cells(page, "Overview")["epsilon"] == ["no promise", "3 at delta 1e-05"]
    assert "beside the best" not in page.text
    assert [value for _, name, value in page.attributes if name == "href"] == [
        "./first/report.html", "./javascript%3Aalert%284%29/first/report.html",
    ]  # fmt: skip
    both = reporting.write_comparison([Run(private), Run(private)], folder / "both.html")
    assert "what they spent adds up" in Page(both).text


def test_the_command_refuses_what_is_no_finished_run_before_it_writes(folder, tmp_path):
    first = folder / "first"
    page = first / "report.html"
    page.unlink(missing_ok=True)
    begun = Run.create(tmp_path / "begun", config={})
    for wrong, error, said in (
        ([first, begun.path], RunError, "has not come to its end"),
        ([first, tmp_path / "nowhere"], RunError, "holds no run"),
        ([first, folder], RunError, "Runs below it: first, weaker"),
        ([[first, first]], ConfigError, r"not a list: report\(\*runs\)"),
    ):
        with pytest.raises(error, match=said):
            report(*wrong)
    assert not begun.finished
    assert not page.exists()


def test_where_the_comparison_goes(tmp_path, capsys):
    runs = [tmp_path / name for name in ("a", "b")]
    for path in runs:
        with Run.create(path, config={}) as run:
            run.record({"time/total_seconds": 1.0})
    assert __main__.main(["report", *map(str, [*runs, runs[0]])]) == 0
    assert capsys.readouterr().out.splitlines() == [
        *(str(path / "report.html") for path in runs),
        str(tmp_path / "compare.html"),
    ]
    assert "2 runs beside each other" in Page(tmp_path / "compare.html").text  # the same one twice is one
    output = tmp_path / "new" / "page.html"
    assert __main__.main(["report", *map(str, runs), "--output", str(output)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(output)
    assert __main__.main(["report", str(runs[0])]) == 0
    assert capsys.readouterr().out.splitlines() == [str(runs[0] / "report.html")]
    assert "All settings are the same." in Page(output).text
    for given, paths, said in (
        (output, runs[:1], "1 given"),
        (tmp_path, runs, "a folder"),
        (runs[0] / "config.yaml", runs, "a file of its own"),
    ):
        with pytest.raises(ConfigError, match=said):
            report(*paths, output=given)
    assert __main__.main(["report", str(runs[0]), "--output", str(output)]) == 2


def test_runs_of_numbers_are_compared_by_their_score(tmp_path):
    """An accuracy has rights and wrongs to count; R2 has none, and no class has a recall."""
    labels = np.linspace(0, 9, 60)
    off = np.random.default_rng(0).normal(0, 1, 60)
    for name, error in (("near", 0.5), ("far", 2.0), ("of_another", 2.0)):
        run = Run.create(tmp_path / name, config={})
        outputs = np.stack([labels + error * off, np.ones(60)], axis=1)
        about = {"names": range(60), "class_names": ["age"]}
        save(run.path / "evaluation.npz", ValueEvaluation(labels=labels, probabilities=outputs, **about))
        files.write_json(run.path / "task.json", {"name": "value"})
        data = {"fingerprint": "g" if name == "of_another" else "f", "division": "d"}
        run.provenance = {"data": {"origin": "ages.csv", **data}}
    runs = [Run(tmp_path / name) for name in ("near", "far", "of_another")]
    rows = cells(Page(reporting.write_comparison(runs, tmp_path / "compare.html")), "Overview")
    found = re.fullmatch(r"R2 (-0\.\d+), 95 % interval (-0\.\d+) to (-0\.\d+)", rows["beside the best"][1])
    gain, *ends = map(float, found.groups())
    assert -1 < ends[0] < gain < ends[1] < 0
    assert [rows["beside the best"][place] for place in (0, 2)] == ["the best", "–"]
    assert rows["test R2"][0].startswith("0.9"), "which is no share, and not in percent"
