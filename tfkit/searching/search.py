"""An index of passages that answers questions by their meaning, and `tfkit.search`, which makes and asks one."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import numpy as np

from tfkit import hub, reporting, run_files
from tfkit.data.folders import Kind, files_below
from tfkit.data.loaders import load_texts
from tfkit.data.memory import cache_examples
from tfkit.data.records import is_records
from tfkit.data.splits import Skipped, listed
from tfkit.data.tables import choose_columns, open_table, read_rows
from tfkit.data.text_decoding import Cleaner, decode, is_binary, read_document, short
from tfkit.environment import files
from tfkit.environment.packages import versions
from tfkit.environment.process import counted
from tfkit.environment.timeline import stage
from tfkit.errors import DataError, HubError, RunError
from tfkit.hub import Encoder, bundled
from tfkit.hub.features import TextEngines, engines_of
from tfkit.run import HITS, INDEX, REPORT, Run
from tfkit.settings.jobs import SearchConfig
from tfkit.settings.options import EMBEDDED, ENCODER
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings
from tfkit.text.tokenizers import WordPiece

if TYPE_CHECKING:
    from tfkit.settings import keywords

_BOUNDARIES = (
    re.compile(r"\n\s*\n"),  # of paragraphs
    re.compile(r"\n"),  # of lines
    re.compile(r"(?<=[.!?…؟])\s+|(?<=[。！？])"),  # of sentences
)
_SPACES = re.compile(r"\s+")


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
    queue, spans, level = [(place, 0, len(text), -1) for place, text in enumerate(texts)], [], 0
    while queue:
        counts = count([texts[place][begin:end] for place, begin, end, _ in queue])
        pieces, queue = zip(queue, counts.tolist(), strict=True), []
        for (place, begin, end, paragraph), tokens in pieces:
            if tokens <= room or end - begin < 2:
                spans.append((place, begin, end, paragraph, tokens))
            else:
                paragraph = begin if level == 1 else paragraph
                parts = itertools.pairwise(_find_cuts(texts[place], begin, end, level))
                queue += [(place, *part, paragraph) for part in parts]
        level += 1
    # Neighbours join, as many as fit; but not the end of a long paragraph with what comes after it.
    passages: list[list[tuple[int, int, int, int]]] = [[] for _ in texts]
    for place, begin, end, paragraph, tokens in sorted(spans):
        group = passages[place]
        if group and group[-1][2] == paragraph and group[-1][3] + tokens <= room:
            begin, _, _, size = group.pop()
            tokens += size
        group.append((begin, end, paragraph, tokens))
    results = [
        [text[begin:end].strip() for begin, end, *_ in of] for text, of in zip(texts, passages, strict=True)
    ]
    return [[passage for passage in parts if passage] for parts in results]


def _find_cuts(text: str, begin: int, end: int, level: int) -> list[int]:
    """Return where to cut: at the boundaries of this level; beyond the last in the middle, between words."""
    if level < len(_BOUNDARIES):
        positions = [match.end() for match in _BOUNDARIES[level].finditer(text, begin, end)]
    else:
        middle = (begin + end) // 2
        words = [match.end() for match in _SPACES.finditer(text, begin, end) if match.end() < end]
        positions = [min(words, key=lambda word: abs(word - middle), default=middle)]
    return sorted({begin, *positions, end})


EMBEDDINGS, PASSAGES, DESCRIPTION = "embeddings.npy", "documents.jsonl", "index.json"
_SCHEMA: dict[str, Any] = {
    "encoder": str,
    "preprocessor": (str, type(None)),
    "max_length": (int, type(None)),
    "digest": str,
    "engine": str,
    "in_python?": bool,
    "chance?": (int, float),
    "fingerprint": str,
    "files": {"*": str},
}
_DEPTH = 4  # passages looked at, at least, for each document that is wanted: others may be nearly the same
_BATCH = 16  # questions whose scores are in memory together
_MIN_SIMILARITY = 0.97  # cosine of passages of which one is shown for all
_PAIRS = 5000  # of passages, drawn to tell what chance gives
_SNIPPET_LENGTH = 160  # characters of a passage on the screen, or one sentence
_WORDS_A_TOKEN = 0.6  # where an encoder does not show its tokens; of English, on the safe side
_DEFAULT_LENGTH = 128


@dataclass(frozen=True)
class Hit:
    """A passage that answers."""

    score: float
    """Cosine of the angle between the vectors of question and passage; 1 for the same."""
    name: str
    """Of the document."""
    passage: int
    """Number of the passage in its document, from 0."""
    text: str
    """Of the passage."""
    similar: tuple[str, ...] = ()
    """Other documents, among the best, with nearly the same passage."""


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

    loaded: Encoder | None
    """The encoder, where it is loaded already: a question may do without it."""
    vectors: np.ndarray
    """float32 [passages, d], each of length 1."""
    lines: Sequence[bytes]
    """Those of documents.jsonl."""
    description: dict[str, Any]
    """Content of index.json, without the digests."""

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
        count, room = _make_counter(encoder)
        passages = cut_passages([document.text for document in documents], count=count, room=room)
        texts = [text for parts in passages for text in parts]
        vectors, info = hub.embed(encoder, texts)
        part, tokenizer = encoder.preprocessor, encoder.tokenizer
        lines = [
            json.dumps({"name": document.name, "passage": place, "text": text}, ensure_ascii=False).encode()
            for document, parts in zip(documents, passages, strict=True)
            for place, text in enumerate(parts)
        ]
        description = {
            "encoder": encoder.handle,
            # What must be given again when the encoder is loaded.
            "preprocessor": part.handle if part and part.handle != encoder.handle else None,
            "max_length": encoder.max_length,
            "digest": encoder.digest,
            "engine": info["engine"],
            # A question then needs no TensorFlow.
            "in_python": isinstance(tokenizer, WordPiece) and _has_same_splits(tokenizer, texts),
            "documents": len(documents),
            "passages": len(texts),
            "fingerprint": fingerprint,
        }
        index = cls(encoder, _normalize(vectors), lines, description)
        return replace(index, description={**description, "chance": index.chance()})

    def chance(self) -> float:
        """Return the cosine below which 95 % of random pairs of passages are; 0 of a single one."""
        if len(self.vectors) < 2:
            return 0.0
        first, step = np.random.default_rng(0).integers([0, 1], len(self.vectors), (_PAIRS, 2)).T
        partners = self.vectors[(first + step) % len(self.vectors)]
        return float(np.quantile(np.einsum("ij,ij->i", self.vectors[first], partners), 0.95))

    def save(self, folder: Path) -> None:
        """Write the index as `folder`: all of it, or what was there before."""
        with files.new_folder(folder) as temp:
            np.save(temp / EMBEDDINGS, self.vectors)
            (temp / PASSAGES).write_bytes(b"".join(line + b"\n" for line in self.lines))
            files.write_json(
                temp / DESCRIPTION, {**self.description, "files": _hash_files(temp, self.description)}
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
            description = run_files.read_json(folder, DESCRIPTION, _SCHEMA)
            if not description:
                raise ValueError(f"it has no {DESCRIPTION}")
            if description.pop("files") != _hash_files(folder, description):
                raise ValueError("its files are not what was written there")
            vectors = np.load(folder / EMBEDDINGS, mmap_mode="r")
            lines = (folder / PASSAGES).read_bytes().split(b"\n")[:-1]
            if vectors.ndim != 2 or vectors.dtype != np.float32 or len(lines) != len(vectors):
                raise ValueError(f"{len(lines)} passages for {vectors.dtype} vectors {list(vectors.shape)}")
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise RunError(
                f"{folder} holds no whole index ({error}). Make one: python -m recipes.search_text --run-dir ..."
            ) from error
        index = cls(encoder, vectors, lines, description)
        if encoder is not None or _find_light_encoder(description) is None:
            _ = index.encoder
        return index

    @functools.cached_property
    def encoder(self) -> Encoder:
        """Return the encoder of the questions.

        Raises:
          HubError: it is not the one whose vectors the index holds.
        """
        handle = self.description["encoder"]
        kwargs: Any = {name: self.description[name] for name in ("preprocessor", "max_length")}
        encoder = self.loaded or hub.load_model(handle, modality="texts", **kwargs)
        if encoder.digest != self.description["digest"]:
            raise HubError(
                f"The index was made with {handle} (max_length {kwargs['max_length']}); {encoder.handle} (max_length"
                f" {encoder.max_length}) is another encoder, whose vectors cannot be compared with its.\n  Ask with the"
                " same one, or make the index anew: --overwrite."
            )
        return encoder

    def query(self, text: str, *, top: int = 5) -> list[Hit]:
        """Return the documents that answer a question, best first: of each its best passage.

        Args:
          text: in words; a question, a sentence, some key words.
          top: how many documents at most.
        """
        return self.queries([text], top=top)[0]

    def queries(self, texts: Sequence[str], *, top: int = 5) -> list[list[Hit]]:
        """Return what `query` does for each of several texts."""
        contents = np.array([text.encode("utf-8", "replace") for text in texts], object)
        vectors: Any = _normalize(self._encode(contents)) if texts else []
        blocks = [vectors[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        return [self._select_hits(scores, top) for block in blocks for scores in block @ self.vectors.T]

    def _select_hits(self, scores: np.ndarray, top: int) -> list[Hit]:
        """Return the best passage of each document, best first, ties to the earlier; `scores` are of all passages."""
        best: dict[int, Hit] = {}
        seen_names: set[str] = set()
        for place, index in enumerate(_rank(scores, _DEPTH**3 * top)):
            if place >= _DEPTH * top and len(best) == top:
                break
            hit = self._read_hit(index, float(scores[index]))
            if hit.name in seen_names:
                continue
            seen_names.add(hit.name)
            twin = next((i for i in best if self.vectors[i] @ self.vectors[index] > _MIN_SIMILARITY), None)
            if twin is not None:
                best[twin] = replace(best[twin], similar=(*best[twin].similar, hit.name))
            elif len(best) < top:
                best[index] = hit
        return list(best.values())

    @property
    def passages(self) -> list[Hit]:
        """Return all passages, as if each were found."""
        return [self._read_hit(index, 1.0) for index in range(len(self.lines))]

    def _read_hit(self, index: int, score: float) -> Hit:
        try:
            return Hit(score=score, **json.loads(self.lines[index]))
        except (ValueError, TypeError, RecursionError) as error:
            raise RunError(
                f"Line {index + 1} of the index's {PASSAGES} is no passage. Make the index anew."
            ) from error

    @functools.cached_property
    def _encode(self) -> Any:
        """Return what makes vectors of questions, opened when the first comes."""
        engines: Any = engines_of(_find_light_encoder(self.description) or self.encoder)
        engines.in_python = self.description.get("in_python", False)
        no_probe = np.empty(0, object)
        if self.description["engine"] == "tensorflow":
            return engines.tensorflow(no_probe)
        self._opened = contextlib.ExitStack()
        return self._opened.enter_context(engines.litert(no_probe))


def _find_light_encoder(description: Mapping[str, Any]) -> Any:
    """Return what stands for the encoder of an index where a question needs no TensorFlow; None where it does."""
    model = bundled.MODELS.get(description["encoder"])
    by_litert = description["engine"] == "litert" and description.get("in_python")
    if not by_litert or not isinstance(model, bundled.TextModel):
        return None
    tokenizer = model.tokenizer(max_length=description["max_length"] or model.max_length)
    encoder: Any = SimpleNamespace(
        handle=model.name, digest=description["digest"], tokenizer=tokenizer, windows=False, modality="texts"
    )
    return encoder if TextEngines(encoder).is_converted else None


def _make_counter(encoder: Any) -> tuple[Callable[[list[str]], np.ndarray], int]:
    """Return what counts the tokens of texts, without those at their ends, and how many the encoder takes at most.

    Where it shows none, as one that takes strings itself, words are counted.
    """
    tokenizer, longest = encoder.tokenizer, encoder.max_length
    if tokenizer is not None:
        return lambda texts: np.asarray(tokenizer.tokenize(texts).row_lengths()), longest - 2
    if (rows := encoder.row_lengths()) is None:
        words = max(1, int((longest or _DEFAULT_LENGTH) * _WORDS_A_TOKEN))
        return lambda texts: np.array([len(text.split()) for text in texts]), words

    def count(texts: list[str]) -> np.ndarray:
        lengths = rows.predict(np.array([*texts, ""], object), verbose=0)
        # A row that is full may have been cut: it counts as too long.
        return np.where(lengths == longest, longest, lengths - lengths[-1])[:-1]

    return count, longest - 2


def _rank(scores: np.ndarray, count: int) -> Iterator[int]:
    """Yield the places of scores, best first, ties to the earlier; of a million all but a few are mostly not sorted."""
    threshold = np.partition(scores, -count)[-count] if count < len(scores) else -np.inf
    for mask in (scores >= threshold, scores < threshold):
        places = np.flatnonzero(mask)
        yield from places[np.argsort(-scores[places], kind="stable")].tolist()


def _has_same_splits(tokenizer: WordPiece, texts: list[str]) -> bool:
    """Return whether Python cuts all texts into the pieces into which the graph cuts them."""
    rows = tokenizer.tokenize(texts).to_list()
    return all(tokenizer.split(text) == row for text, row in zip(texts, rows, strict=True))


def _normalize(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _hash_files(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Return name to digest of all that an index holds."""
    digests = {name: files.digest_of(folder / name) for name in (PASSAGES, EMBEDDINGS)}
    return {DESCRIPTION: files.digest_of(sorted(description.items())), **digests}


SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")


@takes_settings(SearchConfig)
def search(
    documents: Any = None, *, query: str | Sequence[str], **settings: Unpack[keywords.SearchKeywords]
) -> Any:
    """Find the passages of documents that answer questions by their meaning.

    The index is made once, in the run folder; the same call with other questions embeds nothing again.

    Args:
      documents: a folder of .txt, .md, .rst or .html files, a table (CSV, TSV, JSON, JSONL, Parquet), or a run folder
        of an earlier search. A DataFrame, or a list or Series of texts: names say their row, from 1. None: the embedded
        messages.
      query: one question, or several.
      settings: what the flags of recipes.search_text are called: `run_dir`, `top`, `model_handle`, `text_column`...

    Returns:
      A pandas DataFrame, the best passage first: query, name (of the document), passage, score (cosine), text, similar
      (the names of other documents with nearly the same passage, which have no row of their own).

    Raises:
      ConfigError: a setting is unknown or cannot be.
      DataError: the documents cannot be read.

    Example:
      tfkit.search("documents/", query="how do I cancel", run_dir="runs/documents", top=3)
    """
    import pandas as pd

    values: dict[str, Any] = {**settings, "query": (query,) if isinstance(query, str) else tuple(query)}
    if documents is not None:
        if not isinstance(documents, str | os.PathLike):
            frame = documents if hasattr(documents, "columns") else pd.DataFrame({"text": [*documents]})
            documents = cache_examples(frame)["data_file"]
        path = Path(documents)
        is_run, is_table = (path / INDEX / DESCRIPTION).is_file(), path.is_file() or is_records(path)
        values["run_dir" if is_run else "data_file" if is_table else "data_dir"] = path
    run = search_documents(from_keywords(SearchConfig, values, call="tfkit.search"))
    answers = [(answer["query"], answer["hits"]) for answer in run.read(HITS)["answers"]]
    rows = [{"query": question, **hit} for question, hits in answers for hit in hits]
    return pd.DataFrame(rows, columns=["query", "name", "passage", "score", "text", "similar"])


