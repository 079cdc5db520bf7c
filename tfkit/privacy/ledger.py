"""What stays with the owner of private data: a record of the examples of a run, and of what it spent on them.

A private run's folder may be shown to anybody, so that nothing in it is computed from the examples without noise: no
digest, no name, no count but that of the training examples. It holds the random name of a record in the owner's cache
instead: with the digests in that record one could test who was among the examples.

The account of a private training, beside its backups: weights without their account are not trained further.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tfkit import run
from tfkit.data.splits import Splits
from tfkit.environment import files
from tfkit.errors import DataError, RunError
from tfkit.privacy.plan import Plan
from tfkit.run import PRIVACY, PROVENANCE, Run

LEDGER, MEAN = "ledger.json", "mean.npy"
ACCOUNTED = (
    "noise_multiplier", "gradient_noise_multiplier", "count_noise", "release_noise", "sampler", "sampling_probability",
    "steps_per_epoch", "delta", "l2_norm_clip",
)  # fmt: skip
"""Of a plan: what one epsilon of all epochs takes for granted, also of those that an earlier process took."""


class Ledger:
    """How many epochs were ever begun in one stage of a run.

    Args:
      run: of the training.
      stage: names the folder of its backups.

    Raises:
      RunError: the account is lost, damaged or of another training; other stages were trained in this run.
    """

    def __init__(self, run: Run, stage: str) -> None:
        self._run = run
        self._folder = run.backup / stage
        self.path = self._folder / LEDGER
        self.epochs_begun = 0
        self.identity = secrets.token_hex(16)
        self._plan: dict[str, Any] | None = None
        _refuse_other_stages(run.backup, stage)
        if self.path.is_file():
            self._read()
        else:
            self._refuse_lost()

    def check_plan(self, plan: Plan) -> None:
        """Raise where the epochs that were begun before were accounted otherwise."""
        wanted = {name: getattr(plan, name) for name in ACCOUNTED}
        if self._plan is not None and self._plan != wanted:
            changed = [
                f"{name} {self._plan.get(name)} there, {wanted[name]} now"
                for name in ACCOUNTED
                if self._plan.get(name) != wanted[name]
            ]
            raise self._wrong(f"is of another plan ({'; '.join(changed)})")
        self._plan = wanted

    def check_weights(self, *, epoch: int, saved: tuple[str, int] | None) -> None:
        """Raise where these are not the account of the weights that were restored.

        Args:
          epoch: that the weights begin.
          saved: identity and epochs begun of the account when they were saved; None: nothing was restored.
        """
        if saved is not None and saved[0] != self.identity:
            raise self._wrong("is the account of another training than the backups beside it")
        begun = max(epoch, saved[1] if saved else 0)
        if self.epochs_begun < begun:
            raise self._wrong(f"tells of {self.epochs_begun} epochs, and the backups beside it of {begun}")

    def begin_epoch(self) -> None:
        """Count an epoch, before anything of it can be seen. Of several workers each counts, and one writes."""
        self.epochs_begun += 1
        if self._run.is_chief:
            mean = self._folder / MEAN
            files.write_json(
                self.path,
                {
                    "epochs_begun": self.epochs_begun,
                    "training": self.identity,
                    "mean": files.digest_of(mean) if mean.is_file() else None,
                    "plan": self._plan,
                },
            )

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            self.epochs_begun, self._plan = content["epochs_begun"], dict(content["plan"])
            self.identity, mean = str(content["training"]), content["mean"]
            if type(self.epochs_begun) is not int or self.epochs_begun < 1:
                raise ValueError(f"epochs_begun {self.epochs_begun!r}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._wrong(f"is damaged ({type(error).__name__}: {error})") from error
        beside = self._folder / MEAN
        if mean is not None and not (beside.is_file() and files.digest_of(beside) == mean):
            raise RunError(
                f"{beside}, which was released from the training examples for the epochs that {LEDGER} counts, is"
                f" missing or another: to release it once more is not accounted.\n  {self._way_out}"
            )

    def _refuse_lost(self) -> None:
        of_training = [
            *sorted(self._folder.glob("[0-9]*")),
            self._run.shared / run.PRIVACY,
            self._run.shared / run.HISTORY,
            self._run.shared / run.LOGS / "train",
        ]
        found = next((path for path in of_training if path.exists()), None)
        if found is not None:
            raise self._wrong(f"is missing, and {found} shows that this training had begun")

    def _wrong(self, what: str) -> RunError:
        return RunError(
            f"{self.path} {what}: nobody can tell what was spent, and an epsilon stated from it might be too small."
            f"\n  {self._way_out}"
        )

    @property
    def _way_out(self) -> str:
        return (
            f"Bring {self._folder} back as a whole, and give data and settings as they were; or begin anew with"
            " --overwrite (tfkit.fit: resume=False), which spends again on the same people."
        )


def _refuse_other_stages(backup: Path, stage: str) -> None:
    others = [path.name for path in sorted(backup.glob("*")) if path.is_dir() and path.name != stage]
    if others:
        raise RunError(
            f"{backup} holds what {' and '.join(others)} left, trained in this run before {stage}, and the epsilon of"
            f" {stage} would not cover it.\n  Train in a run folder of its own, on weights that do not come from the"
            " private examples."
        )


def refuse_after_private(run: Run) -> None:
    """Raise where a training without privacy would follow a private one in the same run.

    Raises:
      RunError: privacy.json would claim an epsilon for what it does not cover.
    """
    found = next(iter(sorted(run.backup.glob(f"*/{LEDGER}"))), None)
    if found is not None:
        raise RunError(
            f"{found} shows that this run was trained privately: training without privacy on the same examples would"
            " leave its epsilon untrue.\n  Train in a run folder of its own."
        )


FOLDER = "private"
RECORD = "record"
SHOWN = ("origin", "classes", "shape", "seed")
KEPT = ("fingerprint", "division")


def is_private(run: Run) -> bool:
    """Return whether the run was to be private: whatever came of it, its folder shows nobody's example."""
    return bool(run.read(PRIVACY)) or RECORD in run.provenance.get("data", {})


