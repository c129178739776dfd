"""Write synthetic pages with truth files for `glm4v eval`: words and layouts that training never saw.

python scripts/make_pages.py out/pages --count 500
python scripts/make_pages.py out/noise --count 100 --noise     # random characters instead of documents
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from tiny import questions
from tiny.documents import Document, make_document
from tiny.pages import columns, print_page, rows
from tiny.sequences import PRINTABLE
from tiny.wordings import FIELD_NAMES, FIELD_QUESTIONS, Language


def truth(random: Random, document: Document, language: Language) -> dict[str, Any]:
    """Everything the tiny model is asked about a document."""
    fields = {names[0]: document.facts.get(name) for name, names in FIELD_NAMES.items()}
    asked = [name for name in FIELD_QUESTIONS if name in document.facts]
    from_page = questions.tool_from_page(random, document, language)
    from_text = questions.tool_from_text(random, language, "heldout")
    return {
        "text": document.text,
        "summary": questions.summary(document, language),
        "label": document.kind,
        "fields": fields,
        "questions": [
            {"question": random.choice(FIELD_QUESTIONS[name][language]), "answer": document.facts[name]}
            for name in asked
        ],
        "tools": [_tool(from_page), _tool(from_text)],
    }


def _tool(exchange: questions.Exchange) -> dict[str, Any]:
    assert exchange.call is not None
    name, arguments = exchange.call
    tool = next(tool["function"] for tool in exchange.tools if tool["function"]["name"] == name)
    return {"tool": tool, "instruction": exchange.question, "name": name, "arguments": arguments}


def noise(random: Random) -> list[str]:
    """Random printable characters, up to what fits a page."""
    size = random.randint(20, 28)
    width = random.randint(4, columns(size))
    count = random.randint(1, rows(size))
    lines = (
        "".join(random.choice(PRINTABLE + " " * 12) for _ in range(random.randint(1, width))) for _ in range(count)
    )
    return [" ".join(line.split()) or "?" for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=900_000)
    parser.add_argument("--language", choices=("en", "zh"), default="en")
    parser.add_argument("--noise", action="store_true", help="random characters instead of documents")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for index in range(options.count):
        random = Random(options.seed + index)
        if options.noise:
            lines = noise(random)
            known: dict[str, Any] = {"text": "\n".join(lines)}
        else:
            document = make_document(random, "heldout")
            lines, known = list(document.lines), truth(random, document, options.language)
        page, _ = print_page(random, lines)
        page.save(options.folder / f"page-{index:04}.png")
        (options.folder / f"page-{index:04}.json").write_text(json.dumps(known, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
