"""A PDF becomes its pages."""

import sys
from pathlib import Path

from glm4v_core import load_pages

pages = list(load_pages(Path(sys.argv[1]) / "three-pages.pdf"))
assert [page.number for page in pages] == [1, 2, 3]
assert all(page.image.pixels.width > 100 for page in pages)
