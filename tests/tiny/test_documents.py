"""Documents state their facts, and nothing that is scored was seen in training."""

from __future__ import annotations

from random import Random

import pytest
from tiny.documents import BLOCKS, KINDS, LABELS, TITLES, Document, Split, make_document
from tiny.words import HELDOUT, TRAIN

COUNT = 400
SHARED = {"suffix"}
"""Legal forms such as Ltd occur on both sides."""


@pytest.fixture(scope="module")
def documents() -> dict[Split, list[Document]]:
    return {split: [make_document(Random(seed), split) for seed in range(COUNT)] for split in ("train", "heldout")}


@pytest.fixture(scope="module", params=["train", "heldout"])
def drawn(request: pytest.FixtureRequest, documents: dict[Split, list[Document]]) -> list[Document]:
    return documents[request.param]


@pytest.mark.parametrize("name", sorted(set(TRAIN.__slots__) - {"coined", "jumbled"} - SHARED))
def test_word_lists_are_disjoint(name: str) -> None:
    train, heldout = getattr(TRAIN, name), getattr(HELDOUT, name)
    assert len(set(train)) == len(train)
    assert len(set(heldout)) == len(heldout) > 0
    assert set(train).isdisjoint(heldout)


def blocks(document: Document) -> tuple[str, ...]:
    """Read the order of a document's blocks off its lines."""
    lines = [line.replace("\t", " ") for line in document.lines]
    found = [name for line in lines for name in BLOCKS if _is(name, line, document)]
    thanks = document.kind in ("invoice", "receipt") and not _is("amount", lines[-1], document)
    return (document.kind, *found, *(["thanks"] if thanks else []))


def _is(name: str, line: str, document: Document) -> bool:
    if name == "title":
        return line in TITLES.get(document.kind, ())
    labels, fact = LABELS.get(name, ()), document.facts.get(name)
    return fact is not None and line in [fact, *(f"{label} {fact}" for label in labels)]


def test_layouts_are_disjoint(documents: dict[Split, list[Document]]) -> None:
    # A letter shows too little of its layout, and a form without an amount could be of several.
    train, heldout = (
        {blocks(d) for d in documents[split] if d.kind != "letter" and (d.kind != "form" or "amount" in d.facts)}
        for split in ("train", "heldout")
    )
    assert train
    assert heldout
    assert train.isdisjoint(heldout)


def test_every_kind_occurs(drawn: list[Document]) -> None:
    assert {document.kind for document in drawn} == set(KINDS)


def test_facts_are_printed_on_the_page(drawn: list[Document]) -> None:
    for document in drawn:
        for name, value in document.facts.items():
            assert value in document.text, name


def test_kinds_have_the_facts_that_questions_rely_on(drawn: list[Document]) -> None:
    for document in drawn:
        assert {"date", "sender", "recipient"} <= set(document.facts) <= set(LABELS)
        assert ("number" in document.facts) == (document.kind in ("invoice", "receipt", "form"))
        assert ("subject" in document.facts) == (document.kind in ("letter", "memo", "form"))
        assert "amount" in document.facts or document.kind not in ("invoice", "receipt")


def test_lines_fit_a_page_and_the_alphabet(drawn: list[Document]) -> None:
    for document in drawn:
        assert len(document.lines) <= 12
        assert max(len(line.replace("\t", "  ")) for line in document.lines) <= 28
        assert document.text.replace("\n", " ").isprintable()
        assert document.text.isascii()


def test_a_smaller_page_may_be_asked_for() -> None:
    for seed in range(20):
        document = make_document(Random(seed), "train", width=20, height=7)
        assert len(document.lines) <= 7
        assert max(map(len, document.lines)) <= 20


def test_the_same_seed_draws_the_same_document(documents: dict[Split, list[Document]]) -> None:
    assert make_document(Random(5), "train") == documents["train"][5]
    assert documents["train"][5] != documents["heldout"][5]
