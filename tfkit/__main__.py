"""The command line: python -m tfkit COMMAND."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tfkit import cli
from tfkit.distribution.manifest import add_command
from tfkit.environment.files import write_text
from tfkit.environment.timeline import doing
from tfkit.errors import TfkitError
from tfkit.run import REPORT
from tfkit.settings.parse import EXIT_CODES

_EPILOG = f"""
examples:
  python -m tfkit doctor
  python -m tfkit launch --workers 2 -- -m recipes.transfer_image --data-dir photos/ --run-dir runs/photos
  python -m tfkit export runs/photos browser
  python -m tfkit report runs/photos runs/private --output runs/compare.html
  python -m tfkit predict runs/photos new_photos/ --output predictions.csv

{EXIT_CODES}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    description = "TensorFlow recipes that work together."
    parser = cli.Parser(prog="python -m tfkit", description=description, epilog=_EPILOG)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, help: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help)
        command.set_defaults(run=run)
        return command

    for name, help, run in (
        ("doctor", "try every package, and say which command repairs what is broken", _doctor),
        ("models", "list the models that are bundled or well known", _models),
    ):
        add(name, help, run).add_argument("--json", action="store_true", help="print all of it as JSON")
    report = add("report", "write reports of finished runs anew; several runs are compared", _report)
    help = "a run folder; a stranger's too: nothing of it is run"
    report.add_argument("runs", nargs="+", metavar="RUN", help=help)
    help = "the page that compares several runs; compare.html in the folder that holds them when left out"
    report.add_argument("--output", metavar="FILE", help=help)
    predict = add("predict", "predict new images or texts by a finished run", _predict)
    help = "a run folder; its model is run: a stranger's in a sandbox"
    predict.add_argument("folder", metavar="RUN", help=help)
    predict.add_argument("data", nargs="+", metavar="DATA", help="files, folders, patterns; tables of texts")
    for flag, help in (
        ("--output", ".csv or .jsonl file; on the screen when left out"),
        ("--text-column", "of a table, where its name does not say it"),
        ("--label-column", "of a table, with the true classes"),
        ("--report", "keep under this name what labelled data say of the model, for the run's report"),
    ):
        predict.add_argument(flag, metavar="NAME", help=help)
    help = "add prediction sets that hold the true class so often: 0.95"
    predict.add_argument("--coverage", type=float, help=help)
    help = "the subfolders, or a column, are the true classes, whatever they are called"
    predict.add_argument("--labels", action="store_true", help=help)
    help = "of images: the mean over five views of each, five times the work"
    predict.add_argument("--augment", action="store_true", help=help)
    predict.add_argument("--strict", action="store_true", help="exit with 1 if something cannot be read")
    predict.add_argument("--json", action="store_true", help="print JSON: a row a line, or the summary")
    explain = add("explain", "show which places of an image, or words of a text, spoke for a class", _explain)
    explain.add_argument("folder", metavar="RUN", help="a run folder; its model is a program, and is run")
    explain.add_argument("files", nargs="+", metavar="FILE", type=Path, help="images or texts")
    help = "for pictures, a page and numbers; explanations/ when left out"
    explain.add_argument("--output", metavar="FOLDER", default="explanations", help=help)
    explain.add_argument("--label", metavar="CLASS", help="to ask about; the most probable one when left out")
    labels = add("labels", "list the examples of a run whose labels are probably wrong", _labels)
    labels.add_argument("folder", metavar="RUN", help="a run folder; its data are read again")
    labels.add_argument("--output", metavar="FILE.csv", help="for all of them")
    labels.add_argument("--most", metavar="N", type=int, default=20, help="are printed; 20 when left out")
    export = add("export", "write a run's model for a browser, TensorFlow.js, a model server or TFX", _export)
    export.add_argument("run_dir", metavar="RUN", help="the folder of a finished run")
    export.add_argument("target", metavar="TARGET", help="browser, tfjs, serving or tfx")
    export.add_argument("--output", metavar="FOLDER", help="where it goes; RUN/TARGET when left out")
    given, help = argparse.SUPPRESS, "browser: a folder or an address with LiteRT.js; else npm gets it"
    export.add_argument("--runtime", metavar="PLACE", default=given, help=help)
    help = "browser: time each file in headless Chromium"
    export.add_argument("--measure", action="store_true", default=given, help=help)
    help = "tfjs: float32 (as it is left out) or float16, of half the bytes"
    export.add_argument("--dtype", default=given, help=help)
    help = "serving: the model's name in addresses; the run folder's when left out"
    export.add_argument("--name", default=given, help=help)
    inspect = add("inspect", "count the operations of a .tflite file, or of a run before and after", _inspect)
    inspect.add_argument("model", metavar="FILE_OR_RUN", help="a .tflite file, or a run that was compressed")
    help = (
        "write each in MLIR too, to read what the compiler made of it: FILE.mlir; of a run's model StableHLO"
    )
    inspect.add_argument("--mlir", action="store_true", help=help)
    add_command(commands)
    commands.add_parser("launch", help="run a program in several processes that train together")
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        # It has a parser of its own: what follows its two dashes is another program's.
        if words[:1] == ["launch"]:
            from tfkit.distribution import launcher, ray

            job, engine = launcher.parse(words[1:])
            return ray.launch(job) if engine == "ray" else launcher.run_and_report(job)
        chosen = parser.parse_args(words)
        with doing("Starting"):
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
    from tfkit.hub.catalogue import known_models

    if chosen.json:
        print(json.dumps([dataclasses.asdict(row) for row in known_models()], indent=2))
        return 0
    form = "{:<38} {:<8} {:>6} {:>10}  {:<12} {}"
    print(form.format("name", "modality", "pixels", "parameters", "licence", "").rstrip())
    remote = "\nDownloaded at first use; tests, which run offline, cover none of them:"
    for title, bundled in (("Bundled:", True), (remote, False)):
        print(title)
        for row in known_models():
            if (row.handle == row.name) is not bundled:
                continue
            note, size = "; ".join(filter(None, (row.languages, row.note))), f"{row.parameters / 1e6:.1f} M"
            cells = (row.name, row.modality, row.image_size or "", size, row.licence, note)
            print(form.format(*cells).rstrip())
            if not bundled:
                print(f"    {row.handle}")
            if row.preprocessor:
                print(f"    preprocessor {row.preprocessor}")
    return 0


