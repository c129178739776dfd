"""Documents become page images one after the other, and one broken page costs only itself."""

from __future__ import annotations

import concurrent.futures
import hashlib
import io
import struct
import sys
from pathlib import Path
from typing import Any

import PIL.Image
import pypdfium2.internal
import pytest

from glm4v_core.errors import (
    ConfigError,
    ImageNotFoundError,
    ImageTooLargeError,
    MissingDependencyError,
    PageBrokenError,
    PageEncryptedError,
    PageError,
    PageLimitError,
)
from glm4v_core.media.image import Image
from glm4v_core.media.limits import ImageLimits
from glm4v_core.media.page_options import DEFAULTS, check_page_options
from glm4v_core.media.pages import FailedPage, Page, count_pages, load_page, load_pages
from tests.support.pdf import CATALOGUE, assemble, stream

COLOURS = ((250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0))


def frames(file_format: str) -> bytes:
    images = [PIL.Image.new("RGB", (40, 30), colour) for colour in COLOURS]
    options = {"lossless": True} if file_format == "WEBP" else {}
    buffer = io.BytesIO()
    images[0].save(buffer, file_format, save_all=True, append_images=images[1:], **options)
    return buffer.getvalue()


def coloured_pdf(*colours: tuple[int, ...], size: tuple[float, float] = (72, 144)) -> bytes:
    numbers = range(3, 3 + 2 * len(colours), 2)
    kids = b" ".join(b"%d 0 R" % number for number in numbers)
    objects = [CATALOGUE, b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, len(colours))]
    for number, colour in zip(numbers, colours, strict=True):
        paint = b" ".join(b"%.4f" % (channel / 255) for channel in colour) + b" rg 0 0 9999 9999 re f"
        objects.append(b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 %f %f]/Contents %d 0 R>>" % (*size, number + 1))
        objects.append(stream(paint))
    return assemble(*objects)


BLANK = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>"
MIDDLE_BROKEN = assemble(CATALOGUE, b"<</Type/Pages/Kids[3 0 R 4 0 R 3 0 R]/Count 3>>", BLANK, b"<</Type/Nothing>>")


def colours(pages: list[Page]) -> list[tuple[int, ...]]:
    return [page.image.pixels.getpixel((20, 15)) for page in pages]


