"""Figures that need more than a look: what they count and what they say when there is nothing to show."""

from tfkit.reporting import figures


def test_confused_pairs_are_the_matrix_without_its_diagonal(evaluation):
    pairs = figures.confused_pairs(evaluation, most=1000)
    assert sum(count for *_, count in pairs) == len(evaluation.labels) - evaluation.correct
    counts = [count for *_, count in pairs]
    assert counts == sorted(counts, reverse=True)
    true, guess, count = pairs[0]
    names = list(evaluation.class_names)
    assert evaluation.confusion[names.index(true), names.index(guess)] == count


def test_long_names_keep_their_ends():
    assert figures.printable("a very long class name, number 17", longest=12) == "a ver…ber 17"
