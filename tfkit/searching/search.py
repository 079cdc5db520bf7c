"""An index of passages that answers questions by their meaning, and `tfkit.search`, which makes and asks one."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from tfkit import hub, reporting, run_files
from tfkit.data.loaders import load_texts
from tfkit.data.records import is_records
from tfkit.data.splits import Skipped, listed
from tfkit.data.tables import choose, open_table, read_rows
from tfkit.data.text_decoding import Cleaner, decode, is_binary, read_document, short
from tfkit.environment import files
from tfkit.environment.packages import versions
from tfkit.environment.timeline import stage
from tfkit.errors import DataError, HubError, RunError
from tfkit.hub import Encoder
from tfkit.hub.features import engines_of
from tfkit.run import HITS, INDEX, REPORT, Run
from tfkit.settings.options import EMBEDDED, ENCODER, SearchConfig
from tfkit.settings.parse import as_dict, from_keywords, run_dir, takes_settings

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
        tokenizer = encoder.tokenizer

        def count(some: list[str]) -> np.ndarray:
            if tokenizer is None:
                return np.array([len(text.split()) for text in some])
            return np.asarray(tokenizer.tokenize(some).row_lengths())

        words = max(1, int((encoder.max_length or 128) * _WORDS_A_TOKEN))
        room = tokenizer.max_length - 2 if tokenizer else words
        cut = cut_passages([document.text for document in documents], count=count, room=room)
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
        no_probe = np.empty(0, object)
        if self.description["engine"] == "tensorflow":
            return engines.tensorflow(no_probe)
        opened = contextlib.ExitStack()
        weakref.finalize(self, opened.close)
        return opened.enter_context(engines.litert(no_probe))


def _length_one(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _digests(folder: Path, description: Mapping[str, Any]) -> dict[str, str]:
    """Return name to digest of all that an index holds."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != DESCRIPTION)
    return {DESCRIPTION: files.digest_of(sorted(description.items()))} | {
        path.relative_to(folder).as_posix(): files.digest_of(path) for path in paths
    }


SUFFIXES = (".txt", ".md", ".markdown", ".rst", ".html", ".htm")


@takes_settings(SearchConfig)
def search(documents: str | Path | None = None, *, query: str | Sequence[str], **settings: Any) -> Any:
    """Find the passages of documents that answer questions by their meaning.

    The index is made once, in the run folder; the same call with other questions embeds nothing again.

    Args:
      documents: a folder of .txt, .md, .rst or .html files, a table (CSV, TSV, JSON, JSONL, Parquet), or a run folder
        of an earlier search. None: the embedded messages.
      query: one question, or several.
      settings: what the flags of recipes.search_text are called: `run_dir`, `top`, `model_handle`, `text_column`...

    Returns:
      A pandas DataFrame, the best passage first: query, name (of the document), passage, score (cosine), text.

    Raises:
      ConfigError: a setting is unknown or cannot be.
      DataError: the documents cannot be read.

    Example:
      tfkit.search("documents/", query="how do I cancel", run_dir="runs/documents", top=3)
    """
    import pandas as pd

    if documents is not None:
        path = Path(documents)
        is_table = path.is_file() or is_records(path)
        name = "run_dir" if (path / INDEX).is_dir() else "data_file" if is_table else "data_dir"
        settings[name] = path
    settings["query"] = (query,) if isinstance(query, str) else tuple(query)
    run = search_documents(from_keywords(SearchConfig, settings, call="tfkit.search"))
    found = [(answer["query"], answer["hits"]) for answer in run.read(HITS)["answers"]]
    rows = [{"query": question, **hit} for question, hits in found for hit in hits]
    return pd.DataFrame(rows, columns=["query", "name", "passage", "score", "text"])