class TestPdf:
    def test_pages_are_rendered_in_order(self, tmp_path: Path) -> None:
        file = tmp_path / "scan"
        file.write_bytes(coloured_pdf(*COLOURS))
        pages = list(load_pages(file, max_image_tokens=77))
        assert colours(pages) == list(COLOURS)
        assert [(page.number, page.count, page.source) for page in pages] == [(n, 4, str(file)) for n in (1, 2, 3, 4)]
        image = pages[2].image
        assert (image.width, image.height, image.max_tokens) == (200, 400, 77)
        origin = image.provenance
        assert (origin.source, origin.format, origin.frame, origin.frames) == (str(file), "PDF", 2, 4)
        assert origin.size == (200, 400)

    @pytest.mark.parametrize(("dpi", "size"), [(72, (72, 144)), (36, (36, 72)), (150, (150, 300))])
    def test_dpi_sets_the_size(self, dpi: float, size: tuple[int, int]) -> None:
        (page,) = load_pages(coloured_pdf(COLOURS[0]), dpi=dpi)
        assert page.image.pixels.size == size
        assert page.image.provenance.notes == ()

    def test_a_page_over_the_pixel_cap_is_rendered_at_what_fits(self) -> None:
        limits = ImageLimits(max_pixels=10_000)
        (page,) = load_pages(coloured_pdf(COLOURS[0], size=(1000, 3000)), limits=limits)
        assert 9000 < page.image.width * page.image.height <= 10_000
        assert page.image.provenance.notes == ("rendered at 4 instead of 200 dpi to stay within max_pixels",)

    @pytest.mark.parametrize("size", [(20, 14400), (14400, 20)])
    def test_an_elongated_page_is_an_error_with_its_number(self, size: tuple[float, float]) -> None:
        with pytest.raises(PageBrokenError, match=r"Page 1 of 1: .*max_aspect") as caught:
            list(load_pages(coloured_pdf(COLOURS[0], size=size)))
        assert caught.value.number == 1

    def test_filled_in_forms_are_visible(self) -> None:
        data = assemble(
            b"<</Type/Catalog/Pages 2 0 R/AcroForm<</Fields[4 0 R]>>>>",
            b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]/Annots[4 0 R]>>",
            b"<</Type/Annot/Subtype/Widget/FT/Tx/T(a)/V(b)/F 4/Rect[0 0 72 72]/AP<</N 5 0 R>>/P 3 0 R>>",
            stream(b"0 0 1 rg 0 0 72 72 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 72 72]"),
        )
        (page,) = load_pages(data)
        red, _, blue = page.image.pixels.getpixel((100, 100))
        assert blue > red

    @pytest.mark.parametrize(
        "data",
        [b"%PDF-1.7\n", b"%PDF-1.7\ngarbage" * 50, coloured_pdf(*COLOURS)[:200], assemble(b"<</Type/Catalog>>")],
    )
    def test_broken_pdfs_are_refused(self, data: bytes) -> None:
        with pytest.raises(PageBrokenError):
            list(load_pages(data, errors="yield"))

    def test_one_broken_page_does_not_lose_the_others(self) -> None:
        first, second, third = load_pages(MIDDLE_BROKEN, errors="yield")
        assert isinstance(first, Page)
        assert isinstance(second, FailedPage)
        assert isinstance(third, Page)
        assert (second.number, second.count, second.error.number) == (2, 3, 2)
        iterator = load_pages(MIDDLE_BROKEN)
        assert next(iterator).number == 1
        with pytest.raises(PageBrokenError, match="Page 2 of 3"):
            next(iterator)

    def test_many_threads_may_read_at_once(self) -> None:
        data = coloured_pdf(*COLOURS)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: colours(list(load_pages(data))), range(12)))
        assert results == [list(COLOURS)] * 12

    def test_a_missing_library_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pypdfium2", None)
        with pytest.raises(MissingDependencyError, match=r"glm4v\[documents\]"):
            list(load_pages(coloured_pdf(COLOURS[0])))


def rc4(key: bytes, data: bytes) -> bytes:
    state, j, out = list(range(256)), 0, bytearray()
    for i in range(256):
        j = (j + state[i] + key[i % len(key)]) % 256
        state[i], state[j] = state[j], state[i]
    i = j = 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + state[i]) % 256
        state[i], state[j] = state[j], state[i]
        out.append(byte ^ state[(state[i] + state[j]) % 256])
    return bytes(out)


def encrypted_pdf(password: bytes) -> bytes:
    """Encrypt a blank page by the standard security handler, revision 2."""
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    padded = (password + padding)[:32]
    owner = rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + struct.pack("<i", -4) + b"0123456789abcdef").digest()[:5]
    trailer = b"/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<%s>/U<%s>>>/ID[<%s><%s>]" % (
        owner.hex().encode(),
        rc4(key, padding).hex().encode(),
        *[b"0123456789abcdef".hex().encode()] * 2,
    )
    pages = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 72 72]>>"
    return assemble(CATALOGUE, pages, page, trailer=trailer)


class TestPassword:
    def test_the_right_password_opens(self) -> None:
        (page,) = load_pages(encrypted_pdf(b"secret"), password="secret")
        assert page.image.width == 200

    def test_missing_and_wrong_passwords_are_distinguished(self) -> None:
        with pytest.raises(PageEncryptedError, match="needs a password"):
            list(load_pages(encrypted_pdf(b"secret")))
        with pytest.raises(PageEncryptedError, match="does not open with this password"):
            list(load_pages(encrypted_pdf(b"secret"), password="guess"))