def search_documents(config: SearchConfig) -> Run:
    """Make an index of documents, or take the one that is there, and answer questions from it.

    Args:
      config: which documents, which encoder, which questions.

    Returns:
      The run, with index/ and hits.json; `tfkit.searching.Index.open(run.path / "index")` answers further questions.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    folder, questions = run_dir(config, recipe="search_text"), _read_questions(config)
    is_complete = (folder / INDEX).is_dir() and (folder / REPORT).is_file()
    if is_complete and config.run_dir is not None and not config.names_data and not config.overwrite:
        run = Run.open(folder)
        run.check_writable()
        encoder = None if config.model_handle is None and config.max_length is None else _load_encoder(config)
        return _answer(run, Index.open(run.path / INDEX, encoder=encoder), questions, config)
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        source = config.data_dir or config.data_file or config.dataset
        if run.finished:
            documents = load_documents(source, text_column=config.text_column)
            index = Index.open(run.path / INDEX)
            if documents.fingerprint != index.description["fingerprint"]:
                run.warn("The documents have changed since the index was made; --overwrite makes it anew.")
            return _answer(run, index, questions, config)
        run.versions = versions()
        with run.timed() as record_times:
            documents = load_documents(source, text_column=config.text_column)
            index = _make_index(run, documents, config)
            _answer(run, index, questions, config)
            record_times()
            reporting.write_report(run)
    return run


def _answer(run: Run, index: Index, questions: Sequence[str], config: SearchConfig) -> Run:
    """Find and keep what answers the questions."""
    answers = [
        {"query": question, "hits": [asdict(hit) for hit in hits]}
        for question, hits in zip(questions, index.queries(questions, top=config.top), strict=True)
    ]
    if config.interactive or (not questions and sys.stdin.isatty() and not (config.json or config.quiet)):
        answers += _answer_stdin(index, config.top)
    files.write_json(run.path / HITS, {"chance": index.description.get("chance", 0.0), "answers": answers})
    return run


def _answer_stdin(index: Index, top: int) -> Iterator[dict[str, Any]]:
    """Answer questions from standard input, one a line, until it ends or an empty one comes."""
    chance = index.description.get("chance", 0.0)
    while True:
        if sys.stdin.isatty():
            print("\nquestion (empty to end): ", end="", flush=True)
        if not (question := sys.stdin.readline().strip()):
            return
        hits = [asdict(hit) for hit in index.query(question, top=top)]
        print("\n".join(format_hits(question, hits, chance=chance)), flush=True)
        yield {"query": question, "hits": hits, "printed": True}


def _make_index(run: Run, documents: Documents, config: SearchConfig) -> Index:
    """Embed the documents, and write the index and all that is known of it into the run's folder."""
    from tfkit.reporting.tensorboard import write_projector

    model = _load_encoder(config).check()
    for note in (*documents.notes, *model.notes):
        run.note(note)
    with stage("embed", "Embedding the documents"):
        index = Index.build(documents.documents, model, fingerprint=documents.fingerprint)
    index.save(run.path / INDEX)
    counts = {name: index.description[name] for name in ("documents", "passages")}
    seconds = run.times["embed"].seconds
    run.note(
        f"Embedded {counted(counts['documents'], 'document')} in {counted(counts['passages'], 'passage')} with"
        f" {index.description['engine']} in {seconds:.1f} s. The search is exact."
    )
    run.record({f"search/{name}": count for name, count in counts.items()})
    run.provenance = {
        "recipe": {"name": "search_text"},
        "data": {"origin": documents.origin, "fingerprint": documents.fingerprint, **counts},
        "model": model.origin,
    }
    passages = index.passages  # as points, coloured by the folder or package of their documents
    write_projector(
        run.logdir,
        index.vectors,
        labels=[PurePosixPath(hit.name).parts[0] if "/" in hit.name else "documents" for hit in passages],
        names=[f"{hit.name}: {' '.join(hit.text.split())[:60]}" for hit in passages],
    )
    return index


