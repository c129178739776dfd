"""Reads the bytes of an image from a path, bytes, a data URI, a file object or, with a fetch policy, a URL."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import re
import stat
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from glm4v_core.errors import ImageBrokenError, ImageError, ImageFormatError, ImageNotFoundError, ImageUrlError
from glm4v_core.media.limits import ImageLimits, check_bytes

EncodedSource = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
Fetch = Callable[[str], bytes]
"""A fetch policy: takes a URL, decides whether it may be read, and returns its bytes or raises an error."""

_URL = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)  # at least two letters, since C:// is a Windows drive
_SECRETS = re.compile(r"(?<=//)[^/@]*@|[?#].*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Encoded:
    """Undecoded bytes, never empty, with their name for errors and provenance."""

    data: bytes
    name: str


def read_source(
    source: EncodedSource,
    limits: ImageLimits,
    *,
    root: str | os.PathLike[str] | None = None,
    fetch: Fetch | None = None,
) -> Encoded:
    """Read the encoded bytes of a source.

    Args:
        source: see `Image.load`, and so are `root` and `fetch`.
        limits: at most `max_bytes` are read.
        root: refuse paths outside this folder.
        fetch: reads remote URLs.

    Raises:
        ImageError: the source cannot be read, is empty or too large, or is refused.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        encoded = Encoded(bytes(source), "bytes")
    elif isinstance(source, (str, os.PathLike)):
        encoded = _read_text(os.fspath(source), limits, root, fetch)
    elif hasattr(source, "read"):
        encoded = _read_file(source, limits)
    else:
        raise ImageFormatError(
            f"Cannot load an image from {type(source).__name__}.",
            hint="Pass a path, bytes, a data URI, a file object or a PIL image.",
        )
    check_bytes(len(encoded.data), limits, encoded.name)
    if not encoded.data:
        raise ImageBrokenError(f"{encoded.name} is empty: 0 bytes.")
    return encoded


def _read_text(text: object, limits: ImageLimits, root: str | os.PathLike[str] | None, fetch: Fetch | None) -> Encoded:
    if not isinstance(text, str):
        raise ImageFormatError("Byte strings as paths are not accepted.", hint="Decode it with os.fsdecode().")
    if text[:5].lower() == "data:":
        return Encoded(_decode_data_uri(text[5:], limits), "data URI")
    if url := _URL.match(text):
        return _fetch(text, url[1].lower(), fetch)
    return Encoded(_read_path(text, limits, root), text)


def check_url(url: str, *, hint: str = "Pass a file by its path or its bytes, not as a URL.") -> str:
    """Return a data, http or https URL unchanged and refuse everything else.

    For fields that should contain a URL but may come from an untrusted source: as a path, their text could name any
    file on this machine. `Image.load` and `load_pages` refuse http and https URLs unless there is a fetch policy.

    Raises:
        ImageUrlError: it is not such a URL; the error has the given `hint`.
    """
    scheme, separator, _ = url.partition(":")
    if separator and scheme.lower() in ("data", "http", "https"):
        return url
    raise ImageUrlError(f"The URL must be a data URI, not {url[:60]!r}.", hint=hint)


def _decode_data_uri(rest: str, limits: ImageLimits) -> bytes:
    """Decode the part after `data:`. The media type is ignored: the format is detected from the content."""
    header, comma, payload = rest.partition(",")
    if not comma:
        raise ImageBrokenError("The data URI has no comma.", hint="Write data:image/png;base64,... with base64 data.")
    # 4 base64 characters are 3 bytes, of which up to 2 are padding. Checked first, so that a huge URI is never decoded.
    check_bytes(len(payload) * 3 // 4 - 2, limits, "data URI")
    raw = urllib.parse.unquote_to_bytes(payload)
    if not header.lower().endswith(";base64"):
        return raw
    # Line breaks and missing padding are common and harmless; any other wrong character is an error.
    packed = b"".join(raw.split()).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except binascii.Error as error:
        raise ImageBrokenError(f"The data URI holds invalid base64: {error}.") from error


def _fetch(url: str, scheme: str, fetch: Fetch | None) -> Encoded:
    name = _SECRETS.sub("", url)
    if scheme == "file":  # always refused: a field meant for web addresses must not read files
        raise ImageUrlError(f"{name} is a file URL.", hint="Pass the path itself.")
    if fetch is None:
        raise ImageUrlError(f"{name} is a remote URL, and no fetch policy was given.")
    try:
        data = fetch(url)
    except OSError as error:
        raise ImageUrlError(f"{name} could not be fetched: {error}", hint="Check the address and policy.") from error
    if not isinstance(data, bytes):
        raise ImageUrlError(f"The fetch policy returned {type(data).__name__}.", hint="Return bytes.")
    return Encoded(data, name)


def _read_path(path: str, limits: ImageLimits, root: str | os.PathLike[str] | None) -> bytes:
    try:
        target = path if root is None else _inside(path, root)
        with open(target, "rb", opener=_opener(follow_links=root is None)) as file:
            status = os.fstat(file.fileno())
            _check_regular(status, path, limited=root is not None)
            check_bytes(status.st_size, limits, path)
            return file.read(limits.max_bytes + 1)  # the file may have grown since
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        _raise_unreadable(path, error)


def _inside(path: str, root: str | os.PathLike[str]) -> str:
    """Resolve every symbolic link, then refuse what lies outside root."""
    target = os.path.realpath(path, strict=True)
    limit = os.path.realpath(root, strict=True)
    if os.path.commonpath([target, limit]) != limit:
        raise ImageNotFoundError(f"{path} lies outside {root}.", hint="Pass a path under the root.")
    return target


def _opener(*, follow_links: bool) -> Callable[[str, int], int]:
    """Open a file without blocking on a pipe, and without following a link that was created after the check."""
    extra = getattr(os, "O_NONBLOCK", 0) | (0 if follow_links else getattr(os, "O_NOFOLLOW", 0))
    return lambda path, flags: os.open(path, flags | extra)


def _check_regular(status: os.stat_result, path: str, *, limited: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageFormatError(f"{path} is a pipe or a device.", hint="Pass a regular file.")
    if limited and status.st_nlink > 1:
        raise ImageNotFoundError(
            f"{path} has hard links, so it may be a file from outside the root.", hint="Copy the file into the root."
        )


def _raise_unreadable(path: str, error: OSError | ValueError) -> NoReturn:
    shown = path if len(path) <= 200 else f"{path[:200]}..."
    if isinstance(error, IsADirectoryError):
        raise ImageFormatError(f"{shown} is a directory.", hint="Pass one file.") from error
    if isinstance(error, FileNotFoundError):
        raise ImageNotFoundError(f"There is no file {shown!r}.") from error
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        raise ImageNotFoundError(
            f"{shown!r} is too long for a path.", hint="Pass base64 text as a data URI."
        ) from error
    raise ImageNotFoundError(f"{shown!r} cannot be read: {error}", hint="Check path and permissions.") from error


def _read_file(file: BinaryIO, limits: ImageLimits) -> Encoded:
    """Read a file object from its beginning, whatever its current position, as Pillow does."""
    name = getattr(file, "name", None)
    shown = name if isinstance(name, str) else "file object"
    try:
        if hasattr(file, "seekable") and file.seekable():
            file.seek(0)
        data = file.read(limits.max_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise ImageBrokenError(f"{shown} cannot be read: {error}", hint="Pass an open, readable file.") from error
    if not isinstance(data, bytes):
        raise ImageFormatError(f"{shown} was opened in text mode.", hint="Open it with mode 'rb'.")
    return Encoded(data, shown)
