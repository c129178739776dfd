"""Text as terms of a lexical index: words of letters and digits, and Chinese as bigrams of characters.

Pages and questions are normalised alike, so that they match: full-width forms become narrow and letters lower-case,
and a number such as `AB-12/345` is indexed in its parts and as a whole without its punctuation.

Invoices and forms hold few sentences, so words like "who" and "of" are rare on them, and BM25 would rank a page that
has one too high. Such function words are therefore left out of questions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PIECE = re.compile(rf"[{_HAN}]+|[^\W_{_HAN}]+(?:[-./,:'][^\W_{_HAN}]+)*")
_MARKS = re.compile(r"[-./,:']")
_IS_HAN = re.compile(f"[{_HAN}]")
_HAS_DIGIT = re.compile(r"\d")

_FUNCTION_WORDS = frozenset(
    "a about an and any are as at be been but by can could did do does for from had has have he her him his how i if in"
    " into is it its me my no not of on one or our please say says she should so some such tell than that the their"
    " them then there these they this those to us was we were what when where which who whom whose why will with would"
    " you your"
    " 什么 么是 是什 多少 是多 哪里 哪个 哪些 哪一 是谁 谁的 请问 请告 告诉 诉我 有没 没有 是不 不是 一下".split()
)


def page_terms(text: str) -> str:
    """Return the terms of a page, separated by spaces."""
    return " ".join(term for piece in _pieces(text) for term in _terms(piece, whole_page=True))


def query_terms(text: str) -> tuple[str, ...]:
    """Return the distinct terms of a question; one that ends in `*` is a prefix."""
    return tuple(dict.fromkeys(term for piece in _pieces(text) for term in _terms(piece, whole_page=False)))


def is_function_word(term: str) -> bool:
    """Tell whether a term is a function word of English or Chinese."""
    return term in _FUNCTION_WORDS


def _pieces(text: str) -> Iterator[str]:
    normal = unicodedata.normalize("NFKC", text).casefold()
    return (found[0] for found in _PIECE.finditer(normal))


def _terms(piece: str, *, whole_page: bool) -> Iterator[str]:
    if _IS_HAN.match(piece):
        yield from (piece[place : place + 2] for place in range(len(piece) - 1))
        if whole_page:
            yield piece[-1]  # every character then begins a term, for one-character questions
        elif len(piece) == 1:
            yield f"{piece}*"
        return
    parts = _MARKS.split(piece)
    yield from parts
    if len(parts) > 1 and _HAS_DIGIT.search(piece):
        yield "".join(parts)
