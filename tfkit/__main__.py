"""The command line: python -m tfkit COMMAND."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tfkit import cli
from tfkit.distribution.manifest import add_command
from tfkit.environment.files import write_text
from tfkit.environment.timeline import doing
from tfkit.errors import ConfigError, TfkitError
from tfkit.run import REPORT
from tfkit.settings.parse import EXIT_CODES

_ELSEWHERE = {
    "train": "recipes.transfer_image (or transfer_text, train_private, train_distributed)",
    "compress": "recipes.compress_tflite",
    "audit": "recipes.audit_privacy",
    "search": "recipes.search_text",
    "tune": "recipes.tune",
    "agent": "recipes.train_agent",
    "serve": "tfkit export RUN serving",
}
"""What is no command here, and what `python -m` does it with: verbs of Python, and a word that many try."""

_RECIPES = "\n".join(f"  {verb:<9} python -m {line}" for verb, line in _ELSEWHERE.items())
_EPILOG = f"""
recipes and the like, which are no commands of tfkit:
{_RECIPES}

examples:
  python -m tfkit doctor
  python -m tfkit launch --workers 2 -- -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
  python -m tfkit export runs/photos browser
  python -m tfkit report runs/photos runs/private --output runs/compare.html
  python -m tfkit predict runs/photos new_photos/ --output predictions.csv

