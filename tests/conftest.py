"""Rules and images for every test. No network, except this machine for tests that ask for it."""

from __future__ import annotations

import base64
import io

import PIL.Image
import pytest

LOOPBACK = ["127.0.0.1", "::1", "localhost"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Translate the marker `loopback` into pytest-socket's list of hosts."""
    for item in items:
        if item.get_closest_marker("loopback"):
            item.add_marker(pytest.mark.allow_hosts(LOOPBACK))


@pytest.fixture
def picture() -> PIL.Image.Image:
    """A small picture in which no two pixels are alike, so that any loss changes its hash."""
    pixels = bytes(value for index in range(40 * 30) for value in (index % 251, index // 251, 7))
    return PIL.Image.frombytes("RGB", (40, 30), pixels)


@pytest.fixture
def png(picture: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def png_base64(png: bytes) -> str:
    return base64.b64encode(png).decode()
