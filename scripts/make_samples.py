"""Make the pages in samples/ that the demo reads, and their truth for the tests.

Training never saw their seeds, words and layouts. Unlike the pages that are scored, they contain no made-up names: a demo should look like real documents.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

from PIL import Image

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from tiny import questions
from tiny.documents import KINDS, Document, Kind, make_document
from tiny.pages import print_page
from tiny.words import HELDOUT

SAMPLES = HERE.parent / "samples"
TRUTH = HERE.parent / "tests" / "e2e" / "samples.json"
SEED = 7_000_000
WORDS = replace(HELDOUT, coined=0.0)
DPI = 200


def page(index: int, kind: Kind) -> tuple[Image.Image, Document]:
    """Draw the first held-out document of `kind` from this sample's seed."""
    random = Random(SEED + index)
    while (document := make_document(random, "heldout", words=WORDS)).kind != kind:
        pass
    return print_page(random, list(document.lines))[0], document


def save(name: str, documents: list[Document], truth: dict[str, list[dict[str, str]]]) -> Path:
    truth[name] = [{"text": d.text, "summary": questions.summary(d, "en"), "label": d.kind} for d in documents]
    return SAMPLES / name


def plain(truth: dict[str, list[dict[str, str]]]) -> None:
    """One PNG or JPEG of each kind, one with a Chinese name."""
    names = ("scan-01.png", "scan-02.jpg", "scan-03.png", "SCAN-04.JPG", "扫描-05.png")
    for index, (name, kind) in enumerate(zip(names, KINDS, strict=True)):
        image, document = page(index, kind)
        image.save(save(name, [document], truth))


def folders(truth: dict[str, list[dict[str, str]]]) -> None:
    """A 3-page PDF and a 2-frame TIFF."""
    pages = [page(10 + index, kind) for index, kind in enumerate(("letter", "invoice", "form"))]
    images = [image for image, _ in pages]
    target = save("three-pages.pdf", [document for _, document in pages], truth)
    images[0].save(target, save_all=True, append_images=images[1:], resolution=DPI)
    pages = [page(20 + index, kind) for index, kind in enumerate(("memo", "receipt"))]
    images = [image for image, _ in pages]
    target = save("two-frames.tiff", [document for _, document in pages], truth)
    images[0].save(target, save_all=True, append_images=images[1:], compression="tiff_deflate")


def awkward(truth: dict[str, list[dict[str, str]]]) -> None:
    """A phone photo that lies on its side, ink on transparency, a small WebP, and a truncated file."""
    image, document = page(30, "receipt")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(save("phone.jpeg", [document], truth), exif=exif, quality=90)
    image, document = page(31, "invoice")
    ink = Image.new("L", image.size, 20)
    Image.merge("RGBA", (ink, ink, ink, image.point(lambda value: 255 - value))).save(
        save("transparent.png", [document], truth)
    )
    image, document = page(32, "memo")
    image.save(save("notes/memo.webp", [document], truth), quality=90)
    image, _ = page(33, "letter")
    image.save(SAMPLES / "broken.png")
    whole = (SAMPLES / "broken.png").read_bytes()
    (SAMPLES / "broken.png").write_bytes(whole[: len(whole) // 2])


def main() -> None:
    (SAMPLES / "notes").mkdir(parents=True, exist_ok=True)
    truth: dict[str, list[dict[str, str]]] = {}
    for make in (plain, folders, awkward):
        make(truth)
    TRUTH.write_text(json.dumps(truth, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
