"""Make the smallest TFLite file of a trained model that is still as good, and prove it.

Examples:
    python -m recipes.compress_tflite --from-run runs/photos
    python -m recipes.compress_tflite --from-run runs/photos --max-size-kb 3000 --max-accuracy-drop 0.01
    python -m recipes.compress_tflite --from-run runs/photos --techniques prune qat prune+qat --final-sparsity 0.8
    python -m recipes.compress_tflite --from-run runs/mails                          (texts: the tokenizer inside)
    python -m recipes.compress_tflite --saved-model any_saved_model/ --representative-data photos/
"""

from __future__ import annotations

from tfkit import cli
from tfkit.run import LABELS, TFLITE, VARIANTS, Run
from tfkit.settings.jobs import CompressConfig

Config = CompressConfig


def run(config: Config) -> Run:
    """Convert, measure and choose.

    Args:
      config: what to do it with.

    Returns:
      The run, with tflite/, metrics `lite/...`, pictures in TensorBoard, and its report written anew.

    Raises:
      CheckError: nothing keeps to the limits; all that was made is there, and the message names the nearest.
      TfkitError: see `tfkit.errors`.
    """
    from tfkit.compression.compress import compress_model

    return compress_model(config)


def closing_lines(run: Run) -> list[str]:
    """Say what was chosen, and where it is."""
    folder, usage = run.path / TFLITE, "photo.jpg   # needs ai-edge-litert, numpy, pillow"
    if (folder / LABELS).is_file():  # beside the file of a model of texts; inside of one of images
        usage = '"a text"   # needs ai-edge-litert, tensorflow-text'
    elif run.config.get("saved_model"):
        usage = "input.npy   # an array for each input; needs ai-edge-litert, numpy"
    return [
        "",
        run.read(VARIANTS)["verdict"],
        f"model        {folder / 'model.tflite'}",
        f"try it       python {folder / 'infer.py'} {usage}",
        f"all of them  {folder}",
        *([cli.took(run)] if run.times else []),
        *cli.where_to_look(run),
    ]


if __name__ == "__main__":
    cli.main(Config, run, closing=closing_lines)
