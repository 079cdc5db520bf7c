"""Compare temperature scaling with Monte-Carlo dropout and an ensemble, by calibration error and cross-entropy.

All are fitted and measured on the same splits of the digits of scikit-learn: a network of two layers with dropout, five
seeds. The ensemble has five members, and so five times the training and the size; Monte-Carlo dropout takes 30 passes.

    python -m benchmarks.uncertainty

Sources: Guo et al. 2017 (arXiv:1706.04599), Gal and Ghahramani 2016 (arXiv:1506.02142), Lakshminarayanan et al. 2017
(arXiv:1612.01474).
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from tfkit.calibration import expected_calibration_error, fit_temperature, with_temperature
from tfkit.environment.stack import keras, tf

MEMBERS, PASSES, EPOCHS, DROPOUT = 5, 30, 200, 0.1


def network(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential([
        keras.Input([64]), layers.Dense(128, activation="relu"), layers.Dropout(DROPOUT),
        layers.Dense(128, activation="relu"), layers.Dropout(DROPOUT), layers.Dense(10, activation="softmax"),
    ])  # fmt: skip


def trained(x, y, seed):
    model = network(seed)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=EPOCHS, batch_size=32, verbose=0)
    return model


def scaled(validation, labels, test):
    """Return test probabilities at the temperature that suits the validation split."""
    return with_temperature(test, fit_temperature(np.log(np.maximum(validation, 1e-12)), labels))


def answers(seed):
    """Return what each way gives the test split, and the true classes."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    # Few to learn from: a network that has seen everything is calibrated as it is.
    pool, train, y_pool, y_train = train_test_split(x, y, test_size=400, stratify=y, random_state=seed)
    validation, test, y_validation, y_test = train_test_split(pool, y_pool, test_size=700, random_state=seed)
    members = [trained(train, y_train, 100 * seed + member) for member in range(MEMBERS)]

    def predict(inputs):
        return members[0].predict(inputs, verbose=0)

    def sample(inputs):
        return np.mean([members[0](tf.constant(inputs), training=True) for _ in range(PASSES)], axis=0)

    def average(inputs):
        return np.mean([member.predict(inputs, verbose=0) for member in members], axis=0)

    results = {}
    for name, ask in (("plain", predict), ("Monte-Carlo dropout", sample), ("ensemble", average)):
        results[name] = ask(test)
        results[f"{name}, temperature"] = scaled(ask(validation), y_validation, results[name])
    return results, y_test


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    rows = {}
    for seed in range(seeds):
        results, labels = answers(seed)
        for name, probabilities in results.items():
            row = (
                (probabilities.argmax(axis=1) == labels).mean(),
                log_loss(labels, probabilities, labels=range(10)),
                expected_calibration_error(probabilities, labels),
            )
            rows.setdefault(name, []).append(row)
    print(f"{'':<34} accuracy  cross-entropy  ECE (mean of {seeds} seeds, smallest to largest)")
    for name, of_seeds in rows.items():
        accuracy, loss, error = np.mean(of_seeds, axis=0)
        low, high = np.min(of_seeds, axis=0)[2], np.max(of_seeds, axis=0)[2]
        print(f"{name:<34} {accuracy:8.3f} {loss:14.3f}  {error:.3f} ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