{EXIT_CODES}
"""


_TYPES = {"--coverage": float, "--most": int}


def _list_models(args: argparse.Namespace) -> int:
    from tfkit.hub.catalogue import known_models

    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in known_models()], indent=2))
        return 0
    form = "{:<38} {:<8} {:>6} {:>10}  {:<12} {}"
    print(form.format("name", "modality", "pixels", "parameters", "licence", "").rstrip())
    remote = "\nDownloaded at first use; tests, which run offline, cover none of them:"
    for title, is_bundled in (("Bundled:", True), (remote, False)):
        print(title)
        for row in known_models():
            if (row.handle == row.name) is not is_bundled:
                continue
            note, size = "; ".join(filter(None, (row.languages, row.note))), f"{row.parameters / 1e6:.1f} M"
            cells = (row.name, row.modality, row.image_size or "", size, row.licence, note)
            print(form.format(*cells).rstrip())
            if not is_bundled:
                print(f"    {row.handle}")
            if row.preprocessor:
                print(f"    preprocessor {row.preprocessor}")
    return 0


def _export_run(args: argparse.Namespace) -> int:
    from tfkit.exporting import export

    options = {
        name: value for name, value in vars(args).items() if value not in (None, False) and name != "run"
    }
    print(export(options.pop("folder"), options.pop("target"), **options))
    return 0


def _write_reports(args: argparse.Namespace) -> int:
    from tfkit.reporting.comparison import report

    page = report(*args.runs, output=args.output)
    pages = [Path(run) / REPORT for run in args.runs]
    print(*dict.fromkeys([*pages, page]), sep="\n")
    return 0


def _explain_examples(args: argparse.Namespace) -> int:
    from tfkit.inference.explain import explain

    output = args.output or "explanations"
    print(*explain(args.folder, [*map(Path, args.files)], output=output, label=args.label), sep="\n")
    print(f"written to   {output}")
    return 0


def _list_label_errors(args: argparse.Namespace) -> int:
    from tfkit.inference.label_errors import find_label_errors
    from tfkit.reporting.figures import printable

    errors = find_label_errors(args.folder)
    print(f"Probably wrong labels: {len(errors)}. The most suspicious first:")
    for row in errors.head(20 if args.most is None else max(args.most, 0)).itertuples():
        line = f"{row.name} ({row.split}): {row.given}, rather {row.suggested}"
        print(f"{row.score:.3f}  {printable(line)}")
    if args.output:
        write_text(Path(args.output), errors.to_csv(index=False))
        print(f"written to   {args.output}")
    return 0


_COMMANDS: dict[str, tuple[str, str | Callable[[argparse.Namespace], int]]] = {
    "doctor": ("try every package, and say which command repairs what is broken", "tfkit.environment.doctor"),
    "models": ("list the models that are bundled or well known", _list_models),
    "report": ("write reports of finished runs anew; several runs are compared", _write_reports),
    "predict": ("predict new images or texts by a finished run", "tfkit.inference.predict"),
    "explain": ("show which places of an image, or words of a text, spoke for a class", _explain_examples),
    "labels": ("list the examples of a run whose labels are probably wrong", _list_label_errors),
    "export": ("write a run's model for a browser, TensorFlow.js, a model server or TFX", _export_run),
    "inspect": (
        "count the operations of a .tflite file, or a run before and after",
        "tfkit.compression.mlir",
    ),
}
"""What each command does; the function that does it, or a module that has it as `command`."""

_ARGUMENTS = {
    "doctor --json": "print all of it as JSON",
    "models --json": "print all of it as JSON",
    "report runs RUN...": "a run folder; a stranger's too: nothing of it is run",
    "report --output FILE": "the page that compares several; compare.html in the folder that holds them when left out",
    "predict folder RUN": "a run folder; its model is run: a stranger's in a sandbox",
    "predict data DATA...": "files, folders, patterns; tables of texts, or of paths of images",
    "predict --output FILE": ".csv or .jsonl file; on the screen when left out",
    "predict --text-column NAME": "of a table, where its name does not say it",
    "predict --image-column NAME": "likewise, of the paths of images",
    "predict --label-column NAME": "of a table, with the true classes",
    "predict --report NAME": "keep under this name what labelled data say of the model, for the run's report",
    "predict --coverage SHARE": "add prediction sets that hold the true class so often: 0.95",
    "predict --labels": "the subfolders, or a column, are the true classes, whatever they are called",
    "predict --augment": "of images: the mean over five views of each, five times the work",
    "predict --strict": "exit with 1 if something cannot be read",
    "predict --json": "print JSON: a row a line, or the summary",
    "explain folder RUN": "a run folder; its model is a program, and is run",
    "explain files FILE...": "images or texts",
    "explain --output FOLDER": "for pictures, a page and numbers; explanations/ when left out",
    "explain --label CLASS": "to ask about; the most probable one when left out",
    "labels folder RUN": "a run folder; its data are read again",
    "labels --output FILE.csv": "for all of them",
    "labels --most N": "are printed; 20 when left out",
    "export folder RUN": "the folder of a finished run",
    "export target TARGET": "browser, tfjs, serving or tfx",
    "export --output FOLDER": "where it goes; RUN/TARGET when left out",
    "export --runtime PLACE": "browser: a folder or an address with LiteRT.js; else npm gets it",
    "export --measure": "browser: time each file in headless Chromium",
    "export --dtype DTYPE": "tfjs: float32 (as it is left out) or float16, of half the bytes",
    "export --name NAME": "serving: the model's name in addresses; the run folder's when left out",
    "inspect model FILE_OR_RUN": "a .tflite file, or a run that was compressed",
    "inspect --mlir": "write each as MLIR too, as the compiler read it: FILE.mlir; of a run's model StableHLO",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    description = "TensorFlow recipes that work together."
    parser = cli.Parser(prog="python -m tfkit", description=description, epilog=_EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    parsers = {}
    for name, (help, run) in _COMMANDS.items():
        parsers[name] = commands.add_parser(name, help=help)
        parsers[name].set_defaults(run=run)
    for argument, help in _ARGUMENTS.items():
        name, word, *value = argument.split()
        options: dict[str, Any] = {"action": "store_true"}
        if value:
            options = {"metavar": value[0].removesuffix("..."), "type": _TYPES.get(word, str)}
            options |= {"nargs": "+"} if value[0].endswith("...") else {}
        parsers[name].add_argument(word, help=help, **options)
    add_command(commands)
    commands.add_parser("launch", help="run a program in several processes that train together")
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # It has a parser of its own: what follows its two dashes is another program's.
        if words[:1] == ["launch"]:
            from tfkit.distribution import launcher, ray

            job, engine = launcher.parse(words[1:])
            return ray.launch(job) if engine == "ray" else launcher.run_and_report(job)
        first = words[0].removesuffix("s") if words else ""
        hints = [
            line
            for verb, line in _ELSEWHERE.items()
            if re.search(rf"\b{re.escape(first)}\b", f"{verb} {line}")
        ]
        if first and hints and first not in commands.choices:
            raise ConfigError(f"{words[0]!r} is no command of tfkit. What does it:\n  python -m {hints[0]}")
        args = parser.parse_args(words)
        with doing("Starting"):
            run = args.run
            return int((importlib.import_module(run).command if isinstance(run, str) else run)(args))
    except BrokenPipeError:
        # Whoever read it has seen enough: `... | head`. Python would complain once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (TfkitError, OSError, KeyboardInterrupt) as error:
        print(cli.explain(error), file=sys.stderr)
        return cli.exit_code(error)


if __name__ == "__main__":
    sys.exit(main())
