"""Start a training from a finished run: find it, take over settings and weights, count what it has seen before."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import run_files, tasks
from tfkit.data.splits import Splits, listed
from tfkit.environment import files, packages, stack
from tfkit.errors import PrivacyError, RunError
from tfkit.hub.encoders import Encoder
from tfkit.privacy.ledger import is_private, recorded_digests, trained_before, with_record
from tfkit.reporting import examples
from tfkit.run import CONFIG, EVALUATION, PROVENANCE, SAVED_MODEL, TRAINED_ON, Run
from tfkit.settings.options import LIGHT
from tfkit.training.stage import Stage, Trained
from tfkit.transfer.models import CLASSIFIER

MODEL = (
    "model_handle", "sha256", "preprocessor", "input_range", "image_size", "pixel_range", "max_length", "windows",
    "seed", "validation_fraction", "test_fraction", "task", "class_order", "label_range", "hidden",
)  # fmt: skip
SOURCES = ("data_dir", "data_file", "dataset")
DATA = (
    *SOURCES, "text_column", "image_column", "label_column", "language_column", "group_column", "split_column",
)  # fmt: skip
VOCABULARY, CONTINUED = "vocab.txt", "continued_from"
_KEY = "variables/{}/.ATTRIBUTES/VARIABLE_VALUE"

Build = Callable[[], Any]
"""Returns a compiled Keras model whose last layer, of a kernel and a bias, tells the classes apart."""


def find_source(config: Any, folder: Path, *, recipe: str) -> Run:
    """Return the run that a new one is to start from. Neither its weights nor data are read.

    Args:
      config: of the new run.
      folder: of the new run.
      recipe: of the new run.

    Raises:
      RunError: it is the new run itself, not finished, of another recipe or another model, or private.
    """
    source = Run.open(config.continue_from)
    made_by, handle = source.provenance.get("recipe", {}).get("name"), source.config.get("model_handle")
    reasons = {
        "is the --run-dir too.\n  Give the new run one of its own": source.path.resolve() == folder.resolve(),
        "was trained privately: both would spend on the same people, and tfkit does not account their epsilon together."
        "\n  Train anew, for all epochs: python -m recipes.train_private": is_private(source),
        f"was made by {made_by or 'no recipe'}, not {recipe}.\n  Each recipe continues its own runs; tfkit.fit those"
        " whose weights build_model loads": made_by != recipe,
        f"is of the task {source.task.name}, whose last layer nobody takes over.\n  Train anew": source.task.name
        in ("order", "value"),
        "has not come to its end.\n  The command that began it goes on with it": not source.finished,
        f"is on the model {handle}, not {config.model_handle}, and its weights fit no other.\n  Leave --model-handle"
        " out": config.model_handle != handle and "model_handle" not in _list_defaults(config),
    }
    for reason, holds in reasons.items():
        if holds:
            raise RunError(f"--continue-from {source.path} {reason}.")
    return source


def take_settings(config: Any, source: Run) -> Any:
    """Return the settings with the source's model, sizes and seed in place of those left out, and its data likewise.

    The seed cuts the splits: by the same one a training example of the source is no test example of the new run.

    Args:
      config: of the new run; of one that no command line and no call made, a setting at its default was left out.
      source: see `find_source`.

    Raises:
      ConfigError: its data are no longer there, or config.yaml is damaged.
    """
    defaults, data = _list_defaults(config), source.provenance.get("data", {})
    base = {"windows": "first", "pixel_range": data.get("pixel_range"), **source.config}
    names = MODEL + DATA if defaults.issuperset(SOURCES) else MODEL
    values = {name: base[name] for name in names if name in defaults and base.get(name) is not None}
    return dataclasses.replace(config, **values)


def _list_defaults(config: Any) -> set[str]:
    """Return the settings at their defaults but those that a command line or a call named, in so many words."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    at_default = {name for name, default in defaults.items() if getattr(config, name) == default}
    return {name for name in at_default if name not in config.given_names or defaults[name] is None}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Hold what a training starts from. `Start()`: from no run.

    Attributes:
      source: the run.
      weights: of its exported model, in the order of the layers; the last two are those of the classes, [d, c] and [c].
      places: of the classes that both know: in the new last layer, and in the source's.
    """

    source: Run | None = None
    weights: Sequence[np.ndarray] = ()
    places: tuple[Sequence[int], Sequence[int]] = ((), ())

    @classmethod
    def of(cls, source: Run, run: Run, splits: Splits) -> Start:
        """Read the source; write into the notes and the provenance of the new run what is taken over.

        Raises:
          RunError: it is damaged, or no longer what this run was begun from.
        """
        variables, old = source.path / SAVED_MODEL / "variables", source.labels
        new = [" ".join(label.split()) for label in splits.class_names]
        labels = [label for label in new if label in old]
        digest, weights = files.folder_digest(variables), _read_variables(variables)
        if not weights or weights[-1].shape != (len(old),):
            raise run_files.damaged(variables, f"it does not end with a layer of {len(old)} classes")
        if run.provenance.get(CONTINUED, {}).get("weights", digest) != digest:
            raise RunError(f"{source.path} was made anew since {run.path} began.\n  Begin anew: --overwrite.")
        task, name = source.task, source.path.resolve().name
        tasks.refuse(
            splits.task, task.name, what=f"--continue-from {source.path}", why="its head is another."
        )
        accuracy = source.metrics.get(f"test/{task.score}")
        origin = {"run": name, "recipe": source.provenance["recipe"]["name"], "test_accuracy": accuracy}
        history = {key: of for key, of in source.provenance.items() if key == CONTINUED}
        run.provenance = {**run.provenance, CONTINUED: {**origin, "weights": digest, **history}}
        now, then = run.config, source.config
        settings = [f"{k} {v}" for k, v in now.items() if k in MODEL + DATA and v == then.get(k) is not None]
        (run.note if labels else run.warn)(
            f"Starts from the weights of {name} (test {task.score_name} {accuracy or 0:.4f}), with its"
            f" {', '.join(settings)}. It knows {len(labels)} of the {len(new)} {task.name}; of its own"
            f" {len(old) - len(labels)} are left out."
        )
        path = run.backup / VOCABULARY
        if run.is_chief and source.config.get("model_handle") == LIGHT and not path.is_file():
            pieces = run_files.read_text(source.path, f"{SAVED_MODEL}/assets/{VOCABULARY}") or ""
            files.write_hashed(path, pieces.encode())
        places = [*map(new.index, labels)], [*map(old.index, labels)]
        return cls(source=source, weights=weights, places=places)

    def into(self, build: Build) -> Build:
        """Return what builds the same model, or its head, with these weights; those of a new class begin as zeros."""

        def build_model() -> Any:
            model = build()
            weights = model.get_weights()
            values = self.weights[-len(weights) :]  # the head stands at the end
            shapes = [[*(array.shape for array in x[:-2]), *map(len, x[-2:-1])] for x in (weights, values)]
            if shapes[0] != shapes[1]:
                raise RunError(
                    f"{self.source!r} has not the weights of the model that is built here: the encoder has changed"
                    " since, or it is damaged.\n  Train without --continue-from."
                )
            last = [np.zeros_like(array) for array in weights[-2:]]
            for array, value in zip(last, values[-2:], strict=True):
                array[..., self.places[0]] = value[..., self.places[1]]
            model.set_weights([*values[:-2], *last])
            return model

        return build_model

    def is_tuned(self, build: Build) -> bool:
        """Return whether the source's encoder is no longer the published one, of which features are stored.

        Args:
          build: of the whole model, with the published weights.
        """
        if self.source is None:
            return False
        model = build()
        count = sum(len(layer.weights) for layer in model.layers if layer.name not in ("hidden", CLASSIFIER))
        pairs = zip(model.get_weights()[:count], self.weights, strict=False)
        return not all(np.array_equal(published, weight) for published, weight in pairs)

    def train(
        self, build: Build, splits: Splits, stage: Stage, *, run: Run, strategy: Any, callbacks: Sequence[Any]
    ) -> Trained:
        """Train a stage from here, as `tfkit.training.fit.train` does; where no epoch is better, nothing is changed."""
        from tfkit.distribution.replicas import Replicas
        from tfkit.training.fit import train

        options = {"run": run, "strategy": strategy, "callbacks": callbacks}
        if self.source is None:
            return train(build, splits, stage, **options)
        build = self.into(build)
        loss, accuracy = build().evaluate(splits.validation, verbose=0)
        name = splits.task.metric.replace("_", " ")
        run.note(f"Before the first step the validation {name} is {accuracy:.4f}, the loss {loss:.4f}.")
        # One number for all workers: they stop by it.
        stage = dataclasses.replace(stage, start_val_loss=float(Replicas(strategy).of_chief([loss])[0]))
        return train(build, splits, stage, **options)

    def remember(self, run: Run, splits: Splits, *, encoder: Encoder | None = None) -> np.ndarray:
        """Keep digests of the examples that decide the weights, and tell which test examples have decided them before.

        Args:
          run: gets trained_on.npz, where those of earlier runs stand too, and a number, and a warning if it is not 0.
          splits: of images or texts.
          encoder: whose model is trained on; it may be that of an earlier run.

        Returns:
          bool [n], of each test example: whether no earlier run, as far as is known, was trained or validated on it.
        """
        digests = np.concatenate([splits.digests("train"), splits.digests("validation")])
        test, of_test, past, is_sure = splits.indices["test"], splits.digests("test"), digests[:0], True
        is_fresh = np.ones(len(test), bool)
        sources = [*([self.source] if self.source else []), *(runs_behind(encoder) if encoder else [])]
        for source in sources:
            if (run_digests := trained_on(source.path)) is not None:
                past = np.concatenate([past, run_digests])
                is_fresh &= ~np.isin(of_test, run_digests)
            elif source is self.source:  # made by a tfkit that kept none
                names, is_sure = {*examples.load(source.path / EVALUATION)[0].names}, False
                is_fresh &= np.array([splits.source.names[index] in names for index in test])
        if sources:
            count = len(test) - int(is_fresh.sum())
            run.record({"data/test_examples_seen_before": count})
            if count:
                share, were = f"test/{splits.task.share}", "were" if is_sure else "may have been"
                run.warn(
                    f"{count} of the {len(test)} test examples {were} among those that"
                    f" {listed([source.path for source in sources])} was trained or validated on: they flatter {share};"
                    f" {share}_never_seen is of the others, if any. A seed cuts images by their names in the"
                    " folder, texts by their words: keep both as they were."
                )
        all_digests = np.unique(np.concatenate([digests, past, of_test[~is_fresh]]))
        with files.new_file(run.path / TRAINED_ON) as file:
            np.savez_compressed(file, digests=all_digests)
        return is_fresh


def trained_on(folder: Path) -> np.ndarray | None:
    """Return digests, uint64 [n], of the examples that decided the weights of a run; None where it keeps none.

    Raises:
      RunError: they are damaged.
    """
    digests = run_files.read_arrays(folder, TRAINED_ON).get("digests")
    if digests is not None and digests.dtype != np.uint64:
        raise run_files.damaged(folder / TRAINED_ON, "it holds no digests")
    return digests


def refuse_trained_on(encoder: Encoder, splits: Splits) -> None:
    """Make sure that a private training does not stand on weights which its own examples have decided.

    A run of tfkit tells what its model was trained on, and on which model; of a model from elsewhere nobody knows.

    Raises:
      PrivacyError: the model is that of a run on some of these training examples, private or not, or stands on one.
    """
    now, digests = splits.provenance, splits.digests("train")
    for run in runs_behind(encoder):
        data, old_digests = run.provenance.get("data", {}), trained_on(run.path)
        old_digests = recorded_digests(data) if old_digests is None else old_digests
        if trained_before(with_record(data), old_digests, now=now, digests=digests).any():
            raise PrivacyError(
                f"{encoder.handle} comes from the model of {run.path}, which was trained on some of these examples: the"
                " epsilon of what is trained on it would not cover what its weights tell of them.\n  Take a model that"
                " has not seen them (python -m tfkit models)."
            )


def runs_behind(encoder: Encoder) -> Iterator[Run]:
    """Yield the run whose exported model an encoder is, the run that this one's model comes from, and so on."""
    model, folders = encoder.path.resolve(), set[Path]()
    while (folder := model.parent) not in folders and model.is_dir():
        if not all((folder / name).is_file() for name in (CONFIG, PROVENANCE)):
            return
        folders.add(folder)
        yield (run := Run.open(folder))
        model = Path(str(run.config.get("model_handle"))).resolve()


def _read_variables(variables: Path) -> list[np.ndarray]:
    """Return the variables of an exported model, in its order. The program in its SavedModel is not loaded."""
    try:
        reader = stack.tf.train.load_checkpoint(str(variables / "variables"))
        shapes = reader.get_variable_to_shape_map()
        keys = itertools.takewhile(shapes.__contains__, map(_KEY.format, itertools.count()))
        return [reader.get_tensor(key) for key in keys]
    except (ValueError, LookupError, RuntimeError, stack.tf.errors.OpError) as error:
        raise run_files.damaged(variables, packages.first_line(error)) from error
