"""The run folder: whatever a run makes, readable by a person, by TensorBoard and by a program."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tfkit import run_files
from tfkit.environment import cluster, files, heartbeat, packages, process, stack, timeline
from tfkit.environment.process import rounded_up
from tfkit.errors import DataError, RunError

if TYPE_CHECKING:
    import pandas as pd

    from tfkit.tasks import Classes

CONFIG = "config.yaml"
LABELS = "labels.txt"
METRICS = "metrics.json"
NOTES = "notes.txt"
HISTORY = "history.csv"
PROVENANCE = "provenance.json"
VERSIONS = "versions.json"
EVALUATION = "evaluation.npz"
TRAINED_ON = "trained_on.npz"
SAVED_MODEL = "saved_model"
LOGS = "logs"
BACKUP = "backup"
REPORT = "report.html"
MODEL_CARD = "model_card.md"
PRIVACY = "privacy.json"
AUDIT = "audit.json"
CALIBRATION = "calibration.json"
TASK = "task.json"
TFLITE = "tflite"
VARIANTS = f"{TFLITE}/variants.json"
INDEX = "index"
POLICY = "policy"
HITS = "hits.json"
OTHER_DATA = "other_data"
TRIALS, TABLE, DATABASE, BEST = "trials", "trials.csv", "search.db", "best"
"""Of a search: a folder a trial, a row a trial, Optuna's storage, the run of the best settings."""
LOCK = ".lock"
EXPORTS = ("browser", "tfjs", "serving", "tfx")
"""Folders of `tfkit.export`: of a model that is replaced they tell no longer."""

INTENDED_USE = "intended_use.md"
"""The author's own file in the run folder; no run writes or removes it."""

RESTARTED_VARIABLE = "TFKIT_RESTARTED"
"""Variable with the number of times that a launcher has started this job again."""

_REQUEST_PREFIX = "# Decided by the run; what was asked: "

RUN_FILES = (
    *(CONFIG, LABELS, METRICS, NOTES, HISTORY, PROVENANCE, VERSIONS, EVALUATION, MODEL_CARD, REPORT),
    *(SAVED_MODEL, LOGS, BACKUP, PRIVACY, AUDIT, CALIBRATION, TFLITE, INDEX, HITS, TRAINED_ON, OTHER_DATA),
    *(POLICY, *EXPORTS, TRIALS, TABLE, DATABASE, BEST, TASK),
)
SOURCES = CONFIG, METRICS, PROVENANCE, VERSIONS, PRIVACY, AUDIT, CALIBRATION, VARIANTS, HISTORY, EVALUATION
"""Files that a report is made of."""

READ_FILES = (*(name for name in RUN_FILES if name != BACKUP), LOCK, f".{TFLITE}.lock", INTENDED_USE)
"""Files that are read or written in a run that has ended."""


