"""Page images of documents: PDF, multi-frame TIFF, GIF, WebP and PNG. A single picture is one page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal, Protocol, Unpack, overload

import PIL.Image

from glm4v_core.errors import InputError, PageBrokenError, PageError, PageLimitError
from glm4v_core.media.decode import count_frames, is_pdf, open_image
from glm4v_core.media.image import Image, ImageSource, load_frame
from glm4v_core.media.limits import ImageLimits
from glm4v_core.media.page_options import PageOptions, check_page_options
from glm4v_core.media.pdf import PdfDocument
from glm4v_core.media.source import Encoded, read_source
from glm4v_core.validation import check_choice

OnBrokenPage = Literal["raise", "yield"]


@dataclass(frozen=True, slots=True)
class Page:
    """One page image. `number` counts from 1; `count` is the length of the whole document."""

    image: Image
    source: str
    number: int
    count: int


@dataclass(frozen=True, slots=True)
class PageInfo:
    """Which page a result is about.

    Attributes:
        source: path or other name of the document.
        number: counts from 1; 0 means the whole source, if it could not be opened.
        count: pages of the document.
        sha256: of the image, so that equal pages are recognised under any name.
        format: see `Provenance`, like the next three.
        size: width and height in pixels.
        orientation: EXIF orientation.
        notes: what was changed or ignored.
    """

    source: str
    number: int = 0
    count: int = 0
    sha256: str = ""
    format: str = ""
    size: tuple[int, int] = (0, 0)
    orientation: int = 1
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, page: Page) -> PageInfo:
        """Describe a page without its pixels."""
        origin = page.image.provenance
        return cls(
            source=str(page.source),
            number=page.number,
            count=page.count,
            sha256=page.image.sha256,
            format=origin.format,
            size=origin.size,
            orientation=origin.orientation,
            notes=origin.notes,
        )


@dataclass(frozen=True, slots=True)
class FailedPage:
    """A page that could not be read; other pages of the document may be readable."""

    error: PageError
    source: str
    number: int
    count: int


@overload
def load_pages(
    source: ImageSource, *, errors: Literal["raise"] = "raise", **options: Unpack[PageOptions]
) -> Iterator[Page]: ...


@overload
def load_pages(
    source: ImageSource, *, errors: Literal["yield"], **options: Unpack[PageOptions]
) -> Iterator[Page | FailedPage]: ...


def load_pages(
    source: ImageSource, *, errors: OnBrokenPage = "raise", **options: Unpack[PageOptions]
) -> Iterator[Page | FailedPage]:
    """Read the pages of a document one by one; only one page is decoded at a time.

    The options are checked immediately; the document is opened when the first page is requested. Closing the iterator
    closes the document.

    Args:
        source: see `Image.load`; PDF is accepted too.
        errors: what to do with a page that cannot be read: "raise" stops there, "yield" yields a FailedPage and
            continues. A document that cannot be opened always raises.
        **options: see `PageOptions`.

    Raises:
        PageLimitError: the selection has more than max_pages pages.
        PageEncryptedError: the password is missing or wrong.
        PageBrokenError: the document or a page cannot be read.
    """
    check_choice("errors", errors, OnBrokenPage)
    return _iterate(source, check_page_options(**options), tolerant=errors == "yield")


def load_page(source: ImageSource, number: int, **options: Unpack[PageOptions]) -> Page:
    """Read one page, counted from 1, without decoding any other.

    Args:
        source: see `load_pages`.
        number: of a page that `load_pages` would read.
        **options: see `PageOptions`.

    Raises:
        PageError: there is no such page, or it cannot be read; see `load_pages`.
    """
    checked = check_page_options(**options)
    with closing(_open(source, checked)) as document:
        last = _selected(document, checked)
        if not 1 <= number <= last:
            raise PageError(f"{document.name} has no page {number}.", hint=f"Pages go from 1 to {last}.")
        page = _read(document, number)
    if isinstance(page, FailedPage):
        raise page.error
    return page


def count_pages(source: ImageSource, **options: Unpack[PageOptions]) -> int:
    """Count the pages that `load_pages` would read, without decoding them. Broken pages count too.

    Raises:
        PageError: the document cannot be opened, or has too many pages; see `load_pages`.
    """
    checked = check_page_options(**options)
    with closing(_open(source, checked)) as document:
        return _selected(document, checked)


def _iterate(source: ImageSource, options: PageOptions, *, tolerant: bool) -> Iterator[Page | FailedPage]:
    with closing(_open(source, options)) as document:
        for number in range(1, _selected(document, options) + 1):
            page = _read(document, number)
            if isinstance(page, FailedPage) and not tolerant:
                raise page.error
            yield page


def _open(source: ImageSource, options: PageOptions) -> _Document:
    limits, max_tokens = options["limits"], options["max_image_tokens"]
    if isinstance(source, PIL.Image.Image):
        return _Picture(source, limits, max_tokens)
    encoded = read_source(source, limits, root=options["root"], fetch=options["fetch"])
    if is_pdf(encoded.data):
        return PdfDocument(encoded, options)
    return _Frames(encoded, limits, max_tokens)


def _selected(document: _Document, options: PageOptions) -> int:
    frames, most = options["frames"], options["max_pages"]
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
        if frames > 1 and picture.format != "MPO":  # the extra pictures in an MPO are previews, not pages
            raise PageError(f"The PIL image has {frames} frames.", hint="Pass the file, or each frame separately.")
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
            self._opened = open_image(self._encoded, self._limits)  # the state of a decoder after a failure is unknown
            raise

    def close(self) -> None:
        self._opened.close()
