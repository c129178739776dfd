"""Damaged bytes give an Image or a Glm4vError, and nothing else."""

from __future__ import annotations

import io
from contextlib import suppress

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ImageCms

from glm4v_core.errors import Glm4vError, PageError
from glm4v_core.media.image import Image, ImageLimits
from glm4v_core.media.pages import FailedPage, Page, load_pages

LIMITS = ImageLimits(max_pixels=200_000)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def encode(image: PIL.Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def corpus() -> list[bytes]:
    colour = PIL.Image.linear_gradient("L").resize((24, 18)).convert("RGB")
    tags = PIL.Image.Exif()
    tags[0x0112] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    more = {"save_all": True, "append_images": [colour.rotate(90), colour.rotate(180)]}
    return [
        encode(colour, "JPEG", exif=tags, icc_profile=profile),
        encode(colour, "JPEG", progressive=True),
        encode(colour.convert("CMYK"), "JPEG"),
        encode(colour, "PNG", exif=tags, **more),
        encode(colour.convert("P"), "PNG", transparency=b"\0\x80\xff"),
        encode(colour, "GIF", **more),
        encode(colour, "WEBP", exif=tags, icc_profile=profile, **more),
        encode(colour, "BMP"),
        encode(colour, "TIFF", exif=tags, **more),
        encode(colour, "TIFF", compression="tiff_lzw"),
        encode(colour.convert("I;16"), "TIFF"),
        encode(colour.convert("F"), "TIFF", compression="tiff_deflate"),
        encode(colour, "PDF", **more),
    ]


CORPUS = corpus()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(CORPUS)))
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, max(len(data) - 1, 0)))
        change = draw(st.sampled_from(["flip", "cut", "insert", "remove", "repeat"]))
        if change == "flip":
            data[place : place + 1] = draw(st.binary(min_size=1, max_size=4))
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif change == "remove":
            del data[place : place + draw(st.integers(1, 16))]
        elif change == "repeat":
            data[place:place] = data[place : place + 64]
        else:
            del data[max(place, 8) :]
    return bytes(data)


def check(data: bytes) -> None:
    with suppress(Glm4vError):
        image = Image.load(data, limits=LIMITS)
        assert image.pixels.mode == "RGB"
        assert image.width * image.height <= LIMITS.max_pixels
    try:
        pages = list(load_pages(data, limits=LIMITS, dpi=40, max_pages=20, errors="yield"))
    except Glm4vError:
        return
    assert [page.number for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert isinstance(page, Page) or (isinstance(page, FailedPage) and isinstance(page.error, PageError))


@FUZZ
@given(damaged())
def test_mutated_files_where_warnings_are_errors(data: bytes) -> None:
    check(data)


@FUZZ
@given(damaged())
@pytest.mark.filterwarnings("ignore")
def test_mutated_files_where_warnings_pass(data: bytes) -> None:
    check(data)


@FUZZ
@given(
    st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0+", b"%PDF-1.7"]),
    st.binary(max_size=200),
)
def test_noise_behind_magic_bytes(magic: bytes, noise: bytes) -> None:
    check(magic + noise)


@FUZZ
@given(st.text(max_size=40), st.sampled_from(["", "data:", "data:;base64,", "http://", "file://"]))
def test_any_text_as_source(text: str, prefix: str) -> None:
    with pytest.raises(Glm4vError):
        Image.load(prefix + text)
