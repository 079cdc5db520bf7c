"""The account of a private training: what it spends, beside its checkpoints, and a record that stays with the owner.

A private run's folder may be shown to anybody, so that nothing in it is computed from the examples without noise: no
digest, no name, no count but that of the training examples. It holds the random name of a record in the owner's cache
instead: with the digests in that record one could test who was among the examples.

Weights without their account are not trained further.
"""

from __future__ import annotations

import json
import re
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.data.splits import Splits
from tfkit.environment import files
from tfkit.environment.process import rounded_up
from tfkit.errors import DataError, RunError
from tfkit.privacy.plan import Plan
from tfkit.run import HISTORY, LOGS, PRIVACY, PROVENANCE, Run

LEDGER, MEAN = "ledger.json", "mean.npy"
ACCOUNTED = (
    "noise_multiplier", "gradient_noise_multiplier", "count_noise", "release_noise", "sampler", "sampling_probability",
    "steps_per_epoch", "delta", "l2_norm_clip", "expected_trials",
    "examples_per_group",
)  # fmt: skip
"""Of a plan: what one epsilon of all epochs takes for granted, also of those that an earlier process took."""

_ANEW = "begin anew with --overwrite (tfkit.fit: resume=False), which spends again on the same people"


class Ledger:
    """Counts the epochs that were ever begun in one stage of a run.

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
        names = [path.name for path in sorted(run.backup.glob("*")) if path.is_dir() and path.name != stage]
        if names:
            raise RunError(
                f"{run.backup} holds what {' and '.join(names)} left: the epsilon of {stage} would not cover that."
                "\n  Train in a run folder of its own, on weights that do not come from the private examples."
            )
        if self.path.is_file():
            self._read()
            return
        traces = [run.shared / name for name in (PRIVACY, HISTORY, f"{LOGS}/train")]
        for path in (*sorted(self._folder.glob("[0-9]*")), *traces):
            if path.exists():
                raise self._to_error(f"is missing, and {path} shows that this training had begun")

    def check_plan(self, plan: Plan) -> None:
        """Raise where the epochs that were begun before were accounted otherwise."""
        current = {name: getattr(plan, name) for name in ACCOUNTED}
        past = current if self._plan is None else self._plan
        names = [name for name in {**current, **past} if past.get(name) != current.get(name)]
        if names:
            changes = "; ".join(f"{name} {past.get(name)} there, {current.get(name)} now" for name in names)
            raise self._to_error(f"is of another plan ({changes})")
        self._plan = current

    def check_weights(self, *, epoch: int, saved: tuple[str, int] | None) -> None:
        """Raise where these are not the account of the weights that were restored.

        Args:
          epoch: that the weights begin.
          saved: identity and epochs begun of the account when they were saved; None: nothing was restored.
        """
        if saved is not None and saved[0] != self.identity:
            raise self._to_error("is the account of another training than the backups beside it")
        count = max(epoch, saved[1] if saved else 0)
        if self.epochs_begun < count:
            raise self._to_error(f"tells of {self.epochs_begun} epochs, and the backups beside it of {count}")
        self._count_in_record()

    def begin_epoch(self) -> None:
        """Count an epoch, before anything of it can be seen. Of several workers each counts, and one writes."""
        self.epochs_begun += 1
        if self._run.is_chief:
            mean = self._folder / MEAN
            digest = files.digest_of(mean) if mean.is_file() else None
            content = {"epochs_begun": self.epochs_begun, "training": self.identity, "mean": digest}
            files.write_json(self.path, {**content, "plan": self._plan})
        self._count_in_record()

    def _count_in_record(self) -> None:
        """Write into the owner's record how many epochs were ever begun; raise where it knows of more."""
        record = _find_record(self._run)
        count = _read(record).get("epochs_begun", 0) if record else 0
        if count > self.epochs_begun:
            raise RunError(
                f"{self._run.path} tells of {self.epochs_begun} epochs, and its record {record} of {count}: a copy was"
                f" trained further.\n  Bring back the folder that was trained last, or {_ANEW}."
            )
        _update(record, {"epochs_begun": self.epochs_begun})

    def _read(self) -> None:
        try:
            content = json.loads(self.path.read_text())
            self.epochs_begun, self._plan = content["epochs_begun"], dict(content["plan"])
            self.identity, mean = str(content["training"]), content["mean"]
            if type(self.epochs_begun) is not int or self.epochs_begun < 1:
                raise ValueError(f"epochs_begun {self.epochs_begun!r}")
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise self._to_error(f"is damaged ({type(error).__name__}: {error})") from error
        mean_path = self._folder / MEAN
        if mean is not None and not (mean_path.is_file() and files.digest_of(mean_path) == mean):
            raise self._to_error(f"counts epochs on a mean that {mean_path} does not hold")

    def _to_error(self, what: str) -> RunError:
        return RunError(
            f"{self.path} {what}: nobody can tell what was spent, and an epsilon stated from it might be too small."
            f"\n  Bring {self._folder} back as a whole, and give data and settings as they were; or {_ANEW}."
        )


def refuse_after_private(run: Run) -> None:
    """Raise where a training without privacy would follow a private one in the same run.

    Raises:
      RunError: privacy.json would claim an epsilon for what it does not cover.
    """
    account = _find_account(run)
    if account is not None:
        raise RunError(
            f"{account}: this run was trained privately, and its epsilon would not cover a training without privacy."
            "\n  Train in a run folder of its own."
        )


def _find_account(run: Run) -> Path | None:
    return min(run.backup.glob(f"*/{LEDGER}"), default=None)


