"""Make a large result in pieces, together with all processes that want it; one that is killed loses its own piece.

<cache>/pieces/<key>-<start>-<stop>/content   of the examples from start to stop
<cache>/pieces/<key>-<start>-<stop>.lock      held by the process that makes it

Nothing is dealt out: whoever is free takes the next piece that nobody makes, so that a slow worker makes fewer, and one
that is gone none. The kernel releases the locks of a process that ends. Workers that do not share the folder of the
cache find no pieces of others there, and make all of them: the result is the same.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from tfkit.environment import cluster, files
from tfkit.environment.files import Cache, Entry
from tfkit.environment.timeline import Activity

CONTENT = "content"
ALONE = 4096
"""Examples from which on a process that is alone makes pieces too, so as to go on from them."""
_PIECES = 64  # at most: the last one keeps the others waiting, and each costs some files


class Pieces:
    """The pieces of a result, in the order of its examples.

    Attributes:
      parts: the examples of each piece.
      are_worth_it: whether there are other workers, or much to lose; if not, make the result as a whole.
    """

    def __init__(
        self,
        key: str,
        total: int,
        *,
        unit: int,
        make: Callable[[BinaryIO, range], Mapping[str, Any]],
        result: Path,
    ) -> None:
        """Cut a result; the pieces do not depend on how many processes make them.

        Args:
          key: a file name; a digest of all that the result depends on is in it.
          total: examples.
          unit: examples that are made at a time: a piece has a multiple of it.
          make: writes the content of a piece to a file, and returns what is to be known of it, as JSON has it.
          result: the folder that is there once the pieces have been put together.
        """
        size = max(unit * -(-total // (unit * _PIECES)), 1)
        self.parts = [range(start, min(start + size, total)) for start in range(0, total, size)]
        self.are_worth_it = len(self.parts) > 1 and (cluster.current().size > 1 or total > ALONE)
        self._key, self._make, self._result = key, make, result
        self._cache = Cache("pieces")

    def make_those_left(self, progress: Activity) -> None:
        """Make the pieces that are not there and that no other process makes now.

        Args:
          progress: is told of the examples of those that others make or have made; `make` says its own.
        """
        if cluster.current().is_chief:
            with contextlib.suppress(FileNotFoundError):  # another job has finished one
                files.make_room(self._cache.folder, keep="", limit=files.CACHE_LIMIT)
        for part in self.parts:
            if not self._cache.offer(self._to_key(part), self._bind(part), unless=self._result.is_dir):
                progress.advance(len(part))

    def entries(self) -> Iterator[Entry]:
        """Yield all pieces in order: waits for those that others make, and makes those that they lost."""
        for part in self.parts:
            yield self._cache.get(self._to_key(part), self._bind(part))

    def remove(self) -> None:
        """Remove all pieces; to be called when the result is there."""
        for part in self.parts:
            path = self._cache.folder / f"{self._to_key(part)}.lock"
            with files.lock(path, wait=False) as is_free:
                if is_free:
                    shutil.rmtree(self._cache.folder / self._to_key(part), ignore_errors=True)
                    path.unlink(missing_ok=True)

    def _to_key(self, part: range) -> str:
        return f"{self._key}-{part.start}-{part.stop}"

    def _bind(self, part: range) -> Callable[[Path], Mapping[str, Any]]:
        def make(folder: Path) -> Mapping[str, Any]:
            with (folder / CONTENT).open("wb") as file:
                return self._make(file, part)

        return make
