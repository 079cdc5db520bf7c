"""A vocabulary of word pieces of a corpus's own, and batches of texts of like lengths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tfkit.errors import DataError
from tfkit.text.tokenizers import SPECIAL, Tokenizer

if TYPE_CHECKING:
    from tfkit.environment.stack import tf

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
    from tfkit.environment import stack
    from tfkit.environment.stack import tf_text_vocabulary

    least = len(reserved) + 16
    if size < least:
        raise DataError(f"size is {size}; a vocabulary of less than {least} pieces has no room for words.")
    read = _evenly([_valid(text) for text in texts])
    characters = sum(map(len, read))
    dataset = stack.tf.data.Dataset.from_tensor_slices([text.encode() for text in read] or [b""]).batch(
        _BATCH
    )
    try:
        pieces = tf_text_vocabulary.bert_vocab_from_dataset(
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
    return tuple(pieces[:size])


def _valid(text: Any) -> str:
    """Return a text as UTF-8 has it: what no UTF-8 can hold becomes a replacement character."""
    if isinstance(text, bytes):
        return text.decode("utf-8", errors="replace")
    return str(text).encode("utf-8", errors="replace").decode()


def _evenly(texts: list[str]) -> list[str]:
    """Return the beginnings of all texts, cut at one length where they have more than `CHARACTERS`."""
    left, count = CHARACTERS, len(texts)
    for place, length in enumerate(sorted(map(len, texts))):
        limit = left // (count - place)
        if length > limit:
            return [text[:limit] for text in texts]
        left -= length
    return texts


BOUNDARIES = (16, 32, 64, 128, 256)


def by_length(
    dataset: tf.data.Dataset,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    boundaries: Sequence[int] = BOUNDARIES,
) -> tf.data.Dataset:
    """Turn texts into batches of ids in which all are about as long, by tf.data's `bucket_by_sequence_length`.

    The order of the texts changes, and each bucket ends with a batch of its own that may be smaller.

    Args:
      dataset: of (text, label, ...), one text an element.
      tokenizer: of the texts.
      batch_size: of a batch.
      boundaries: numbers of ids at which the buckets divide.

    Returns:
      Of (`input_word_ids`, `input_mask`, `input_type_ids` int32 [b, longest of the batch] by name, label, ...).
    """
    from tfkit.environment import stack

    def ids(text: Any, *rest: Any) -> Any:
        row = {name: rows[0] for name, rows in tokenizer.dense(text[stack.tf.newaxis]).items()}
        return (row, *rest)

    used = [boundary for boundary in boundaries if boundary < tokenizer.max_length]
    cut = dataset.map(ids, num_parallel_calls=stack.tf.data.AUTOTUNE)
    row, *rest = cut.element_spec
    filling = (
        {name: tokenizer.edges.pad if name == "input_word_ids" else 0 for name in row},
        *(None for _ in rest),
    )
    return cut.bucket_by_sequence_length(
        lambda row, *_: stack.tf.size(row["input_word_ids"]),
        bucket_boundaries=used,
        bucket_batch_sizes=[batch_size] * (len(used) + 1),
        padding_values=filling,
    )
