"""The image gate: all images enter through it and become checked, upright RGB pixels with a content hash."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

import PIL.Image

from glm4v_core.errors import ConfigError, ImageError, ImageFormatError
from glm4v_core.media.decode import FORMATS, check_header, count_frames, decoding, open_image, reduce_to_fit
from glm4v_core.media.limits import DEFAULT_LIMITS, ImageLimits
from glm4v_core.media.pixels import encode_png, read_orientation, to_rgb, turns_itself, upright
from glm4v_core.media.source import EncodedSource, Fetch, read_source

__all__ = [
    "DEFAULT_LIMITS",
    "Fetch",
    "Image",
    "ImageLimits",
    "ImageSource",
    "Provenance",
    "check_max_tokens",
    "load_frame",
]

ImageSource = EncodedSource | PIL.Image.Image


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an image came from and what was done to it.

    Attributes:
        source: path, URL without query and credentials, "bytes", "data URI", "file object" or "PIL image".
        format: Pillow's name, "PDF" for a rendered page, "" for pixels that came from no file.
        size: width and height in pixels as a viewer shows them, before any reduction. Boxes are given in these pixels.
        frame: index of the frame, from 0.
        frames: number of frames in the source.
        orientation: EXIF orientation that was applied, 1 to 8; 1 means none.
        notes: changes beyond the documented conversion, and metadata that had to be ignored.
    """

    source: str
    format: str
    size: tuple[int, int]
    frame: int = 0
    frames: int = 1
    orientation: int = 1
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Checked RGB pixels. Images with equal sha256 and max_tokens are equal.

    Attributes:
        pixels: upright, mode RGB, without metadata. Treat as read-only.
        sha256: hex digest of mode, size and pixels.
        provenance: where the image came from.
        max_tokens: maximum number of visual tokens for it; None is the model's own limit.
    """

    pixels: PIL.Image.Image = field(repr=False)
    sha256: str
    provenance: Provenance
    max_tokens: int | None = None

    @classmethod
    def load(
        cls,
        source: ImageSource,
        *,
        frame: int = 0,
        limits: ImageLimits = DEFAULT_LIMITS,
        root: str | os.PathLike[str] | None = None,
        fetch: Fetch | None = None,
        max_image_tokens: int | None = None,
    ) -> Image:
        """Check and decode one image.

        Args:
            source: path, bytes, data URI, binary file object or PIL image. The format (JPEG, PNG, WebP, GIF, BMP or
                TIFF) is detected from the content, not from the name.
            frame: frame of an animation or multi-page TIFF, from 0. `load_pages` reads all of them. For a PIL image it
                must be 0 or its current frame, and the current frame is used.
            limits: upper bounds that are checked before any pixel is decoded.
            root: refuse paths outside this folder, after resolving symbolic links.
            fetch: reads a remote URL. Without it remote URLs are refused; file URLs are always refused. Errors that it
                raises, other than OSError, are passed on unchanged.
            max_image_tokens: becomes `max_tokens`.

        Raises:
            ImageError: the image is refused or cannot be decoded; see its subclasses.
            ConfigError: max_image_tokens is less than 1.
        """
        check_max_tokens(max_image_tokens)
        if isinstance(source, PIL.Image.Image):
            return _from_pillow(source, frame, limits, max_image_tokens)
        encoded = read_source(source, limits, root=root, fetch=fetch)
        opened = open_image(encoded, limits)
        return load_frame(opened, frame, count_frames(opened), encoded.name, limits, max_image_tokens)

    @property
    def width(self) -> int:
        return self.pixels.width

    @property
    def height(self) -> int:
        return self.pixels.height

    def png(self) -> bytes:
        """Return the pixels as a PNG file."""
        return encode_png(self.pixels)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Image):
            return NotImplemented
        return (self.sha256, self.max_tokens) == (other.sha256, other.max_tokens)

    def __hash__(self) -> int:
        return hash((self.sha256, self.max_tokens))


def load_frame(
    opened: PIL.Image.Image, frame: int, frames: int, name: str, limits: ImageLimits, max_tokens: int | None
) -> Image:
    """Decode one frame of an open file. The file stays open for further calls.

    Args:
        opened: from `open_image`.
        frame: index from 0.
        frames: number of frames, from `count_frames`.
        name: of the source, for errors and provenance.
        limits: are checked again for each frame.
        max_tokens: becomes the image's `max_tokens`.

    Raises:
        ImageError: there is no such frame, or it cannot be decoded.
    """
    if not 0 <= frame < frames:
        raise ImageError(f"{name} has {frames} frames; there is no frame {frame}.", hint="Frames are counted from 0.")
    if frames > 1:
        with decoding(name):
            opened.seek(frame)
            check_header(opened, limits, name)
    hidden = frame == 0 and getattr(opened, "default_image", False)
    notes = ("frame 0 is a fallback picture that viewers of the animation do not show",) if hidden else ()
    provenance = Provenance(name, opened.format or "", opened.size, frame, frames, notes=notes)
    return _decode(opened, provenance, limits, max_tokens)


def _from_pillow(image: PIL.Image.Image, frame: int, limits: ImageLimits, max_tokens: int | None) -> Image:
    name = str(getattr(image, "filename", "")) or "PIL image"
    if image.format is not None and image.format not in FORMATS | {"MPO"}:
        raise ImageFormatError(
            f"{name} was opened as {image.format}, which is not accepted.", hint="Pass image.copy()."
        )
    current = image.tell()
    if frame not in (0, current):
        raise ImageError(f"{name} is at frame {current}, not {frame}.", hint="Call image.seek(frame) first.")
    with decoding(name):
        check_header(image, limits, name)
    provenance = Provenance(name, image.format or "", image.size, current, max(count_frames(image), current + 1))
    return _decode(image, provenance, limits, max_tokens)


def _decode(image: PIL.Image.Image, origin: Provenance, limits: ImageLimits, max_tokens: int | None) -> Image:
    notes: list[str] = []
    with decoding(origin.source):
        divisor = reduce_to_fit(image, limits, origin.source)
        orientation = read_orientation(image, notes) if turns_itself(image) else 1
        image.load()
        pixels = to_rgb(image, notes)
        if not turns_itself(image):  # read after load: in a PNG the EXIF data may follow the pixels
            orientation = read_orientation(image, notes)
            pixels = upright(pixels, orientation)
    # Orientations 5 to 8 swap width and height.
    size = origin.size[::-1] if orientation >= 5 and not turns_itself(image) else origin.size
    if divisor > 1:
        notes.append(f"decoded at 1/{divisor} to stay within max_pixels={limits.max_pixels}")
    provenance = Provenance(
        origin.source, origin.format, size, origin.frame, origin.frames, orientation, (*origin.notes, *notes)
    )
    return Image(pixels, _digest(pixels), provenance, max_tokens)


def _digest(pixels: PIL.Image.Image) -> str:
    digest = hashlib.sha256(f"{pixels.mode}:{pixels.width}x{pixels.height}:".encode())
    digest.update(pixels.tobytes())
    return digest.hexdigest()


def check_max_tokens(max_tokens: int | None) -> None:
    """Refuse a token budget below 1.

    Raises:
        ConfigError: max_tokens is less than 1.
    """
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_image_tokens must be at least 1, not {max_tokens}.")
