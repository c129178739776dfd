"""`PageOptions`: how documents are opened; used by everything that reads pages."""

from __future__ import annotations

import os
from functools import cache
from typing import Annotated, Literal, Unpack

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, with_config

# pydantic reads a TypedDict of the standard library only from Python 3.12 on.
from typing_extensions import TypedDict

from glm4v_core.media.limits import ImageLimits
from glm4v_core.media.source import Fetch
from glm4v_core.validation import to_config_error

Frames = Literal["all", "first"] | PositiveInt

DOCUMENT_LIMITS = ImageLimits(max_bytes=512 * 2**20)
"""Like the limits for a single image, but with a larger file size."""


# Strict, because some of these values are used as the caller gave them, without pydantic's conversion.
@with_config(extra="forbid", strict=True)
class PageOptions(TypedDict, total=False):
    """Options of `load_pages`.

    Attributes:
        dpi: resolution of PDF pages, 200 by default. A page that would exceed `limits.max_pixels` is rendered at a
            lower resolution, with a note in its provenance.
        frames: which pages or frames to read: "all" (the default), "first", or a number of pages from the start.
        max_pages: maximum number of pages to read, 1000 by default. More are refused before any page is read.
        password: for an encrypted PDF.
        limits: for the file and for each page image.
        root: see `Image.load`.
        fetch: see `Image.load`.
        max_image_tokens: see `Image.load`.
    """

    dpi: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    frames: Frames
    max_pages: PositiveInt
    password: str | None
    limits: ImageLimits
    root: str | os.PathLike[str] | None
    fetch: Fetch | None
    max_image_tokens: PositiveInt | None


DEFAULTS = PageOptions(
    dpi=200,
    frames="all",
    max_pages=1000,
    password=None,
    limits=DOCUMENT_LIMITS,
    root=None,
    fetch=None,
    max_image_tokens=None,
)


def check_page_options(**options: Unpack[PageOptions]) -> PageOptions:
    """Check page options and return them, with defaults for those that are missing.

    Raises:
        UnknownOptionError: a name that is not in `PageOptions`.
        ConfigError: a value of the wrong type or out of bounds. A password is not shown.
    """
    try:
        return DEFAULTS | _adapter().validate_python(options)
    except ValidationError as error:
        problem = to_config_error(error, "load_pages", DEFAULTS, hidden={"password"})
    raise problem


@cache
def _adapter() -> TypeAdapter[PageOptions]:
    return TypeAdapter(PageOptions)
