"""The command line in this process, with a scripted engine in place of the model."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from glm4v_core.cli import main as cli
from tests.support.command_line import Command, Outcome


@pytest.fixture
def glm4v(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command with these arguments; `answers` are the model's answers."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.delenv("GLM4V_MODEL", raising=False)

    def run(*arguments: object, answers: list[Any] | None = None) -> Outcome:
        scripted = ["--engine", "scripted", "--option", f"answers={json.dumps(answers)}"] if answers is not None else []
        monkeypatch.setattr(sys, "argv", ["glm4v", *map(str, arguments), *scripted])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        status = ended.value.code
        return Outcome(int(status or 0), *capsys.readouterr())

    return run
