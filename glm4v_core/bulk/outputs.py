"""The files of a bulk run: rows, exports, report and settings. They are complete, however the run ends."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from glm4v_core.bulk.earlier import Earlier
from glm4v_core.bulk.report import ReportWriter
from glm4v_core.bulk.rows import Row, RowWriter, export
from glm4v_core.bulk.settings import write_settings
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.workflow import Column, Settings


@dataclass(frozen=True, slots=True)
class Totals:
    """Numbers of pages so far.

    Attributes:
        pages: pages with a row.
        done: pages on which all steps succeeded.
        failed: pages with an error.
        warned: pages with an incomplete answer.
        kept: pages whose row is from an earlier run.
    """

    pages: int = 0
    done: int = 0
    failed: int = 0
    warned: int = 0
    kept: int = 0

    def with_row(self, row: Row, *, kept: bool) -> Totals:
        """Return the totals with one more page."""
        return Totals(
            pages=self.pages + 1,
            done=self.done + int(row["status"] == "ok"),
            failed=self.failed + int(row["status"] == "failed"),
            warned=self.warned + int(bool(row["warnings"])),
            kept=self.kept + int(kept),
        )


class Outputs:
    """Writes each page's row to all files, in the order of the pages."""

    def __init__(
        self, out: Path, columns: Sequence[Column], language: Language, settings: Settings, earlier: Earlier
    ) -> None:
        """Open the files.

        Args:
            out: folder that `prepare_folder` has checked.
            columns: of the workflow.
            language: of the report.
            settings: that determine the results.
            earlier: rows of earlier runs, kept until new rows replace them.
        """
        self.columns = columns
        self.totals = Totals()
        self._out = out
        self._earlier = earlier
        earlier.set_aside()
        with ExitStack() as undo:
            self._rows = undo.enter_context(closing(RowWriter(out)))
            self._report = undo.enter_context(closing(ReportWriter(out, columns, language)))
            if not earlier:  # written after results.jsonl is truncated, so that settings never describe older rows
                write_settings(out, settings)
            self._files = undo.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._files:
            if error is not None:  # otherwise all earlier rows are replaced, or their page no longer exists
                for row in self._earlier.unreached():
                    self.put(row, kept=True)
            self._report.finish(asdict(self.totals))
            export(self._out)
        self._earlier.discard()

    @property
    def takes_pictures(self) -> bool:
        """Whether the report has room for another picture."""
        return not self._report.is_full

    def put(self, row: Row, picture: str | None = None, *, kept: bool = False) -> None:
        """Write one row to all files.

        Args:
            row: of the page.
            picture: of the page as a data URI; None if there is none.
            kept: whether the row is from an earlier run.
        """
        self._rows.write(row)
        self._report.write(row, picture)
        self._earlier.replaced(row)
        self.totals = self.totals.with_row(row, kept=kept)
