"""Text as terms of a lexical index: words of letters and digits, and Chinese as pairs of neighbouring characters.

Pages and questions go through the same preparation, so that they meet: full-width forms are narrowed and letters
lowered, and a number such as `AB-12/345` stands there in its parts and as a whole without its marks.
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


def page_terms(text: str) -> str:
    """Write the terms of a page with spaces between them."""
    return " ".join(term for piece in _pieces(text) for term in _terms(piece, whole_page=True))


def query_terms(text: str) -> tuple[str, ...]:
    """List the terms to look for, each once; one that ends in `*` is only the beginning of a term."""
    return tuple(dict.fromkeys(term for piece in _pieces(text) for term in _terms(piece, whole_page=False)))


def _pieces(text: str) -> Iterator[str]:
    normal = unicodedata.normalize("NFKC", text).casefold()
    return (found[0] for found in _PIECE.finditer(normal))


def _terms(piece: str, *, whole_page: bool) -> Iterator[str]:
    if _IS_HAN.match(piece):
        yield from (piece[place : place + 2] for place in range(len(piece) - 1))
        if whole_page:
            yield piece[-1]  # so that every character begins a term, for questions of one character
        elif len(piece) == 1:
            yield f"{piece}*"
        return
    parts = _MARKS.split(piece)
    yield from parts
    if len(parts) > 1 and _HAS_DIGIT.search(piece):
        yield "".join(parts)
