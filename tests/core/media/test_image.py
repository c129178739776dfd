"""Where images come from: each source, its refusals, identity and provenance."""

from __future__ import annotations

import base64
import io
import os
import socket
import threading
import urllib.parse
from pathlib import Path

import PIL.Image
import pytest

from glm4v_core.errors import (
    ConfigError,
    ImageBrokenError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUrlError,
)
from glm4v_core.media.image import Image, ImageLimits
from glm4v_core.media.source import check_url


def encode(image: PIL.Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


PICTURE = PIL.Image.merge(
    "RGB", [PIL.Image.linear_gradient("L").rotate(90 * turn).resize((40, 30)) for turn in range(3)]
)
PNG = encode(PICTURE)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "扫描 1.JPG"  # neither suffix nor characters matter
    file.write_bytes(PNG)
    return file


def test_every_kind_of_source_gives_the_same_image(path: Path) -> None:
    packed = base64.b64encode(PNG).decode()
    at_end = io.BytesIO(PNG)
    at_end.seek(0, io.SEEK_END)
    with path.open("rb") as opened:
        sources = [
            path,
            str(path),
            PNG,
            bytearray(PNG),
            memoryview(PNG),
            f"data:image/png;base64,{packed}",
            f"DATA:image/jpeg;base64,{packed.rstrip('=')}",
            f"data:;base64,{packed[:20]}\n {packed[20:]}",
            f"data:image/png,{urllib.parse.quote_from_bytes(PNG)}",
            io.BytesIO(PNG),
            at_end,
            opened,
            PIL.Image.open(io.BytesIO(PNG)),
            PICTURE,
        ]
        images = [Image.load(source) for source in sources]
    assert set(images) == {images[0]}
    assert images[0].pixels.mode == "RGB"
    assert images[0].pixels.tobytes() == PICTURE.tobytes()
    assert (images[0].width, images[0].height) == (40, 30)


def test_provenance_names_the_source(path: Path) -> None:
    by_path = Image.load(path).provenance
    assert (by_path.source, by_path.format, by_path.size, by_path.frames) == (str(path), "PNG", (40, 30), 1)
    assert Image.load(PNG).provenance.source == "bytes"
    assert Image.load(f"data:;base64,{base64.b64encode(PNG).decode()}").provenance.source == "data URI"
    assert Image.load(io.BytesIO(PNG)).provenance.source == "file object"
    assert Image.load(PICTURE).provenance.source == "PIL image"
    with PIL.Image.open(path) as opened:
        assert Image.load(opened).provenance.source == str(path)


def test_hash_covers_size_as_well_as_bytes() -> None:
    wide, high = Image.load(PIL.Image.new("RGB", (40, 20))), Image.load(PIL.Image.new("RGB", (20, 40)))
    assert wide.pixels.tobytes() == high.pixels.tobytes()
    assert wide.sha256 != high.sha256
    assert wide != high
    grey = PICTURE.convert("L")
    assert Image.load(grey) == Image.load(grey.convert("RGB"))


def test_equality_covers_the_token_budget() -> None:
    assert Image.load(PNG, max_image_tokens=100).max_tokens == 100
    assert Image.load(PNG, max_image_tokens=100) != Image.load(PNG)
    assert Image.load(PNG) != PNG
    with pytest.raises(ConfigError, match="max_image_tokens"):
        Image.load(PNG, max_image_tokens=0)


def test_a_given_pil_image_is_left_alone() -> None:
    given = PIL.Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    given.info["comment"] = "kept"
    image = Image.load(given)
    assert image.pixels.info == {}
    assert (given.mode, given.info) == ("RGBA", {"comment": "kept"})
    image.pixels.putpixel((0, 0), (1, 2, 3))
    assert given.getpixel((0, 0)) == (255, 0, 0, 0)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("no such file.png", ImageNotFoundError),
        ("", ImageNotFoundError),
        ("a\0b.png", ImageNotFoundError),
        (base64.b64encode(bytes(9000)).decode(), ImageNotFoundError),
        (os.curdir, ImageFormatError),
        (os.devnull, ImageFormatError),
        (b"", ImageBrokenError),
        ("data:image/png;base64", ImageBrokenError),
        ("data:image/png;base64,@@@@", ImageBrokenError),
        ("data:image/png;base64,ABCDE", ImageBrokenError),
        ("data:,", ImageBrokenError),
        (io.StringIO("text"), ImageFormatError),
        (None, ImageFormatError),
        (42, ImageFormatError),
    ],
)
def test_unusable_sources_are_refused(source: object, error: type[ImageError]) -> None:
    with pytest.raises(error) as caught:
        Image.load(source)
    assert caught.value.hint
    assert len(str(caught.value)) < 600


def test_a_path_of_bytes_is_refused() -> None:
    class Entry:
        def __fspath__(self) -> bytes:
            return b"image.png"

    with pytest.raises(ImageFormatError, match="Byte strings"):
        Image.load(Entry())


