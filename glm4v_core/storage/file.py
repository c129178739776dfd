"""The SQLite file of a page store: opening, checking, reading, and writing in transactions."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glm4v_core.errors import ConfigError, UnsupportedError

SqlRow = tuple[Any, ...]
Write = Callable[..., int]
"""Runs one statement with its values and returns the id of the inserted row."""

_APPLICATION = 0x474C4D34
"""Marks the file as a page store: "GLM4" in ASCII."""
_VERSION = 1
_SECONDS_TO_WAIT = 30.0
"""How long to wait for another process that is writing."""

_SCHEMA = """
create table pages (
    id integer primary key, sha256 text not null unique, recipe text not null,
    text text not null, summary text not null, label text, model text not null, warnings text not null
);
create view shown as select sha256, text, summary, label, model, warnings, id from pages;
create virtual table terms using fts5 (text, summary, tokenize = 'porter unicode61 remove_diacritics 2');
create table pictures (sha256 text primary key, png blob not null);
create table files (
    source text primary key, bytes integer not null, modified text not null, options text not null, recipe text not null
);
create table places (
    source text not null, number integer not null, count integer not null, sha256 text not null,
    primary key (source, number)
);
create index places_by_page on places (sha256);
create table failures (
    source text not null, number integer not null, count integer not null,
    code text not null, message text not null, hint text not null, primary key (source, number)
);
"""


class StoreFile:
    """A connection for all threads; other processes may use the file at the same time."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            ConfigError: the file is not a page store, or cannot be written.
            UnsupportedError: this Python's SQLite was built without full-text search.
        """
        self._path = path
        self._lock = threading.RLock()
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=_SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def rows(self, statement: str, *values: Any) -> list[SqlRow]:
        """Return the rows that a statement selects. Names of files that are not UTF-8 are bytes."""
        with self._lock, self._errors():
            return self._connection.execute(statement, tuple(map(_bound, values))).fetchall()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Run several reads on the same state of the file, even if others write meanwhile."""
        with self._transaction("begin"):
            yield

    @contextmanager
    def writing(self) -> Iterator[Write]:
        """Yield a function that writes. Everything is committed at the end of the block, or rolled back on an error."""
        with self._transaction("begin immediate"):
            yield self._write

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[None]:
        with self._lock, self._errors():
            self._connection.execute(begin)
            try:
                yield
            except BaseException:
                self._connection.rollback()
                raise
            self._connection.commit()

    def _write(self, statement: str, *values: Any) -> int:
        return self._connection.execute(statement, tuple(map(_bound, values))).lastrowid or 0

    def _prepare(self) -> None:
        self._connection.execute("pragma journal_mode = wal")  # so that reading does not wait for an ingestion
        self._connection.execute("pragma synchronous = normal")  # safe with wal, and faster than the default
        with self.writing() as write:  # in a transaction, since two processes may create the file at the same time
            marks = [self._pragma(name) for name in ("application_id", "user_version")]
            if marks == [0, 0] and not self.rows("select 1 from sqlite_schema"):
                for statement in _SCHEMA.split(";\n"):
                    write(statement)
                write(f"pragma application_id = {_APPLICATION}")
                write(f"pragma user_version = {_VERSION}")
            elif marks != [_APPLICATION, _VERSION]:
                raise ConfigError(
                    f"{self._path} is not a page store of this version.", hint="Choose another file and index again."
                )

    def _pragma(self, name: str) -> Any:
        return self.rows(f"pragma {name}")[0][0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if "fts5" in str(error):
                hint = "Use a Python whose SQLite was built with FTS5, as those of python.org are."
                raise UnsupportedError("This Python's SQLite has no full-text search (FTS5).", hint=hint) from error
            hint = "Choose another file, close other programs that have it open, or free disk space."
            raise ConfigError(f"The page store {self._path} cannot be used: {error}.", hint=hint) from error


def _bound(value: Any) -> Any:
    """Convert a file name that is not UTF-8 to bytes, since SQLite does not accept it as text."""
    try:
        if isinstance(value, str):
            value.encode()
        return value
    except UnicodeEncodeError:
        return os.fsencode(value)
