"""Bulk jobs: the runner, rows, output files, resuming, the report."""

from glm4v_core.bulk.outputs import Totals
from glm4v_core.bulk.rows import Row, read_rows
from glm4v_core.bulk.runner import BulkJob, FinishedPage, run

__all__ = ["BulkJob", "FinishedPage", "Row", "Totals", "read_rows", "run"]
