"""One row per hazard in pixel data: the model gets what a person sees in a viewer."""

from __future__ import annotations

import concurrent.futures
import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageChops

from glm4v_core.errors import ImageBrokenError, ImageError, ImageFormatError, ImageShapeError, ImageTooLargeError
from glm4v_core.media.image import Image, ImageLimits

WHITE, RED, BLACK = (255, 255, 255), (255, 0, 0), (0, 0, 0)


def encode(image: PIL.Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def picture(size: tuple[int, int] = (64, 48)) -> PIL.Image.Image:
    return PIL.Image.merge("RGB", [PIL.Image.linear_gradient("L").rotate(90 * turn).resize(size) for turn in range(3)])


def png(width: int, height: int, depth: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """Assemble a PNG that Pillow itself would not write."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    extra = b"".join(chunk(name.encode(), body) for name, body in chunks.items())
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def corner(source: bytes | PIL.Image.Image, **options: object) -> tuple[int, ...]:
    return Image.load(source, **options).pixels.getpixel((0, 0))


class TestFormats:
    @pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF"])
    def test_lossless_formats_keep_every_pixel(self, name: str) -> None:
        image = Image.load(encode(picture(), name))
        assert image.pixels.tobytes() == picture().tobytes()
        assert image.provenance.format == name

    @pytest.mark.parametrize("name", ["JPEG", "WEBP", "GIF"])
    def test_lossy_formats_come_close(self, name: str) -> None:
        image = Image.load(encode(picture(), name))
        difference = ImageChops.difference(image.pixels, picture()).convert("L")
        assert np.asarray(difference).mean() < 12
        assert image.provenance.format == name

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"%PDF-1.7\n", "load_pages"),
            (b"junk before it\n%PDF-1.7\n", "load_pages"),
            (b"\xef\xbb\xbf <?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
            (b"<SVG/>", "SVG"),
            (b"<!DOCTYPE html><p>404</p>", "HTML"),
            (b"<rss/>", "XML"),
            (b"%!PS-Adobe-3.0 EPSF-3.0", "PostScript"),
            (b"\xc5\xd0\xd3\xc6" + bytes(30), "EPS"),
            (b"\x1f\x8b\x08" + bytes(30), "gzip"),
            (b"\0\0\0\x20ftypheic" + bytes(30), "HEIC"),
            (b"8BPS\0\1", "Photoshop"),
            (b"P6 4 4 255\n" + bytes(48), "unknown"),
        ],
    )
    def test_everything_else_is_refused_by_content(self, data: bytes, words: str) -> None:
        with pytest.raises(ImageFormatError, match=words):
            Image.load(data)

    def test_the_allow_list_holds_for_opened_pil_images(self, tmp_path: Path) -> None:
        (tmp_path / "a.ppm").write_bytes(encode(picture(), "PPM"))
        with PIL.Image.open(tmp_path / "a.ppm") as opened:
            with pytest.raises(ImageFormatError, match="PPM"):
                Image.load(opened)
            assert Image.load(opened.copy()) == Image.load(picture())

    def test_extra_pictures_of_a_jpeg_are_not_frames(self) -> None:
        data = encode(picture(), "MPO", save_all=True, append_images=[picture((20, 20))])
        assert Image.load(data).provenance.frames == 1
        with PIL.Image.open(io.BytesIO(data)) as opened:
            assert opened.format == "MPO"
            assert Image.load(opened) == Image.load(data)


class TestSize:
    def test_a_bomb_is_refused_from_its_header(self) -> None:
        bomb = png(60_000, 60_000, 8, 2, b"")
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            with pytest.raises(ImageTooLargeError, match="max_pixels=64000000"):
                Image.load(bomb)
        assert seen == []

    def test_the_callers_limit_holds_for_every_source(self) -> None:
        for source in (encode(picture()), encode(picture(), "JPEG", progressive=True), picture()):
            with pytest.raises(ImageTooLargeError, match="max_pixels=3000"):
                Image.load(source, limits=ImageLimits(max_pixels=3000))

    @pytest.mark.parametrize(("cap", "size"), [(64 * 48, (64, 48)), (1000, (32, 24)), (200, (16, 12)), (50, (8, 6))])
    def test_a_large_jpeg_is_decoded_reduced(self, cap: int, size: tuple[int, int]) -> None:
        image = Image.load(encode(picture(), "JPEG", exif=exif(6)), limits=ImageLimits(max_pixels=cap))
        assert (image.height, image.width) == size
        assert image.provenance.size == (48, 64)
        assert [note[:7] for note in image.provenance.notes] == ["decoded"] * (size != (64, 48))

    def test_a_jpeg_too_large_even_at_an_eighth_is_refused(self) -> None:
        with pytest.raises(ImageTooLargeError, match="even reduced"):
            Image.load(encode(picture(), "JPEG"), limits=ImageLimits(max_pixels=47))

    def test_a_decoded_jpeg_cannot_be_reduced(self) -> None:
        opened = PIL.Image.open(io.BytesIO(encode(picture(), "JPEG")))
        opened.load()
        with pytest.raises(ImageTooLargeError):
            Image.load(opened, limits=ImageLimits(max_pixels=1000))

    def test_a_tile_larger_than_its_image_is_refused(self) -> None:
        numbers = {256: 16, 257: 16, 258: 8, 259: 1, 262: 1, 277: 1, 322: 65536, 323: 65536, 324: 8, 325: 256}
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items())
        data = b"II*\0" + struct.pack("<IH", 8, len(numbers)) + entries + bytes(4)
        with pytest.raises(ImageTooLargeError, match="A tile of bytes"):
            Image.load(data)

    def test_a_gif_frame_that_outgrows_its_screen_is_checked(self) -> None:
        data = bytearray(encode(picture(), "GIF", save_all=True, append_images=[picture().rotate(90)]))
        second = data.rindex(b"\x2c\0\0\0\0")
        data[second + 5 : second + 9] = struct.pack("<HH", 60_000, 60_000)
        assert Image.load(bytes(data)).width == 64
        with pytest.raises(ImageTooLargeError):
            Image.load(bytes(data), frame=1)

    @pytest.mark.parametrize("size", [(0, 10), (10, 0), (1, 1), (3, 3), (100, 3), (4, 801), (2010, 10)])
    def test_empty_tiny_and_elongated_images_are_refused(self, size: tuple[int, int]) -> None:
        with pytest.raises(ImageShapeError):
            Image.load(PIL.Image.new("RGB", size))
        if 0 not in size:
            with pytest.raises(ImageShapeError):
                Image.load(encode(PIL.Image.new("RGB", size)))

    @pytest.mark.parametrize("size", [(4, 4), (4, 800), (2000, 10)])
    def test_the_smallest_and_longest_images_pass(self, size: tuple[int, int]) -> None:
        assert Image.load(PIL.Image.new("RGB", size)).provenance.size == size

    def test_pillow_settings_are_not_touched_by_many_threads(self) -> None:
        before = (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters))
        data = encode(picture(), "JPEG")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            images = set(pool.map(Image.load, [data] * 64))
        assert len(images) == 1
        assert (PIL.Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(name: str, share: float) -> None:
    data = encode(PIL.Image.effect_noise((64, 48), 90).convert("RGB"), name)
    with pytest.raises(ImageError) as caught:
        Image.load(data[: max(int(len(data) * share), 4)])
    assert isinstance(caught.value, (ImageBrokenError, ImageFormatError))


def test_a_truncated_lazy_pil_image_is_refused() -> None:
    data = encode(PIL.Image.effect_noise((64, 48), 90))
    with pytest.raises(ImageBrokenError), PIL.Image.open(io.BytesIO(data[:1500])) as opened:
        Image.load(opened)


def exif(orientation: object) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


class TestOrientation:
    TURNS = (
        None,
        PIL.Image.Transpose.FLIP_LEFT_RIGHT,
        PIL.Image.Transpose.ROTATE_180,
        PIL.Image.Transpose.FLIP_TOP_BOTTOM,
        PIL.Image.Transpose.TRANSPOSE,
        PIL.Image.Transpose.ROTATE_90,
        PIL.Image.Transpose.TRANSVERSE,
        PIL.Image.Transpose.ROTATE_270,
    )

    @pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "JPEG"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_image_is_upright(self, orientation: int, name: str) -> None:
        seen = picture()
        turn = self.TURNS[orientation - 1]  # how the camera stored what was seen
        stored = seen if turn is None else seen.transpose(turn)
        data = encode(stored, name, exif=exif(orientation), **({"lossless": True} if name == "WEBP" else {}))
        image = Image.load(data)
        difference = np.asarray(ImageChops.difference(image.pixels, seen))
        assert difference.mean() < (3 if name == "JPEG" else 0.001)
        assert (image.provenance.orientation, image.provenance.size) == (orientation, seen.size)
        with PIL.Image.open(io.BytesIO(data)) as opened:
            assert Image.load(opened).sha256 == image.sha256

    @pytest.mark.parametrize(
        "block", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM\0*\0\0\0\x08"]
    )
    @pytest.mark.filterwarnings("ignore")
    def test_malformed_exif_is_tolerated(self, block: bytes) -> None:
        image = Image.load(encode(picture(), "WEBP", exif=block, lossless=True))
        assert image.provenance.orientation == 1
        assert image.pixels.tobytes() == picture().tobytes()

    def test_unreadable_exif_is_noted(self) -> None:
        image = Image.load(encode(picture(), "WEBP", exif=b"Exif\0\0garbage!"))
        assert "EXIF unreadable" in image.provenance.notes[0]

    @pytest.mark.parametrize("value", [0, 9, 65535])
    def test_an_unknown_orientation_is_noted(self, value: int) -> None:
        image = Image.load(encode(picture(), "PNG", exif=exif(value)))
        assert image.pixels.tobytes() == picture().tobytes()
        assert image.provenance.orientation == 1
        assert "not 1 to 8" in image.provenance.notes[0]


def _palette(transparency: int | bytes) -> bytes:
    image = PIL.Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 0)
    return encode(image, transparency=transparency)


def _painted(mode: str, clear: object, solid: object) -> PIL.Image.Image:
    image = PIL.Image.new(mode, (8, 8), solid)
    image.putpixel((0, 0), clear)
    return image


TRANSPARENT: dict[str, Callable[[], bytes | PIL.Image.Image]] = {
    "RGBA": lambda: encode(_painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255))),
    "RGBA pil": lambda: _painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)),
    "RGBa pil": lambda: _painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)).convert("RGBa"),
    "RGBA webp": lambda: encode(_painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), "WEBP", lossless=True, exact=True),
    "RGBA tiff": lambda: encode(_painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), "TIFF"),
    "LA": lambda: encode(_painted("LA", (0, 0), (76, 255))),
    "La pil": lambda: _painted("LA", (0, 0), (76, 255)).convert("La"),
    "PA pil": lambda: _painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)).convert("PA"),
    "P + index": lambda: _palette(0),
    "P + bytes": lambda: _palette(b"\0\xff"),
    "P + two": lambda: _palette(b"\x00\xfe"),
    "L + tRNS": lambda: encode(_painted("L", 0, 76), transparency=0),
    "1 + tRNS": lambda: encode(PIL.Image.new("1", (8, 8)), transparency=0),
    "RGB + tRNS": lambda: encode(_painted("RGB", (0, 0, 0), (255, 0, 0)), transparency=(0, 0, 0)),
    "I;16 + tRNS": lambda: png(8, 8, 16, 0, (b"\0" + b"\0\7" + b"\x4c\x4c" * 7) * 8, tRNS=b"\0\7"),
    "gif": lambda: encode(_painted("RGBA", (0, 0, 0, 0), (255, 0, 0, 255)), "GIF"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_is_laid_on_white(name: str) -> None:
    pixels = Image.load(TRANSPARENT[name]()).pixels
    assert pixels.getpixel((0, 0)) == WHITE
    if not name.startswith("1"):
        assert np.abs(np.array(pixels.getpixel((7, 7))) - ([76] * 3 if name[0] in "LI" else RED)).max() <= 1


def test_half_transparent_pixels_are_mixed_with_white() -> None:
    assert corner(PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 51))) == (255, 204, 204)


def test_wide_rgb_with_a_transparent_colour_is_refused() -> None:
    rows = (b"\0" + b"\0\1\0\1\0\1" * 8) * 8
    with pytest.raises(ImageFormatError, match="16-bit RGB"):
        Image.load(png(8, 8, 16, 2, rows, tRNS=b"\0\1\0\1\0\1"))
    assert corner(png(8, 8, 16, 2, rows)) == BLACK