def _acquire(folder: Path, lock: contextlib.ExitStack, config: Mapping[str, Any], *, overwrite: bool) -> None:
    """Lock the folder for this process, for a new run or for what is left of one that was interrupted.

    Args:
      folder: made if absent.
      lock: gets the lock: closing it, or the end of the process, releases the folder.
      config: what was requested; written, or compared with what an earlier process wrote.
      overwrite: whether a run of another config, or a finished one, is replaced.

    Raises:
      RunError: the folder is in use, belongs to another config, or holds something else.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    # Others write a config.yaml too: the lock, or the numbers, tell.
    if not (CONFIG in names and (LOCK in names or METRICS in names)) and names not in ([], [LOCK]):
        raise RunError(
            f"{folder} is not a run folder, but holds other things (such as {', '.join(names[:3])})."
            "\n  Choose an empty or new --run-dir: nothing in it was touched."
        )
    if not lock.enter_context(files.lock(folder / LOCK, wait=False)):
        raise RunError(
            f"{folder} is in use: another process is running in it."
            "\n  Wait for it, or give this run another --run-dir."
        )
    # What a killed process left under temporary names: the lock says that nobody is writing it.
    _remove(path for name in RUN_FILES for path in folder.glob(f".{name}.*"))
    # A launcher gives a restarted job the same words: what --overwrite was to remove is removed.
    if (overwrite and _is_first_start()) or not ((folder / BACKUP).is_dir() or (folder / METRICS).is_file()):
        _remove(folder / name for name in RUN_FILES)  # what somebody put beside it stays
    if (folder / CONFIG).is_file():
        _refuse_other_config(folder, config)
    else:
        _write_config(folder, config, {})


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _is_first_start() -> bool:
    """Return whether no launcher has started this job before."""
    return os.environ.get(RESTARTED_VARIABLE, "0") == "0"


def _as_run_error(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"{folder} cannot be written: {error.strerror} ({error.filename or folder}).\n"
        "  Choose another --run-dir (run_dir in Python), on a disk that has room and where you may write."
    )


def _refuse_other_config(folder: Path, config: Mapping[str, Any]) -> None:
    settings, requests = _read_config(folder)
    # What the run decided, given outright, is the same: a replay of its config.yaml.
    old = {**settings, **requests}
    changes = [
        f"\n    {name}: {old.get(name)!r} there, {config.get(name)!r} now"
        for name in {**old, **config}
        if config.get(name) not in (old.get(name), settings.get(name))
    ]
    if changes:
        state = "finished" if (folder / REPORT).is_file() else "begun"
        raise RunError(
            f"{folder} holds a {state} run of another config:{''.join(changes)}"
            "\n  Give this run another --run-dir, or replace the old one with --overwrite (of tfkit.fit:"
            " resume=False)."
        )


def _write_config(folder: Path, config: Mapping[str, Any], requests: Mapping[str, Any]) -> None:
    """Write YAML that `run_files.read_yaml` takes; its first line keeps what was requested where the run decided."""
    import yaml

    text = f"{_REQUEST_PREFIX}{json.dumps(requests)}\n" if requests else ""
    values = json.loads(json.dumps(dict(config), default=str))  # no value is another one's alias
    text += yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    if len(text.encode()) > run_files.SMALL:
        raise RunError(
            f"The config of the run has {len(text):,} characters of YAML; {run_files.SMALL:,} are taken."
            "\n  It is for settings: name a file of your data in it, not the data."
        )
    files.write_text(folder / CONFIG, text)


def _read_config(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings, and what was requested where the run decided them."""
    first_line = (run_files.read_text(folder, CONFIG, most=run_files.SMALL) or "").partition("\n")[0]
    requests: Any = {}
    if first_line.startswith(_REQUEST_PREFIX):
        try:
            requests = dict(json.loads(first_line.removeprefix(_REQUEST_PREFIX)))
        except (ValueError, TypeError, RecursionError) as error:
            raise run_files.damaged(folder / CONFIG, f"its first line holds no settings: {error}") from error
    return run_files.read_yaml(folder, CONFIG), requests


NUMBER = (int, float)
NOTHING = type(None)
MAYBE = (*NUMBER, NOTHING)
TEXT = (str, NOTHING)

_COVERAGE = {"measured": NUMBER, "interval": [NUMBER], "mean_size": NUMBER, "empty_share": NUMBER}

