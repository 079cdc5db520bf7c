"""The pages' templates: all text is escaped, cleaned of what cannot be shown, and no script could run on a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfkit.report import words
from tfkit.tensorboard.figures import printable

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
    environment.filters.update(
        number=words.number, share=words.share, kilobytes=words.kilobytes, verbatim=verbatim, cut=cut
    )
    return environment.get_template(name).render(content)


def verbatim(line: str) -> Any:
    """A line to be copied: every space of it stays."""
    from markupsafe import Markup

    return Markup.escape(line.encode(errors="replace").decode())


def cut(name: str) -> str:
    """A name that may be longer than anybody reads; the card has all of it."""
    return printable(name, longest=LONGEST)
