"""Search the settings of a recipe that trains, by its validation split, and train with the best.

What is given is fixed; what is left out is searched: learning rate, epochs, batch size, the head's units and dropout.

Examples:
    python -m recipes.tune transfer_image --data-dir photos/ --trials 20 --minutes 30
    python -m recipes.tune transfer_text --data-file mails.csv --target accuracy --global-batch-size 64
    python -m recipes.tune train_distributed --data-dir photos/ --search-whole         (augmentation: minutes each)
    python -m recipes.tune train_private --data-dir scans/ --target-epsilon 3           (epsilon of the whole search)
"""

from __future__ import annotations

import sys
from typing import Any

from tfkit import cli
from tfkit.errors import ConfigError
from tfkit.run import Run
from tfkit.transfer.train import RECIPES
from tfkit.tuning.tune import search, with_search


def run(config: Any) -> Run:
    """Do the whole search.

    Args:
      config: of a class of `with_search`.

    Returns:
      The finished run of the best settings, in the search's folder `best`.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    return search(config)


def closing_lines(run: Run) -> list[str]:
    """Say what the best settings are worth, and where all of them are."""
    folder = run.path.parent
    return [*cli.closing_lines(run), f"search       {folder / 'report.html'}"]


def main(words: list[str]) -> None:
    """Search by a command line: the name of a recipe, then flags of the search and of the recipe. Never returns."""
    parser = cli.Parser(prog="python -m recipes.tune", usage="%(prog)s RECIPE [FLAGS]", description=__doc__)
    parser.add_argument(
        "recipe", choices=RECIPES, help="whose settings are searched; RECIPE --help lists the flags"
    )
    try:
        cli.main(with_search(parser.parse_args(words[:1]).recipe), run, words[1:], closing=closing_lines)
    except ConfigError as error:
        print(cli.explain(error), file=sys.stderr)
        sys.exit(cli.exit_code(error))


if __name__ == "__main__":
    main(sys.argv[1:])
