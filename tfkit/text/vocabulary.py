"""A vocabulary of word pieces of a corpus's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tfkit.errors import DataError
from tfkit.text.wordpiece import SPECIAL

SIZE = 4000
CHARACTERS = 2_000_000
"""So many are read at most: what a vocabulary of some thousand pieces is made of, is settled after that."""

LONGEST_WORD = 25
"""Characters of a word that counts; longer ones are addresses and encoded files more often than words."""

_BATCH = 256
_ITERATIONS = 2  # of four by default: a third takes as long again, and changes one piece in fifty
_LEAST_COUNT = 2


def build(
    texts: Iterable[str | bytes],
    *,
    size: int = SIZE,
    lower_case: bool = True,
    reserved: Sequence[str] = SPECIAL,
) -> tuple[str, ...]:
    """The word pieces that cut these texts best, by tf_text's bert_vocab_from_dataset; the same for the same texts.

    It reads 2,000,000 characters at most, which takes five to ten seconds: where there are more, the beginning of
    each text, of all texts the same length. Give it training texts alone: it is learned from them.

    Args:
      texts: of the corpus; bytes are UTF-8.
      size: of the vocabulary at most; 5 % less may come out, and far less of a small corpus.
      lower_case: whether case and accents are folded, as of the WordPiece that is to use it.
      reserved: pieces that come first, whatever the texts hold.

    Returns:
      What WordPiece takes: the reserved ones, single characters, then pieces, the most frequent ones first.

    Raises:
      DataError: the texts hold no word, or the size has no room for words.

    Example:
      >>> build(["the cat sat on the mat", "the cat"], size=60)[:6]
      ('[PAD]', '[UNK]', '[CLS]', '[SEP]', 'a', 'c')
    """
    from tfkit.stack import tf, tf_text_vocabulary

    least = len(reserved) + 16
    if size < least:
        raise DataError(f"size is {size}; a vocabulary of less than {least} pieces has no room for words.")
    read = _evenly([_valid(text) for text in texts])
    characters = sum(map(len, read))
    dataset = tf.data.Dataset.from_tensor_slices([text.encode() for text in read] or [b""]).batch(_BATCH)
    try:
        found = tf_text_vocabulary.bert_vocab_from_dataset(
            dataset,
            vocab_size=size,
            reserved_tokens=list(reserved),
            bert_tokenizer_params={"lower_case": lower_case},
            learn_params={
                # Pieces do not overlap, so that no more than `size` of them can be as frequent as this; the search
                # for the count that a piece must have begins there instead of at that of the most frequent word.
                "upper_thresh": max(_LEAST_COUNT, characters // size),
                "lower_thresh": _LEAST_COUNT,
                "num_iterations": _ITERATIONS,
                "max_token_length": LONGEST_WORD,
                # Each comes twice, at the beginning of a word and within: they must leave room for words.
                "max_unique_chars": min(1000, size // 8),
            },
        )
    except StopIteration as err:  # of an empty count of words
        raise DataError(
            f"The {len(read)} texts hold no word: there is nothing to build a vocabulary of."
        ) from err
    return tuple(found[:size])


def _valid(text: Any) -> str:
    """As UTF-8 has it: what no UTF-8 can hold becomes a replacement character."""
    if isinstance(text, bytes):
        return text.decode("utf-8", errors="replace")
    return str(text).encode("utf-8", errors="replace").decode()


def _evenly(texts: list[str]) -> list[str]:
    """The beginnings of all texts, cut at one length where that is needed for them to be `CHARACTERS` at most."""
    left, count = CHARACTERS, len(texts)
    for place, length in enumerate(sorted(map(len, texts))):
        limit = left // (count - place)
        if length > limit:
            return [text[:limit] for text in texts]
        left -= length
    return texts
