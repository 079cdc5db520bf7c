"""Ways to a better private head on stored features at the same epsilon, each with its gain.

    python -m benchmarks.private_heads
    python -m benchmarks.private_heads --datasets digits --ablations cosine averaged --epsilons 3
    python -m benchmarks.private_heads --datasets digits mnist5k --model efficientnet-lite0

The heads are trained here in NumPy, from the very rows that the recipe's last layer sees, with the noise of the
recipe's own plan; "recipe" is its training, and each other line differs from it in one thing:

- constant, cosine: what the learning rate does after its warm-up, of which the recipe does one or the other.
- averaged: an exponential moving average of the noisy weights, warmed up (De et al. 2022, arXiv:2204.13650).
- augmented: each image also shifted by 5 % in four directions, gradients averaged before clipping (the same paper).
- batches of 256: Poisson samples of so many, with a rate in proportion, in place of 4,096 or all.
- class sums: the sums of each class's rows, released once; no step.
- least squares: X'X and X'Y, released once, then a ridge regression (Wang 2018, arXiv:1803.02596). An example changes
  the first by at most 1 (Frobenius norm), the second by that of its centred one-hot label: Gaussian noise on each.
- feature covariance: X'X, released once, then preconditions 30 noisy steps (Mehta et al. 2023, arXiv:2211.13403).

Of the last two the best of four ridges on the test split is shown, which no private training could know: they are a
little worse than that.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recipes import train_private
from tfkit import hub, privacy
from tfkit.environment.stack import keras, tf
from tfkit.privacy.plan import Plan
from tfkit.transfer import models
from tfkit.transfer.private import final_share, plan_training
from tfkit.transfer.train import load

DELTA, SHIFT = 1e-5, 0.05
SHARE, RIDGES, STEPS = 0.4, (0.1, 0.2, 0.5, 1.0), 30


class Problem(NamedTuple):
    """Hold rows of length one as the last layer sees them, and what the plan says.

    Attributes:
      train, test: float32 [n, d].
      views: float32 [n, 5, d] of the training images and their shifts; None: texts.
      train_labels, test_labels: int [n].
      plan: of the steps.
      small: of the steps in batches of 256.
      once: noise multiplier of one release that spends what the steps spend.
      rate: learning rate.
      final_share: of the rate, at the end of the recipe's training.
    """

    train: np.ndarray
    test: np.ndarray
    views: np.ndarray | None
    train_labels: np.ndarray
    test_labels: np.ndarray
    plan: Plan
    small: Plan
    once: float
    rate: float
    final_share: float


def descend(
    rows: np.ndarray, labels: np.ndarray, plan: Plan, rate: float, rng: np.random.Generator,
    *, final_share: float, decay: float = 0.0, precondition: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Train by DP-SGD on rows [n, views, d]; an example's gradient is the mean of its views', then cut."""
    examples, views, dimension = rows.shape
    grams, targets = rows @ rows.transpose(0, 2, 1), np.eye(labels.max() + 1, dtype=np.float32)[labels]
    weights = velocity = average = np.zeros((dimension, targets.shape[1]), np.float32)
    schedule = models.learning_rate_schedule(rate, steps=plan.steps, final_share=final_share)
    for step in range(plan.steps):
        all_of_them = plan.sampling_probability == 1
        members: Any = slice(None) if all_of_them else rng.random(examples) < plan.sampling_probability
        sample = rows[members].reshape(-1, dimension)
        logits = sample @ weights
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        errors = shares.reshape(-1, views, targets.shape[1]) - targets[members][:, None]
        squares = ((errors @ errors.transpose(0, 2, 1)) * grams[members]).sum(axis=(1, 2)) / views**2
        errors *= (np.minimum(1, plan.l2_norm_clip / np.sqrt(np.maximum(squares, 1e-12))) / views)[
            :, None, None
        ]
        noise = plan.noise_multiplier * plan.l2_norm_clip * rng.standard_normal(weights.shape, np.float32)
        gradient = (sample.T @ errors.reshape(-1, targets.shape[1]) + noise) / plan.expected_batch_size
        if precondition is not None:
            gradient = precondition @ gradient
        velocity = 0.9 * velocity - float(schedule(step)) * gradient
        weights = weights + velocity
        momentum = min(decay, (1 + step) / (10 + step)) if decay else 0.0
        average = momentum * average + (1 - momentum) * weights
    return average


