"""An index that answers questions: documents cut into passages, their vectors, and the nearest of them."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tfkit import hub, run_files
from tfkit.environment import files
from tfkit.errors import DataError, HubError, RunError
from tfkit.hub import Encoder
from tfkit.hub.features import opened_engine
from tfkit.run import INDEX, Run
from tfkit.searching.documents import Document, Documents, load_documents
from tfkit.settings.options import SearchConfig

_BLOCK = 1 << 16


def nearest(vectors: np.ndarray, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices [q, count] of the vectors with the largest dot products, and those, best first.

    All vectors are compared, some at a time; ties go to the earlier vector.

    Example:
      >>> nearest(np.eye(3, dtype=np.float32), np.array([[0.1, 0.9, 0.2]], np.float32), 2)[0]
      array([[1, 2]])
    """
    indices, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for begin in range(0, len(vectors), _BLOCK):
        block = queries @ np.asarray(vectors[begin : begin + _BLOCK]).T
        best = np.argpartition(-block, min(count, block.shape[1]) - 1, axis=1)[:, :count]
        indices = np.concatenate([indices, best + begin], axis=1)
        scores = np.concatenate([scores, np.take_along_axis(block, best, 1)], axis=1)
        order = np.lexsort((indices, -scores), axis=1)[:, :count]  # of the best until here
        indices, scores = np.take_along_axis(indices, order, 1), np.take_along_axis(scores, order, 1)
    return indices, scores


Count = Callable[[Sequence[str]], np.ndarray]
"""Texts to their numbers of tokens, int [n], without those at their ends."""

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # of paragraphs
    re.compile(r"\n"),  # of lines
    re.compile(r"(?<=[.!?…؟])\s+|(?<=[。！？])"),  # of sentences
    re.compile(r"\s+"),  # of words, as a last resort
)
_AT_A_TIME = 1 << 20  # characters that are counted at a time
_WORD = len(_BOUNDARIES) - 1

Span = tuple[int, int]


class _Unit(NamedTuple):
    """A natural piece of a text that fits."""

    begin: int
    end: int
    tokens: int
    paragraph: int
    """Where the paragraph begins that was too long as a whole; -1 for one that is whole."""


def cut_passages(texts: Sequence[str], *, count: Count, room: int) -> list[list[str]]:
    """The passages of each text: whole paragraphs where they fit, else lines, sentences, words; together all of it.

    Args:
      texts: each of which holds something.
      count: of the encoder.
      room: tokens of a passage at most.

    Returns:
      For each text its passages in order, none of them empty.

    Example:
      >>> by_words = lambda texts: np.array([len(text.split()) for text in texts])
      >>> cut(["One two. Three four five.\\n\\nSix."], count=by_words, room=4)
      [['One two.', 'Three four five.', 'Six.']]
    """
    return [
        _passages(text, spans, room) for text, spans in zip(texts, _units(texts, count, room), strict=True)
    ]


def _units(texts: Sequence[str], count: Count, room: int) -> list[list[_Unit]]:
    """The largest natural pieces of each text that fit."""
    fitting: list[list[_Unit]] = [[] for _ in texts]
    pending = [(place, (0, len(text)), -1) for place, text in enumerate(texts)]
    level = 0
    while pending:
        counts = _counted([texts[place][begin:end] for place, (begin, end), _ in pending], count)
        following = []
        for (place, span, paragraph), tokens in zip(pending, counts, strict=True):
            if tokens <= room or span[1] - span[0] < 2:
                fitting[place].append(_Unit(*span, int(tokens), paragraph))
            else:
                inside = span[0] if level == 1 else paragraph
                following += [(place, part, inside) for part in _split(texts[place], span, level)]
        pending, level = following, level + 1
    return [sorted(units) for units in fitting]


def _split(text: str, span: Span, level: int) -> Iterator[Span]:
    """The span in smaller ones: at the boundaries of this level; beyond the last in the middle, between words."""
    begin, end = span
    if level < _WORD:
        for match in _BOUNDARIES[level].finditer(text, begin, end):
            if match.end() > begin:
                yield begin, match.end()
                begin = match.end()
        if begin < end:
            yield begin, end
        return
    middle = (begin + end) // 2
    words = [
        match.end() for match in _BOUNDARIES[_WORD].finditer(text, begin, end) if begin < match.end() < end
    ]
    place = min(words, key=lambda word: abs(word - middle), default=middle)
    yield begin, place
    yield place, end


