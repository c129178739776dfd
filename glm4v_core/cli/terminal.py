"""What the commands share on a terminal: exit statuses, the progress bar, and text that any terminal can show."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

DONE, SOME_FAILED, NOTHING_USABLE = 0, 1, 2
INTERRUPTED = 130


def progress_bar() -> Progress:
    """Show progress on standard error, so that standard output holds results only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


def print_json(value: Any) -> None:
    """Print a value as JSON, without wrapping its lines."""
    Console(soft_wrap=True).print(printable(json.dumps(value, ensure_ascii=False, indent=1)))


def printable(text: str, style: str = "") -> Text:
    """Escape what a terminal cannot show: bytes of a file name that are not UTF-8."""
    return Text(text.encode("utf-8", "backslashreplace").decode("utf-8"), style)
