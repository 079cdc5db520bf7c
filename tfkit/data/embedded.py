"""The embedded texts: docstrings of installed packages, real data without a download."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from tfkit.data.splits import Cutting, Splits
from tfkit.data.text_files import Example, Groups, read_texts
from tfkit.environment import files

PACKAGES = {
    "numpy": "numpy", "pandas": "pandas", "scikit-learn": "sklearn", "scipy": "scipy", "tensorflow": "tensorflow"
}  # fmt: skip
"""Class name (the distribution's) -> the package that is imported."""

EACH = 1000
"""Docstrings of a class at most."""

SHORTEST, LONGEST = 6, 40
"""Words of a text."""

_RECIPE = 1
_LARGEST_FILE = 400_000
"""Bytes; larger ones are generated."""

_PASSED_OVER = frozenset({"tests", "test", "testing", "_testing", "f2py", "externals", "_vendored"})

_NO_PROSE = re.compile(
    r"\s*(>>>|\.\. |```|(Parameters?|Attributes|Methods|See Also|References)\s*$"
    r"|(Args?|Arguments|Returns?|Raises|Yields|Examples?|For example|Usage|Notes?)\b)"
)
_SIGNATURE = re.compile(r"[\w.]+\(.*\)( -> .*)?")
_ROLE = re.compile(r":[a-z:]+:`~?([^`]*)`")
_DOTTED = re.compile(r"\b(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])")
_TELL_TALE = re.compile(
    r"\b(numpy|np|scipy|sp|pandas|pd|sklearn|scikit-learn|scikit|tensorflow|tf|keras|"
    r"ndarrays?|data ?frames?|series|tensors?|estimators?)\b",
    re.IGNORECASE,
)


def load_docstrings(cutting: Cutting) -> Splits:
    """Load the docstrings of five packages: their first paragraph, without what would give them away.

    The sources are parsed, nothing is imported. Names of packages, their aliases and their own words for their
    objects are left out, as are signatures, code and what describes parameters. A text that two packages have is left
    out. They are the same for the same versions of the packages.

    Args:
      cutting: how they are cut.
    """
    versions = {name: version(name) for name in PACKAGES}
    key = files.digest_of("docstrings", versions, EACH, SHORTEST, LONGEST, _RECIPE)
    source = read_texts(key, _docstrings, size=10 << 20, class_names=tuple(PACKAGES))
    return cutting.splits(
        source,
        Groups(source.digests, source.labels).cut(
            source.class_names, held_out=cutting.held_out, seed=cutting.seed, where="docstrings: "
        ),
        class_names=source.class_names,
        origin=f"docstrings ({', '.join(f'{name} {version}' for name, version in versions.items())})",
        notes=tuple(source.entry["notes"]),
    )


def _docstrings(notes: list[str]) -> Iterator[Example]:
    notes.append(
        f"The docstrings are first paragraphs of at most {LONGEST} words, without names of packages, code and"
        " parameters."
    )
    texts: dict[str, dict[str, tuple[str, str]]] = {}  # package -> words -> text and name
    for package, module in PACKAGES.items():
        named = reversed([*_of_package(module)])
        texts[package] = {re.sub(r"\W+", " ", text.lower()).strip(): (text, name) for text, name in named}
    packages = Counter(words for own in texts.values() for words in own)
    place = itertools.count()
    for package, own in texts.items():
        unique = [example for words, example in own.items() if packages[words] == 1]
        unique.sort(key=lambda example: hashlib.sha256(example[0].encode()).digest())
        for text, name in unique[:EACH]:
            yield Example(text, package, next(place), name=name)


def _of_package(module: str) -> Iterator[tuple[str, str]]:
    """Yield text and name of all public functions and classes that say something, in the order of the files."""
    spec = importlib.util.find_spec(module)  # of a package, not of what is in it: imports nothing
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for path in sorted(root.rglob("*.py")):
        inner = path.relative_to(root)
        if _PASSED_OVER & set(inner.parts) or path.stat().st_size > _LARGEST_FILE:
            continue
        with contextlib.suppress(SyntaxError, ValueError):
            for name, docstring in _public(ast.parse(path.read_bytes()), ()):
                text = prose(docstring)
                if len(text.split()) >= SHORTEST:
                    yield text, f"{module}/{inner.as_posix()}:{name}"


def _public(node: ast.AST, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield dotted names and docstrings."""
    for child in getattr(node, "body", ()):
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)) or child.name.startswith("_"):
            continue
        if docstring := ast.get_docstring(child):
            yield ".".join((*above, child.name)), docstring
        if isinstance(child, ast.ClassDef):
            yield from _public(child, (*above, child.name))


def prose(docstring: str) -> str:
    """Return the first paragraph of a docstring, without what tells its package, cut off after `LONGEST` words.

    Example:
      >>> prose("sum(a)\\n\\nSum of a `numpy.ndarray`, see :func:`np.add.reduce`.\\n\\nMore.")
      'Sum of a , see reduce.'
    """
    lines = itertools.takewhile(lambda line: not _NO_PROSE.match(line), docstring.splitlines())
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", "\n".join(map(str.strip, lines)))]
    paragraphs = [part for part in paragraphs if part and not _SIGNATURE.fullmatch(part)]
    text = _ROLE.sub(r"\1", paragraphs[0] if paragraphs else "")
    text = re.sub(r"https?://\S+", " ", text).replace("`", "").replace("**", "")
    return " ".join(_TELL_TALE.sub(" ", _DOTTED.sub("", text)).split()[:LONGEST])
