"""Scores a model on pages with known truth; its names need `pip install 'glm4v[eval]'` when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from glm4v_core.evaluation.truth import Question, ToolTask, Truth, Truths, load_truths

if TYPE_CHECKING:
    from glm4v_core.evaluation.report import write_report
    from glm4v_core.evaluation.scoring import Evaluation, EvaluationOptions, ScoredAnswer, ScoredPage, evaluate

__all__ = [
    "Evaluation",
    "EvaluationOptions",
    "Question",
    "ScoredAnswer",
    "ScoredPage",
    "ToolTask",
    "Truth",
    "Truths",
    "evaluate",
    "load_truths",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import what scores only when it is used, since it brings numpy and jiwer."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "report" if name == "write_report" else "scoring"
    return getattr(import_module(f"{__name__}.{module}"), name)
