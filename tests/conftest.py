"""Rules for every test: no network, unless a test asks for this machine alone."""

from __future__ import annotations

import pytest

LOOPBACK = ["127.0.0.1", "::1", "localhost"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Translate the marker `loopback` into pytest-socket's list of hosts."""
    for item in items:
        if item.get_closest_marker("loopback"):
            item.add_marker(pytest.mark.allow_hosts(LOOPBACK))
