"""What the HTML reports share: one self-contained page without scripts, and pictures as data URIs."""

from __future__ import annotations

import base64
import hashlib
import io
from html import escape
from importlib.resources import files

from glm4v_core.media.image import Image

THUMBNAIL = (560, 720)
"""Most width and height of a page picture in pixels: legible, and 20 to 40 kB as JPEG."""


def page_start(title: str, language: str) -> str:
    """Open an HTML page that may load nothing and run nothing; its style is allowed by its hash."""
    style = files(__package__).joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html>\n<html lang="{"zh-CN" if language == "zh" else "en"}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
    )


PAGE_END = "</body>\n</html>\n"


def data_uri(image: Image) -> str:
    """Shrink the page to a picture that a report can carry in itself."""
    picture = image.pixels.copy()
    picture.thumbnail(THUMBNAIL)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=72, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture_html(uri: str | None, name: str) -> str:
    """Write the picture's element, with the page's name for those who cannot see it."""
    return f'<img src="{escape(uri)}" alt="{escape(name)}" loading="lazy">' if uri else ""