def test_a_closed_file_object_is_refused() -> None:
    closed = io.BytesIO(PNG)
    closed.close()
    with pytest.raises(ImageBrokenError, match="cannot be read"):
        Image.load(closed)


def test_a_stream_without_seek_is_read() -> None:
    reader, writer = os.pipe()
    sender = threading.Thread(target=lambda: (os.write(writer, PNG), os.close(writer)))
    sender.start()
    with os.fdopen(reader, "rb") as stream:
        assert Image.load(stream) == Image.load(PNG)
    sender.join()


def test_pipes_and_sockets_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageFormatError, match="pipe or a device"):
        Image.load(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(ImageNotFoundError, match="cannot be read"):
            Image.load(tmp_path / "s")


def test_byte_cap_holds_before_anything_is_read(tmp_path: Path) -> None:
    limits = ImageLimits(max_bytes=1000)
    sparse = tmp_path / "large.png"
    with sparse.open("wb") as file:
        file.truncate(10**12)
    for source in (sparse, bytes(1001), f"data:;base64,{'A' * 2000}", io.BytesIO(bytes(1001))):
        with pytest.raises(ImageTooLargeError, match="max_bytes=1000"):
            Image.load(source, limits=limits)
    assert Image.load(PNG, limits=ImageLimits(max_bytes=len(PNG)))


class TestRoot:
    def test_paths_inside_are_read(self, path: Path, tmp_path: Path) -> None:
        link = tmp_path / "link.png"
        link.symlink_to(path)
        assert Image.load(path, root=tmp_path) == Image.load(link, root=str(tmp_path))

    def test_paths_outside_are_refused(self, path: Path, tmp_path: Path) -> None:
        root = tmp_path / "root"
        root.mkdir()
        (tmp_path / "root2").mkdir()
        (tmp_path / "root2" / "near.png").write_bytes(PNG)
        (root / "link.png").symlink_to(path)
        (root / "folder").symlink_to(tmp_path)
        (root / "hard.png").hardlink_to(path)
        (root / "loop.png").symlink_to(root / "loop.png")
        inner = (
            "link.png",
            f"folder/{path.name}",
            f"../{path.name}",
            "../root2/near.png",
            "hard.png",
            "loop.png",
            "no",
        )
        for name in inner:
            with pytest.raises(ImageNotFoundError):
                Image.load(root / name, root=root)
        with pytest.raises(ImageNotFoundError):
            Image.load(path, root=tmp_path / "missing")


class TestUrl:
    @pytest.mark.parametrize("url", ["http://host/a.png", "HTTPS://host/a.png", "ftp://host/a.png", "s3://bucket/a"])
    def test_remote_urls_are_refused_by_default(self, url: str) -> None:
        with pytest.raises(ImageUrlError, match="no fetch policy"):
            Image.load(url)

    def test_file_urls_are_refused_even_with_a_policy(self, path: Path) -> None:
        with pytest.raises(ImageUrlError, match="Pass the path itself"):
            Image.load(path.as_uri(), fetch=lambda url: PNG)

    def test_a_policy_fetches_and_secrets_stay_out_of_provenance(self) -> None:
        asked: list[str] = []
        url = "https://user:key@host/a.png?token=secret#part"
        image = Image.load(url, fetch=lambda address: asked.append(address) or PNG)
        assert asked == [url]
        assert image.provenance.source == "https://host/a.png"

    def test_failures_of_a_policy_are_typed(self) -> None:
        def refuse(url: str) -> bytes:
            raise ConnectionError("unreachable")

        with pytest.raises(ImageUrlError, match="unreachable") as caught:
            Image.load("https://host/a.png", fetch=refuse)
        assert isinstance(caught.value.__cause__, ConnectionError)
        with pytest.raises(ImageUrlError, match="returned str"):
            Image.load("https://host/a.png", fetch=lambda url: "text")
        with pytest.raises(ImageTooLargeError):
            Image.load("https://host/a.png", fetch=lambda url: bytes(11), limits=ImageLimits(max_bytes=10))

    @pytest.mark.parametrize("path", ["/etc/passwd", "page.png", "file:///etc/passwd", "c:/page.png", "ftp://host/a"])
    def test_a_path_is_not_a_url(self, path: str) -> None:
        with pytest.raises(ImageUrlError, match="data URI"):
            check_url(path)

    @pytest.mark.parametrize("url", ["data:;base64,AAAA", "DATA:,x", "https://host/a.png"])
    def test_a_url_is_passed_on_unchanged(self, url: str) -> None:
        assert check_url(url) == url


def test_an_image_written_as_png_is_the_same_image() -> None:
    image = Image.load(PIL.Image.linear_gradient("L").resize((40, 60)))
    assert image.png().startswith(b"\x89PNG")
    assert Image.load(image.png()) == image
