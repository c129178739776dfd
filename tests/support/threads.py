"""Records in which threads a caller's code, SQLite and image decoding run."""

from __future__ import annotations

import sqlite3
import threading
from collections import defaultdict
from typing import Any

import PIL.ImageFile
import pytest

ENGINES = "glm4v-engines"
"""The thread from which all streams of the process are served."""


class Threads:
    """The names of threads by what ran in them."""

    def __init__(self) -> None:
        self.of: dict[str, set[str]] = defaultdict(set)

    def note(self, what: str) -> None:
        self.of[what].add(threading.current_thread().name)

    def check(self, *expected: str) -> None:
        """Check that these things ran, and nothing in the thread of the engines."""
        assert self.of.keys() >= set(expected)
        assert {what: names for what, names in self.of.items() if ENGINES in names} == {}

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Listen to statements of SQLite and to pictures that Pillow decodes."""
        threads, connect, decode = self, sqlite3.connect, PIL.ImageFile.ImageFile.load

        class Connection(sqlite3.Connection):
            def execute(self, *args: Any) -> sqlite3.Cursor:
                threads.note("SQLite")
                return super().execute(*args)

        def load(file: PIL.ImageFile.ImageFile) -> Any:
            threads.note("decoding")
            return decode(file)

        monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, factory=Connection, **options))
        monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", load)
