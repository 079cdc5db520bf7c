"""Strings to token ids on tensorflow-text: ragged inside, dense at a model's edge."""

from tfkit.text.tokenizer import Tokenizer
from tfkit.text.vocabulary import build
from tfkit.text.wordpiece import WordPiece

__all__ = ["Tokenizer", "WordPiece", "build"]
