"""Documents -> page images: PDF, multi-frame TIFF, GIF, WebP and PNG, or a single picture as one page."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypedDict, Unpack, overload

import PIL.Image

from glm4v_core.errors import (
    ConfigError,
    InputError,
    MissingDependencyError,
    PageBrokenError,
    PageEncryptedError,
    PageError,
    PageLimitError,
)
from glm4v_core.media.decode import count_frames, decoding, is_pdf, open_image
from glm4v_core.media.image import Image, ImageSource, Provenance, check_max_tokens, load_frame
from glm4v_core.media.limits import ImageLimits, check_shape
from glm4v_core.media.source import Encoded, Fetch, read_source

if TYPE_CHECKING:
    import pypdfium2

__all__ = ["DOCUMENT_LIMITS", "FailedPage", "Page", "count_pages", "load_page", "load_pages"]

Frames = Literal["all", "first"] | int

DOCUMENT_LIMITS = ImageLimits(max_bytes=512 * 2**20)
"""As for a single image, but a document may have more bytes."""

_PDFIUM = threading.RLock()
"""pdfium is not thread-safe. Re-entrant, because the garbage collector may close one document amid another's call."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page image. `number` counts from 1; `count` is the length of the document, not of the selection."""

    image: Image
    source: str
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class FailedPage:
    """A page that could not be read, while others of its document can."""

    error: PageError
    source: str
    number: int
    count: int


class PageOptions(TypedDict, total=False):
    """Settings of `load_pages`.

    Attributes:
        dpi: resolution of PDF pages, 200 if left out; a page over `limits.max_pixels` is rendered at what fits, and
            provenance says so.
        frames: "all" pages (of a PDF) or frames, the "first", or a number: that many at most, from the first.
        max_pages: a selection of more pages, 1000 if left out, is refused before any is read.
        password: opens an encrypted PDF.
        limits: caps for the file and for each page image.
        root: as for `Image.load`, and so are `fetch` and `max_image_tokens`.
    """

    dpi: float
    frames: Frames
    max_pages: int
    password: str | None
    limits: ImageLimits
    root: str | os.PathLike[str] | None
    fetch: Fetch | None
    max_image_tokens: int | None


@overload
def load_pages(
    source: ImageSource, *, errors: Literal["raise"] = "raise", **options: Unpack[PageOptions]
) -> Iterator[Page]: ...


@overload
def load_pages(
    source: ImageSource, *, errors: Literal["yield"], **options: Unpack[PageOptions]
) -> Iterator[Page | FailedPage]: ...


def load_pages(
    source: ImageSource, *, errors: Literal["raise", "yield"] = "raise", **options: Unpack[PageOptions]
) -> Iterator[Page | FailedPage]:
    """Read the pages of a document one after the other; only one is decoded at a time.

    Settings are checked at once, the document when the first page is asked for. Closing the iterator closes it.

    Args:
        source: as for `Image.load`, and PDF.
        errors: "yield" gives a FailedPage for a page that cannot be read and goes on; "raise" stops at it,
            and a document that cannot be opened raises either way.
        **options: see `PageOptions`.

    Raises:
        PageLimitError: more than max_pages were selected.
        PageEncryptedError: the password is missing or wrong.
        PageBrokenError: the document or, with its number, a page cannot be read.
    """
    if errors not in ("raise", "yield"):
        raise ConfigError(f"errors is {errors!r}; it must be 'raise' or 'yield'.")
    return _iterate(source, _Settings(**options), tolerant=errors == "yield")


def load_page(source: ImageSource, number: int, **options: Unpack[PageOptions]) -> Page:
    """Read one page, counted from 1, without decoding any other.

    Args:
        source: as for `load_pages`.
        number: of a page that `load_pages` would read.
        **options: see `PageOptions`.

    Raises:
        PageError: there is no such page, or as for `load_pages`.
    """
    settings = _Settings(**options)
    with closing(_open(source, settings)) as document:
        last = _selected(document, settings)
        if not 1 <= number <= last:
            raise PageError(f"{document.name} has no page {number}.", hint=f"Pages go from 1 to {last}.")
        page = _read(document, number)
    if isinstance(page, FailedPage):
        raise page.error
    return page


def count_pages(source: ImageSource, **options: Unpack[PageOptions]) -> int:
    """Count the pages that `load_pages` would read, without decoding one.

    Raises:
        PageError: as for `load_pages`, but broken pages count.
    """
    settings = _Settings(**options)
    with closing(_open(source, settings)) as document:
        return _selected(document, settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    """Page options, complete and checked."""

    dpi: float = 200
    frames: Frames = "all"
    max_pages: int = 1000
    password: str | None = None
    limits: ImageLimits = DOCUMENT_LIMITS
    root: str | os.PathLike[str] | None = None
    fetch: Fetch | None = None
    max_image_tokens: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dpi) and self.dpi > 0):
            raise ConfigError(f"dpi is {self.dpi}; it must be a positive number.")
        if self.frames not in ("all", "first") and not (isinstance(self.frames, int) and self.frames >= 1):
            raise ConfigError(f"frames is {self.frames!r}; it must be 'all', 'first' or a positive number.")
        if self.max_pages < 1:
            raise ConfigError(f"max_pages is {self.max_pages}; it must be positive.")
        check_max_tokens(self.max_image_tokens)


def _iterate(source: ImageSource, settings: _Settings, *, tolerant: bool) -> Iterator[Page | FailedPage]:
    with closing(_open(source, settings)) as document:
        for number in range(1, _selected(document, settings) + 1):
            page = _read(document, number)
            if isinstance(page, FailedPage) and not tolerant:
                raise page.error
            yield page


