"""An index that answers questions: documents cut into passages, their vectors, and the nearest of them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfkit import hub, run_files
from tfkit.environment import files
from tfkit.errors import DataError, HubError, RunError
from tfkit.hub import Encoder
from tfkit.hub.features import engines_of

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # of paragraphs
    re.compile(r"\n"),  # of lines
    re.compile(r"(?<=[.!?…؟])\s+|(?<=[。！？])"),  # of sentences
)


def cut_passages(
    texts: Sequence[str], *, count: Callable[[list[str]], np.ndarray], room: int
) -> list[list[str]]:
    """Cut each text into whole paragraphs where they fit, else lines, sentences, words; together all of it.

    Args:
      texts: each of which holds something.
      count: texts to their numbers of tokens, int [n], without those at their ends, as the encoder counts them.
      room: tokens of a passage at most.

    Returns:
      For each text its passages in order, none of them empty.

    Example:
      >>> by_words = lambda texts: np.array([len(text.split()) for text in texts])
      >>> cut_passages(["One two. Three four five.\\n\\nSix."], count=by_words, room=4)
      [['One two.', 'Three four five.', 'Six.']]
    """
    # Of a piece: which text, from where, to where, and where the paragraph begins that was too long; -1: it was not.
    pending, fitting, level = [(place, 0, len(text), -1) for place, text in enumerate(texts)], [], 0
    while pending:
        counts = count([texts[place][begin:end] for place, begin, end, _ in pending])
        pieces, pending = zip(pending, counts.tolist(), strict=True), []
        for (place, begin, end, paragraph), tokens in pieces:
            if tokens <= room or end - begin < 2:
                fitting.append((place, begin, end, paragraph, tokens))
            else:
                paragraph = begin if level == 1 else paragraph
                parts = itertools.pairwise(_split(texts[place], begin, end, level))
                pending += [(place, *part, paragraph) for part in parts]
        level += 1
    # Neighbours join, as many as fit; but not the end of a long paragraph with what comes after it.
    passages: list[list[tuple[int, int, int, int]]] = [[] for _ in texts]
    for place, begin, end, paragraph, tokens in sorted(fitting):
        joined = passages[place]
        if joined and joined[-1][2] == paragraph and joined[-1][3] + tokens <= room:
            begin, _, _, before = joined.pop()
            tokens += before
        joined.append((begin, end, paragraph, tokens))
    cut = [
        [text[begin:end].strip() for begin, end, *_ in of] for text, of in zip(texts, passages, strict=True)
    ]
    return [[passage for passage in of_text if passage] for of_text in cut]


def _split(text: str, begin: int, end: int, level: int) -> list[int]:
    """Return where to cut: at the boundaries of this level; beyond the last in the middle, between words."""
    if level < len(_BOUNDARIES):
        places = [match.end() for match in _BOUNDARIES[level].finditer(text, begin, end)]
    else:
        middle = (begin + end) // 2
        words = [match.end() for match in re.finditer(r"\s+", text[begin:end])]
        inside = [begin + word for word in words if begin < begin + word < end]
        places = [min(inside, key=lambda word: abs(word - middle), default=middle)]
    return sorted({begin, *places, end})


EMBEDDINGS, PASSAGES, DESCRIPTION = "embeddings.npy", "documents.jsonl", "index.json"
_DESCRIBED: dict[str, Any] = {
    "encoder": str,
    "preprocessor": (str, type(None)),
    "max_length": (int, type(None)),
    "digest": str,
    "engine": str,
    "fingerprint": str,
    "files": {"*": str},
}
_OVER = 4  # passages looked at for each document that is wanted: a document may have several near ones
_TOGETHER = 16  # questions whose scores are in memory together
_WORDS_A_TOKEN = 0.6  # where an encoder does not show its tokens; of English, on the safe side


@dataclass(frozen=True)
class Hit:
    """A passage that answers."""

    score: float
    """Cosine of the angle between the vectors of question and passage; 1 for the same."""
    name: str
    """Of the document."""
    passage: int
    """Which of the document's passages it is, from 0."""
    text: str
    """Of the passage."""


