"""The doctor reports what is installed, which models fit, and what is missing."""

from __future__ import annotations

import json
import sys

import pytest

from glm4v_core.cli import main as cli
from glm4v_core.dialect.families import FAMILIES
from glm4v_core.engines.doctor import READY, examine, memory_needed

FLASH = next(family for family in FAMILIES if family.name == "GLM-4.6V-Flash")


def test_packages_engines_and_devices_are_listed() -> None:
    findings = examine()
    versions = {package.name: package.version for package in findings.packages}
    import torch

    assert versions["torch"] == torch.__version__
    assert findings.engines["transformers"] == READY
    assert findings.devices[0].kind == "cpu"
    assert (findings.devices[0].memory or 1) > 0


def test_every_family_is_judged() -> None:
    findings = examine()
    assert [model.family for model in findings.models] == [family.name for family in FAMILIES]
    for model in findings.models:
        assert bool(model.runs_on) != bool(model.obstacles)
    legacy = findings.models[0]
    assert "vllm, server" in legacy.obstacles[0] or "vllm" in {
        name for name, state in findings.engines.items() if state == READY
    }


def test_twice_the_memory_is_needed_on_a_cpu() -> None:
    assert memory_needed(FLASH, "cpu") == pytest.approx(2 * memory_needed(FLASH, "gpu"))
    assert memory_needed(FLASH, "gpu") > FLASH.weights_gb


@pytest.mark.parametrize("as_json", [False, True])
def test_the_findings_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["glm4v", "doctor", *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    out = capsys.readouterr().out
    if as_json:
        assert {model["hub_id"] for model in json.loads(out)["models"]} >= {"tiny", "zai-org/GLM-4.6V-Flash"}
    else:
        assert all(word in out for word in ("transformers", "zai-org/GLM-4.6V-Flash", "glm4v[hf]", "GB"))