def _open(source: ImageSource, settings: _Settings) -> _Document:
    limits, max_tokens = settings.limits, settings.max_image_tokens
    if isinstance(source, PIL.Image.Image):
        return _Picture(source, limits, max_tokens)
    encoded = read_source(source, limits, root=settings.root, fetch=settings.fetch)
    if is_pdf(encoded.data):
        return _Pdf(encoded, settings)
    return _Frames(encoded, limits, max_tokens)


def _selected(document: _Document, settings: _Settings) -> int:
    frames, most = settings.frames, settings.max_pages
    wanted = document.count if frames == "all" else min(document.count, 1 if frames == "first" else frames)
    if wanted > most:
        raise PageLimitError(f"{document.name} has {document.count} pages, over max_pages={most}.")
    return wanted


def _read(document: _Document, number: int) -> Page | FailedPage:
    try:
        return Page(document.image(number), document.name, number, document.count)
    except InputError as cause:
        error = PageBrokenError(f"Page {number} of {document.count}: {cause.message}", hint=cause.hint)
        error.number, error.__cause__ = number, cause
        return FailedPage(error, document.name, number, document.count)


class _Document(Protocol):
    """An opened document; pages are counted from 1."""

    name: str
    count: int

    def image(self, number: int) -> Image: ...

    def close(self) -> None: ...


class _Picture:
    """A PIL image as a document of one page."""

    count = 1

    def __init__(self, picture: PIL.Image.Image, limits: ImageLimits, max_tokens: int | None) -> None:
        frames = count_frames(picture)
        if frames > 1 and picture.format != "MPO":  # the extra pictures of an MPO are previews, not pages
            raise PageError(f"The PIL image has {frames} frames.", hint="Pass the file, or each frame by itself.")
        self._image = Image.load(picture, limits=limits, max_image_tokens=max_tokens)
        self.name = self._image.provenance.source

    def image(self, number: int) -> Image:
        return self._image

    def close(self) -> None:
        pass


class _Frames:
    """An encoded image with one or more frames."""

    def __init__(self, encoded: Encoded, limits: ImageLimits, max_tokens: int | None) -> None:
        self.name = encoded.name
        self._encoded, self._limits, self._max_tokens = encoded, limits, max_tokens
        self._opened = open_image(encoded, limits)
        self.count = count_frames(self._opened)

    def image(self, number: int) -> Image:
        try:
            return load_frame(self._opened, number - 1, self.count, self.name, self._limits, self._max_tokens)
        except InputError:
            self._opened = open_image(self._encoded, self._limits)  # a failed decoder cannot be trusted with the rest
            raise

    def close(self) -> None:
        self._opened.close()


class _Pdf:
    """A PDF, rendered page by page."""

    def __init__(self, encoded: Encoded, settings: _Settings) -> None:
        self.name = encoded.name
        self._dpi, self._limits, self._max_tokens = settings.dpi, settings.limits, settings.max_image_tokens
        with _PDFIUM, ExitStack() as undo:
            self._document = undo.enter_context(closing(_open_pdf(encoded, settings.password)))
            self._document.init_forms()  # else the values of filled-in forms stay invisible
            self.count = len(self._document)
            undo.pop_all()

    def image(self, number: int) -> Image:
        with decoding(self.name):
            picture, dpi = self._render(number)
        image = Image.load(picture, limits=self._limits, max_image_tokens=self._max_tokens)
        notes = (
            ()
            if dpi == self._dpi
            else (f"rendered at {dpi:.0f} instead of {self._dpi:g} dpi to stay within max_pixels",)
        )
        origin = Provenance(self.name, "PDF", picture.size, number - 1, self.count, notes=notes)
        return replace(image, provenance=origin)

    def _render(self, number: int) -> tuple[PIL.Image.Image, float]:
        with _PDFIUM, closing(self._document[number - 1]) as page:
            dpi = _fitting_dpi(page.get_size(), self._dpi, self._limits, self.name)
            with closing(page.render(scale=dpi / 72)) as bitmap:
                return bitmap.to_pil().copy(), dpi  # a copy: the bitmap's memory goes

    def close(self) -> None:
        with _PDFIUM:
            self._document.close()


def _open_pdf(encoded: Encoded, password: str | None) -> pypdfium2.PdfDocument:
    try:
        import pypdfium2
    except ImportError as error:
        raise MissingDependencyError("Reading PDF needs pypdfium2: pip install 'glm4v[documents]'.") from error
    try:
        return pypdfium2.PdfDocument(encoded.data, password=password)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pypdfium2.raw.FPDF_ERR_PASSWORD, pypdfium2.raw.FPDF_ERR_SECURITY):
            state = "needs a password" if password is None else "does not open with this password"
            raise PageEncryptedError(f"{encoded.name} {state}.") from error
        raise PageBrokenError(f"{encoded.name} cannot be read: {error}") from error


def _fitting_dpi(points: tuple[float, float], dpi: float, limits: ImageLimits, name: str) -> float:
    """Lower the resolution until a page of this size, in points of 1/72 inch, keeps to the pixel cap."""

    def pixels(resolution: float) -> tuple[int, int]:
        width, height = (math.ceil(side * resolution / 72) for side in points)
        return width, height

    check_shape(pixels(dpi), limits, name)
    while math.prod(size := pixels(dpi)) > limits.max_pixels:
        dpi *= min(0.999, math.sqrt(limits.max_pixels / math.prod(size)))
    return dpi
