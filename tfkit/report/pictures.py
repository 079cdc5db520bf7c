"""Figures and photos as parts of a page: inline, with ids of their own, and nothing to load."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from tfkit.tensorboard import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
