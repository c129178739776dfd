"""Measures checked against values worked out by hand or published."""

from __future__ import annotations

import pytest

from glm4v_core.evaluation.metrics import (
    Pair,
    Tally,
    anls,
    character_errors,
    confusion,
    field_f1,
    has_spaced_words,
    is_same,
    macro_f1,
    normalise,
    score_all,
    score_labels,
    word_errors,
)


def test_normalise() -> None:
    assert normalise("\nＡ１  \r\n\n第①行　\n") == "A1\n\n第1行"


@pytest.mark.parametrize(
    ("truth", "answer", "expected"),
    [
        ("kitten", "sitting", (3, 6)),
        ("abc", "", (3, 3)),
        ("", "abc", (3, 0)),
        ("", "", (0, 0)),
        ("发票号码：１２", "发票号码:12", (0, 7)),
        ("发票", "发漂", (1, 2)),
        ("a\nb", "a b", (1, 3)),
        ("a b  \nc", "a b\r\nc\n", (0, 5)),
    ],
)
def test_character_errors(truth: str, answer: str, expected: tuple[int, int]) -> None:
    assert character_errors(truth, answer) == Tally(*expected)


@pytest.mark.parametrize(
    ("truth", "answer", "expected"),
    [
        ("the cat sat\non the mat", "the cat sit on mat", (2, 6)),
        ("one\n two", "one two", (0, 2)),
        ("one two", "", (2, 2)),
        ("one", "one two three", (2, 1)),
    ],
)
def test_word_errors(truth: str, answer: str, expected: tuple[int, int]) -> None:
    assert word_errors(truth, answer) == Tally(*expected)


def test_scripts_without_spaces() -> None:
    assert has_spaced_words("Total 12.50 €\nTab\there")
    assert not has_spaced_words("Total 元")
    assert not has_spaced_words("カナ")


@pytest.mark.parametrize(
    ("truths", "answer", "expected"),
    [
        (["Paris"], " paris ", 1.0),
        (["abcd"], "abcx", 0.75),
        (["abcd"], "abxy", 0.0),  # exactly one half changed
        (["abcd"], "", 0.0),
        (["12", "twelve"], "twelfe", 5 / 6),
    ],
)
def test_anls(truths: list[str], answer: str, expected: float) -> None:
    assert anls(truths, answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("truth", "answer", "same"),
    [
        ("１２", "12 ", True),
        (12, "12", True),
        ("a", "A", False),
        (None, None, True),
        (None, "", False),
        ("", None, False),
    ],
)
def test_same_values(truth: object, answer: object, same: bool) -> None:
    assert is_same(truth, answer) is same


def test_field_f1() -> None:
    truth = {"a": "1", "b": "2", "c": None, "d": "4"}
    answer = {"a": "1", "b": "9", "c": "3", "d": None}
    # One right; found a, b, c; wanted a, b, d: precision and recall 1/3.
    tally = field_f1(truth, answer)
    assert tally.part / tally.whole == pytest.approx(1 / 3)


CATS: list[Pair] = (
    [("cat", "cat")] * 4
    + [("cat", "fish")] * 6
    + [("cat", "hen")] * 3
    + [("fish", "cat")]
    + [("fish", "fish")] * 2
    + [("hen", "cat")]
    + [("hen", "fish")] * 2
    + [("hen", "hen")] * 6
)
"""A table often used to teach this measure: F1 of cat 42.1 %, of fish 30.8 %, of hen 66.7 %, macro-F1 46.5 %."""


def test_macro_f1_against_worked_values() -> None:
    assert macro_f1(CATS) == pytest.approx((8 / 19 + 4 / 13 + 12 / 18) / 3)
    assert macro_f1(CATS) == pytest.approx(0.465, abs=0.0005)


def test_macro_f1_counts_missing_and_foreign_answers() -> None:
    # a: precision 1, recall 1/2; b is only ever answered, so its F1 is 0.
    assert macro_f1([("a", "a"), ("a", None)]) == pytest.approx(2 / 3)
    assert macro_f1([("a", "a"), ("a", "b")]) == pytest.approx((2 / 3 + 0) / 2)


def test_macro_f1_with_weights_is_that_of_repeated_pairs() -> None:
    import numpy as np

    pairs: list[Pair] = [("a", "a"), ("a", "b"), ("b", "b"), ("c", "a")]
    repeated = [pairs[0]] * 2 + [pairs[1]] + [pairs[2]] * 3
    assert macro_f1(pairs, np.array([2.0, 1.0, 3.0, 0.0])) == pytest.approx(macro_f1(repeated))


def test_confusion() -> None:
    assert confusion([("b", "a"), ("a", "a"), ("b", None), ("b", "a")]) == {"a": {"a": 1}, "b": {"a": 2, None: 1}}


class TestIntervals:
    def test_ratios_are_of_sums_not_means_of_ratios(self) -> None:
        pages = [{"cer": Tally(1, 10)}, {"cer": Tally(0, 90), "label": Tally(1, 1)}]
        scores = score_all(pages, resamples=200, seed=0)
        assert scores["cer"].value == pytest.approx(0.01)
        assert (scores["cer"].whole, scores["label"].whole) == (100, 1)
        assert (scores["label"].low, scores["label"].value, scores["label"].high) == (1, 1, 1)

    def test_measures_without_data_are_omitted(self) -> None:
        assert list(score_all([{"f1": Tally(0, 0), "cer": Tally(0, 5)}], resamples=10, seed=0)) == ["cer"]

    def test_width_is_that_of_a_binomial(self) -> None:
        pages = [{"hit": Tally(float(place % 5 == 0), 1)} for place in range(400)]
        score = score_all(pages, resamples=2000, seed=1)["hit"]
        # p = 0.2, n = 400: standard error 0.02.
        assert score.low == pytest.approx(0.2 - 1.96 * 0.02, abs=0.005)
        assert score.high == pytest.approx(0.2 + 1.96 * 0.02, abs=0.005)

    def test_seed_decides(self) -> None:
        pages = [{"hit": Tally(place % 3, 3)} for place in range(20)]
        runs = [score_all(pages, resamples=50, seed=seed) for seed in (1, 1, 2)]
        assert runs[0] == runs[1] != runs[2]

    def test_labels(self) -> None:
        score = score_labels(CATS, resamples=300, seed=0)
        assert score.low < score.value == macro_f1(CATS) < score.high
        assert score.whole == len(CATS)
