"""HTML pages from the templates in this folder. Values are escaped; pages load no other files and run no scripts."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from glm4v_core.errors import MissingDependencyError
from glm4v_core.media.image import Image

if TYPE_CHECKING:
    import jinja2

THUMBNAIL = (560, 720)
"""Maximum width and height of a page's picture in pixels: legible, and 20 to 40 kB as JPEG."""


def template(name: str) -> jinja2.Template:
    """Load a template of this folder.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    return _environment().get_template(name)


def macros(name: str) -> Any:
    """Load a template whose macros can be called from Python, to write a page in parts.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    return template(name).module


def data_uri(image: Image) -> str:
    """Return a scaled-down JPEG of a page as a data URI, to embed in HTML."""
    picture = image.pixels.copy()
    picture.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


@cache
def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingDependencyError("Reports need jinja2.", hint="pip install 'glm4v[cli]'") from error
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("glm4v_core", "html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = files("glm4v_core.html").joinpath("report.css").read_text("utf-8")
    environment.globals["style"] = style
    environment.globals["style_hash"] = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment.filters["indented_json"] = _indented_json
    return environment


def _indented_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)
