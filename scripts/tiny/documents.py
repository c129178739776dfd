"""Synthetic documents of five kinds: lines to print on a page, and the facts they state."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from tiny.words import HELDOUT, TRAIN, Words

Kind = Literal["invoice", "receipt", "letter", "memo", "form"]
KINDS: tuple[Kind, ...] = ("invoice", "receipt", "letter", "memo", "form")
Split = Literal["train", "heldout"]

MONTHS = "January February March April May June July August September October November December".split()
TITLES: dict[str, tuple[str, ...]] = {
    "invoice": ("INVOICE", "Invoice", "TAX INVOICE", "Sales Invoice"),
    "receipt": ("RECEIPT", "Receipt", "CASH RECEIPT", "Sales Receipt"),
    "memo": ("MEMO", "Memo", "MEMORANDUM", "Internal Memo"),
    "form": ("FORM", "APPLICATION FORM", "Registration Form", "Order Form", "Claim Form"),
}
LABELS: dict[str, tuple[str, ...]] = {
    "number": ("No.", "Number:", "No:", "Ref:", "#"),
    "date": ("Date:", "Date", "Dated:", "Issued:", "On:"),
    "sender": ("From:", "Seller:", "By:", "Vendor:", ""),
    "recipient": ("To:", "Bill to:", "For:", "Customer:", "Attn:"),
    "amount": ("Total:", "TOTAL", "Amount:", "Total due:", "Sum:", "Total"),
    "subject": ("Re:", "Subject:", "About:", "Topic:"),
}


@dataclass(frozen=True, slots=True)
class Document:
    """Lines as they are printed (a tab is a wide gap, read as one space) and what they say."""

    kind: Kind
    lines: tuple[str, ...]
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "\n".join(self.lines).replace("\t", " ")


def make_document(
    random: Random, split: Split, width: int = 28, height: int = 12, words: Words | None = None
) -> Document:
    """Draw one document that fits `width` characters and `height` lines; layouts are split like words."""
    words = words or (TRAIN if split == "train" else HELDOUT)
    while True:
        kind = random.choice(KINDS)
        facts = draw_facts(random, words, kind)
        order = layout(random, kind)
        lines = [line for block in order for line in BLOCKS[block](random, words, kind, facts)]
        heldout_layout = zlib.crc32(f"{kind}{order}".encode()) % 4 == 0
        fits = len(lines) <= height and all(len(line.replace("\t", "  ")) <= width for line in lines)
        if fits and heldout_layout == (split == "heldout"):
            return Document(kind, tuple(lines), facts)


def draw_facts(random: Random, words: Words, kind: Kind) -> dict[str, str]:
    firm_sends = kind in ("invoice", "receipt") or random.random() < 0.4
    facts = {
        "date": draw_date(random),
        "sender": words.company(random) if firm_sends else words.person(random),
        "recipient": words.person(random) if random.random() < 0.7 else words.company(random),
    }
    if kind in ("invoice", "receipt", "form"):
        facts["number"] = draw_number(random)
    if kind in ("invoice", "receipt") or random.random() < 0.5:
        facts["amount"] = draw_amount(random)
    if kind in ("letter", "memo", "form"):
        facts["subject"] = words.matter(random) if random.random() < 0.7 else words.item(random)
    return facts


def draw_date(random: Random) -> str:
    year, month, day = random.randint(1960, 2039), random.randint(1, 12), random.randint(1, 28)
    name = MONTHS[month - 1]
    return random.choice(
        (
            f"{year}-{month:02}-{day:02}",
            f"{year}-{month:02}-{day:02}",
            f"{day:02}/{month:02}/{year}",
            f"{day:02}.{month:02}.{year}",
            f"{day} {name} {year}",
            f"{name} {day}, {year}",
            f"{name[:3]} {day}, {year}",
            f"{day} {name[:3]} {year}",
        )
    )


def draw_amount(random: Random) -> str:
    value = random.choice((random.uniform(1, 99), random.uniform(100, 999), random.uniform(1000, 99999)))
    number = random.choice((f"{value:.2f}", f"{value:,.2f}"))
    return random.choice(
        (f"${number}", f"EUR {number}", f"{number} EUR", f"USD {number}", f"{number} CHF", f"GBP {number}", f"{number}")
    )


def draw_number(random: Random) -> str:
    digits = str(random.randint(100, 9999999))
    letters = "".join(random.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(random.randint(1, 3)))
    return random.choice(
        (digits, digits, f"{letters}-{digits}", f"{letters}{digits}", f"{random.randint(1990, 2039)}/{digits[:4]}")
    )


def layout(random: Random, kind: Kind) -> tuple[str, ...]:
    """Draw the order of a page's blocks."""
    head = ["sender", "number", "date", "recipient"]
    match kind:
        case "invoice":
            random.shuffle(head)
            blocks = (
                ["title", *head, "items", "amount"]
                if random.random() < 0.7
                else ["sender", "title", *[b for b in head if b != "sender"], "items", "amount"]
            )
        case "receipt":
            random.shuffle(head)
            blocks = (
                ["title", *head, "items", "amount"]
                if random.random() < 0.5
                else [*head[:2], "title", *head[2:], "items", "amount"]
            )
        case "memo":
            rest = ["sender", "recipient", "date", "subject"]
            random.shuffle(rest)
            blocks = ["title", *rest, "body", "mention"]
        case "form":
            rest = ["sender", "recipient", "date", "subject", "number", "amount"]
            random.shuffle(rest)
            blocks = ["title", *rest]
        case "letter":
            blocks = [["date", "greeting"], ["greeting", "date"], ["place", "date", "greeting"]][random.randrange(3)]
            blocks = [
                *blocks,
                *random.choice((["subject", "body"], ["about"], ["about", "body"])),
                "mention",
                "closing",
                "sign",
            ]
    if kind in ("invoice", "receipt") and random.random() < 0.4:
        blocks.append("thanks")
    return tuple(blocks)


