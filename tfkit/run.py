"""Run: one folder that holds whatever a run makes, readable by a person, by TensorBoard and by a program."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tfkit import files
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
PRIVACY = "privacy.json"
AUDIT = "audit.json"
TFLITE = "tflite"
VARIANTS = f"{TFLITE}/variants.json"
LOCK = ".lock"
MADE = (
    *(CONFIG, LABELS, METRICS, NOTES, HISTORY, PROVENANCE, VERSIONS, EVALUATION, REPORT),
    *(SAVED_MODEL, LOGS, BACKUP, PRIVACY, AUDIT, TFLITE),
)


class Run:
    """A run folder, being written (`Run.create`) or read back (`Run.open`).

    Example:
      >>> import tempfile
      >>> run = Run.create(Path(tempfile.mkdtemp()) / "first", config={"seed": 1})
      >>> run.record({"test/accuracy": 0.97})
      >>> Run.open(run.path).metrics["test/accuracy"]
      0.97
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: TextIO | None = None

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a run folder back.

        Raises:
          RunError: there is no run in that folder.
        """
        folder = Path(path)
        if not (folder / CONFIG).is_file():
            known = sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}"))
            raise RunError(
                f"{folder} holds no run: it has no {CONFIG}."
                + (f"\n  Runs below it: {', '.join(known)}." if known else "")
            )
        return cls(folder)

    @classmethod
    def create(cls, path: str | Path, *, config: Mapping[str, Any], overwrite: bool = False) -> Run:
        """Begin a run in that folder, or go on with the one that was interrupted there.

        The folder is locked until `close`, or the end of the process, so that two runs never write into one.

        Args:
          path: the folder; made if absent.
          config: what was asked: flat names to values that YAML can hold.
          overwrite: whether a run of another config in that folder, or a finished one, is replaced.

        Raises:
          RunError: the folder is in use, belongs to another config, or holds something else.
        """
        run = cls(Path(path))
        if run.path.is_file():
            raise RunError(
                f"{run.path} is a file; a run needs a folder of its own. Choose another --run-dir."
            )
        run._refuse_other_things()
        run.path.mkdir(parents=True, exist_ok=True)
        run._acquire()
        run._remove_halves()
        if overwrite or not (run.started or run.metrics):
            run._clear()
        if (run.path / CONFIG).is_file():
            run._refuse_other(config)
        else:
            import yaml

            files.write_text(
                run.path / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
            )
        return run

    def _refuse_other_things(self) -> None:
        there = sorted(found.name for found in self.path.iterdir()) if self.path.is_dir() else []
        # Others write a config.yaml too: the lock, or the numbers, tell.
        is_run = CONFIG in there and (LOCK in there or METRICS in there)
        if not is_run and there not in ([], [LOCK]):
            raise RunError(
                f"{self.path} is not a run folder, but holds other things ({_some(there)})."
                "\n  Choose an empty or new --run-dir: nothing in it was touched."
            )

    def _acquire(self) -> None:
        self._lock = (self.path / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunError(
                f"{self.path} is in use: another process is running in it."
                "\n  Wait for it, or give this run another --run-dir."
            ) from None

    def _remove_halves(self) -> None:
        """What a killed process left under temporary names; the lock says that nobody is writing it."""
        for name in MADE:
            for half in self.path.glob(f".{name}.*"):
                shutil.rmtree(half) if half.is_dir() else half.unlink()

    def _clear(self) -> None:
        """Remove what runs make; what somebody put beside it stays."""
        for name in MADE:
            found = self.path / name
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink(missing_ok=True)

    def _refuse_other(self, config: Mapping[str, Any]) -> None:
        old = self.config
        differing = [name for name in {**old, **config} if old.get(name) != config.get(name)]
        if differing:
            changes = "".join(
                f"\n    {name}: {old.get(name)!r} there, {config.get(name)!r} now" for name in differing
            )
            raise RunError(
                f"{self.path} holds a {'finished' if self.finished else 'begun'} run of another config:{changes}"
                "\n  Give this run another --run-dir, or replace the old one with --overwrite."
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder for others; `with Run.create(...) as run:` does it however the block ends."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def finished(self) -> bool:
        """Whether the run came to its end: its report, which is written last, is there."""
        return (self.path / REPORT).is_file()

    @property
    def started(self) -> bool:
        """Whether an earlier process has trained in this folder."""
        return (self.path / BACKUP).is_dir()

    @property
    def logdir(self) -> Path:
        """The folder for TensorBoard."""
        return self.path / LOGS

    @property
    def config(self) -> dict[str, Any]:
        """What was asked."""
        import yaml

        return dict(yaml.safe_load((self.path / CONFIG).read_text()) or {})

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
        path = self.path / NOTES
        return path.read_text().splitlines() if path.is_file() else []

    def note(self, sentence: str) -> None:
        """Print a decision of the run and keep it; one that is kept already is not repeated."""
        line = " ".join(sentence.split())
        print(line, flush=True)
        if line not in self.notes:
            files.write_text(self.path / NOTES, "".join(f"{known}\n" for known in [*self.notes, line]))

    @property
    def labels(self) -> list[str]:
        """The class names in the order of the model's outputs."""
        return (self.path / LABELS).read_text().splitlines()

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

        path = self.path / HISTORY
        return pd.read_csv(path) if path.is_file() else pd.DataFrame()

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
        """The exported model: raw images (or texts) to class probabilities.

        Raises:
          RunError: the run has not exported a model yet.
        """
        folder = self.path / SAVED_MODEL
        if not folder.is_dir():
            raise RunError(
                f"{self.path} has no {SAVED_MODEL}/ yet: the run was interrupted. The same command finishes it."
            )
        from tfkit.stack import tf

        return tf.saved_model.load(str(folder))

    def read(self, name: str) -> dict[str, Any]:
        """What a JSON file of the folder holds, such as `privacy.json`; nothing where there is none."""
        path = self.path / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text())
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}). Remove the run folder and run again.") from error
        if not isinstance(content, dict):
            raise RunError(f"{path} is damaged: no JSON object. Remove the run folder and run again.")
        return content

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