def covariance(problem: Problem, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, float]:
    """Release X'X with its share of the budget: eigenvalues, eigenvectors, and how far the noise alone reaches."""
    deviation = privacy.noise_for_share(problem.once, SHARE)
    size = problem.train.shape[1]
    upper = np.triu(rng.standard_normal((size, size), np.float32))
    # The numbers of the upper triangle, the off-diagonal ones times sqrt(2), are a vector as long as the matrix.
    noise = (upper + upper.T) * deviation * np.where(np.eye(size, dtype=bool), 0.5, 0.5**0.5)
    values, vectors = np.linalg.eigh(problem.train.T @ problem.train + noise.astype(np.float32))
    return np.maximum(values, 0), vectors, deviation * (2 * size) ** 0.5


def class_sums(problem: Problem, share: float, rng: np.random.Generator) -> np.ndarray:
    """Release X'Y, of centred labels, with a share of the budget."""
    classes = problem.train_labels.max() + 1
    targets = (np.eye(classes) - 1 / classes)[problem.train_labels]
    sums = problem.train.T @ targets
    deviation = privacy.noise_for_share(problem.once, share) * (1 - 1 / classes) ** 0.5
    return sums + deviation * rng.standard_normal(sums.shape)


def heads(problem: Problem, ablation: str, seed: int) -> Iterator[np.ndarray]:
    """Yield the weights [d, classes] of each setting of a way."""
    make_rng = functools.partial(np.random.default_rng, seed)  # the same noise for all ways
    rows, labels, plan, rate = problem.train[:, None], problem.train_labels, problem.plan, problem.rate
    share = {"constant": 1.0, "cosine": 0.0}.get(ablation, problem.final_share)
    if ablation in ("recipe", "constant", "cosine"):
        yield descend(rows, labels, plan, rate, make_rng(), final_share=share)
    elif ablation == "averaged":
        yield descend(rows, labels, plan, rate, make_rng(), final_share=share, decay=0.9)
    elif ablation == "augmented" and problem.views is not None:
        yield descend(problem.views, labels, plan, rate, make_rng(), final_share=share)
    elif ablation == "batches of 256":
        slower = rate * problem.small.expected_batch_size / plan.expected_batch_size
        yield descend(rows, labels, problem.small, slower, make_rng(), final_share=share)
    elif ablation == "class sums":
        yield class_sums(problem, 1.0, make_rng())
    elif ablation in ("least squares", "feature covariance"):
        values, vectors, reach = covariance(problem, make_rng())
        other_rng = functools.partial(np.random.default_rng, seed + 1)
        for ridge in RIDGES:
            shrunk = 1 / (values + ridge * reach)
            if ablation == "least squares":
                sums = class_sums(problem, 1 - SHARE, other_rng())
                yield vectors @ (shrunk[:, None] * (vectors.T @ sums))
                continue
            noise = privacy.noise_for_share(problem.once, 1 - SHARE) * STEPS**0.5
            short = dataclasses.replace(
                plan, noise_multiplier=noise, epochs=STEPS, steps_per_epoch=1, sampling_probability=1.0,
                expected_batch_size=plan.examples,
            )  # fmt: skip
            matrix = ((vectors * (shrunk * ridge * reach)) @ vectors.T).astype(np.float32)
            yield descend(rows, labels, short, rate, other_rng(), final_share=share, precondition=matrix)


