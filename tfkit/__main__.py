"""The command line: python -m tfkit COMMAND."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tfkit import cli
from tfkit.distribution.manifest import add_command
from tfkit.errors import TfkitError

if TYPE_CHECKING:
    from tfkit.hub.catalogue import Known, KnownText

_EPILOG = f"""
examples:
  python -m tfkit doctor
  python -m tfkit launch --workers 2 -- -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
  python -m tfkit report runs/photos runs/private --output runs/compare.html

{cli.EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    parser = cli.Parser(
        prog="python -m tfkit",
        description="TensorFlow recipes that work together.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor = commands.add_parser(
        "doctor", help="try every package, and say which command repairs what is broken"
    )
    doctor.add_argument("--json", action="store_true", help="print all of it as JSON, for a bug report")
    doctor.set_defaults(run=_doctor)

    models = commands.add_parser("models", help="list the models that are bundled or well known")
    models.add_argument("--json", action="store_true", help="print all of it as JSON")
    models.set_defaults(run=_models)

    report = commands.add_parser(
        "report", help="write reports of finished runs anew; several runs are compared"
    )
    report.add_argument(
        "runs", nargs="+", metavar="RUN", help="a run folder; a stranger's too: nothing of it is run"
    )
    report.add_argument(
        "--output",
        metavar="FILE",
        help="the page that compares several runs; compare.html in the folder that holds them when left out",
    )
    report.set_defaults(run=_report)

    add_command(commands)

    commands.add_parser("launch", help="run a program in several processes that train together")

    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # It has a parser of its own: what follows its two dashes is another program's.
        chosen = argparse.Namespace(run=_launch) if words[:1] == ["launch"] else parser.parse_args(words)
        chosen.words = getattr(chosen, "words", words)
        return int(chosen.run(chosen))
    except BrokenPipeError:
        # Whoever read it has seen enough: `... | head`. Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TfkitError, OSError, KeyboardInterrupt) as error:
        print(cli.explain(error), file=sys.stderr)
        return cli.exit_code(error)


def _doctor(chosen: argparse.Namespace) -> int:
    from tfkit.environment.doctor import show

    return show(as_json=chosen.json)


def _models(chosen: argparse.Namespace) -> int:
    from tfkit.hub.catalogue import image_table, text_table

    if chosen.json:
        rows: list[Known | KnownText] = [*image_table(), *text_table()]
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
        return 0
    print(f"{'name':<38} {'task':<15} {'pixels':>6} {'parameters':>10}  licence")
    for model in image_table():
        _show(model, size=str(model.image_size), note=model.note)
        if model.handle != model.name:
            print(f"    {model.handle}")
    for text in text_table():
        _show(text, size="", note=f"{text.languages}; {text.note}")
        if text.handle != text.name:
            print(f"    {text.handle}")
        if text.preprocessor:
            print(f"    preprocessor {text.preprocessor}")
    return 0


def _show(model: Known | KnownText, *, size: str, note: str) -> None:
    millions = f"{model.parameters / 1e6:.1f} M"
    print(f"{model.name:<38} {model.task:<15} {size:>6} {millions:>10}  {model.licence:<12} {note}")


def _launch(chosen: argparse.Namespace) -> int:
    from tfkit.distribution import launcher

    return launcher.main(chosen.words[1:])


def _report(chosen: argparse.Namespace) -> int:
    from tfkit.reporting import comparison

    return comparison.main(chosen.runs, output=chosen.output)


if __name__ == "__main__":
    sys.exit(main())
