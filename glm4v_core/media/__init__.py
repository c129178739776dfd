"""Input: images, pages of documents, and the files that contain them."""

from glm4v_core.media.files import find_files
from glm4v_core.media.image import Image, ImageSource, Provenance
from glm4v_core.media.limits import ImageLimits
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import FailedPage, Page, PageInfo, count_pages, load_page, load_pages

__all__ = [
    "FailedPage",
    "Image",
    "ImageLimits",
    "ImageSource",
    "Page",
    "PageInfo",
    "PageOptions",
    "Provenance",
    "count_pages",
    "find_files",
    "load_page",
    "load_pages",
]
