"""Encoders of text that are known by name, each with the preprocessor that makes its inputs.

Pairs, sizes and outputs are as their publishers describe them
(github.com/tensorflow/tfhub.dev), from memory: none was downloaded here. A page that names no licence is
under Apache-2.0, the default that TF Hub's publishing guide states.

Models that are known by name, and what their publishers say of them.

Sizes, ranges and feature sizes are from each model's page (github.com/tensorflow/tfhub.dev); a page that names no
licence is under Apache-2.0, the default that TF Hub's publishing guide states. Parameters are those of the network
without its classifier, to 0.1 million, counted in tf_keras.applications or derived from the network's paper.

What a model handle means: where the model is, and by which road it comes.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from tfkit.errors import HubError
from tfkit.hub import bundled

NOT_TRIED = "not tried here: no network"
TF1 = f"TF1 format, frozen only; {NOT_TRIED}"
IMAGE_TASK = "image features"


@dataclass(frozen=True, kw_only=True)
class Known:
    """A model that a name stands for."""

    name: str
    handle: str
    image_size: int
    """Pixels a side that it was trained on."""
    fixed_size: bool
    feature_size: int
    parameters: int
    """Without a classifier; to 0.1 million for those that are not bundled."""
    note: str
    task: str = IMAGE_TASK
    licence: str = "Apache-2.0"
    input_range: tuple[float, float] = (0.0, 1.0)


def image_table() -> list[Known]:
    """The models that are known by name, the bundled ones first."""
    return list(_IMAGE_TABLE)


def find_image_model(handle: str) -> Known | None:
    """The known model of this name or handle."""
    wanted = handle.rstrip("/")
    return next((row for row in _IMAGE_TABLE if wanted in (row.name, row.handle)), None)


def image_names() -> list[str]:
    """The names that `resolve` takes."""
    return [row.name for row in _IMAGE_TABLE]


def feature_vector_of(handle: str) -> str | None:
    """The feature vector that belongs to a classifier's handle; None for any other handle.

    >>> feature_vector_of("https://tfhub.dev/google/imagenet/inception_v3/classification/5")
    'https://tfhub.dev/google/imagenet/inception_v3/feature_vector/5'
    """
    if "/classification/" not in handle:
        return None
    # The EfficientNets of tensorflow/ write it with a hyphen.
    ours = "feature-vector" if "/tensorflow/efficientnet/" in handle else "feature_vector"
    return handle.replace("/classification/", f"/{ours}/")


def _imagenet(name: str, version: int, size: int, features: int, millions: float) -> Known:
    return Known(
        name=name,
        handle=f"https://tfhub.dev/google/imagenet/{name}/feature_vector/{version}",
        image_size=size,
        fixed_size=True,
        feature_size=features,
        parameters=round(millions * 1e6),
        note=NOT_TRIED,
    )


def _efficientnet(name: str, version: int, size: int, millions: float, note: str) -> Known:
    return Known(
        name=f"efficientnet-{name}",
        handle=f"https://tfhub.dev/tensorflow/efficientnet/{name}/feature-vector/{version}",
        image_size=size,
        fixed_size=False,
        feature_size=1280,
        parameters=round(millions * 1e6),
        note=note,
    )


_IMAGE_TABLE = (
    Known(
        name="efficientnet-lite0",
        handle="efficientnet-lite0",
        image_size=224,
        fixed_size=False,
        feature_size=1280,
        parameters=3_413_024,
        note="bundled: needs no network",
    ),
    _imagenet("mobilenet_v2_100_224", 5, 224, 1280, 2.3),
    _imagenet("mobilenet_v3_small_100_224", 5, 224, 1024, 1.5),
    _imagenet("mobilenet_v3_large_100_224", 5, 224, 1280, 4.2),
    _imagenet("efficientnet_v2_imagenet1k_b0", 2, 224, 1280, 5.9),
    _imagenet("efficientnet_v2_imagenet1k_b1", 2, 240, 1280, 6.9),
    _imagenet("inception_v3", 5, 299, 2048, 21.8),
    _imagenet("resnet_v2_50", 5, 224, 2048, 23.6),
    Known(
        name="resnet_50",
        handle="https://tfhub.dev/tensorflow/resnet_50/feature_vector/1",
        image_size=224,
        fixed_size=True,
        feature_size=2048,
        parameters=23_600_000,
        note=NOT_TRIED,
    ),
    _efficientnet("b0", 1, 224, 4.0, NOT_TRIED),
    _efficientnet("lite1", 2, 240, 4.1, TF1),
    _efficientnet("lite2", 2, 260, 4.8, TF1),
    _efficientnet("lite3", 2, 300, 6.9, TF1),
    _efficientnet("lite4", 2, 380, 11.7, TF1),
    Known(
        name="bit-m-r50x1",
        handle="https://tfhub.dev/google/bit/m-r50x1/1",
        image_size=224,
        fixed_size=False,
        feature_size=2048,
        parameters=23_500_000,
        note=f"trained on ImageNet-21k; {NOT_TRIED}",
    ),
)


TEXT_TASK = "text features"
_TF_HUB = "https://tfhub.dev"
_UNCASED = f"{_TF_HUB}/tensorflow/bert_en_uncased_preprocess/3"
_CMLM = f"{_TF_HUB}/google/universal-sentence-encoder-cmlm"


@dataclass(frozen=True, kw_only=True)
class KnownText:
    """An encoder of text that a name stands for."""

    name: str
    handle: str
    feature_size: int
    parameters: int
    """To 0.1 million for those that are not bundled."""
    preprocessor: str | None = None
    """The handle of the model that makes its inputs of strings; None for one that takes strings itself."""
    output: str | None = None
    """The output that is the vector of a text, where it is not `pooled_output`."""
    languages: str = "English"
    note: str = NOT_TRIED
    task: str = TEXT_TASK
    licence: str = "Apache-2.0"


def text_table() -> list[KnownText]:
    """The encoders that are known by name, the bundled ones first."""
    return list(_TEXT_TABLE)


def find_text_model(handle: str) -> KnownText | None:
    """The known encoder of this name or handle."""
    wanted = handle.rstrip("/")
    return next((row for row in _TEXT_TABLE if wanted in (row.name, row.handle)), None)


def text_names() -> list[str]:
    """The names that `resolve_text` takes."""
    return [row.name for row in _TEXT_TABLE]


def _hub(
    path: str,
    features: int,
    millions: float,
    preprocessor: str | None = None,
    *,
    name: str | None = None,
    languages: str = "English",
    output: str | None = None,
) -> KnownText:
    return KnownText(
        name=name or path.split("/")[-2],
        handle=f"{_TF_HUB}/{path}",
        feature_size=features,
        parameters=round(millions * 1e6),
        preprocessor=preprocessor,
        languages=languages,
        output=output,
    )


def _bert(
    path: str, features: int, millions: float, kind: str = "bert_en_uncased", **options: str
) -> KnownText:
    preprocessor = f"{_TF_HUB}/tensorflow/{kind}_preprocess/3"
    return _hub(path, features, millions, preprocessor, **options)


_TEXT_TABLE = (
    KnownText(
        name="minilm-l6-v2",
        handle="minilm-l6-v2",
        feature_size=384,
        parameters=22_565_376,
        note="bundled: needs no network",
    ),
    _bert("tensorflow/bert_en_uncased_L-12_H-768_A-12/4", 768, 109.5),
    _bert("tensorflow/bert_en_cased_L-12_H-768_A-12/4", 768, 108.3, "bert_en_cased"),
    _bert(
        "tensorflow/bert_multi_cased_L-12_H-768_A-12/4",
        768,
        177.9,
        "bert_multi_cased",
        languages="104 languages",
    ),
    _bert("tensorflow/small_bert/bert_en_uncased_L-2_H-128_A-2/2", 128, 4.4),
    _bert("tensorflow/small_bert/bert_en_uncased_L-4_H-256_A-4/2", 256, 11.2),
    _bert("tensorflow/small_bert/bert_en_uncased_L-4_H-512_A-8/2", 512, 28.8),
    _bert("tensorflow/small_bert/bert_en_uncased_L-8_H-512_A-8/2", 512, 41.4),
    _bert("google/electra_small/2", 256, 13.5),
    _bert("google/electra_base/2", 768, 108.9),
    _bert("tensorflow/albert_en_base/3", 768, 11.7, "albert_en"),
    _bert("google/experts/bert/wiki_books/2", 768, 109.5, name="experts_bert_wiki_books"),
    _bert("google/experts/bert/pubmed/2", 768, 109.5, name="experts_bert_pubmed"),
    _bert("tensorflow/talkheads_ggelu_bert_en_base/2", 768, 138),
    _hub(
        "google/LaBSE/2",
        768,
        470.9,
        f"{_CMLM}/multilingual-preprocess/2",
        languages="109 languages",
        output="default",
    ),
    _hub(
        "google/universal-sentence-encoder-cmlm/en-base/1",
        768,
        109.5,
        _UNCASED,
        name="use-cmlm-en-base",
        output="default",
    ),
    _hub("google/universal-sentence-encoder/4", 512, 256.8),
    _hub("google/universal-sentence-encoder-large/5", 512, 147.4),
    _hub("google/universal-sentence-encoder-multilingual/3", 512, 68.9, languages="16 languages"),
    _hub("google/nnlm-en-dim50/2", 50, 48.2),
    _hub("google/nnlm-en-dim128/2", 128, 124.6),
    _hub("google/nnlm-en-dim128-with-normalization/2", 128, 124.6),
)


Kind = Literal["bundled", "http", "kaggle", "remote", "folder", "file"]
KAGGLE_HOSTS = ("kaggle.com", "www.kaggle.com")
KAGGLE_FRAMEWORKS = {name.lower(): name for name in ("tensorFlow1", "tensorFlow2", "tfLite", "keras", "tfJs")}
REMOTE_SCHEMES = ("gs", "s3", "hdfs")


@dataclass(frozen=True)
class Handle:
    """A handle that was understood."""

    text: str
    """As it was asked for."""
    kind: Kind
    location: str
    """A URL, Kaggle's owner/model/framework/variation[/version], a path, or a bundled name."""


