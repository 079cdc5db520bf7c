"""Strings to token ids on tensorflow-text: ragged inside, dense at a model's edge."""
