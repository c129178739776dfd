"""Converts an image in any Pillow mode to upright 8-bit RGB, as a viewer shows it on a white background."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping

import PIL.Image
from PIL import ImageCms, TiffImagePlugin

from glm4v_core.errors import ImageBrokenError
from glm4v_core.media.decode import DECODER_FAILURES

_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS: Mapping[int, PIL.Image.Transpose] = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def read_orientation(image: PIL.Image.Image, notes: list[str]) -> int:
    """Return the EXIF orientation, 1 to 8. If it is damaged, return 1 and append a note to `notes`."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except DECODER_FAILURES as error:
        notes.append(f"EXIF unreadable, orientation not applied: {error}")
        return 1
    if isinstance(value, int) and 1 <= value <= 8:
        return value
    notes.append(f"EXIF orientation {str(value)[:40]} is not 1 to 8, ignored")
    return 1


def upright(image: PIL.Image.Image, orientation: int) -> PIL.Image.Image:
    """Rotate and mirror pixels according to an EXIF orientation, 1 to 8."""
    method = _TRANSPOSITIONS.get(orientation)
    return image if method is None else image.transpose(method)


def turns_itself(image: PIL.Image.Image) -> bool:
    """Tell whether Pillow applies the orientation while decoding, which it does only for TIFF."""
    return isinstance(image, TiffImagePlugin.TiffImageFile)


def to_rgb(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    """Convert to a new RGB image without metadata.

    Depth: 16-bit grey maps 0..65535 to 0..255. 32-bit integers and floats have no nominal range, so the first of
    0..1 (floats only), 0..255 and 0..65535 that contains all values is scaled to 0..255. If none does, the smallest
    value becomes black and the largest white. No value is clipped.
    Colour: an embedded profile is converted to sRGB; a damaged or unsuitable profile is ignored with a note.
    Transparency: the image is composited on white.

    Args:
        image: decoded, in any mode.
        notes: gets a note for everything that had to be ignored.

    Raises:
        ImageBrokenError: a pixel is NaN or infinite.
    """
    profile = image.info.get("icc_profile")
    colour, alpha = _split_alpha(_to_eight_bit(image))
    rgb = _to_srgb(colour, profile, notes)
    if alpha is not None:
        page = PIL.Image.new("RGB", rgb.size, "white")
        page.paste(rgb, mask=alpha)
        rgb = page
    rgb.info.clear()
    return rgb


def _to_eight_bit(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I;16"):
        wide = image.convert("I")
        grey = _scale(wide, 0, 65535)
        key = image.info.get("transparency")
        if not isinstance(key, int):
            return grey
        mask = wide.point([0 if value == key else 255 for value in range(65536)], "L")
        return PIL.Image.merge("LA", (grey, mask))
    if image.mode in ("I", "F"):
        return _scale(image, *_nominal_range(image))
    return image


def _scale(image: PIL.Image.Image, low: float, high: float) -> PIL.Image.Image:
    """Map low..high to 0..255, rounding halves up (0.5 is added because the conversion to L truncates)."""
    factor = 255 / (high - low)
    return image.convert("F").point(lambda value: value * factor + (0.5 - low * factor)).convert("L")


def _nominal_range(image: PIL.Image.Image) -> tuple[float, float]:
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]  # one band: two numbers
    if image.mode == "F":
        # The extrema ignore NaN; the mean of all pixels does not.
        mean = image.resize((1, 1), PIL.Image.Resampling.BOX).getpixel((0, 0))
        if not all(math.isfinite(value) for value in (low, high, mean)):  # type: ignore[arg-type]
            raise ImageBrokenError("The image holds NaN or infinite values.")
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    for top in tops:
        if low >= 0 and high <= top:
            return 0.0, top
    return low, max(high, low + 1)


def _split_alpha(image: PIL.Image.Image) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
    """Split into colour (L, RGB, CMYK or LAB) and alpha, None where opaque."""
    if image.has_transparency_data:
        if image.mode in ("1", "L", "LA", "La"):
            layered = image.convert("LA")
            return layered.getchannel("L"), layered.getchannel("A")
        layered = image.convert("RGBA")
        return layered.convert("RGB"), layered.getchannel("A")
    if image.mode == "1":
        return image.convert("L"), None
    return (image if image.mode in ("L", "RGB", "CMYK", "LAB") else image.convert("RGB")), None


def _to_srgb(colour: PIL.Image.Image, profile: object, notes: list[str]) -> PIL.Image.Image:
    """Convert to RGB, using the embedded colour profile if it is valid."""
    if not isinstance(profile, bytes) or not profile:
        return colour.convert("RGB")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Some grey images carry an RGB profile, which LittleCMS applies to RGB pixels only.
        if colour.mode == "L" and source.profile.xcolor_space.strip() == "RGB":
            colour = colour.convert("RGB")
        converted = ImageCms.profileToProfile(colour, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, ImportError, *DECODER_FAILURES) as error:
        notes.append(f"colour profile ignored: {error}")
        return colour.convert("RGB")
    return converted if converted is not None else colour.convert("RGB")


def encode_png(pixels: PIL.Image.Image, *, compress_level: int = 6) -> bytes:
    """Return pixels as the bytes of a PNG file.

    Args:
        pixels: in any mode that PNG supports.
        compress_level: 1 is the fastest, 9 gives the smallest file.
    """
    file = io.BytesIO()
    pixels.save(file, "PNG", compress_level=compress_level)
    return file.getvalue()