def parse(handle: str | Path) -> Handle:
    """Understand a handle.

    Args:
      handle: a bundled or known name, http(s) URL, kaggle.com model URL or owner/model/framework/variation,
        gs:// location, file:// URL, or path of a folder or archive. A name stands before a folder of the same
        name: write ./name for that.

    Raises:
      HubError: nothing of that name exists; the message has the nearest ones.
    """
    text = str(handle)
    if isinstance(handle, str):
        if text in bundled.MODELS:
            return Handle(text, "bundled", text)
        if row := find_image_model(text) or find_text_model(text):
            return Handle(text, *_road(row.handle))
        if "://" in text:
            return Handle(text, *_road(text))
    path = Path(text).expanduser()
    if path.is_dir():
        return Handle(text, "folder", str(path.absolute()))
    if path.exists():
        return Handle(text, "file", str(path.absolute()))
    parts = text.split("/")
    if len(parts) in (4, 5) and parts[2].lower() in KAGGLE_FRAMEWORKS:
        return Handle(text, "kaggle", _kaggle(text, parts))
    raise HubError(_not_found(text, path))


def _road(url: str) -> tuple[Kind, str]:
    split = urlsplit(url)
    scheme = split.scheme.lower()
    if scheme == "kaggle" or (scheme in ("http", "https") and split.hostname in KAGGLE_HOSTS):
        path = f"{split.netloc}{split.path}" if scheme == "kaggle" else split.path.removeprefix("/models/")
        return "kaggle", _kaggle(url, path.strip("/").split("/"))
    if scheme in ("http", "https"):
        return "http", url
    if scheme in REMOTE_SCHEMES:
        return "remote", url
    if scheme == "file":
        found = parse(Path(unquote(split.path)))
        return found.kind, found.location
    raise HubError(
        f"{url}: no model comes by {scheme}://. "
        f"Known are http, https, kaggle, file, {', '.join(REMOTE_SCHEMES)}, a path, or a name."
    )