def _load_encoder(config: SearchConfig) -> Encoder:
    """Return the encoder that a config names."""
    kwargs: Any = {"preprocessor": config.preprocessor, "max_length": config.max_length}
    return hub.load_model(config.model_handle or ENCODER, modality="texts", **kwargs)


def _read_questions(config: SearchConfig) -> list[str]:
    """Return those of the command line and those of the file, without empty lines.

    Raises:
      DataError: the file is no UTF-8 text.
    """
    texts = [text for text in config.query if text.strip()]
    if config.queries_file is not None:
        content = config.queries_file.read_bytes()
        if is_binary(content):
            raise DataError(
                f"{config.queries_file} is a binary file: a text with a question a line is expected."
            )
        texts += [line.strip() for line in decode(content)[0].splitlines() if line.strip()]
    return texts


def format_hits(question: str, hits: Sequence[Mapping[str, Any]], *, chance: float = 0.0) -> list[str]:
    """Return a question and what was found, as hits.json has it, as lines for a terminal.

    Args:
      question: in words.
      hits: best first.
      chance: see `Index.chance`; it is said where nothing is nearer.
    """
    lines = ["", question]
    if hits and hits[0]["score"] < chance:
        lines.append("  No passage is nearer than random ones are to each other: the answer may not be here.")
    for hit in hits:
        part = f" [{hit['passage'] + 1}]" if hit["passage"] else ""
        lines.append(f"  {hit['score']:.3f}  {hit['name']}{part}")
        lines.append(f"         {snippet(question, hit['text'])}")
        if names := hit.get("similar"):
            lines.append(f"         + {len(names)} similar: {listed(names, 3)}")
    return lines


