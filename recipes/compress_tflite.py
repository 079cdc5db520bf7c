"""Make the smallest TFLite file of a trained model that is still as good, and prove it.

Examples:
    python -m recipes.compress_tflite --from-run runs/photos
    python -m recipes.compress_tflite --from-run runs/photos --max-size-kb 3000 --max-accuracy-drop 0.01
    python -m recipes.compress_tflite --from-run runs/photos --techniques prune qat prune+qat --final-sparsity 0.8
    python -m recipes.compress_tflite --from-run runs/mails                          (texts: the tokenizer inside)
    python -m recipes.compress_tflite --saved-model any_saved_model/ --representative-data photos/
"""

from __future__ import annotations

from dataclasses import dataclass

from tfkit import cli
from tfkit.compression.compress import CompressConfig
from tfkit.environment import process
from tfkit.errors import CheckError
from tfkit.run import SAVED_MODEL, TFLITE, VARIANTS, Run
from tfkit.settings.parse import as_dict, run_dir
from tfkit.transfer.train import settings_of


@dataclass(frozen=True, kw_only=True)
class Config(CompressConfig):
    """Which model, what is done to it, and what the result must keep to."""


def run(config: Config) -> Run:
    """Do the whole job.

    Args:
      config: what to do it with.

    Returns:
      The run, with tflite/, metrics `lite/...`, pictures in TensorBoard, and its report written anew.

    Raises:
      CheckError: nothing keeps to the limits; all that was made is there, and the message names the nearest.
      TfkitError: see `tfkit.errors`.
    """
    from tfkit import reporting
    from tfkit.compression.compress import from_run, from_saved_model

    with _destination(config) as run:
        if config.from_run is not None:
            origin = Run.open(config.from_run)
            its_config = settings_of(
                origin,
                otherwise=f"--saved-model {origin.path / SAVED_MODEL} --representative-data FOLDER",
            )
            choice = from_run(run, origin, its_config, config)
        else:
            choice = from_saved_model(run, config)
        process.say(table(run))
        reporting.write_report(run)
    if choice.chosen is None:
        raise CheckError(f"{choice.verdict}\n  All of them are in {run.path / TFLITE}.")
    return run


def _destination(config: Config) -> Run:
    """The run itself, or a folder of its own."""
    if config.from_run is not None and config.run_dir is None:
        run = Run.open(config.from_run)
        run.check_writable()
        return run
    return Run.create(run_dir(config, recipe="compress_tflite"), config=as_dict(config), overwrite=True)


def table(run: Run) -> str:
    """The variants beside each other."""
    from tfkit.compression import Table

    return "\n" + str(Table.read(run.read(VARIANTS)))


def closing_lines(run: Run) -> list[str]:
    """What was chosen, and where it is."""
    folder = run.path / TFLITE
    return [
        "",
        run.read(VARIANTS)["verdict"],
        f"model        {folder / 'model.tflite'}",
        f"try it       python {folder / 'infer.py'} {_tried_on(run)}",
        f"all of them  {folder}",
        *cli.where_to_look(run),
    ]


def _tried_on(run: Run) -> str:
    """What infer.py is given, and needs."""
    if (run.path / TFLITE / "ids").is_dir() or (run.path / TFLITE / "vocab.txt").is_file():
        return '"a text"   # needs ai-edge-litert, tensorflow-text'
    if run.config.get("saved_model"):
        return "input.npy   # an array for each input; needs ai-edge-litert, numpy"
    return "photo.jpg   # needs ai-edge-litert, numpy, pillow"


if __name__ == "__main__":
    cli.main(Config, run, closing=closing_lines)