class Document(NamedTuple):
    """A text and what it is called."""

    name: str
    """The path of a file below its folder, or "mails.csv:17"."""
    text: str
    """All of it."""


@dataclass(eq=False, repr=False)
class Index:
    """Find passages of documents by meaning.

    index/
      embeddings.npy    float32 [passages, d], each of length 1
      documents.jsonl   for each passage the name of its document, its place in it, its text
      index.json        the encoder's handle and digest, the documents' fingerprint, digests of the files beside it

    Example:
      >>> index = Index.build(load_documents("letters/").documents, hub.load_model("minilm-l6-v2"))  # doctest: +SKIP
      >>> index.query("how do I cancel", top=1)  # doctest: +SKIP
      [Hit(score=0.61, name='terms.txt', passage=3, text='To end your contract, write to ...')]
    """

    encoder: Encoder
    """Of the questions."""
    vectors: np.ndarray
    """float32 [passages, d], each of length 1."""
    lines: Sequence[bytes]
    """Those of documents.jsonl."""
    description: dict[str, Any]
    """What index.json holds, but for the digests."""

    @classmethod
    def build(cls, documents: Sequence[Document], encoder: Encoder, *, fingerprint: str = "") -> Index:
        """Cut the documents into passages, and compute their vectors.

        Args:
          documents: one or more.
          encoder: see `tfkit.load_model`.
          fingerprint: of the documents, to tell later whether they have changed.

        Raises:
          DataError: there are no documents.
        """
        if not documents:
            raise DataError("There are no documents: there is nothing to search.")
        cut = _cut([document.text for document in documents], encoder)
        texts = [text for parts in cut for text in parts]
        vectors, how = hub.embed(encoder, texts)
        part = encoder.preprocessor
        lines = [
            json.dumps({"name": document.name, "passage": place, "text": text}, ensure_ascii=False).encode()
            for document, parts in zip(documents, cut, strict=True)
            for place, text in enumerate(parts)
        ]
        description = {
            "encoder": encoder.handle,
            # What must be given again when the encoder is loaded.
            "preprocessor": part.handle if part and part.handle != encoder.handle else None,
            "max_length": encoder.max_length,
            "digest": encoder.digest,
            "engine": how["engine"],
            "documents": len(documents),
            "passages": len(texts),
            "fingerprint": fingerprint,
        }
        return cls(encoder, _length_one(vectors), lines, description)

    def save(self, folder: Path) -> None:
        """Write the index as `folder`: all of it, or what was there before."""
        with files.new_folder(folder) as new:
            np.save(new / EMBEDDINGS, self.vectors)
            (new / PASSAGES).write_bytes(b"".join(line + b"\n" for line in self.lines))
            files.write_json(
                new / DESCRIPTION, {**self.description, "files": _digests(new, self.description)}
            )

    @classmethod
    def open(cls, folder: str | Path, *, encoder: Encoder | None = None) -> Index:
        """Read an index back; no document is embedded again.

        Args:
          folder: what `save` wrote.
          encoder: of the questions; left out, the one of the index is resolved.

        Raises:
          RunError: there is no whole index.
          HubError: the encoder is not the one whose vectors the index holds.
        """
        folder = Path(folder)
        try:
            run_files.check_links(folder, [DESCRIPTION, EMBEDDINGS, PASSAGES])
            description = run_files.read_json(folder, DESCRIPTION, _DESCRIBED)
            if not description:
                raise ValueError(f"it has no {DESCRIPTION}")
            if description.pop("files") != _digests(folder, description):
                raise ValueError("its files are not what was written there")
            vectors = np.load(folder / EMBEDDINGS, mmap_mode="r")
            lines = (folder / PASSAGES).read_bytes().split(b"\n")[:-1]
            if vectors.ndim != 2 or vectors.dtype != np.float32 or len(lines) != len(vectors):
                raise ValueError(f"{len(lines)} passages for {vectors.dtype} vectors {list(vectors.shape)}")
            handle, length = description["encoder"], description["max_length"]
            preprocessor = description["preprocessor"]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(
                f"{folder} holds no whole index ({error}). Make one: python -m recipes.search_text --run-dir ..."
            ) from error
        if encoder is None:
            encoder = hub.load_model(handle, modality="texts", preprocessor=preprocessor, max_length=length)
        if encoder.digest != description["digest"]:
            raise HubError(
                f"{folder} was made with {handle} (max_length {length}); {encoder.handle} (max_length"
                f" {encoder.max_length}) is another encoder, whose vectors cannot be compared with its.\n  Ask with the"
                " same one, or make the index anew: --overwrite."
            )
        return cls(encoder, vectors, lines, description)

    def query(self, text: str, *, top: int = 5) -> list[Hit]:
        """Return the documents that answer a question, best first: of each its best passage.

        Args:
          text: in words; a question, a sentence, some key words.
          top: how many documents at most.
        """
        return self.queries([text], top=top)[0]

    def queries(self, texts: Sequence[str], *, top: int = 5) -> list[list[Hit]]:
        """Return what `query` does for each of several texts."""
        encoded = np.array([text.encode("utf-8", "replace") for text in texts], object)
        vectors = _length_one(self._encode(encoded)) if texts else np.empty((0, 1))
        blocks = [vectors[start : start + _TOGETHER] for start in range(0, len(texts), _TOGETHER)]
        return [self._best(scores, top) for block in blocks for scores in block @ self.vectors.T]

    def _best(self, scores: np.ndarray, top: int) -> list[Hit]:
        """Return the best passage of each document, best first, ties to the earlier; `scores` are of all passages."""
        best: dict[str, Hit] = {}
        for count in (_OVER * top, _OVER**3 * top, len(scores)):
            nearest = np.argpartition(-scores, min(count, len(scores)) - 1)[:count]
            for index in nearest[np.lexsort((nearest, -scores[nearest]))]:
                hit = self._hit(int(index), float(scores[index]))
                best.setdefault(hit.name, hit)
            if len(best) >= top:
                break
        return list(best.values())[:top]

    @property
    def passages(self) -> list[Hit]:
        """Return all passages, as if each were found."""
        return [self._hit(index, 1.0) for index in range(len(self.lines))]

    def _hit(self, index: int, score: float) -> Hit:
        try:
            return Hit(score=score, **json.loads(self.lines[index]))
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"Line {index + 1} of the index's {PASSAGES} is no passage. Make the index anew."
            ) from error

    @functools.cached_property
    def _encode(self) -> Any:
        """Return what makes vectors of questions, opened when the first comes."""
        engines = engines_of(self.encoder)
        if self.description["engine"] == "tensorflow":
            return engines.tensorflow()
        opened = contextlib.ExitStack()
        weakref.finalize(self, opened.close)
        return opened.enter_context(engines.litert(np.empty(0, object)))


def _cut(texts: Sequence[str], encoder: Encoder) -> list[list[str]]:
    tokenizer = encoder.tokenizer

    def count(some: list[str]) -> np.ndarray:
        if tokenizer is None:
            return np.array([len(text.split()) for text in some])
        return np.asarray(tokenizer.tokenize(some).row_lengths())

    words = max(1, int((encoder.max_length or 128) * _WORDS_A_TOKEN))
    return cut_passages(texts, count=count, room=tokenizer.max_length - 2 if tokenizer else words)


def _length_one(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _digests(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Return name to digest of all that an index holds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DESCRIPTION)
    return {DESCRIPTION: files.digest_of(sorted(description.items()))} | {
        path.relative_to(folder).as_posix(): files.digest_of(path) for path in paths
    }