def snippet(question: str, passage: str) -> str:
    """Return the sentence of a passage that shares most words with a question, and what fits beside it.

    Example:
      >>> snippet("When may I cancel?", "Welcome. You may cancel at any time. Write to us.")
      'Welcome. You may cancel at any time. Write to us.'
    """
    sentences = [" ".join(part.split()) for part in _BOUNDARIES[2].split(passage) if part.strip()]
    stems = {word[:5] for word in re.findall(r"\w{3,}", question.lower())}
    counts = [len(stems & {word[:5] for word in re.findall(r"\w{3,}", s.lower())}) for s in sentences]
    first = int(np.argmax(counts)) if sentences else 0
    end = first + 1
    while end < len(sentences) and len(" ".join(sentences[first : end + 1])) <= _SNIPPET_LENGTH:
        end += 1
    while first and len(" ".join(sentences[first - 1 : end])) <= _SNIPPET_LENGTH:
        first -= 1
    return short(" ".join(sentences[first:end]), 2 * _SNIPPET_LENGTH)


class Documents(NamedTuple):
    """All documents of one place."""

    documents: tuple[Document, ...]
    origin: str
    notes: tuple[str, ...] = ()
    """Things that were skipped or changed, a sentence each."""

    @property
    def fingerprint(self) -> str:
        """Return the digest of all names and texts."""
        return files.digest_of(*map(tuple, self.documents))


