"""What to type: how the model of a run is loaded, and how the run is done again."""

from __future__ import annotations

import shlex
from pathlib import Path

from tfkit import run as runs


def load_lines(path: Path, *, things: str) -> list[str]:
    """Python that loads the model of a run and uses it; nothing where there is none.

    Args:
      path: the run's folder.
      things: images, texts or examples: what it takes.
    """
    if not (path / runs.SAVED_MODEL).is_dir():
        return []
    load = [
        f"model = tf.function(tf.saved_model.load({str(path / runs.SAVED_MODEL)!r}), reduce_retracing=True)",
        f"labels = open({str(path / runs.LABELS)!r}, encoding='utf-8').read().splitlines()",
    ]
    if things == "texts":
        return [
            "import tensorflow as tf",
            "import tensorflow_text  # the operations of the tokenizer",
            "",
            *load,
            "probabilities = model(tf.constant(['a text, as it is'])).numpy()",
            "print(labels[probabilities[0].argmax()], probabilities.max())",
        ]
    if things != "images":
        return ["import tensorflow as tf", "", *load, "", "probabilities = model(features)  # [n, classes]"]
    return [
        "import numpy as np",
        "import tensorflow as tf",
        "from PIL import Image, ImageOps",
        "",
        *load,
        "image = ImageOps.exif_transpose(Image.open('photo.jpg'))  # any size",
        "image = image if image.mode.startswith('I;16') else image.convert('RGBA')  # grey of 16 bits as it is",
        "probabilities = model(np.asarray(image)).numpy()",
        "print(labels[probabilities.argmax()], probabilities.max())",
    ]


def commands(path: Path, *, recipe: str | None) -> dict[str, str]:
    """Purpose to command.

    Args:
      path: the run's folder.
      recipe: the name of what made it, where a recipe did.
    """
    found = {"Look at it in TensorBoard": ["tensorboard", "--logdir", str(path / runs.LOGS)]}
    if recipe:
        config, again = path / runs.CONFIG, path.with_name(path.name + "-again")
        found["Run it again"] = [
            *("python", "-m", f"recipes.{recipe}"),
            *("--config", str(config), "--run-dir", str(again)),
        ]
    found["Write this report anew"] = ["python", "-m", "tfkit", "report", str(path)]
    return {purpose: shlex.join(words) for purpose, words in found.items()}