FOLDER = "private"
RECORD = "record"
PUBLIC_FIELDS = ("origin", "classes", "shape", "seed")
IDENTITY_FIELDS = ("fingerprint", "division")
DIGESTS = ".npy"
"""Beside a record, of each training example: people are the same in a set that has grown, or is cut otherwise."""


def is_private(run: Run) -> bool:
    """Return whether the run was to be private: whatever came of it, its folder shows nobody's example."""
    return bool(run.read(PRIVACY)) or RECORD in run.provenance.get("data", {})


def select_public(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of the `data` of provenance.json may be shown of a private run."""
    return {name: data[name] for name in (*PUBLIC_FIELDS, RECORD) if name in data}


def register(run: Run, splits: Splits) -> dict[str, Any]:
    """Return the `data` of a private run's provenance.json, and keep in its record what may not stand there.

    A word is said, and not kept, where earlier private runs have spent on some of these examples, however they were cut
    and prepared.

    Raises:
      DataError: the run was begun on other data, or the record of it is not here.
    """
    data, account = splits.provenance, _find_account(run)
    if not run.is_chief:
        return select_public(data)
    if (name := run.provenance.get("data", {}).get(RECORD)) is not None:
        check_data(run, splits)
        return {**select_public(data), RECORD: name}
    if account is not None:
        raise DataError(
            f"{account} was begun, and {PROVENANCE} does not say on which data.\n  Bring the folder back as a whole, or"
            f" {_ANEW}."
        )
    paths = sorted((files.cache_root() / FOLDER).glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    examples, digests = len(splits.indices["train"]), splits.digests("train")
    again, records = np.zeros(examples, bool), []
    for path in paths:
        if "spent" in (record := _read(path)):
            matches = trained_before(record, _read_digests(path), now=data, digests=digests)
            again |= matches
            records += [record] if matches.any() else []
    name = secrets.token_hex(16)
    _update(_make_path(name), {"run": str(run.path.resolve()), **{key: data[key] for key in IDENTITY_FIELDS}})
    if len(digests):
        with files.new_file(_make_path(name).with_suffix(DIGESTS), mode=0o600) as file:
            np.save(file, digests)
    if records:
        epsilons = [record["spent"] for record in records]
        total = "without an epsilon" if None in epsilons else f"epsilon {rounded_up(sum(epsilons), 3)} in all"
        print(
            f"{again.sum()} of these {examples} examples were trained on privately before, in {len(records)} run(s)"
            f" ({total}; the last: {records[-1].get('run')}). This run spends again on the same people: to those who"
            " see both, it adds up.",
            file=sys.stderr,
            flush=True,
        )
    return {**select_public(data), RECORD: name}


def trained_before(
    data: Mapping[str, Any], old_digests: np.ndarray | None, *, now: Mapping[str, Any], digests: np.ndarray
) -> np.ndarray:
    """Return which of the training examples an earlier training was on: bool [n], or [] where it holds of all or none.

    Args:
      data: of the earlier training, as in provenance.json or in a record.
      old_digests: digests of its examples; None: by an earlier tfkit, or of a source that knows none.
      now: `data` of the training that is to come.
      digests: of its examples; [0] likewise.
    """
    if old_digests is None or not len(digests):
        return np.array(any(data.get(key) == now[key] for key in IDENTITY_FIELDS))
    return np.isin(digests, old_digests)


def recorded_digests(data: Mapping[str, Any]) -> np.ndarray | None:
    """Return digests of the examples of a private run with these `data` in provenance.json; None: not here."""
    return _read_digests(_make_path(data[RECORD])) if RECORD in data else None


def _read_digests(record: Path) -> np.ndarray | None:
    try:
        return np.asarray(np.load(record.with_suffix(DIGESTS), allow_pickle=False))
    except (OSError, ValueError):
        return None


def spend(run: Run, *, epsilon: float | None) -> None:
    """Write into the run's record what its training spends at most; None: no epsilon holds."""
    _update(_find_record(run), {"spent": epsilon})


def with_record(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `data` of provenance.json, of a private run together with its record if that is here."""
    return {**data, **(_read(_make_path(data[RECORD])) if RECORD in data else {})}


def check_data(run: Run, splits: Splits) -> None:
    """Make sure that these are the data, divided as they were, that a run was trained on.

    Raises:
      DataError: they are not, or nobody here can tell.
    """
    data, provenance = run.provenance.get("data", {}), splits.provenance
    record = with_record(data)
    if RECORD in data and not set(IDENTITY_FIELDS) <= set(record):
        raise DataError(
            f"What {run.path} was trained on is told by {_make_path(data[RECORD])} alone, in the cache of the machine"
            f" that trained it.\n  Copy it here from there and keep it to yourself, or {_ANEW}."
        )
    if any(record.get(name) != provenance[name] for name in IDENTITY_FIELDS):
        raise DataError(
            f"{run.path} was trained on other data ({data.get('origin')}), or on other splits of them, than these"
            f" ({splits.origin}, seed {splits.seed}).\n  Give the data and the seed as they were, or train anew."
        )


def _find_record(run: Run) -> Path | None:
    """Return the file that the chief of a private run writes; None where there is none."""
    data = run.provenance.get("data", {})
    return _make_path(data[RECORD]) if run.is_chief and RECORD in data else None


def _make_path(name: Any) -> Path:
    # A stranger's provenance.json may name anything.
    if not re.fullmatch("[0-9a-f]{32}", str(name)):
        raise DataError(f"provenance.json names {str(name)[:80]!r} as the record of its data, which is none.")
    return files.cache_root() / FOLDER / f"{name}.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _update(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write into a record, if there is one, beside what is in it."""
    if path is not None:
        files.cache_dir(FOLDER)
        earlier = _read(path)
        with files.new_file(path, mode=0o600) as file:
            file.write(json.dumps({**earlier, **content}).encode())
