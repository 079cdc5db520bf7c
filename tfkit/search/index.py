"""The index: passages and their vectors in a folder, asked by strings."""

from __future__ import annotations

import contextlib
import functools
import json
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfkit import files, hub, run_files
from tfkit.errors import DataError, HubError, RunError
from tfkit.hub import TextEncoder
from tfkit.hub.embed import checked
from tfkit.search import nearest, passages
from tfkit.search.documents import Document

EMBEDDINGS, PASSAGES, DESCRIPTION, TREES = "embeddings.npy", "documents.jsonl", "index.json", "scann"
_OVER = (
    4  # passages that are looked at for each document that is wanted: a document may have several near ones
)
_DESCRIBED: dict[str, Any] = {
    "encoder": str, "preprocessor": (str, type(None)), "max_length": (int, type(None)), "digest": str, "engine": str,
    "searcher": str, "fingerprint": str, "files?": {"*": str},
}  # fmt: skip
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


class Index:
    """Finds passages of documents by meaning.

    index/
      embeddings.npy    float32 [passages, d], each of length 1
      documents.jsonl   for each passage the name of its document, its place in it, its text
      index.json        the encoder's handle and digest, the way of searching, the documents' fingerprint, digests
                        of the files beside it
      scann/            ScaNN's trees, where it searches

    Example:
      >>> index = Index.build(load_documents("letters/").documents, hub.resolve_text("minilm-l6-v2"))  # doctest: +SKIP
      >>> index.query("how do I cancel", top=1)  # doctest: +SKIP
      [Hit(score=0.61, name='terms.txt', passage=3, text='To end your contract, write to ...')]
    """

    def __init__(
        self,
        encoder: TextEncoder,
        vectors: np.ndarray,
        lines: Sequence[bytes],
        searcher: nearest.Searcher,
        description: dict[str, Any],
    ) -> None:
        self.encoder = encoder
        self.vectors = vectors
        self.description = description
        self.searcher = searcher
        self._lines = lines

    @classmethod
    def build(
        cls, documents: Sequence[Document], encoder: TextEncoder, *, fingerprint: str = "", seed: int = 0
    ) -> Index:
        """Cut the documents into passages, and compute their vectors.

        Args:
          documents: one or more.
          encoder: see `tfkit.hub.resolve_text`.
          fingerprint: of the documents, to tell later whether they have changed.
          seed: of the questions that measure the recall.

        Raises:
          DataError: there are no documents.
        """
        if not documents:
            raise DataError("There are no documents: there is nothing to search.")
        cut = _cut([document.text for document in documents], encoder)
        texts = [text for parts in cut for text in parts]
        embedded = hub.embed(encoder, texts)
        vectors = _length_one(embedded.vectors)
        searcher, why = nearest.build(vectors)
        lines = [
            json.dumps({"name": document.name, "passage": place, "text": text}, ensure_ascii=False).encode()
            for document, parts in zip(documents, cut, strict=True)
            for place, text in enumerate(parts)
        ]
        description = {
            "encoder": encoder.handle,
            "preprocessor": _preprocessor(encoder),
            "max_length": encoder.max_length,
            "digest": encoder.digest,
            "engine": embedded.engine,
            "searcher": searcher.name,
            "why": why,
            "recall_at_10": nearest.recall(searcher, vectors, seed=seed),
            "documents": len(documents),
            "passages": len(texts),
            "fingerprint": fingerprint,
        }
        return cls(encoder, vectors, lines, searcher, description)

    def save(self, folder: Path) -> None:
        """Write the index as `folder`: all of it, or what was there before."""
        with files.new_folder(folder) as new:
            np.save(new / EMBEDDINGS, self.vectors)
            (new / PASSAGES).write_bytes(b"".join(line + b"\n" for line in self._lines))
            self.searcher.save(new / TREES)
            files.write_json(
                new / DESCRIPTION, {**self.description, "files": _digests(new, self.description)}
            )

    @classmethod
    def open(cls, folder: str | Path, *, encoder: TextEncoder | None = None) -> Index:
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
            run_files.check_links(folder, [DESCRIPTION, EMBEDDINGS, PASSAGES, TREES])
            description = run_files.read_json(folder, DESCRIPTION, _DESCRIBED)
            if not description:
                raise ValueError(f"it has no {DESCRIPTION}")
            written = description.pop("files", None)  # indexes of earlier versions have none
            if written is not None and written != _digests(folder, description):
                raise ValueError("its files are not what was written there")
            vectors = np.load(folder / EMBEDDINGS, mmap_mode="r")
            lines = (folder / PASSAGES).read_bytes().split(b"\n")[:-1]
            if vectors.ndim != 2 or vectors.dtype != np.float32 or len(lines) != len(vectors):
                raise ValueError(f"{len(lines)} passages for {vectors.dtype} vectors {list(vectors.shape)}")
            model = {
                "handle": description["encoder"],
                "preprocessor": description["preprocessor"],
                "max_length": description["max_length"],
            }
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(
                f"{folder} holds no whole index ({error}).\n"
                "  Make one: python -m recipes.search_text --data-dir documents/ --run-dir runs/documents"
            ) from error
        if encoder is None:
            encoder = hub.resolve_text(
                model["handle"], preprocessor=model["preprocessor"], max_length=model["max_length"]
            )
        if encoder.digest != description["digest"]:
            raise HubError(
                f"{folder} was made with {model['handle']} (max_length {model['max_length']}, digest "
                f"{description['digest'][:12]}); {encoder.handle} (max_length {encoder.max_length}, digest "
                f"{encoder.digest[:12]}) is another encoder, whose vectors cannot be compared with its.\n"
                "  Ask with the same one, or make the index anew: --overwrite."
            )
        searcher = nearest.load(description["searcher"], vectors, folder / TREES)
        return cls(encoder, vectors, lines, searcher, description)

    def query(self, text: str, *, top: int = 5) -> list[Hit]:
        """The documents that answer a question, best first: of each its best passage.

        Args:
          text: in words; a question, a sentence, some key words.
          top: how many documents at most.
        """
        return self.queries([text], top=top)[0]

    def queries(self, texts: Sequence[str], *, top: int = 5) -> list[list[Hit]]:
        """`query` for each of several texts."""
        if not texts:
            return []
        encoded = np.empty(len(texts), object)
        encoded[:] = [text.encode("utf-8", "replace") for text in texts]
        vectors = _length_one(self._encode(encoded))
        hits: list[list[Hit]] = [[] for _ in texts]
        wanted, looked_at = list(range(len(texts))), _OVER * top
        while wanted:
            found = self.searcher(vectors[wanted], min(looked_at, len(self.vectors)))
            for place, indices, scores in zip(wanted, *found, strict=True):
                hits[place] = self._best(indices, scores, top)
            wanted = [place for place in wanted if len(hits[place]) < top and looked_at < len(self.vectors)]
            looked_at *= 2 * _OVER
        return hits

    @property
    def passages(self) -> list[Hit]:
        """All passages, as if each were found."""
        return [self._hit(index, 1.0) for index in range(len(self._lines))]

    def _best(self, indices: np.ndarray, scores: np.ndarray, top: int) -> list[Hit]:
        """The first passage of each document, up to `top`."""
        found: dict[str, Hit] = {}
        for index, score in zip(indices, scores, strict=True):
            hit = self._hit(int(index), float(score))
            found.setdefault(hit.name, hit)
            if len(found) == top:
                break
        return list(found.values())

    def _hit(self, index: int, score: float) -> Hit:
        try:
            return Hit(score=score, **json.loads(self._lines[index]))
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"Line {index + 1} of the index's {PASSAGES} is no passage. Make the index anew."
            ) from error

    @functools.cached_property
    def _encode(self) -> Any:
        """What makes vectors of questions, opened when the first comes."""
        opened = contextlib.ExitStack()
        weakref.finalize(self, opened.close)
        return opened.enter_context(checked(self.encoder, engine=self.description["engine"]))


def _cut(texts: Sequence[str], encoder: TextEncoder) -> list[list[str]]:
    tokenizer = encoder.tokenizer
    if tokenizer is not None:
        return passages.cut(
            texts,
            count=lambda some: tokenizer.tokenize(list(some)).row_lengths().numpy(),
            room=tokenizer.max_length - 2,
        )
    return passages.cut(
        texts,
        count=lambda some: np.array([len(text.split()) for text in some]),
        room=max(1, int((encoder.max_length or 128) * _WORDS_A_TOKEN)),
    )


def _preprocessor(encoder: TextEncoder) -> str | None:
    """What must be told again when the encoder is resolved."""
    part = encoder.preprocessor
    return None if part is None or part.handle == encoder.handle else part.handle


def _length_one(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _digests(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Name to digest of all that an index holds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DESCRIPTION)
    return {DESCRIPTION: files.digest(sorted(description.items()))} | {
        path.relative_to(folder).as_posix(): files.digest(path) for path in paths
    }