def _passages(text: str, units: list[_Unit], room: int) -> list[str]:
    """Neighbours together, as many as fit; but not the end of a long paragraph with what comes after it."""
    passages: list[_Unit] = []
    for unit in units:
        before = passages[-1] if passages else None
        if before and before.paragraph == unit.paragraph and before.tokens + unit.tokens <= room:
            passages[-1] = before._replace(end=unit.end, tokens=before.tokens + unit.tokens)
        else:
            passages.append(unit)
    return [passage for unit in passages if (passage := text[unit.begin : unit.end].strip())]


def _counted(texts: list[str], count: Count) -> np.ndarray:
    """`count`, some texts at a time."""
    found, begin, characters = [], 0, 0
    for place, text in enumerate(texts):
        characters += len(text)
        if characters >= _AT_A_TIME or place == len(texts) - 1:
            found.append(count(texts[begin : place + 1]))
            begin, characters = place + 1, 0
    return np.concatenate(found)


EMBEDDINGS, PASSAGES, DESCRIPTION = "embeddings.npy", "documents.jsonl", "index.json"
_OVER = (
    4  # passages that are looked at for each document that is wanted: a document may have several near ones
)
_DESCRIBED: dict[str, Any] = {
    "encoder": str, "preprocessor": (str, type(None)), "max_length": (int, type(None)), "digest": str, "engine": str,
    "fingerprint": str, "files?": {"*": str},
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
      index.json        the encoder's handle and digest, the documents' fingerprint, digests of the files beside it

    Example:
      >>> index = Index.build(load_documents("letters/").documents, hub.load_model("minilm-l6-v2"))  # doctest: +SKIP
      >>> index.query("how do I cancel", top=1)  # doctest: +SKIP
      [Hit(score=0.61, name='terms.txt', passage=3, text='To end your contract, write to ...')]
    """

    def __init__(
        self,
        encoder: Encoder,
        vectors: np.ndarray,
        lines: Sequence[bytes],
        description: dict[str, Any],
    ) -> None:
        self.encoder = encoder
        self.vectors = vectors
        self.description = description
        self._lines = lines

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
            (new / PASSAGES).write_bytes(b"".join(line + b"\n" for line in self._lines))
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
            written = description.pop("files", None)  # indexes of earlier versions have none
            if written is not None and written != _digests(folder, description):
                raise ValueError("its files are not what was written there")
            vectors = np.load(folder / EMBEDDINGS, mmap_mode="r")
            lines = (folder / PASSAGES).read_bytes().split(b"\n")[:-1]
            if vectors.ndim != 2 or vectors.dtype != np.float32 or len(lines) != len(vectors):
                raise ValueError(f"{len(lines)} passages for {vectors.dtype} vectors {list(vectors.shape)}")
            handle, length = description["encoder"], description["max_length"]
            preprocessor = description["preprocessor"]
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(
                f"{folder} holds no whole index ({error}).\n"
                "  Make one: python -m recipes.search_text --data-dir documents/ --run-dir runs/documents"
            ) from error
        if encoder is None:
            encoder = hub.load_model(handle, modality="texts", preprocessor=preprocessor, max_length=length)
        if encoder.digest != description["digest"]:
            raise HubError(
                f"{folder} was made with {handle} (max_length {length}, digest "
                f"{description['digest'][:12]}); {encoder.handle} (max_length {encoder.max_length}, digest "
                f"{encoder.digest[:12]}) is another encoder, whose vectors cannot be compared with its.\n"
                "  Ask with the same one, or make the index anew: --overwrite."
            )
        return cls(encoder, vectors, lines, description)

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
            found = nearest(self.vectors, vectors[wanted], min(looked_at, len(self.vectors)))
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
        return opened.enter_context(opened_engine(self.encoder, engine=self.description["engine"]))


def _cut(texts: Sequence[str], encoder: Encoder) -> list[list[str]]:
    tokenizer = encoder.tokenizer
    if tokenizer is not None:
        return cut_passages(
            texts,
            count=lambda some: tokenizer.tokenize(list(some)).row_lengths().numpy(),
            room=tokenizer.max_length - 2,
        )
    return cut_passages(
        texts,
        count=lambda some: np.array([len(text.split()) for text in some]),
        room=max(1, int((encoder.max_length or 128) * _WORDS_A_TOKEN)),
    )


def _preprocessor(encoder: Encoder) -> str | None:
    """What must be told again when the encoder is resolved."""
    part = encoder.preprocessor
    return None if part is None or part.handle == encoder.handle else part.handle


def _length_one(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _digests(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Name to digest of all that an index holds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DESCRIPTION)
    return {DESCRIPTION: files.digest_of(sorted(description.items()))} | {
        path.relative_to(folder).as_posix(): files.digest_of(path) for path in paths
    }


ENCODER = "minilm-l6-v2"
_FIRST_WORDS = 60  # characters of a passage that the Projector shows


def make(run: Run, documents: Documents, config: SearchConfig) -> Index:
    """Embed the documents, and write the index and all that is known of it into the run's folder."""
    encoder = hub.load_model(
        config.model_handle or ENCODER,
        modality="texts",
        preprocessor=config.preprocessor,
        max_length=config.max_length,
    ).check()
    for note in (*documents.notes, *encoder.notes):
        run.note(note)
    began = time.monotonic()
    index = Index.build(documents.documents, encoder, fingerprint=documents.fingerprint)
    seconds = time.monotonic() - began
    index.save(run.path / INDEX)
    known = index.description
    run.note(
        f"{known['documents']:,} documents in {known['passages']:,} passages were embedded by {known['engine']} in"
        f" {seconds:.1f} s."
    )
    run.note(f"Each question is compared with all {known['passages']:,} passages: the search is exact.")
    run.record(
        {
            "search/documents": known["documents"],
            "search/passages": known["passages"],
            "time/embed_seconds": seconds,
        }
    )
    run.provenance = {
        "recipe": {"name": "search_text"},
        "data": {
            "origin": documents.origin,
            "fingerprint": documents.fingerprint,
            "documents": known["documents"],
            "passages": known["passages"],
        },
        "model": encoder.origin,
    }
    _project(run, index)
    return index


def changed(index: Index, config: SearchConfig) -> bool:
    """Whether the documents that are named now are others than those of the index."""
    return read(config).fingerprint != index.description["fingerprint"]


def read(config: SearchConfig) -> Documents:
    """The documents that a config names."""
    source = config.data_dir or config.data_file or config.dataset
    return load_documents(source, text_column=config.text_column)


def questions(config: SearchConfig) -> list[str]:
    """Those of the command line and those of the file, without empty lines.

    Raises:
      DataError: the file is no UTF-8 text.
    """
    from tfkit.data.text_decoding import binary_kind, decode

    asked = [text for text in config.query if text.strip()]
    if config.queries_file is not None:
        content = config.queries_file.read_bytes()
        if kind := binary_kind(content):
            raise DataError(f"{config.queries_file} is no text, but {kind}: a question a line is expected.")
        asked += [line.strip() for line in decode(content)[0].splitlines() if line.strip()]
    return asked


def shown(question: str, hits: list[Hit], *, width: int = 100) -> list[str]:
    """A question and what was found, as lines for a terminal."""
    lines = ["", question]
    for hit in hits:
        text = " ".join(hit.text.split())
        part = f" [{hit.passage + 1}]" if hit.passage else ""
        lines.append(f"  {hit.score:.3f}  {hit.name}{part}")
        lines.append(f"         {text if len(text) <= width else text[: width - 1] + '…'}")
    return lines


def _project(run: Run, index: Index) -> None:
    """The passages as points, coloured by the folder or package of their documents."""
    from tfkit.reporting.tensorboard import write_projector

    passages = index.passages
    write_projector(
        run.logdir,
        index.vectors,
        labels=[PurePosixPath(hit.name).parts[0] if "/" in hit.name else "documents" for hit in passages],
        names=[f"{hit.name}: {' '.join(hit.text.split())[:_FIRST_WORDS]}" for hit in passages],
    )
