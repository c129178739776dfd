"""PDF pages as images, rendered by pypdfium2."""

from __future__ import annotations

import math
import threading
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

import PIL.Image

from glm4v_core.errors import MissingDependencyError, PageBrokenError, PageEncryptedError
from glm4v_core.media.decode import decoding
from glm4v_core.media.image import Image, Provenance
from glm4v_core.media.limits import ImageLimits, check_shape
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.source import Encoded

if TYPE_CHECKING:
    import pypdfium2

_PDFIUM = threading.RLock()
"""pdfium is not thread-safe. Re-entrant, because the garbage collector may close one document during another's call."""


class PdfDocument:
    """An open PDF, rendered page by page; pages are counted from 1."""

    def __init__(self, encoded: Encoded, options: PageOptions) -> None:
        """Open a PDF.

        Args:
            encoded: the file.
            options: from `check_page_options`.

        Raises:
            PageEncryptedError: the password is missing or wrong.
            PageBrokenError: the file cannot be read.
            MissingDependencyError: pypdfium2 is not installed.
        """
        self.name = encoded.name
        self._dpi, self._limits, self._max_tokens = options["dpi"], options["limits"], options["max_image_tokens"]
        with _PDFIUM, ExitStack() as undo:
            self._document = undo.enter_context(closing(_open(encoded, options["password"])))
            self._document.init_forms()  # without this, the values of filled-in forms are not rendered
            self.count = len(self._document)
            undo.pop_all()

    def image(self, number: int) -> Image:
        """Render one page, counted from 1."""
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
                return bitmap.to_pil().copy(), dpi  # a copy, since closing the bitmap frees its memory

    def close(self) -> None:
        with _PDFIUM:
            self._document.close()


def _open(encoded: Encoded, password: str | None) -> pypdfium2.PdfDocument:
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
    """Lower the resolution until a page of this size, in points (1/72 inch), fits into `limits.max_pixels`."""

    def pixels(resolution: float) -> tuple[int, int]:
        width, height = (math.ceil(side * resolution / 72) for side in points)
        return width, height

    check_shape(pixels(dpi), limits, name)
    # The pixel count grows with the square of the resolution. Rounding up may leave a little too much, hence the loop.
    while math.prod(size := pixels(dpi)) > limits.max_pixels:
        dpi *= min(0.999, math.sqrt(limits.max_pixels / math.prod(size)))
    return dpi
