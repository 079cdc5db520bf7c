"""The last two states of a training, each a folder that is whole or absent, and checked before it is trusted."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import files
from tfkit.distribute.together import Together
from tfkit.errors import RunError
from tfkit.stack import tf

KEPT = 2
STATE, VARIABLES, BEST = "state.json", "variables", "best.npz"


class Backups:
    """States of one stage, numbered in the order in which they were made.

    All processes of a training take part in each call: some variables are a sum over them. The chief's files remain.

    Args:
      folder: where the chief keeps them, and where all read them.
      checkpoint: of everything that has variables.
      together: the processes that take part.
      scratch: where the others write what goes at once.
      warn: is given a sentence when a damaged state is passed over.
    """

    def __init__(
        self,
        folder: Path,
        *,
        checkpoint: tf.train.Checkpoint,
        together: Together,
        scratch: Path,
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._checkpoint = checkpoint
        self._together = together
        self._scratch = scratch
        self._warn = warn
        self._best: Path | None = None

    def save(self, state: dict[str, Any], best: list[np.ndarray] | None, *, best_name: object) -> None:
        """Write one more state, and remove all but the last two.

        Args:
          state: plain values.
          best: the weights that are kept beside those of the model, if there are such.
          best_name: tells whether they are those of the state before: they are not written again then.

        Raises:
          OSError, tf.errors.OpError: it could not be written; what was there before is there still.
        """
        if self._together.index:
            with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
                self._checkpoint.write(f"{folder}/{VARIABLES}")
            return
        number = max(self._numbers(), default=0) + 1
        with files.new_folder(self._folder / f"{number:08d}") as folder:
            self._checkpoint.write(str(folder / VARIABLES))
            if best is not None:
                self._write_best(folder, best, str(best_name))
            digests = {path.name: files.digest(path) for path in sorted(folder.iterdir())}
            for path in folder.iterdir():
                _sync(path)
            files.write_json(folder / STATE, {**state, "best_name": str(best_name), "files": digests})
        self._best = self._folder / f"{number:08d}"
        for old in sorted(self._numbers())[:-KEPT]:
            shutil.rmtree(self._folder / f"{old:08d}")

    def restore(self) -> tuple[dict[str, Any], list[np.ndarray] | None] | None:
        """Bring the variables to the last state that is whole.

        Returns:
          What `save` was given with it, or None where nothing was saved.

        Raises:
          RunError: all that was saved is damaged, or belongs to another model.
        """
        chosen, damage = self._newest_whole() if self._together.index == 0 else (0, "")
        chosen = int(self._together.of_chief([chosen])[0])
        if chosen == 0:
            return None
        if chosen < 0:
            raise _unusable(self._folder, damage or "the chief found it damaged")
        folder = self._folder / f"{chosen:08d}"
        try:
            state = json.loads((folder / STATE).read_text())
            self._checkpoint.read(str(folder / VARIABLES)).assert_existing_objects_matched()
            best = _read_best(folder / BEST) if (folder / BEST).is_file() else None
        except (ValueError, LookupError, OSError, AssertionError, tf.errors.OpError) as error:
            raise _unusable(self._folder, str(error).splitlines()[0]) from error
        self._best = folder
        return state, best

    def _numbers(self) -> list[int]:
        return [int(path.name) for path in self._folder.glob("[0-9]*") if path.name.isdigit()]

    def _newest_whole(self) -> tuple[int, str]:
        """The number of the newest state whose files are as they were written: 0 for none at all, -1 for none whole."""
        damage = ""
        numbers = sorted(self._numbers(), reverse=True)
        for number in numbers:
            folder = self._folder / f"{number:08d}"
            found = _damage(folder)
            if not found:
                for broken in numbers[: numbers.index(number)]:
                    shutil.rmtree(self._folder / f"{broken:08d}")
                    self._warn(f"The newest backup is damaged ({damage}): going on from the one before.")
                return number, ""
            damage = found
        return (-1 if numbers else 0), damage

    def _write_best(self, folder: Path, best: list[np.ndarray], name: str) -> None:
        if self._best is not None and json.loads((self._best / STATE).read_text())["best_name"] == name:
            with contextlib.suppress(OSError):  # not every file system has hard links
                os.link(self._best / BEST, folder / BEST)
                return
        with files.new_file(folder / BEST) as file:
            arrays: dict[str, Any] = {f"weight{place}": value for place, value in enumerate(best)}
            np.savez(file, **arrays)


def _damage(folder: Path) -> str:
    """What is wrong with a state's files; nothing if they are as they were written."""
    try:
        wanted = json.loads((folder / STATE).read_text())["files"]
        changed = [name for name, digest in wanted.items() if files.digest(folder / name) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{folder.name}/{STATE}: {type(error).__name__}"
    return f"{folder.name}/{changed[0]} is not what was written" if changed else ""


def _read_best(path: Path) -> list[np.ndarray]:
    with np.load(path, allow_pickle=False) as kept:
        return [kept[f"weight{place}"] for place in range(len(kept.files))]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unusable(folder: Path, why: str) -> RunError:
    return RunError(
        f"The backup in {folder} cannot be restored: {why}"
        "\n  Start this run again from its beginning with --overwrite."
    )
