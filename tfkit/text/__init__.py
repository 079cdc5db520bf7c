"""Strings to token ids on tensorflow-text: ragged inside, dense at a model's edge."""

from tfkit.text.buckets import by_length
from tfkit.text.selfcheck import check, check_fits
from tfkit.text.sentencepiece import SentencePiece
from tfkit.text.tokenizer import Tokenizer
from tfkit.text.vocabulary import build
from tfkit.text.whitespace import Whitespace
from tfkit.text.wordpiece import WordPiece

__all__ = [
    "SentencePiece",
    "Tokenizer",
    "Whitespace",
    "WordPiece",
    "build",
    "by_length",
    "check",
    "check_fits",
]