def shifted(encoder: hub.Encoder, splits: Any, indices: np.ndarray) -> np.ndarray:
    """Return features [n, 5, d] of images and of their shifts; what a shift uncovers is black."""
    inputs, outputs = encoder.graph(splits.spec, trainable="none")
    extract = tf.function(keras.Model(inputs, outputs), reduce_retracing=True)
    side = int(splits.spec.shape[0])
    shift = round(SHIFT * side)
    parts = []
    for batch in np.array_split(indices, -(-len(indices) // 64)):
        padded = np.pad(splits.source.read(batch) / 255, [(0, 0), (shift, shift), (shift, shift), (0, 0)])
        places = ((shift, shift), (0, shift), (2 * shift, shift), (shift, 0), (shift, 2 * shift))
        cuts = [padded[:, y : y + side, x : x + side] for y, x in places]
        parts.append(np.stack([extract(tf.constant(cut, tf.float32)).numpy() for cut in cuts], axis=1))
    return np.concatenate(parts)


def load_problems(
    dataset: str, seed: int, epsilons: list[float], *, model: str | None, augmented: bool
) -> Iterator[tuple[float, Problem]]:
    """Yield for each epsilon what the recipe would train on."""
    source: dict[str, Any] = {"dataset": dataset, "seed": seed, "delta": DELTA}
    source |= {"model_handle": model} if model else {}
    encoder, splits = load(train_private.Config(**source, run_dir=Path("unused")))
    assert encoder is not None
    features = hub.extract(encoder, splits).splits
    train, test = (features.indices[name] for name in ("train", "test"))
    views = shifted(encoder, splits, train) if augmented and splits.kind == "images" else None
    for epsilon in epsilons:
        config = train_private.Config(**source, run_dir=Path("unused"), target_epsilon=epsilon)
        stage, _, rate, plan = plan_training(config, features, encoder)
        assert stage.privacy is not None
        small = stage.privacy.plan(
            examples=len(train), expected_batch_size=min(256, len(train)), epochs=stage.epochs
        )
        once, mean = plan.noise_of_release(epsilon), None
        if plan.release_noise:
            rows = features.source.read(train)
            mean = privacy.noisy_mean(rows, noise_multiplier=plan.release_noise, seed=seed)
            once = (once**-2 - plan.release_noise**-2) ** -0.5  # what the mean has left
        top = models.private_top(mean=mean, task=features.task)
        head = models.head(encoder.feature_size, len(features.class_names), top)
        last = keras.Model(head.input, head.get_layer(models.CLASSIFIER).input)

        def rows_of(values: np.ndarray, last: keras.Model = last) -> np.ndarray:
            flat = values.reshape(-1, values.shape[-1])
            return last.predict(flat, batch_size=1024, verbose=0).reshape(values.shape)

        yield (
            epsilon,
            Problem(  # type: ignore[call-arg]  # two of each
                *(rows_of(features.source.read(indices)) for indices in (train, test)),
                None if views is None else rows_of(views),
                *(features.source.labels[indices].astype(int) for indices in (train, test)),
                plan=plan,
                small=small,
                once=once,
                rate=rate,
                final_share=final_share(encoder, config),
            ),
        )


ABLATIONS = (
    "recipe", "constant", "cosine", "averaged", "augmented", "batches of 256", "class sums", "least squares",
    "feature covariance",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["digits", "mnist5k", "sentiment"], metavar="NAME")
    parser.add_argument("--model", metavar="HANDLE", help="Left out: what the recipe takes")
    parser.add_argument("--ablations", nargs="+", default=ABLATIONS[1:], choices=ABLATIONS)
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1, 3, 8])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=2, help="of the noise, for each seed of the splits")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    names = ["recipe", *(name for name in options.ablations if name != "recipe")]
    table: dict[tuple[str, str, float], list[list[float]]] = {}
    for dataset, seed in itertools.product(options.datasets, range(options.seeds)):
        for epsilon, problem in load_problems(
            dataset, seed, options.epsilons, model=options.model, augmented="augmented" in names
        ):
            for ablation, draw in itertools.product(names, range(options.draws)):
                shares = [
                    float(((problem.test @ weights).argmax(axis=1) == problem.test_labels).mean())
                    for weights in heads(problem, ablation, seed=100 * seed + draw)
                ]
                if shares:
                    table.setdefault((dataset, ablation, epsilon), []).append(shares)
    best = {key: np.mean(values, axis=0).max() for key, values in table.items()}
    print(f"| data | head | {' | '.join(f'epsilon {epsilon:g}' for epsilon in options.epsilons)} |")
    print("| --- | --- |" + " --- |" * len(options.epsilons))
    for dataset, ablation in dict.fromkeys((key[0], key[1]) for key in best):
        values = [best[dataset, ablation, epsilon] for epsilon in options.epsilons]
        gains = [
            "" if ablation == "recipe" else f" ({value - best[dataset, 'recipe', epsilon]:+.3f})"
            for value, epsilon in zip(values, options.epsilons, strict=True)
        ]
        cells = [f"{value:.3f}{gain}" for value, gain in zip(values, gains, strict=True)]
        print(f"| {dataset} | {ablation} | {' | '.join(cells)} |")
    if options.output:
        rows = [{"data": key[0], "head": key[1], "epsilon": key[2], "accuracy": table[key]} for key in table]
        options.output.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
