"""Figures that need more than a look: what they count and what they say when there is nothing to show."""

import numpy as np

from tfkit.metrics import Evaluation
from tfkit.reporting import figures


def test_confused_pairs_are_the_matrix_without_its_diagonal(evaluation):
    pairs = figures.confused_pairs(evaluation, most=1000)
    assert sum(count for *_, count in pairs) == len(evaluation.labels) - evaluation.correct
    counts = [count for *_, count in pairs]
    assert counts == sorted(counts, reverse=True)
    true, guess, count = pairs[0]
    names = list(evaluation.class_names)
    assert evaluation.confusion[names.index(true), names.index(guess)] == count


def test_many_classes_without_a_mistake_say_so():
    evaluation = Evaluation(
        labels=np.arange(60),
        probabilities=np.eye(60),
        names=[str(index) for index in range(60)],
        class_names=[str(index) for index in range(60)],
    )
    (axis,) = figures.confusion(evaluation).axes
    assert [text.get_text() for text in axis.texts] == ["no mistakes among 60 examples"]


def test_long_names_keep_their_ends():
    assert figures.printable("a very long class name, number 17", longest=12) == "a ver…ber 17"
