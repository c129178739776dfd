"""Opens encoded images of allowed formats, detected by magic bytes; decoder failures become typed errors."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import PIL.Image
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from glm4v_core.errors import Glm4vError, ImageBrokenError, ImageFormatError, ImageTooLargeError
from glm4v_core.media.limits import ImageLimits, check_pixels, check_shape
from glm4v_core.media.source import Encoded

_PLUGINS: Mapping[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
"""Used directly instead of `PIL.Image.open`, which warns about large images that our own limits already check, and
treats the extra pictures in a JPEG (previews, gain maps) as frames."""

FORMATS = frozenset(_PLUGINS)

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)

_REFUSED = (
    (b"%!PS", "PostScript or EPS"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"\x1f\x8b", "gzip (a compressed SVG?)"),
    (b"PK\x03\x04", "a zip archive or office document"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\x01\0", "an icon"),
    (b"icns", "an icon"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"SIMPLE", "FITS"),
)

DECODER_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    EOFError,
    RuntimeError,
    BufferError,
    struct.error,
    zlib.error,
    Warning,  # if the caller's filters turn warnings into errors
)
"""What Pillow and pdfium are known to raise on damaged or hostile files."""


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn exceptions of a decoder into ImageError subclasses; `name` is the image's name in the message."""
    try:
        yield
    except Glm4vError:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLargeError(f"{name} would take too much memory: {error}") from error
    except DECODER_FAILURES as error:
        raise ImageBrokenError(f"{name} cannot be decoded: {error}") from error


def is_pdf(data: bytes) -> bool:
    """Tell whether a file is a PDF. Its header may be anywhere in the first 1024 bytes."""
    return b"%PDF-" in data[:1024] and _image_format(data) is None


def sniff(encoded: Encoded) -> str:
    """Return the image's format, detected from magic bytes alone since suffixes and media types may be wrong.

    Raises:
        ImageFormatError: the format is not accepted.
    """
    found = _image_format(encoded.data)
    if found is not None:
        return found
    if is_pdf(encoded.data):
        raise ImageFormatError(f"{encoded.name} is a PDF.", hint="Read its pages with load_pages().")
    raise ImageFormatError(f"{encoded.name} is {_describe(encoded.data)}, which is not accepted.")


def _image_format(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def _describe(data: bytes) -> str:
    head = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"<"):
        if b"<svg" in head:
            return "an SVG drawing"
        return "an HTML page (a failed download?)" if b"<html" in head or b"<!doctype html" in head else "XML"
    if data[4:8] == b"ftyp":
        return "HEIC, AVIF or a video"
    return next((name for magic, name in _REFUSED if data.startswith(magic)), "in an unknown format")


def open_image(encoded: Encoded, limits: ImageLimits) -> ImageFile.ImageFile:
    """Read the header and check it against the limits. No pixel is decoded yet.

    Raises:
        ImageError: the format is not accepted, the header is damaged, or the image exceeds the limits.
    """
    plugin = _PLUGINS[sniff(encoded)]
    with decoding(encoded.name):
        opened = plugin(io.BytesIO(encoded.data))
        check_header(opened, limits, encoded.name)
    return opened


def check_header(opened: PIL.Image.Image, limits: ImageLimits, name: str) -> None:
    """Check the current frame against the limits and refuse images that Pillow would decode wrongly.

    Raises:
        ImageError: the frame exceeds the limits, or Pillow cannot decode it correctly.
    """
    check_shape(opened.size, limits, name)
    if not _can_reduce(opened):
        check_pixels(opened.size, limits, name)
    _check_tile(opened, limits, name)
    _refuse_lost_transparency(opened, name)


def _check_tile(opened: PIL.Image.Image, limits: ImageLimits, name: str) -> None:
    """Check the size of a TIFF's tiles: a tile may be larger than the image, and a decoder needs all of it."""
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        width, height = (opened.tag_v2.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
        check_pixels((width, height), limits, f"A tile of {name}")


def _refuse_lost_transparency(opened: PIL.Image.Image, name: str) -> None:
    """Refuse 16-bit RGB with a transparent colour.

    Pillow keeps only the upper 8 bits of each channel, so similar colours would become transparent too.
    """
    key = opened.info.get("transparency")
    if opened.mode != "RGB" or not isinstance(key, tuple):
        return
    if max(key) > 255 or any("16" in str(tile.args) for tile in getattr(opened, "tile", ())):
        raise ImageFormatError(f"{name} is 16-bit RGB with a transparent colour.", hint="Save it as RGBA or 8-bit.")


def _can_reduce(opened: PIL.Image.Image) -> bool:
    """Tell whether a reduced image can be decoded with less memory; a progressive JPEG is kept in memory as a whole."""
    # Pillow clears `tile` once the pixels are decoded; after that the decoder cannot reduce any more.
    undecoded = isinstance(opened, JpegImagePlugin.JpegImageFile) and bool(opened.tile)
    return undecoded and "progressive" not in opened.info


def reduce_to_fit(opened: PIL.Image.Image, limits: ImageLimits, name: str) -> int:
    """Let the JPEG decoder reduce an image over `limits.max_pixels` to 1/2, 1/4 or 1/8 of its width and height.

    Returns:
        The divisor; 1 if the image is not reduced.

    Raises:
        ImageTooLargeError: even reduced, the image is too large.
    """
    width, height = opened.size
    if width * height <= limits.max_pixels:
        return 1
    for divisor in (2, 4, 8):
        if -(-width // divisor) * -(-height // divisor) <= limits.max_pixels:  # the decoder rounds up
            opened.draft(None, (width // divisor, height // divisor))
            break
    check_pixels(opened.size, limits, f"{name}, even reduced,")
    return round(width / opened.width)


def count_frames(opened: PIL.Image.Image) -> int:
    """Count the frames without decoding them. A damaged frame between intact ones counts; reading it fails."""
    try:
        return int(getattr(opened, "n_frames", 1))
    except DECODER_FAILURES:
        return _count_by_seeking(opened)


def _count_by_seeking(opened: PIL.Image.Image, patience: int = 16) -> int:
    """Count frames by seeking past damaged ones. More than `patience` damaged frames in a row count as one."""
    sound = frame = 0  # sound: one past the last intact frame
    while frame - sound <= patience:
        try:
            opened.seek(frame)
            sound = frame + 1
        except EOFError:
            return max(frame, 1)
        except DECODER_FAILURES:
            pass
        frame += 1
    return sound + 1
