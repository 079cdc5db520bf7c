"""Real English, and the strings at which tokenizers break."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

HARD = (
    b"", b" \n\t ", b"\x00", b"a\x00b\x00", b"\xff\xfe\xc3 broken \xe2\x82", b"\xed\xa0\x80", b"x" * 100_000,
    b"word " * 30_000, b"[MASK] [CLS] [PAD]",
    *(text.encode() for text in (
        "مرحبا بالعالم שלום", "你好世界 漢字テスト 한국어", "😀 🏳️‍🌈 👩‍👩‍👧", "ß ﬁ … İ ǆ", "e\u0301 é", "\u202eabc",
        "don't e-mail me@example.org, it costs $5.00!",
    )),
)  # fmt: skip


def docstrings(*modules):
    """Of the public functions and classes of modules, each with the number of its module."""
    found = {}
    for label, module in enumerate(modules):
        for name in sorted(vars(module)):
            text = inspect.getdoc(getattr(module, name)) if not name.startswith("_") else None
            if text and len(text) > 60:
                found.setdefault(text, label)
    return list(found), np.array(list(found.values()), np.int64)


@pytest.fixture(scope="session")
def hard():
    return HARD


@pytest.fixture(scope="session")
def english():
    """Some hundred docstrings and the numbers of their modules."""
    import numpy
    import scipy.signal
    import scipy.stats

    return docstrings(numpy, scipy.stats, scipy.signal)
