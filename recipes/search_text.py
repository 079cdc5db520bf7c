"""Search documents by what they mean, not by the words that they use.

Examples:
    python -m recipes.search_text --query "mean of an array"              (embedded docstrings and encoder, offline)
    python -m recipes.search_text --data-dir documents/ --run-dir runs/documents --query "how do I cancel"
    python -m recipes.search_text --run-dir runs/documents --query "who pays for a return"    (embeds nothing again)
    python -m recipes.search_text --data-file mails.csv --text-column body --queries-file questions.txt --top 3
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tfkit import cli
from tfkit.environment import files
from tfkit.run import HITS, INDEX, REPORT, Run
from tfkit.settings.options import SearchConfig
from tfkit.settings.parse import as_dict, run_dir

if TYPE_CHECKING:
    from tfkit.searching import Index


@dataclass(frozen=True, kw_only=True)
class Config(SearchConfig):
    """Which documents, which encoder, which questions."""


def run(config: Config) -> Run:
    """Do the whole job, or answer from the index that is there.

    Args:
      config: what to do it with.

    Returns:
      The run, with index/ and hits.json; `tfkit.searching.Index.open(run.path / "index")` answers further questions.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    from tfkit.searching import Index
    from tfkit.searching.index import encoder, make, questions, read

    folder = run_dir(config, recipe="search_text")
    texts = questions(config)
    whole = (folder / INDEX).is_dir() and (folder / REPORT).is_file()
    if whole and config.run_dir is not None and not config.names_documents and not config.overwrite:
        run = Run.open(folder)
        run.check_writable()
        named = None if config.model_handle is None and config.max_length is None else encoder(config)
        return _answer(run, Index.open(run.path / INDEX, encoder=named), texts, config)
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        if run.finished:
            index = Index.open(run.path / INDEX)
            if read(config).fingerprint != index.description["fingerprint"]:
                run.say("The documents have changed since the index was made; --overwrite makes it anew.")
            return _answer(run, index, texts, config)
        from tfkit import reporting
        from tfkit.environment.packages import versions

        began = time.monotonic()
        run.versions = versions()
        index = make(run, read(config), config)
        _answer(run, index, texts, config)
        run.record({"time/total_seconds": time.monotonic() - began})
        reporting.write_report(run)
    return run


def _answer(run: Run, index: Index, texts: list[str], config: Config) -> Run:
    """Find and keep what answers the questions."""
    answered = index.queries(texts, top=config.top)
    answers = [
        {"query": text, "hits": [asdict(hit) for hit in hits]}
        for text, hits in zip(texts, answered, strict=True)
    ]
    files.write_json(run.path / HITS, {"answers": answers})
    return run


def closing_lines(run: Run) -> list[str]:
    """Return what was found, and where the index is."""
    from tfkit.searching import Hit
    from tfkit.searching.index import shown

    answers = json.loads((run.path / HITS).read_text())["answers"]
    lines = [
        line for answer in answers for line in shown(answer["query"], [Hit(**hit) for hit in answer["hits"]])
    ]
    index = run.path / INDEX
    return [
        *lines,
        "",
        f"index        {index}",
        f"ask more     python -m recipes.search_text --run-dir {run.path} --query ...",
        f'in Python    tfkit.searching.Index.open("{index}").query("...")',
        *cli.where_to_look(run),
    ]


if __name__ == "__main__":
    cli.main(Config, run, closing=closing_lines)