SHAPES: dict[str, dict[str, Any]] = {
    METRICS: {"*": NUMBER},
    VERSIONS: {"packages?": {"*": TEXT}, "problems?": [str]},
    PROVENANCE: {
        "data?": {"origin?": TEXT, "counts?": {"*": {"*": int}}, "skipped?": [[str]], "shape?": [(int, NOTHING)],
                  "classes?": int, "documents?": int},
        "model?": {"handle?": TEXT, "licence?": TEXT}, "recipe?": {"name?": TEXT},
    },
    PRIVACY: {
        "private?": bool, "epsilon?": MAYBE, "delta?": NUMBER, "neighbouring_relation?": str, "in_words?": str,
        "covered?": [str], "not_covered?": [str],
    },
    AUDIT: {
        "verdict": str, "members?": int, "others?": int,
        "attacks?": {"*": {"auc": NUMBER, "auc_interval": [NUMBER], "advantage": NUMBER}},
        "exposure?": ({
            "verdict": str, "insertions": {"*": {"codes": NUMBER, "mean_bits": MAYBE, "largest_bits": MAYBE}},
        }, NOTHING),
    },
    CALIBRATION: {
        "temperature": NUMBER, "examples": {"temperature": int, "scores": int, "test": int}, "scores": [NUMBER],
        "ece_before": NUMBER, "ece": NUMBER, "nll_before": NUMBER, "nll": NUMBER,
        "coverage": {"0.9?": _COVERAGE, "0.95?": _COVERAGE, "0.99?": _COVERAGE},
    },
    TASK: {
        "name?": str, "thresholds?": [NUMBER], "centre?": NUMBER, "spread?": NUMBER, "degrees?": NUMBER,
        "factor?": NUMBER, "bounds?": [NUMBER], "scores?": [NUMBER], "coverage?": NUMBER,
    },
    HITS: {"answers?": [{"query": str, "hits": [{"score": NUMBER, "name": str, "text": str}]}]},
    VARIANTS: {
        "verdict": str, "examples": int, "source": {"accuracy": MAYBE}, "chosen": TEXT,
        "gates?": {
            "max_size_kb?": MAYBE, "max_accuracy_drop?": MAYBE, "max_latency_ms?": MAYBE, "gzipped?": bool,
        },
        "operations?": {"columns": [str], "rows": {"*": [int]}},
        "failed": [{"name": str, "reason": str}],
        "variants": [{
            "name": str, "size_bytes": int, "gzipped_bytes": int, "accuracy": MAYBE, "accuracy_drop": MAYBE,
            "agreement": NUMBER, "latency_ms": {"*": {"*": NUMBER}}, "macs": {"*": NUMBER}, "sparsity": NUMBER,
            "pareto": bool,
        }],
    },
}  # fmt: skip


ON_OTHER_DATA = {
    "origin": str, "examples": int, "unreadable": int, "evaluated": int, "unlabelled": int,
    "unknown_classes": {"*": int}, "accuracy?": NUMBER, "accuracy_interval?": [NUMBER], "confused": [[(str, int)]],
    "trained_on?": int, "languages?": {"*": [NUMBER]},
}  # fmt: skip
"""Content of a file of other_data/."""


