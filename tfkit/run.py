"""Run: one folder that holds whatever a run makes, readable by a person, by TensorBoard and by a program.

A run folder before a run begins in it: nobody else is in it, it is of the same config, and it is clean.

What the JSON files of a run folder hold, as far as tfkit reads it back: see `tfkit.run_files.Shape`.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tfkit import run_files
from tfkit.environment import cluster, files, heartbeat, packages, process, stack
from tfkit.errors import RunError

if TYPE_CHECKING:
    import pandas as pd

CONFIG = "config.yaml"
LABELS = "labels.txt"
METRICS = "metrics.json"
NOTES = "notes.txt"
HISTORY = "history.csv"
PROVENANCE = "provenance.json"
VERSIONS = "versions.json"
EVALUATION = "evaluation.npz"
SAVED_MODEL = "saved_model"
LOGS = "logs"
BACKUP = "backup"
REPORT = "report.html"
MODEL_CARD = "model_card.md"
PRIVACY = "privacy.json"
AUDIT = "audit.json"
TFLITE = "tflite"
VARIANTS = f"{TFLITE}/variants.json"
INDEX = "index"
HITS = "hits.json"
LOCK = ".lock"
INTENDED_USE = "intended_use.md"
"""The author's own file in the run folder; no run writes or removes it."""

RESTARTED_VARIABLE = "TFKIT_RESTARTED"
"""How often a launcher has started this job again."""

_ASKED = "# Decided by the run; what was asked: "

MADE = (
    *(CONFIG, LABELS, METRICS, NOTES, HISTORY, PROVENANCE, VERSIONS, EVALUATION, MODEL_CARD, REPORT),
    *(SAVED_MODEL, LOGS, BACKUP, PRIVACY, AUDIT, TFLITE, INDEX, HITS),
)
SHOWN = (CONFIG, METRICS, PROVENANCE, VERSIONS, PRIVACY, AUDIT, VARIANTS, HISTORY, EVALUATION)
"""What a report is made of."""

READ = (*(name for name in MADE if name != BACKUP), LOCK, f".{TFLITE}.lock", INTENDED_USE)
"""What is read or written in a run that has ended."""


def claim(folder: Path, *, config: Mapping[str, Any], overwrite: bool) -> TextIO:
    """Make the folder this process's own, for a new run or for what is left of one that was interrupted.

    Args:
      folder: made if absent.
      config: what was asked; written, or compared with what an earlier process wrote.
      overwrite: whether a run of another config, or a finished one, is replaced.

    Returns:
      The lock: closing it, or the end of the process, releases the folder.

    Raises:
      RunError: the folder is in use, belongs to another config, holds something else, or cannot be written.
    """
    try:
        return _claim(folder, config=config, overwrite=overwrite)
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError) -> RunError:
    """Return the error of a folder in which a run cannot write."""
    at = f" ({error.filename})" if error.filename and str(error.filename) != str(folder) else ""
    return RunError(
        f"{folder} cannot be written: {error.strerror}{at}.\n"
        "  Choose another --run-dir (run_dir in Python), on a disk that has room and where you may write."
    )