def shown(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the `data` of provenance.json may be shown of a private run."""
    return {name: data[name] for name in (*SHOWN, RECORD) if name in data}


def register(run: Run, splits: Splits) -> dict[str, Any]:
    """Return the `data` of a private run's provenance.json, and keep in its record what may not stand there.

    A word is said, and not kept, where an earlier private run has spent on the same examples.

    Raises:
      DataError: the run was begun on other data, or the record of it is not here.
    """
    data = splits.provenance
    if not run.is_chief:
        return shown(data)
    name = run.provenance.get("data", {}).get(RECORD)
    if name is None and (account := next(iter(sorted(run.backup.glob(f"*/{LEDGER}"))), None)):
        raise DataError(
            f"{account} shows that {run.path} was begun, and its {PROVENANCE} does not say on which data."
            "\n  Bring the folder back as a whole, or begin anew (--overwrite), which spends again on the same people."
        )
    if name is not None:
        check_data(run, splits)
        return {**shown(data), RECORD: name}
    earlier = [one for one in _records() if any(one.get(key) == data[key] for key in KEPT)]
    name = secrets.token_hex(16)
    _write(_path(name), {"run": str(run.path.resolve()), **{key: data[key] for key in KEPT}})
    if earlier:
        _say_spent(earlier)
    return {**shown(data), RECORD: name}


def spend(run: Run, *, epsilon: float | None) -> None:
    """Write into the run's record what its training spends at most; None: no epsilon holds."""
    name = run.provenance.get("data", {}).get(RECORD)
    if run.is_chief and name is not None:
        _write(_path(name), {**_read(_path(name)), "spent": epsilon})


def count_epochs(run: Run, begun: int) -> None:
    """Write into the run's record how many epochs were ever begun.

    Raises:
      RunError: more were begun than the folder's account tells of: it was put back as it was at an earlier time.
    """
    name = run.provenance.get("data", {}).get(RECORD)
    if not run.is_chief or name is None:
        return
    record = _read(_path(name))
    if record.get("epochs_begun", 0) > begun:
        raise RunError(
            f"{run.path} tells of {begun} epochs of private training, and its record of {record['epochs_begun']}"
            f" ({_path(name)}):\n  the folder is as it was at an earlier time, or a copy of it was trained further, and"
            " an epsilon stated from it would be too small.\n  Bring back the folder that was trained last, or begin"
            " anew with --overwrite (tfkit.fit: resume=False), which spends again on the same people."
        )
    _write(_path(name), {**record, "epochs_begun": begun})


def known(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `data` of provenance.json, of a private run together with its record if that is here."""
    name = data.get(RECORD)
    return {**data, **(_read(_path(name)) if name is not None else {})}


def check_data(run: Run, splits: Splits) -> None:
    """Make sure that these are the data, divided as they were, that a run was trained on.

    Raises:
      DataError: they are not, or nobody here can tell.
    """
    data, given = run.provenance.get("data", {}), splits.provenance
    there = known(data)
    if RECORD in data and not set(KEPT) <= set(there):
        raise DataError(
            f"{run.path} is a private run: nothing in its folder tells what it was trained on. What does is not here:"
            f"\n  {_path(data[RECORD])}\n"
            "  It stays in the cache of the machine that trained the run. Copy it here from there and keep it to"
            " yourself,\n  or train anew (--overwrite), which spends again on the same people."
        )
    if any(there.get(name) != given[name] for name in KEPT):
        raise DataError(
            f"{run.path} was trained on other data ({data.get('origin')}), or on other splits of them, than"
            f" these ({splits.origin}, seed {splits.seed}): what it was trained on could not be told from the rest.\n"
            "  Give the data and the seed as they were, or train anew."
        )


def _say_spent(earlier: list[dict[str, Any]]) -> None:
    spent = [one["spent"] for one in earlier]
    total = "without an epsilon" if None in spent else f"epsilon {sum(spent):.3g} in all"
    print(
        f"These very examples were trained on privately before, in {len(earlier)} run(s) ({total}; the last:"
        f" {earlier[-1].get('run')}). This run spends again on the same people: to those who see both, it adds up.",
        file=sys.stderr,
        flush=True,
    )


def _path(name: Any) -> Path:
    # A stranger's provenance.json may name anything.
    if not re.fullmatch("[0-9a-f]{32}", str(name)):
        raise DataError(f"provenance.json names {str(name)[:80]!r} as the record of its data, which is none.")
    return files.cache_root() / FOLDER / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _records() -> Iterator[dict[str, Any]]:
    """Yield those of runs that have spent something, the latest last."""
    paths = [*(files.cache_root() / FOLDER).glob("*.json")]
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns):
        content = _read(path)
        if "spent" in content:
            yield content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    files.cache_dir(FOLDER)
    with files.new_file(path, mode=0o600) as file:
        file.write(json.dumps(dict(content)).encode())
