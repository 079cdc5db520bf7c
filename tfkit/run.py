"""Run: one folder that holds whatever a run makes, readable by a person, by TensorBoard and by a program."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tfkit import claim, cluster, files, packages, process, run_files, stack, stopping
from tfkit.claim import (
    AUDIT,
    BACKUP,
    CONFIG,
    EVALUATION,
    HISTORY,
    HITS,
    INDEX,
    LABELS,
    LOGS,
    METRICS,
    NOTES,
    PRIVACY,
    PROVENANCE,
    REPORT,
    SAVED_MODEL,
    TFLITE,
    VARIANTS,
    VERSIONS,
)
from tfkit.errors import RunError
from tfkit.run_format import LISTS, SHAPES

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "AUDIT",
    "BACKUP",
    "CONFIG",
    "EVALUATION",
    "HISTORY",
    "HITS",
    "INDEX",
    "LABELS",
    "LOGS",
    "METRICS",
    "NOTES",
    "PRIVACY",
    "PROVENANCE",
    "REPORT",
    "SAVED_MODEL",
    "TFLITE",
    "VARIANTS",
    "VERSIONS",
    "Run",
]


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
        run_files.check_links(folder, claim.READ)
        return cls(folder)

    def check_writable(self) -> None:
        """Refuse to go on with what will write into this folder, before it takes minutes.

        Raises:
          RunError: the folder is read-only.
        """
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise claim.unwritable(
                self.path, OSError(errno.EACCES, "it is read-only, or yours to read alone")
            )

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
        run._lock = claim.claim(run.path, config=config, overwrite=overwrite)
        stopping.backups = run.backup
        return run

    @classmethod
    def _of_other_worker(cls, path: Path, *, overwrite: bool) -> Run:
        """The same for a worker whose files nobody needs: it writes into a folder that goes with it."""
        # The same one at each start: what a killed worker left goes with the next.
        scratch = (
            files.cache_dir("workers") / f"{files.digest(str(path.resolve()))}-{cluster.current().index}"
        )
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        run = cls(scratch)
        run.shared, run.is_chief = path, False
        stopping.backups = run.backup
        # What --overwrite removes, the chief may be about to remove.
        run._done = not (overwrite and claim.is_first_start()) and (path / REPORT).is_file()
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
            claim.decide(self.path, settings)

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
            from tfkit.stack import tf_text  # noqa: F401  the operations of a model of texts
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
