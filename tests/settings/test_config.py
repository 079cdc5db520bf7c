"""Settings: the same from flags and from YAML, every mistake named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import yaml

from tfkit.errors import ConfigError
from tfkit.settings.jobs import CompressConfig
from tfkit.settings.options import ImageSettings, RecipeConfig, TextSettings
from tfkit.settings.parse import as_dict, from_keywords, parse, run_dir


@dataclass(frozen=True, kw_only=True)
class Config(RecipeConfig):
    """Of the test."""

    data_dir: Path | None = None
    """Where."""
    learning_rate: float = 1e-3
    """How fast."""
    kind: Literal["a", "b"] = "a"
    """Which."""
    strict: bool = False
    """Whether."""
    sizes: tuple[int, ...] = (1, 2)
    """How many."""


def read(*arguments: str) -> Config:
    return parse(Config, arguments, prog="test", description="A test.")


def test_a_file_and_flags_that_override_it(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("learning_rate: 0.5\nkind: b\nstrict: true\ndata_dir: null\nsizes: [3, 4, 5]\n")
    config = read("--config", str(file), "--learning-rate", "0.25")
    assert (config.learning_rate, config.kind, config.strict, config.data_dir) == (0.25, "b", True, None)
    assert config.sizes == (3, 4, 5)


def test_a_default_that_is_not_used_is_no_part_of_what_was_asked(tmp_path):
    from recipes import compress_tflite, search_text, train_private, transfer_image, transfer_text

    table = tmp_path / "mails.csv"
    table.write_text("text,label\n")
    assert as_dict(transfer_image.Config())["dataset"] == "digits"
    assert "dataset" not in as_dict(transfer_image.Config(data_dir=tmp_path))
    for recipe in (transfer_text, train_private, search_text):
        assert "dataset" not in as_dict(recipe.Config(data_file=table))
    untrained = as_dict(compress_tflite.Config(from_run=tmp_path))
    assert not {"epochs", "final_sparsity", "number_of_clusters", "input_range"} & set(untrained)
    assert "final_sparsity" in as_dict(compress_tflite.Config(from_run=tmp_path, techniques=("prune+qat",)))


def test_what_would_change_nothing_is_refused(tmp_path):
    """Files that were asked to be pruned, and were not, look like any others."""
    from recipes import compress_tflite, train_agent, transfer_image

    given = ["--from-run", str(tmp_path)]
    for recipe, words, purpose in (
        (compress_tflite, [*given, "--final-sparsity", "0.9"], "--final-sparsity is for --techniques prune"),
        (compress_tflite, [*given, "--techniques=qat", "--number-of-clusters=8"], "--techniques cluster"),
        (compress_tflite, [*given, "--input-range", "-1", "1"], "--input-range is for --saved-model"),
        (
            transfer_image,
            ["--data-dir", str(tmp_path), "--dataset", "mnist5k"],
            "--dataset is for data without",
        ),
        (train_agent, ["--agent", "linucb", "--learning-rate", "0.01"], "--learning-rate is for --agent dqn"),
    ):
        with pytest.raises(ConfigError, match=f"{purpose}.*leave it out"):
            parse(recipe.Config, words, prog="", description="")
    untrained = {"from_run": tmp_path, "epochs": None, "signature": None}  # as they are left out
    assert "epochs" not in as_dict(from_keywords(CompressConfig, untrained, call=""))
    # A file of settings says all of them: what a flag makes idle there is left out.
    (tmp_path / "config.yaml").write_text("dataset: mnist5k\n")
    words = ["--data-dir", str(tmp_path), "--config", str(tmp_path / "config.yaml")]
    assert "dataset" not in as_dict(parse(transfer_image.Config, words, prog="", description=""))


def test_what_describes_a_model_of_keras_is_kept():
    """It has neither a run nor a path."""
    keras = as_dict(CompressConfig(input_range=(-1.0, 1.0), input_shape=(1, 64, 64, 3)))
    assert (keras["input_range"], keras["input_shape"]) == ([-1.0, 1.0], [1, 64, 64, 3])


@pytest.mark.parametrize(
    ("place", "texts"),
    [("pos/1.txt", True), ("Training/pos/1.md", True), ("a/1.png", False), ("a/b/1.jpg", False)],
)
def test_a_folder_is_told_to_be_of_texts_also_where_it_is_split_already(tmp_path, place, texts):
    from recipes import train_private

    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(b"x")
    assert train_private.Config(data_dir=tmp_path).of_texts is texts


def test_what_is_written_is_what_is_read(tmp_path):
    config = Config(
        learning_rate=1e-7, kind="b", strict=True, data_dir=Path("a folder/with: colon"), sizes=(7,)
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(as_dict(config)))
    assert as_dict(read("--config", str(file))) == as_dict(config)


def test_unknown_keys_are_named_with_the_nearest(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("learning_rat: 0.5\nzzzzzz: 1\n")
    with pytest.raises(ConfigError, match=r"'learning_rat'; did you mean 'learning_rate'[\s\S]*'zzzzzz'"):
        read("--config", str(file))


@pytest.mark.parametrize(
    ("content", "message"), [("- 1\n", "holds a list"), ("a: [", "not YAML"), (None, "cannot be read")]
)
def test_files_that_are_no_settings(tmp_path, content, message):
    file = tmp_path / "config.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read(f"--config={file}")


def test_the_default_folder_is_a_function_of_the_settings():
    assert run_dir(Config(), recipe="x") == run_dir(Config(debug=True, json=True, quiet=True), recipe="x")
    assert run_dir(Config(), recipe="x") != run_dir(Config(learning_rate=2.0), recipe="x")
    assert run_dir(Config(run_dir=Path("mine")), recipe="x") == Path("mine")


def test_keywords_of_a_call_are_checked_like_flags(tmp_path):
    from recipes import transfer_image

    config = from_keywords(Config, {"data_dir": str(tmp_path), "sizes": [3], "seed": 7}, call="f()")
    assert config == Config(data_dir=tmp_path, sizes=(3,), seed=7)
    with pytest.raises(ConfigError, match=r"^f\(\): unknown keyword kid=; did you mean kind=\?"):
        from_keywords(Config, {"kid": "b"}, call="f()")
    with pytest.raises(ConfigError, match=r"seed= is -1"):
        from_keywords(Config, {"seed": -1}, call="f()")
    with pytest.raises(ConfigError, match=r"^f\(\): data_dir= .*nowhere is not a folder"):
        from_keywords(transfer_image.Config, {"data_dir": tmp_path / "nowhere"}, call="f()")


def test_a_wrong_folder_or_file_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "mails.csv").touch()
    with pytest.raises(ConfigError, match=r"--data-dir .*fotos is not a folder(.|\n)*photos\?"):
        ImageSettings(data_dir=tmp_path / "fotos")
    with pytest.raises(ConfigError, match=r"--data-file .*mail\.csv is not a file(.|\n)*mails\.csv\?"):
        TextSettings(data_file=tmp_path / "mail.csv")
