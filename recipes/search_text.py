"""Search documents by what they mean, not by the words that they use.

Examples:
    python -m recipes.search_text --query "my suitcase is lost"           (embedded messages and encoder, offline)
    python -m recipes.search_text --data-dir documents/ --run-dir runs/documents --query "how do I cancel"
    python -m recipes.search_text --run-dir runs/documents --query "who pays for a return"    (embeds nothing again)
    python -m recipes.search_text --data-file mails.csv --text-column body --queries-file questions.txt --top 3
"""

from __future__ import annotations

import json

from tfkit import cli
from tfkit.run import HITS, INDEX, Run
from tfkit.settings.jobs import SearchConfig

Config = SearchConfig


def run(config: Config) -> Run:
    """Make the index, or take the one that is there, and answer the questions.

    Args:
      config: what to do it with.

    Returns:
      The run, with index/ and hits.json; `tfkit.searching.Index.open(run.path / "index")` answers further questions.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    from tfkit.searching.search import search_documents

    return search_documents(config)


def closing_lines(run: Run) -> list[str]:
    """Return what was found, and where the index is."""
    from tfkit.searching.search import format_hits

    content = json.loads((run.path / HITS).read_text())
    chance = content["chance"]
    lines = [
        line
        for answer in content["answers"]
        if not answer.get("printed")
        for line in format_hits(answer["query"], answer["hits"], chance=chance)
    ]
    index = run.path / INDEX
    return [
        *lines,
        "",
        f"scores       cosines: 1 is the same meaning; 95 % of random pairs of passages are below {chance:.2f}",
        f"index        {index}",
        f"ask more     python -m recipes.search_text --run-dir {run.path} --query ...",
        f'in Python    tfkit.searching.Index.open("{index}").query("...")',
        *([cli.took(run)] if run.times else []),
        *cli.where_to_look(run),
    ]


if __name__ == "__main__":
    cli.main(Config, run, closing=closing_lines)
