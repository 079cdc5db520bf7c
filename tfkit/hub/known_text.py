"""Encoders of text that are known by name, each with the preprocessor that makes its inputs.

Pairs, sizes and outputs are as their publishers describe them
(github.com/tensorflow/tfhub.dev), from memory: none was downloaded here. A page that names no licence is
under Apache-2.0, the default that TF Hub's publishing guide states.
"""

from __future__ import annotations

from dataclasses import dataclass

from tfkit.hub.known import NOT_TRIED

TASK = "text features"
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
    task: str = TASK
    licence: str = "Apache-2.0"


def table() -> list[KnownText]:
    """The encoders that are known by name, the bundled ones first."""
    return list(_TABLE)


def find(handle: str) -> KnownText | None:
    """The known encoder of this name or handle."""
    wanted = handle.rstrip("/")
    return next((row for row in _TABLE if wanted in (row.name, row.handle)), None)


def names() -> list[str]:
    """The names that `resolve_text` takes."""
    return [row.name for row in _TABLE]


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


_TABLE = (
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