def _claim(folder: Path, *, config: Mapping[str, Any], overwrite: bool) -> TextIO:
    if folder.is_file():
        raise RunError(f"{folder} is a file; a run needs a folder of its own. Choose another --run-dir.")
    _refuse_other_things(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _acquire(folder)
    _remove_halves(folder)
    # A launcher gives a restarted job the same words: what --overwrite was to remove is removed.
    if (overwrite and is_first_start()) or not ((folder / BACKUP).is_dir() or (folder / METRICS).is_file()):
        _clear(folder)
    if (folder / CONFIG).is_file():
        _refuse_other(folder, config)
    else:
        _write_config(folder, config, {})
    return lock


def _settings(config: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """YAML that `run_files.read_yaml` takes; its first line keeps what was asked where the run decided."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    first = f"{_ASKED}{json.dumps(asked)}\n" if asked else ""
    text = first + yaml.dump(dict(config), Dumper=Dumper, sort_keys=False, allow_unicode=True)
    if len(text.encode()) > run_files.SMALL:
        raise RunError(
            f"The config of the run has {len(text):,} characters of YAML; {run_files.SMALL:,} are taken."
            "\n  It is for settings: name a file of your data in it, not the data."
        )
    return str(text)


def decide_lock(folder: Path, decided: Mapping[str, Any]) -> None:
    """Put what a run decided into its config.yaml, in place of what was asked, which its first line keeps.

    Args:
      folder: of the run, locked.
      decided: settings to plain values; those that the config does not have are left out.
    """
    config, asked = _read_config(folder)
    changed = {name: value for name, value in decided.items() if name in config and config[name] != value}
    if changed:
        asked = {**{name: config[name] for name in changed}, **asked}
        _write_config(folder, {**config, **changed}, asked)


def _write_config(folder: Path, config: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    files.write_text(folder / CONFIG, _settings(config, asked))


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings, and what was asked where the run decided them."""
    text = run_files.read_text(folder, CONFIG, most=run_files.SMALL) or ""
    first = text.partition("\n")[0]
    asked: Any = {}
    if first.startswith(_ASKED):
        try:
            asked = json.loads(first.removeprefix(_ASKED))
        except (ValueError, RecursionError) as error:
            raise run_files.damaged(folder / CONFIG, f"its first line is no JSON: {error}") from error
    if not isinstance(asked, dict):
        raise run_files.damaged(folder / CONFIG, "its first line holds no settings")
    return run_files.read_yaml(folder, CONFIG), asked


def is_first_start() -> bool:
    """Whether no launcher has started this job before."""
    return os.environ.get(RESTARTED_VARIABLE, "0") == "0"


def _refuse_other_things(folder: Path) -> None:
    there = sorted(found.name for found in folder.iterdir()) if folder.is_dir() else []
    # Others write a config.yaml too: the lock, or the numbers, tell.
    is_run = CONFIG in there and (LOCK in there or METRICS in there)
    if not is_run and there not in ([], [LOCK]):
        raise RunError(
            f"{folder} is not a run folder, but holds other things ({_some(there)})."
            "\n  Choose an empty or new --run-dir: nothing in it was touched."
        )


def _acquire(folder: Path) -> TextIO:
    lock = (folder / LOCK).open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise RunError(
            f"{folder} is in use: another process is running in it."
            "\n  Wait for it, or give this run another --run-dir."
        ) from None
    return lock


def _remove_halves(folder: Path) -> None:
    """What a killed process left under temporary names; the lock says that nobody is writing it."""
    for name in MADE:
        for half in folder.glob(f".{name}.*"):
            shutil.rmtree(half) if half.is_dir() else half.unlink()


def _clear(folder: Path) -> None:
    """Remove what runs make; what somebody put beside it stays."""
    for name in MADE:
        found = folder / name
        if found.is_dir() and not found.is_symlink():
            shutil.rmtree(found)
        else:
            found.unlink(missing_ok=True)


def _refuse_other(folder: Path, config: Mapping[str, Any]) -> None:
    decided, asked = _read_config(folder)
    # What the run decided, said outright, is the same: a replay of its config.yaml.
    old = {**decided, **asked}
    differing = [
        name for name in {**old, **config} if config.get(name) not in (old.get(name), decided.get(name))
    ]
    if differing:
        changes = "".join(
            f"\n    {name}: {old.get(name)!r} there, {config.get(name)!r} now" for name in differing
        )
        state = "finished" if (folder / REPORT).is_file() else "begun"
        raise RunError(
            f"{folder} holds a {state} run of another config:{changes}"
            "\n  Give this run another --run-dir, or replace the old one with --overwrite."
        )


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")


NUMBER = (int, float)
NOTHING = type(None)
MAYBE = (*NUMBER, NOTHING)
TEXT = (str, NOTHING)

LISTS = (PROVENANCE, METRICS)
"""They have an entry for each class, or for each file that was left out."""

SHAPES: dict[str, dict[str, Any]] = {
    METRICS: {"*": NUMBER},
    VERSIONS: {"packages?": {"*": TEXT}, "problems?": [str]},
    PROVENANCE: {
        "data?": {
            "origin?": TEXT, "counts?": {"*": {"*": int}}, "skipped?": [[str]], "shape?": [(int, NOTHING)],
            "classes?": int, "documents?": int,
        },
        "model?": {"handle?": TEXT, "licence?": TEXT},
        "recipe?": {"name?": TEXT},
    },
    PRIVACY: {
        "private?": bool, "epsilon?": MAYBE, "delta?": NUMBER, "neighbouring_relation?": str, "in_words?": str,
        "covered?": [str], "not_covered?": [str],
    },
    AUDIT: {
        "verdict": str, "members?": int, "others?": int,
        "attacks?": {"*": {"auc": NUMBER, "auc_interval": [NUMBER], "advantage": NUMBER}},
        "exposure?": (
            {"verdict": str, "insertions": {"*": {"codes": NUMBER, "mean_bits": MAYBE, "largest_bits": MAYBE}}},
            NOTHING,
        ),
    },
    VARIANTS: {
        "verdict": str, "examples": int, "source": {"accuracy": MAYBE}, "chosen": TEXT,
        "failed": [{"name": str, "reason": str}],
        "variants": [
            {
                "name": str, "size_bytes": int, "gzipped_bytes": int, "accuracy": MAYBE, "accuracy_drop": MAYBE,
                "agreement": NUMBER, "latency_ms": {"*": {"*": NUMBER}}, "macs": {"*": NUMBER}, "sparsity": NUMBER,
                "pareto": bool,
            }
        ],
    },
}  # fmt: skip


class Run:
    """A run folder, being written (`Run.create`) or read back (`Run.open`).

    Of several workers that train one model only the chief writes the folder. A run of another worker has a
    temporary folder for what it would write, and reads backups where the chief writes them. Once it is closed, it
    reads everything there: `fit(...).metrics["test/accuracy"]` is the same number in every worker.

    Attributes:
      path: what this process writes goes below it.
      shared: the folder that the chief writes; for the chief, and for whoever is alone, the same.
      is_chief: whether this process is the one whose files remain.

    Example:
      >>> import tempfile
      >>> run = Run.create(Path(tempfile.mkdtemp()) / "first", config={"seed": 1})
      >>> run.record({"test/accuracy": 0.97})
      >>> Run.open(run.path).metrics["test/accuracy"]
      0.97
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shared = path
        self.is_chief = True
        self._read_from = path
        self._done = False
        self._lock: TextIO | None = None

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a run folder back.

        Its files may be a stranger's: none of them is followed out of the folder, and what is malformed is named.
        Its model is another matter: a SavedModel is a program, which can read and write files where it is run.

        Raises:
          RunError: there is no run in that folder, or a part of it is a link out of the folder.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file():
            known = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}"))
            raise RunError(
                f"{folder} holds no run: it has no {CONFIG}."
                + (f"\n  Runs below it: {', '.join(known)}." if known else "")
            )
        run_files.check_links(folder, READ)
        return cls(folder)

    def check_writable(self) -> None:
        """Refuse to go on with what will write into this folder, before it takes minutes.

        Raises:
          RunError: the folder is read-only.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise unwritable(self.path, OSError(errno.EACCES, "it is read-only, or yours to read alone"))

    @classmethod
    def create(cls, path: str | Path, *, config: Mapping[str, Any], overwrite: bool = False) -> Run:
        """Begin a run in that folder, or go on with the one that was interrupted there.

        The folder is locked until `close`, or the end of the process, so that two runs never write into one.

        Args:
          path: the folder; made if absent.
          config: what was asked: flat names to values that YAML can hold.
          overwrite: whether a run of another config in that folder, or a finished one, is replaced.

        Raises:
          RunError: the folder is in use, belongs to another config, holds something else, or cannot be written.
        """
        if not cluster.current().is_chief:
            return cls._of_other_worker(Path(path), overwrite=overwrite)
        run = cls(Path(path))
        run._lock = claim(run.path, config=config, overwrite=overwrite)
        heartbeat.backups = run.backup
        return run

    @classmethod
    def _of_other_worker(cls, path: Path, *, overwrite: bool) -> Run:
        """The same for a worker whose files nobody needs: it writes into a folder that goes with it."""
        # The same one at each start: what a killed worker left goes with the next.
        scratch = (
            files.cache_dir("workers") / f"{files.digest_of(str(path.resolve()))}-{cluster.current().index}"
        )
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        run = cls(scratch)
        run.shared, run.is_chief = path, False
        heartbeat.backups = run.backup
        # What --overwrite removes, the chief may be about to remove.
        run._done = not (overwrite and is_first_start()) and (path / REPORT).is_file()
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for others; `with Run.create(...) as run:` does it however the block ends."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if not self.is_chief:
            shutil.rmtree(self.path, ignore_errors=True)
            self._read_from = self.shared

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: its report, which is written last, is there."""
        return self._done if not self.is_chief else (self.path / REPORT).is_file()

    @property
    def backup(self) -> Path:
        """Where a training that is killed finds what it goes on from."""
        return self.shared / BACKUP

    @property
    def logdir(self) -> Path:
        """The folder for TensorBoard."""
        return self.path / LOGS

    @property
    def config(self) -> dict[str, Any]:
        """Return what was asked, and where that was left open, what the run decided."""
        return run_files.read_yaml(self._read_from, CONFIG)

    def decide(self, **settings: Any) -> None:
        """Put what the run decided into config.yaml, in place of what was left open: plain values, by setting."""
        if self.is_chief:
            decide_lock(self.path, settings)

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names to numbers, such as `test/accuracy` or `time/train_seconds`."""
        return dict(self.read(METRICS))

    def record(self, metrics: Mapping[str, float]) -> None:
        """Add numbers to metrics.json; a name that is there already takes the new value.

        Raises:
          RunError: a value is not a finite number.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise RunError(f"The metric {name!r} is {value}: metrics.json holds finite numbers only.")
        plain = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        files.write_json(self.path / METRICS, {**self.metrics, **plain})

    @property
    def notes(self) -> list[str]:
        """What the run decided, and why, one sentence each."""
        return (run_files.read_text(self._read_from, NOTES) or "").splitlines()

    def note(self, sentence: str) -> None:
        """Print a decision of the run and keep it; one that is kept already is not repeated."""
        line = " ".join(sentence.split())
        self.say(line)
        self._keep(line)

    def warn(self, sentence: str) -> None:
        """The same for what somebody should look at: it is printed to stderr, also where a job is to be quiet."""
        line = " ".join(sentence.split())
        if self.is_chief:
            print(line, file=sys.stderr, flush=True)
        self._keep(line)

    def _keep(self, line: str) -> None:
        if line not in self.notes:
            files.write_text(self.path / NOTES, "".join(f"{known}\n" for known in [*self.notes, line]))

    def say(self, sentence: str) -> None:
        """Print it; of several workers the chief does."""
        if self.is_chief:
            process.say(sentence)

    @property
    def labels(self) -> list[str]:
        """The class names in the order of the model's outputs."""
        text = run_files.read_text(self._read_from, LABELS)
        if text is None:
            raise RunError(
                f"{self._read_from} has no {LABELS} yet: the run was interrupted. The same command finishes it."
            )
        return text.splitlines()

    @labels.setter
    def labels(self, class_names: Iterable[str]) -> None:
        # A name with a line break in it would shift every later label by one.
        files.write_text(self.path / LABELS, "".join(" ".join(name.split()) + "\n" for name in class_names))

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """Where the data and the model came from."""
        return dict(self.read(PROVENANCE))

    @provenance.setter
    def provenance(self, content: Mapping[str, Mapping[str, Any]]) -> None:
        files.write_json(self.path / PROVENANCE, content)

    @property
    def versions(self) -> dict[str, Any]:
        """The packages, Python and machine of the run."""
        return dict(self.read(VERSIONS))

    @versions.setter
    def versions(self, content: Mapping[str, Any]) -> None:
        files.write_json(self.path / VERSIONS, content)

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate."""
        import pandas as pd

        text = run_files.read_text(self._read_from, HISTORY)
        if text is None:
            return pd.DataFrame()
        try:
            rows = pd.read_csv(io.StringIO(text))
            if not all(rows[name].dtype.kind in "if" for name in rows if name != "stage"):
                raise ValueError("it has words where there should be numbers")
        except (ValueError, LookupError, OverflowError) as error:
            why = f"it is not the table of a training: {str(error).splitlines()[0]}"
            raise run_files.damaged(self._read_from / HISTORY, why) from error
        return rows

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace history.csv by these rows, one an epoch."""
        names = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        files.write_text(self.path / HISTORY, text.getvalue())

    @property
    def model(self) -> Any:
        """The exported model: images as `tfkit.read_image` gives them (or texts) to class probabilities.

        It is what tf.saved_model.load gives, and is traced once for images of all sizes.

        Raises:
          RunError: the run has not exported a model yet, or it is damaged.
        """
        folder = self._read_from / SAVED_MODEL
        if not folder.is_dir():
            raise RunError(
                f"{self._read_from} has no {SAVED_MODEL}/ yet: the run was interrupted. The same command finishes it."
            )
        if (folder / "assets").is_dir() or self.provenance.get("data", {}).get("shape") == []:
            from tfkit.environment.stack import tf_text  # noqa: F401  the operations of a model of texts
        try:
            return stack.load_saved_model(folder)
        except (OSError, ValueError, LookupError, RuntimeError, TypeError, stack.tf.errors.OpError) as error:
            raise run_files.damaged(folder, packages.first_line(error)) from error

    def read(self, name: str) -> dict[str, Any]:
        """What a JSON file of the folder holds, such as `privacy.json`; nothing where there is none."""
        most = run_files.LARGE if name in LISTS else run_files.USUAL
        return run_files.read_json(self._read_from, name, SHAPES.get(name, dict), most=most)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"
