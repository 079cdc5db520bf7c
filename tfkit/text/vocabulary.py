"""A vocabulary of word pieces of a corpus's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tfkit.environment import stack
from tfkit.errors import DataError
from tfkit.text.tokenizers import SPECIAL

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
    """Return the word pieces that cut these texts best, by tf_text's bert_vocab_from_dataset, always the same.

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
    least = len(reserved) + 16
    if size < least:
        raise DataError(f"size is {size}; a vocabulary of less than {least} pieces has no room for words.")
    # What no UTF-8 can hold becomes a replacement character.
    read = _evenly(
        [
            text.decode(errors="replace")
            if isinstance(text, bytes)
            else text.encode(errors="replace").decode()
            for text in texts
        ]
    )
    characters = sum(map(len, read))
    dataset = stack.tf.data.Dataset.from_tensor_slices([text.encode() for text in read] or [b""])
    try:
        pieces = stack.tf_text_vocabulary.bert_vocab_from_dataset(
            dataset.batch(_BATCH),
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
    return tuple(pieces[:size])


def _evenly(texts: list[str]) -> list[str]:
    """Return the beginnings of all texts, cut at one length where they have more than `CHARACTERS`."""
    left, count = CHARACTERS, len(texts)
    for place, length in enumerate(sorted(map(len, texts))):
        limit = left // (count - place)
        if length > limit:
            return [text[:limit] for text in texts]
        left -= length
    return texts