class TestFrames:
    @pytest.mark.parametrize("file_format", ["TIFF", "GIF", "WEBP", "PNG"])
    @pytest.mark.parametrize(("wanted", "count"), [("all", 4), ("first", 1), (3, 3), (9, 4)])
    def test_frames_are_selected(self, file_format: str, wanted: str | int, count: int) -> None:
        pages = list(load_pages(frames(file_format), frames=wanted))
        assert len(pages) == count
        assert [page.number for page in pages] == list(range(1, count + 1))
        assert {page.count for page in pages} == {4}
        for page, colour in zip(pages, COLOURS, strict=False):
            pixel = page.image.pixels.getpixel((5, 5))
            assert max(abs(have - want) for have, want in zip(pixel, colour, strict=True)) <= 2
            assert (page.image.provenance.frame, page.image.provenance.frames) == (page.number - 1, 4)

    def test_frames_select_pdf_pages_as_well(self) -> None:
        pages = list(load_pages(coloured_pdf(*COLOURS), frames=2))
        assert [(page.number, page.count) for page in pages] == [(1, 4), (2, 4)]

    def test_a_single_picture_is_one_page(self) -> None:
        picture = PIL.Image.new("RGB", (40, 30), COLOURS[1])
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        for source in (picture, buffer.getvalue(), buffer):
            (page,) = load_pages(source)
            assert (page.number, page.count) == (1, 1)
            assert page.image == Image.load(picture)

    def test_a_pil_image_with_frames_is_refused(self) -> None:
        with PIL.Image.open(io.BytesIO(frames("TIFF"))) as opened, pytest.raises(PageError, match="4 frames"):
            next(load_pages(opened))

    def test_one_broken_frame_does_not_lose_the_others(self) -> None:
        data = bytearray(frames("TIFF"))
        compression = struct.pack("<HHII", 259, 3, 1, 1)
        third = [place for place in range(len(data)) if data.startswith(compression, place)][2]
        data[third + 8 : third + 10] = struct.pack("<H", 9999)
        pages = list(load_pages(bytes(data), errors="yield"))
        assert [type(page) for page in pages] == [Page, Page, FailedPage, Page]
        assert colours([pages[0], pages[1], pages[3]]) == [COLOURS[0], COLOURS[1], COLOURS[3]]
        with pytest.raises(PageBrokenError, match="Page 3 of 4") as caught:
            list(load_pages(bytes(data)))
        assert caught.value.number == 3
        assert caught.value.__cause__ is not None

    def test_frames_lost_to_truncation_are_reported(self) -> None:
        images = [PIL.Image.effect_noise((40, 30), 90) for _ in range(4)]
        buffer = io.BytesIO()
        images[0].save(buffer, "GIF", save_all=True, append_images=images[1:])
        data = buffer.getvalue()
        pages = list(load_pages(data[: len(data) * 5 // 8], errors="yield"))
        assert [type(page) for page in pages][:1] == [Page]
        assert isinstance(pages[-1], FailedPage)

    def test_a_broken_chain_of_frames_is_reported(self) -> None:
        data = bytearray(frames("TIFF"))
        (count,) = struct.unpack_from("<H", data, 8)
        struct.pack_into("<I", data, 10 + 12 * count, len(data) + 1000)
        pages = list(load_pages(bytes(data), errors="yield"))
        assert [type(page) for page in pages] == [Page, FailedPage]


class TestOnePage:
    @pytest.mark.parametrize("data", [coloured_pdf(*COLOURS), frames("TIFF")])
    def test_it_is_the_page_that_load_pages_gives(self, data: bytes) -> None:
        for page in load_pages(data, dpi=36):
            same = load_page(data, page.number, dpi=36)
            assert (same.image, same.number, same.count) == (page.image, page.number, 4)
            assert same.image.provenance == page.image.provenance

    def test_no_other_page_is_decoded(self) -> None:
        assert load_page(MIDDLE_BROKEN, 3).number == 3
        with pytest.raises(PageBrokenError, match="Page 2 of 3") as caught:
            load_page(MIDDLE_BROKEN, 2)
        assert caught.value.number == 2

    @pytest.mark.parametrize(("number", "options"), [(0, {}), (5, {}), (2, {"frames": "first"}), (3, {"frames": 2})])
    def test_a_page_outside_the_selection_is_refused(self, number: int, options: dict[str, object]) -> None:
        with pytest.raises(PageError, match=f"has no page {number}"):
            load_page(coloured_pdf(*COLOURS), number, **options)

    def test_pages_are_counted_without_decoding_one(self) -> None:
        assert count_pages(MIDDLE_BROKEN) == 3
        assert count_pages(frames("TIFF"), frames=2) == 2
        assert count_pages(PIL.Image.new("L", (40, 30))) == 1
        with pytest.raises(PageLimitError):
            count_pages(frames("TIFF"), max_pages=3)
        with pytest.raises(PageBrokenError):
            count_pages(b"%PDF-1.7")


class TestLimits:
    @pytest.mark.parametrize("data", [coloured_pdf(*COLOURS), frames("TIFF")])
    def test_more_pages_than_allowed_are_refused(self, data: bytes) -> None:
        with pytest.raises(PageLimitError, match="max_pages=3"):
            next(load_pages(data, max_pages=3))
        assert len(list(load_pages(data, max_pages=3, frames=3))) == 3

    def test_the_byte_cap_holds(self) -> None:
        with pytest.raises(ImageTooLargeError, match="max_bytes"):
            next(load_pages(coloured_pdf(*COLOURS), limits=ImageLimits(max_bytes=100)))

    def test_the_root_holds(self, tmp_path: Path) -> None:
        (tmp_path / "root").mkdir()
        (tmp_path / "a.pdf").write_bytes(coloured_pdf(COLOURS[0]))
        assert next(load_pages(tmp_path / "a.pdf", root=tmp_path)).count == 1
        with pytest.raises(ImageNotFoundError):
            next(load_pages(tmp_path / "a.pdf", root=tmp_path / "root"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"errors": "ignore"}, "errors must be 'raise' or 'yield', not 'ignore'"),
            ({"dpi": 0}, "dpi must be greater than 0, not 0"),
            ({"dpi": float("nan")}, "dpi must be"),
            ({"frames": "last"}, "frames must be 'all' or 'first', or be a valid integer, not 'last'"),
            ({"frames": 0}, "frames must be 'all' or 'first', or be greater than 0, not 0"),
            ({"frames": "2"}, "frames must be"),
            ({"max_pages": 0}, "max_pages must be greater than 0, not 0"),
            ({"max_image_tokens": 0}, "max_image_tokens must be greater than 0, not 0"),
            ({"limits": None}, "limits must be"),
            ({"password": 1234}, r"password must be a valid string\."),
            ({"dip": 300}, "load_pages has no option dip.*dpi"),
        ],
    )
    def test_wrong_options_are_refused_at_once(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_pages("unread", **options)

    def test_options_can_be_checked_alone_and_come_back_complete(self) -> None:
        options = check_page_options(dpi=300, root=Path("scans"))
        assert options == DEFAULTS | {"dpi": 300, "root": Path("scans")}
        assert (options["frames"], options["max_pages"], options["password"]) == ("all", 1000, None)


def test_pages_come_lazily_and_closing_frees_the_document() -> None:
    before = len(pypdfium2.internal.ObjectTracker[pypdfium2.PdfDocument])
    iterator = load_pages(coloured_pdf(*COLOURS))
    assert len(pypdfium2.internal.ObjectTracker[pypdfium2.PdfDocument]) == before
    next(iterator)
    assert len(pypdfium2.internal.ObjectTracker[pypdfium2.PdfDocument]) == before + 1
    iterator.close()
    assert len(pypdfium2.internal.ObjectTracker[pypdfium2.PdfDocument]) == before
    assert list(iterator) == []
