"""The examples in the documentation run unchanged, in the folder of the samples, with the bundled model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.llamaindex_calls import IGNORE_AGENT_WARNINGS

pytestmark = IGNORE_AGENT_WARNINGS
ROOT = Path(__file__).parents[2]
PAGES = [f"{name}{language}.md" for name in ("core", "langchain", "llamaindex") for language in ("", ".zh")]


@pytest.mark.parametrize("page", PAGES)
def test_examples_run(page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT / "samples")
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) > 5
    names: dict[str, Any] = {}
    for number, example in enumerate(examples):
        exec(compile(example, f"{page}, example {number}", "exec"), names)
    assert len(capsys.readouterr().out.split()) > 20