@stage("data", "Reading the documents")
def load_documents(source: str | Path, *, text_column: str | None = None) -> Documents:
    """Return documents for a search.

    HTML becomes the text that its reader sees; encodings are found out.

    Args:
      source: a folder, whose .txt, .md, .rst and .html files at any depth are documents; a .csv, .tsv, .jsonl or
        .parquet file with a document a row; or "sentiment", the embedded ones.
      text_column: of a table; left out, the one whose name says it.

    Returns:
      The documents, and what was left out and why.

    Raises:
      DataError: there is no document.

    Example:
      >>> load_documents("sentiment").documents[0].name  # doctest: +SKIP
      'sentiment:27333'
    """
    if source == EMBEDDED:
        splits = load_texts(EMBEDDED)
        names: Sequence[str] = splits.source.names
        documents = tuple(Document(name, str(splits.source.raw(i))) for i, name in enumerate(names))
        return Documents(documents, splits.origin)
    path = Path(source)
    if path.is_dir() and not is_records(path):
        if text_column:
            raise DataError(f"{path} is a folder: it has no column {text_column!r}.")
        notes: list[str] = []
        return _collect_documents(path, _read_folder(path, notes), f"{path}/", notes)
    table = open_table(path, one_column=True)
    columns, _ = choose_columns(table, {"text_column": text_column})
    (column,) = columns.values()
    notes = [*table.notes, f"{path.name}: The column '{short(table.columns[column])}' is searched."]
    rows = (
        row if isinstance(row, Skipped) else (f"{path.name}:{row.line}", row.cells[0] or "")
        for row in read_rows(table, (column,), notes)
    )
    return _collect_documents(path, rows, str(path), notes)


def _read_folder(folder: Path, notes: list[str]) -> Iterator[tuple[str, str] | Skipped]:
    paths, other_counts = files_below(folder, Kind("document", "documents", frozenset(SUFFIXES)))
    if other_counts:
        text = listed([f"{ending} {count}" for ending, count in other_counts.most_common()])
        notes.append(f"{folder}/: Passed over, because hidden or no {', '.join(SUFFIXES)}: {text}.")
    for path in sorted(paths):
        name = path.relative_to(folder).as_posix()
        try:
            yield name, read_document(path)[0]
        except DataError as err:
            yield Skipped(name, str(err))


def _collect_documents(
    path: Path, examples: Iterable[tuple[str, str] | Skipped], origin: str, notes: list[str]
) -> Documents:
    """Return those that hold something; the others are counted and named."""
    cleaner, documents, unusable_names, empty_names = Cleaner(), [], [], []
    for example in examples:
        if isinstance(example, Skipped):
            unusable_names.append(f"{example.path} ({example.reason})")
        # A lone half of a pair, which JSON can hold, has no UTF-8.
        elif text := cleaner(example[1]).encode("utf-8", "replace").decode().strip():
            documents.append(Document(example[0], text))
        else:
            empty_names.append(example[0])
    for kind, names in (("empty", empty_names), ("unusable", unusable_names)):
        if names:
            notes.append(f"{counted(len(names), f'{kind} document')}: {listed(names, 3)}.")
    notes += [note.split(" Convert the model's inputs")[0] for note in cleaner.notes()]
    if not documents:
        content = f"text in a file that ends in {', '.join(SUFFIXES)}" if path.is_dir() else "row with a text"
        raise DataError("\n  ".join([f"{path} holds no {content}: there is nothing to search.", *notes]))
    return Documents(tuple(documents), origin, tuple(notes))