def search_documents(config: SearchConfig) -> Run:
    """Make an index of documents, or take the one that is there, and answer questions from it.

    Args:
      config: which documents, which encoder, which questions.

    Returns:
      The run, with index/ and hits.json; `tfkit.searching.Index.open(run.path / "index")` answers further questions.

    Raises:
      TfkitError: see `tfkit.errors`.
    """
    folder, questions = run_dir(config, recipe="search_text"), _questions(config)
    whole = (folder / INDEX).is_dir() and (folder / REPORT).is_file()
    if whole and config.run_dir is not None and not config.names_data and not config.overwrite:
        run = Run.open(folder)
        run.check_writable()
        named = None if config.model_handle is None and config.max_length is None else _load_encoder(config)
        return _answer(run, Index.open(run.path / INDEX, encoder=named), questions, config)
    with Run.create(folder, config=as_dict(config), overwrite=config.overwrite) as run:
        source = config.data_dir or config.data_file or config.dataset
        if run.finished:
            documents = load_documents(source, text_column=config.text_column)
            index = Index.open(run.path / INDEX)
            if documents.fingerprint != index.description["fingerprint"]:
                run.say("The documents have changed since the index was made; --overwrite makes it anew.")
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
    files.write_json(run.path / HITS, {"answers": answers})
    return run


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
        f"{counts['documents']:,} documents in {counts['passages']:,} passages were embedded by"
        f" {index.description['engine']} in {seconds:.1f} s. Each question is compared with all: the search is exact."
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
    return hub.load_model(
        config.model_handle or ENCODER,
        modality="texts",
        preprocessor=config.preprocessor,
        max_length=config.max_length,
    )


def _questions(config: SearchConfig) -> list[str]:
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


def format_hits(question: str, hits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a question and what was found, as hits.json has it, as lines for a terminal."""
    lines = ["", question]
    for hit in hits:
        part = f" [{hit['passage'] + 1}]" if hit["passage"] else ""
        lines.append(f"  {hit['score']:.3f}  {hit['name']}{part}")
        text = " ".join(hit["text"].split())
        lines.append(f"         {text if len(text) <= 100 else text[:99] + '…'}")
    return lines


class Documents(NamedTuple):
    """All documents of one place."""

    documents: tuple[Document, ...]
    origin: str
    notes: tuple[str, ...] = ()
    """What was passed over or changed, a sentence each."""

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
        texts = splits.source
        # A name that is there twice is of one function and its overloads.
        of_name = {texts.names[i]: str(texts.raw(i)) for i in reversed(range(len(texts.labels)))}
        documents = tuple(Document(name, text) for name, text in reversed(of_name.items()))
        return Documents(documents, splits.origin)
    path = Path(source)
    if path.is_dir() and not is_records(path):
        if text_column:
            raise DataError(f"{path} is a folder: it has no column {text_column!r}.")
        return _checked(path, _of_folder(path), f"{path}/", [])
    table = open_table(path)
    (column,), _ = choose(table, {"text_column": text_column})
    notes = [*table.notes, f"{path.name}: The column '{short(table.columns[column])}' is searched."]
    rows = (
        row if isinstance(row, Skipped) else (f"{path.name}:{row.line}", row.cells[0] or "")
        for row in read_rows(table, (column,), notes)
    )
    return _checked(path, rows, str(path), notes)


def _of_folder(folder: Path) -> Iterator[tuple[str, str] | Skipped]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        try:
            yield name, read_document(path)[0]
        except DataError as err:
            yield Skipped(name, str(err))


def _checked(
    path: Path, examples: Iterable[tuple[str, str] | Skipped], origin: str, notes: list[str]
) -> Documents:
    """Return those that hold something; the others are counted and named."""
    cleaner, documents, unusable, empty = Cleaner(), [], [], []
    for example in examples:
        if isinstance(example, Skipped):
            unusable.append(f"{example.path} ({example.reason})")
        elif text := cleaner(example[1]).strip():
            documents.append(Document(example[0], text))
        else:
            empty.append(example[0])
    for kind, names in (("are empty", empty), ("cannot be used", unusable)):
        if names:
            notes.append(f"{len(names)} documents {kind}: {listed(names, 3)}.")
    notes += [note.split(" The model is")[0] for note in cleaner.notes()]
    if not documents:
        what = f"text in a file that ends in {', '.join(SUFFIXES)}" if path.is_dir() else "row with a text"
        raise DataError("\n  ".join([f"{path} holds no {what}: there is nothing to search.", *notes]))
    return Documents(tuple(documents), origin, tuple(notes))