def _predict(chosen: argparse.Namespace) -> int:
    from tfkit.inference.predict import command

    return command(chosen)


def _export(chosen: argparse.Namespace) -> int:
    from tfkit.exporting.export import export

    of_all = ("run", "run_dir", "target", "output")
    options = {name: value for name, value in vars(chosen).items() if name not in of_all}
    print(export(chosen.run_dir, chosen.target, output=chosen.output, **options))
    return 0


def _inspect(chosen: argparse.Namespace) -> int:
    from tfkit.compression.mlir import command

    return command(chosen)


def _report(chosen: argparse.Namespace) -> int:
    from tfkit.reporting.comparison import report

    page = report(*chosen.runs, output=chosen.output)
    pages = [Path(run) / REPORT for run in chosen.runs]
    print(*dict.fromkeys([*pages, page]), sep="\n")
    return 0


def _explain(chosen: argparse.Namespace) -> int:
    from tfkit.inference.explain import explain

    print(*explain(chosen.folder, chosen.files, output=chosen.output, label=chosen.label), sep="\n")
    print(f"written to   {chosen.output}")
    return 0


def _labels(chosen: argparse.Namespace) -> int:
    from tfkit.inference.label_errors import find_label_errors
    from tfkit.reporting.figures import printable

    found = find_label_errors(chosen.folder)
    print(f"Probably wrong labels: {len(found)}. The most suspicious first:")
    for row in found.head(max(chosen.most, 0)).itertuples():
        line = f"{row.name} ({row.split}): {row.given}, rather {row.suggested}"
        print(f"{row.score:.3f}  {printable(line)}")
    if chosen.output:
        write_text(Path(chosen.output), found.to_csv(index=False))
        print(f"written to   {chosen.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
