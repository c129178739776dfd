"""Hand-made scans in the formats of copiers: fax TIFF, and PDF with CCITT, JBIG2 and rotated pages."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageChops
from PIL.TiffImagePlugin import ROWSPERSTRIP, STRIPBYTECOUNTS, STRIPOFFSETS

from glm4v_core import Image, Request
from tests.support.pdf import CATALOGUE, assemble, stream

WIDTH, HEIGHT = 120, 160
_WHOLE, _GENERIC_REGION, _PAGE_INFORMATION = 1, 38, 48


def paper(number: int = 1) -> PIL.Image.Image:
    """A white 1-bit page with a black bar at the upper left, as long as the number says."""
    picture = PIL.Image.new("1", (WIDTH, HEIGHT), 255)
    picture.paste(0, (0, 0, 10 * number, 20))
    return picture


def bar_of(picture: PIL.Image.Image) -> tuple[int, int, int, int] | None:
    """The box around what is black, in hundredths of the page; None on a blank one."""
    box = picture.convert("L").point(lambda value: 255 * (value < 128)).getbbox()
    if box is None:
        return None
    return tuple(round(100 * edge / size) for edge, size in zip(box, picture.size * 2, strict=True))  # type: ignore[return-value]


def fax_tiff(pages: int, rows_per_strip: int = HEIGHT) -> bytes:
    """Frames compressed by CCITT group 4, as fax machines do, in one strip or several."""
    first, *others = [paper(number) for number in range(1, pages + 1)]
    file = io.BytesIO()
    options = {"compression": "group4", "tiffinfo": {ROWSPERSTRIP: rows_per_strip}}
    first.save(file, "TIFF", save_all=True, append_images=others, **options)
    return file.getvalue()


def save_fax(folder: Path) -> Path:
    """Write five pages."""
    path = folder / "fax.tif"
    path.write_bytes(fax_tiff(5))
    return path


def save_mixed(folder: Path) -> list[Path]:
    """Write a good file, a broken one, and a good one."""
    files = {"a.tif": fax_tiff(2), "b.jpg": b"\xff\xd8\xff cut off", "c.pdf": scanned_pdf(ccitt_image(3))}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def group4(picture: PIL.Image.Image) -> bytes:
    """The bare CCITT group 4 data of a 1-bit picture, taken out of a TIFF; 0 bits count as white, as in a fax."""
    file = io.BytesIO()
    picture.save(file, "TIFF", compression="group4", tiffinfo={ROWSPERSTRIP: picture.height})
    with PIL.Image.open(file) as opened:
        (offset,), (count,) = opened.tag_v2[STRIPOFFSETS], opened.tag_v2[STRIPBYTECOUNTS]  # type: ignore[attr-defined]
    return file.getvalue()[offset : offset + count]


def jbig2(picture: PIL.Image.Image) -> bytes:
    """One generic region for embedding in a PDF, coded by MMR, which is CCITT group 4 (ITU-T T.88, 7.4.6)."""
    size = struct.pack(">II", *picture.size)
    page = size + bytes(8) + struct.pack(">BH", 0, 0)
    region = size + bytes(8) + struct.pack(">BB", 0, 1) + group4(PIL.ImageChops.invert(picture))
    return _segment(0, _PAGE_INFORMATION, page) + _segment(1, _GENERIC_REGION, region)


def _segment(number: int, kind: int, data: bytes) -> bytes:
    return struct.pack(">IBBBI", number, kind, 0, _WHOLE, len(data)) + data


def scanned_pdf(*images: bytes, turned: int = 0) -> bytes:
    """A PDF whose pages show nothing but an image each; `turned` is the clockwise rotation in degrees."""
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 3 + 3 * len(images), 3))
    objects = [CATALOGUE, b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(images))]
    for index, image in enumerate(images):
        number = 3 + 3 * index
        resources = b"/Resources<</XObject<</I %d 0 R>>>>/Contents %d 0 R" % (number + 2, number + 1)
        box = b"/MediaBox[0 0 %d %d]/Rotate %d" % (WIDTH, HEIGHT, turned)
        objects.append(b"<</Type/Page/Parent 2 0 R%s%s>>" % (box, resources))
        objects.append(stream(b"%d 0 0 %d 0 0 cm /I Do" % (WIDTH, HEIGHT)))
        objects.append(image)
    return assemble(*objects)


def ccitt_image(number: int = 1) -> bytes:
    """An image object of a PDF."""
    parameters = b"/K -1/Columns %d/Rows %d/BlackIs1 false" % (WIDTH, HEIGHT)
    data = group4(PIL.ImageChops.invert(paper(number)))
    return _image(b"/CCITTFaxDecode/DecodeParms<<%s>>" % parameters, data)


def jbig2_image(number: int = 1) -> bytes:
    """An image object of a PDF."""
    return _image(b"/JBIG2Decode", jbig2(paper(number)))


def _image(filters: bytes, data: bytes) -> bytes:
    size = b"/Width %d/Height %d/BitsPerComponent 1/ColorSpace/DeviceGray" % (WIDTH, HEIGHT)
    return stream(data, b"/Type/XObject/Subtype/Image%s/Filter%s" % (size, filters))


def seen(request: Request) -> Image:
    """The page that a request is about."""
    image = request.messages[0].parts[0]
    assert isinstance(image, Image)
    return image


def number_of(request: Request) -> int:
    """Tell the page by the length of its bar."""
    bar = bar_of(seen(request).pixels)
    assert bar is not None
    return round(bar[2] * WIDTH / 1000)


def read(request: Request) -> Any:
    """Answer as a model that reads these pages."""
    return f"text of page {number_of(request)}"