class Run(contextlib.AbstractContextManager["Run"]):
    """A run folder, being written (`Run.create`) or read back (`Run.open`).

    Of several workers that train one model only the chief writes the folder. A run of another worker has a
    temporary folder for what it would write, and reads backups where the chief writes them. Once it is closed, it
    reads everything there: `fit(...).metrics["test/accuracy"]` is the same number in every worker.

    Attributes:
      path: what this process writes goes below it.
      shared: the folder that the chief writes; for the chief, and for whoever is alone, the same.
      is_chief: whether this process is the one whose files remain.
      times: what each stage of the last `timed` block took; empty where this process had none.

    Example:
      >>> import tempfile
      >>> run = Run.create(Path(tempfile.mkdtemp()) / "first", config={"seed": 1})
      >>> run.record({"test/accuracy": 0.97})
      >>> Run.open(run.path).metrics["test/accuracy"]
      0.97
    """

    def __init__(self, path: Path) -> None:
        self.path = self.shared = self._read_from = path
        self.is_chief, self._is_done = True, False
        self.times: dict[str, timeline.Usage] = {}
        self._earlier_usage: dict[str, timeline.Usage] = {}
        self._locks = contextlib.ExitStack()
        self._model: tuple[int, Any] | None = None

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
            names = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
            hint = f"\n  Runs below it: {', '.join(names)}." if names else ""
            raise RunError(f"{folder} holds no run: it has no {CONFIG}.{hint}")
        run_files.check_links(folder, READ_FILES)
        return cls(folder)

    def check_writable(self) -> None:
        """Refuse to go on with what will write into this folder, before it takes minutes.

        Raises:
          RunError: the folder is read-only.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise _as_run_error(self.path, OSError(errno.EACCES, "it is read-only, or yours to read alone"))

    @classmethod
    def create(cls, path: str | Path, *, config: Mapping[str, Any], overwrite: bool = False) -> Run:
        """Begin a run in that folder, or go on with the one that was interrupted there.

        The folder is locked until `close`, or the end of the process, so that two runs never write into one.

        Args:
          path: the folder; made if absent.
          config: what was requested: flat names to values that YAML can hold.
          overwrite: whether a run of another config in that folder, or a finished one, is replaced.

        Raises:
          RunError: the folder is in use, belongs to another config, holds something else, or cannot be written.
        """
        if not cluster.current().is_chief:
            return cls._create_for_worker(Path(path), overwrite=overwrite)
        run = cls(Path(path))
        try:
            _acquire(run.path, run._locks, config, overwrite=overwrite)
        except OSError as error:
            raise _as_run_error(run.path, error) from error
        heartbeat.backups = run.backup
        if not run.finished and "time/total_seconds" not in run.metrics:  # it did not come to its end
            run._earlier_usage = timeline.usage_in(run.metrics)
        return run

    @classmethod
    def _create_for_worker(cls, path: Path, *, overwrite: bool) -> Run:
        """Begin for a worker whose files nobody needs: it writes into a folder that goes with it."""
        # The same one at each start: what a killed worker left goes with the next.
        name = f"{files.digest_of(str(path.resolve()))}-{cluster.current().index}"
        scratch = files.cache_dir("workers") / name
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        run = cls(scratch)
        run.shared, run.is_chief = path, False
        heartbeat.backups = run.backup
        # What --overwrite removes, the chief may be about to remove.
        run._is_done = not (overwrite and _is_first_start()) and (path / REPORT).is_file()
        return run

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for others; `with Run.create(...) as run:` does it however the block ends."""
        self._locks.close()
        if not self.is_chief:
            shutil.rmtree(self.path, ignore_errors=True)
            self._read_from = self.shared

    @property
    def finished(self) -> bool:
        """Return whether the run came to its end: its report, which is written last, is there."""
        return self._is_done if not self.is_chief else (self.path / REPORT).is_file()

    @property
    def backup(self) -> Path:
        """Return the folder of the checkpoint that a killed training goes on from."""
        return self.shared / BACKUP

    @property
    def logdir(self) -> Path:
        """Return the folder for TensorBoard."""
        return self.path / LOGS

    @property
    def config(self) -> dict[str, Any]:
        """Return what was requested, and where that was left open, what the run decided."""
        return run_files.read_yaml(self._read_from, CONFIG)

    def decide(self, **settings: Any) -> None:
        """Put what the run decided into config.yaml, in place of what was left open: plain values, by setting."""
        if self.is_chief:
            config, requests = _read_config(self.path)
            changes = {name: value for name, value in settings.items() if config.get(name, value) != value}
            if changes:
                requests = {**{name: config[name] for name in changes}, **requests}
                _write_config(self.path, {**config, **changes}, requests)

    @property
    def metrics(self) -> dict[str, float]:
        """Return flat names to numbers, such as `test/accuracy` or `time/train_seconds`."""
        return dict(self.read(METRICS))

    def record(self, metrics: Mapping[str, float], *, instead_of: str | tuple[str, ...] = ()) -> None:
        """Add numbers to metrics.json; a name that is there already takes the new value.

        Args:
          metrics: flat names to numbers.
          instead_of: how names begin that go: "lite/", of the variants of an earlier call.

        Raises:
          RunError: a value is not a finite number.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise RunError(f"The metric {name!r} is {value}: metrics.json holds finite numbers only.")
        numbers = {name: value if isinstance(value, int) else float(value) for name, value in metrics.items()}
        old_numbers = {name: value for name, value in self.metrics.items() if not name.startswith(instead_of)}
        files.write_json(self.path / METRICS, old_numbers | numbers)

    @contextlib.contextmanager
    def timed(self, name: str = "", *, keep: bool = True) -> Iterator[Callable[[], None]]:
        """Measure the stages of a block, see `tfkit.environment.timeline`, into metrics.json.

        Of a run that goes on, what earlier processes took is added; nobody measured the stage in which one was killed.

        Args:
          name: of the block, "compress", where it is not the run itself: it stands before the names of its stages.
          keep: off, nothing is recorded but, of the run itself, time/total_seconds. So it is with private training: one
            picture of a private set can need more time and memory than all others, and no noise hides that. The privacy
            statement names that number.

        Yields:
          What records all that was measured until then: to be called before the report, which shows it.
        """

        def record() -> None:
            stages = times.metrics(f"{name}_" if name else "")
            if keep or not name:
                self.record({f"time/{name or 'total'}_seconds": times.seconds, **(stages if keep else {})})

        def record_stage() -> None:
            # Before there are numbers, the same command with other settings may begin anew in this folder.
            if keep and not name and (self.path / METRICS).is_file():
                self.record(times.metrics())

        usage, doing = {} if name else self._earlier_usage, timeline.doing(f"Working on {self.shared}")
        with timeline.Timeline(usage, ended=record_stage) as times, doing:
            self.times = times.usage
            yield record
        record()

    @property
    def notes(self) -> list[str]:
        """Return what the run decided, and why, one sentence each."""
        return (run_files.read_text(self._read_from, NOTES) or "").splitlines()

    def note(self, sentence: str) -> None:
        """Print a decision of the run and keep it; one that is kept already is not repeated."""
        self.say(" ".join(sentence.split()))
        self._append_note(sentence)

    def warn(self, sentence: str) -> None:
        """Print to stderr, also where a job is to be quiet, and keep what somebody should look at."""
        if self.is_chief:
            print(" ".join(sentence.split()), file=sys.stderr, flush=True)
        self._append_note(sentence)

    def _append_note(self, sentence: str) -> None:
        if (line := " ".join(sentence.split())) not in self.notes:
            files.write_text(self.path / NOTES, "".join(f"{note}\n" for note in [*self.notes, line]))

    def say(self, sentence: str) -> None:
        """Print a sentence; of several workers the chief does."""
        if self.is_chief:
            process.say(sentence)

    def _describe_missing(self, name: str) -> RunError:
        reason = "yet. The command that began the run finishes it."
        if self.finished:
            reason = "although it is finished: it is no classifier's, or was not copied whole."
        return RunError(f"{self._read_from} has no {name} {reason}")

    @property
    def labels(self) -> list[str]:
        """Return the class names in the order of the model's outputs."""
        text = run_files.read_text(self._read_from, LABELS)
        if text is None:
            raise self._describe_missing(LABELS)
        return text.splitlines()

    @labels.setter
    def labels(self, class_names: Iterable[str]) -> None:
        # A name with a line break in it would shift every later label by one.
        files.write_text(self.path / LABELS, "".join(" ".join(name.split()) + "\n" for name in class_names))

    @property
    def task(self) -> Classes:
        """Return what the labels mean, and what turns outputs into answers; of classes where task.json is not there."""
        from tfkit.tasks import task_of

        try:
            task = task_of(self.read(TASK))
            if getattr(task, "thresholds", ()) and len(task.thresholds) != len(self.labels):  # type: ignore[attr-defined]
                raise DataError(f"it has not a threshold for each of {len(self.labels)} labels")
            return task
        except DataError as error:
            raise run_files.damaged(self._read_from / TASK, packages.first_line(error)) from error

    @property
    def provenance(self) -> dict[str, dict[str, Any]]:
        """Return where the data and the model came from."""
        return dict(self.read(PROVENANCE))

    @provenance.setter
    def provenance(self, content: Mapping[str, Mapping[str, Any]]) -> None:
        files.write_json(self.path / PROVENANCE, content)

    @property
    def versions(self) -> dict[str, Any]:
        """Return the packages, Python and machine of the run."""
        return dict(self.read(VERSIONS))

    @versions.setter
    def versions(self, content: Mapping[str, Any]) -> None:
        files.write_json(self.path / VERSIONS, content)

    @property
    def history(self) -> pd.DataFrame:
        """Return one row an epoch: stage, epoch, loss, accuracy, val_loss, val_accuracy, learning_rate."""
        import pandas as pd

        text = run_files.read_text(self._read_from, HISTORY)
        if text is None:
            return pd.DataFrame()
        try:
            rows = pd.read_csv(io.StringIO(text))
            is_numeric = all(rows[name].dtype.kind in "if" for name in rows if name != "stage")
            if not is_numeric or not {"stage", "epoch"} <= set(rows):
                raise ValueError("it has words where there should be numbers, or no `stage` and `epoch`")
        except (ValueError, LookupError, OverflowError) as error:
            reason = f"it is not the table of a training: {str(error).splitlines()[0]}"
            raise run_files.damaged(self._read_from / HISTORY, reason) from error
        return rows

    def write_history(self, rows: list[dict[str, Any]]) -> None:
        """Replace history.csv by these rows, one an epoch."""
        import pandas as pd

        files.write_text(self.path / HISTORY, pd.DataFrame(rows, dtype=object).to_csv(index=False))

    @property
    def model(self) -> Any:
        """Load the exported model: images as `tfkit.read_image` gives them (or texts) to class probabilities.

        It is what tf.saved_model.load gives, is traced once for images of all sizes, and is loaded once, unless the
        folder changes.

        Raises:
          RunError: the run has not exported a model yet, or it is damaged.
        """
        folder = self._read_from / SAVED_MODEL
        if not folder.is_dir():
            raise self._describe_missing(f"{SAVED_MODEL}/")
        if (folder / "assets").is_dir() or self.provenance.get("data", {}).get("shape") == []:
            from tfkit.environment.stack import tf_text  # noqa: F401  the operations of a model of texts
        mtime = folder.stat().st_mtime_ns
        if self._model is not None and self._model[0] == mtime:
            return self._model[1]
        try:
            self._model = mtime, stack.load_saved_model(folder)
            return self._model[1]
        except (OSError, ValueError, LookupError, RuntimeError, TypeError, stack.tf.errors.OpError) as error:
            raise run_files.damaged(folder, packages.first_line(error)) from error

    def predict(
        self,
        data: Any,
        *,
        output: str | Path | None = None,
        coverage: float | None = None,
        strict: bool = False,
        text_column: str | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        labels: bool = False,
        report: str | None = None,
        augment: bool = False,
    ) -> pd.DataFrame:
        """Predict the classes of new images, texts or rows of numbers, with the exported model.

        Args:
          data: for a run of images the path of a file or folder (read at any depth), a pattern ("new/**/*.jpg"), a list
            of these, an array uint8, uint16 or float [n, h, w, c], or a list of arrays [h, w, c] or images of PIL; a
            file is read as training reads it, an array is what `Run.model` takes. For one of texts a list or Series of
            strings, a text file or a folder of them. For either a DataFrame, of texts or of the paths of images, the
            path of a table (CSV, TSV, JSON, JSONL, Parquet), whose paths are from its folder on, or a tf.data.Dataset
            of images or texts, batched or not; its labels are left. For one of `tfkit.fit` on features float [n, ...].
          output: a .csv or .jsonl file to write as well: all of it, or what was there before.
          coverage: of prediction sets, such as 0.95: adds the columns `set`, the labels joined by "|", and `abstain`,
            whether the set is empty.
          strict: whether an example that cannot be read is an error; else its row has the reason.
          text_column: of a table; left out, that of the run's own data where the table has it, else the one whose name
            says it.
          image_column: of a table, likewise, with the paths of images.
          label_column: of a table, with the true classes; left out, likewise, of what is named so one whose values are
            classes.
          labels: that the subfolders, or the column, are the true classes; else they are where all are named so.
          report: a name under which what the predictions of labelled data are worth is kept in the run folder
            (other_data/NAME.json) and shown in its report; what it was trained or validated on is left out.
          augment: judge each image by the mean over five views of it, as it is and moved by a 32nd of its side in each
            direction (test-time augmentation): five times the work. Not with coverage or report.

        Returns:
          A row for each example, with the index of a DataFrame or Series that was given: `name`, `label`, `probability`
          (of that label), a column float32 for each class, in front of whose name "class:" stands where another column
          has it; `truth` of labelled data; `error`, missing where it could be read. `attrs` has how many were
          `examples` and `unreadable`, and of labelled data `trained_on` (so many are left out of what follows),
          `evaluated`, `accuracy`, `accuracy_interval` (95 %; of other tasks their score), `metrics` (what metrics.json
          has as test/...), `confused` (true, predicted, how often: the 30 most frequent pairs), `unlabelled` and
          `unknown_classes`; of a table with a column of languages (called language, lang or locale) `languages`, each
          with its number of examples and their accuracy.

        Raises:
          DataError: the data are of another kind than the run was trained on, not there, or empty.
          RunError: the run is not finished, or cannot keep the coverage.
          PrivacyError: a report of a private run.

        Example:
          >>> Run.open("runs/photos").predict("new_photos/")[["name", "label", "probability"]]  # doctest: +SKIP
                         name label  probability
          0  new_photos/a.jpg   cat     0.981432
        """
        options: dict[str, Any] = {
            "text_column": text_column,
            "image_column": image_column,
            "label_column": label_column,
        }
        options |= {"labels": labels, "report": report, "augment": augment}
        predict = importlib.import_module("tfkit.inference.predict").predict
        table: pd.DataFrame = predict(self, data, output=output, coverage=coverage, strict=strict, **options)
        return table

    def explain(self, data: Any, *, output: str | Path | None = None, label: str | None = None) -> Any:
        """Show which places of images, or which words of texts, spoke for a class: see `tfkit.inference.explain`.

        Args:
          data: files, images or texts.
          output: a folder for pictures, a page and numbers; None: nothing is written.
          label: the class that is asked about; None: the most probable one.

        Returns:
          A list with a `tfkit.inference.Explanation` of each.
        """
        explain = importlib.import_module("tfkit.inference.explain").explain
        return explain(self, data, output=output, label=label)

    def read(self, name: str) -> dict[str, Any]:
        """Return what a JSON file of the folder holds, such as `privacy.json`; nothing where there is none."""
        return run_files.read_json(self._read_from, name, SHAPES.get(name, dict))

    def __fspath__(self) -> str:
        """Return the folder, so that a run may stand where a path may."""
        return str(self.path)

    def __repr__(self) -> str:
        """Return the folder, the recipe, the accuracy and, of private training, the epsilon."""
        facts = ["finished" if self.finished else "not finished"]
        try:
            facts += filter(None, [self.provenance.get("recipe", {}).get("name")])
            names = (f"test/{self.task.score}", "privacy/epsilon")
            facts += [
                f"{n} {rounded_up(v) if 'epsilon' in n else f'{v:.4g}'}"
                for n, v in self.metrics.items()
                if n in names
            ]
        except RunError:
            facts = ["damaged"]
        return f"Run({str(self._read_from)!r}): {', '.join(facts)}"