def _kaggle(text: str, parts: list[str]) -> str:
    """owner/model/framework/variation[/version], out of that or of what the web page's address has between."""
    parts = [part for part in parts if part not in ("frameworks", "variations", "versions")]
    if len(parts) not in (4, 5) or parts[2].lower() not in KAGGLE_FRAMEWORKS:
        raise HubError(
            f"{text} names no variation of a Kaggle model.\n"
            "  Choose one on its page, such as "
            "https://www.kaggle.com/models/google/mobilenet-v2/tensorFlow2/100-224-feature-vector/2"
        )
    framework = KAGGLE_FRAMEWORKS[parts[2].lower()]
    if framework != "tensorFlow2" and framework != "tensorFlow1":
        raise HubError(
            f"{text} is the {framework} variation of the model, which cannot be loaded as a SavedModel.\n"
            "  Choose its tensorFlow2 variation on the model's page."
        )
    return "/".join([*parts[:2], framework, *parts[3:]])


def _not_found(text: str, path: Path) -> str:
    if re.match(r"[./~]", text) or len(path.parts) > 1:
        message = f"{text}: there is no such folder or file."
        parent = next(parent for parent in path.absolute().parents if parent.is_dir())
        names = [entry.name for entry in parent.iterdir() if not entry.name.startswith(".")]
        near = [str(parent / name) for name in _nearest(path.name, sorted(names))]
    else:
        message = f"{text!r} is neither a model known by name, nor a folder here."
        near = _nearest(text, [*image_names(), *text_names()])
    nearest = f"\n  The nearest: {', '.join(near)}." if near else ""
    return f"{message}{nearest}\n  python -m tfkit models lists what is known by name; a URL or a folder works too."


def _nearest(text: str, names: list[str]) -> list[str]:
    """The names most like `text`, up to three; of equals the first."""
    likeness = {name: difflib.SequenceMatcher(None, text.lower(), name.lower()).ratio() for name in names}
    return sorted((name for name in names if likeness[name] > 0.5), key=lambda name: -likeness[name])[:3]
