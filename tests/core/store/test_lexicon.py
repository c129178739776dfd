"""Pages and questions are split into the same terms."""

from __future__ import annotations

import pytest

from glm4v_core.store.lexicon import page_terms, query_terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Total due:\nMona Holt", "total due mona holt"),
        ("发票号码", "发票 票号 号码 码"),
        ("税", "税"),
        ("ＡＢ－１２　Ｘ", "ab 12 ab12 x"),
        ("AB-123/4", "ab 123 4 ab1234"),
        ("83,103.97 EUR", "83 103 97 8310397 eur"),
        ("2024-05-01.", "2024 05 01 20240501"),
        ("O'Neil & Sons", "o neil sons"),
        ("第3页total", "第 3 页 total"),
        ("snake_case €5", "snake case 5"),
        ("… —", ""),
    ],
)
def test_a_page_is_split_into_its_terms(text: str, terms: str) -> None:
    assert page_terms(text) == terms


def test_a_question_is_split_into_its_terms() -> None:
    assert query_terms("What is the total? The TOTAL!") == ("what", "is", "the", "total")
    assert query_terms("发票金额") == ("发票", "票金", "金额")
    assert query_terms("税 or AB-12?") == ("税*", "or", "ab", "12", "ab12")
    assert query_terms("?!") == ()