def _title(random: Random, words: Words, kind: Kind, facts: dict[str, str]) -> list[str]:
    return [random.choice(TITLES[kind])]


def _labelled(name: str):  # type: ignore[no-untyped-def]
    def block(random: Random, words: Words, kind: Kind, facts: dict[str, str]) -> list[str]:
        if name not in facts:
            return []
        label = random.choice(LABELS[name])
        if kind in ("memo", "form") and name in ("sender", "recipient"):
            label = {"sender": "From:", "recipient": "To:"}[name]
        gap = "\t" if random.random() < 0.15 and label else " "
        if kind in ("invoice", "receipt", "form") and name == "recipient" and random.random() < 0.15:
            return [label, facts[name]]
        return [f"{label}{gap}{facts[name]}".strip()]

    return block


def _items(random: Random, words: Words, kind: Kind, facts: dict[str, str]) -> list[str]:
    lines = []
    for _ in range(random.choice((0, 1, 1, 2, 2, 3, 4))):
        price = f"{random.uniform(0.5, 500):.2f}"
        gap = random.choice((" ", "\t", "\t"))
        amount = random.choice((f"{random.randint(1, 40)} x ", f"{random.randint(1, 9)} ", ""))
        lines.append(f"{amount}{words.item(random)}{gap}{price}")
    return lines


def sentence(random: Random, words: Words) -> list[str]:
    """One or two lines of prose without any fact that a question asks for."""
    return random.choice(
        (
            [f"We met in {words.place(random)}", f"and saw the {words.item(random)}."],
            [f"Please bring the {random.choice(words.good)}."],
            ["Thank you for your help."],
            [f"The {words.item(random)}", "is ready for you."],
            [f"Call {words.person(random)}."],
            [f"Room {random.randint(1, 400)} is free,", "please use it."],
            [f"All staff in {words.place(random)}", "should read this."],
        )
    )


def _body(random: Random, words: Words, kind: Kind, facts: dict[str, str]) -> list[str]:
    return [line for _ in range(random.choice((0, 1, 1, 2))) for line in sentence(random, words)]


def _mention(random: Random, words: Words, kind: Kind, facts: dict[str, str]) -> list[str]:
    if "amount" not in facts:
        return []
    return [
        random.choice(("The cost is {}.", "It costs {}.", "Please pay {}.", "The sum is {}.")).format(facts["amount"])
    ]


def _about(random: Random, words: Words, kind: Kind, facts: dict[str, str]) -> list[str]:
    lead = random.choice(("I write about the", "This is about the", "I have news on the"))
    return [lead, f"{facts['subject']}."]


BLOCKS = {
    "title": _title,
    "items": _items,
    "body": _body,
    "mention": _mention,
    "about": _about,
    "greeting": lambda random, words, kind, facts: [
        f"{random.choice(('Dear', 'Dear', 'Hello', 'Hi'))} {facts['recipient']},"
    ],
    "place": lambda random, words, kind, facts: [words.place(random)],
    "closing": lambda random, words, kind, facts: [
        random.choice(("Yours sincerely,", "Best regards,", "Kind regards,", "Yours,", "With thanks,"))
    ],
    "sign": lambda random, words, kind, facts: [facts["sender"]],
    "thanks": lambda random, words, kind, facts: [
        random.choice(
            ("Thank you!", "Paid in cash.", "Payable in 30 days.", "Thanks for your order.", "Please keep this.")
        )
    ],
} | {name: _labelled(name) for name in LABELS}
