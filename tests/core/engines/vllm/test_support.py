"""Engine "auto" is vLLM wherever vLLM can run, and the reason for the choice is reported."""

from __future__ import annotations

import logging
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from glm4v_core.engines.doctor import READY, examine
from glm4v_core.engines.loading import plan_engine
from glm4v_core.engines.vllm.support import VLLM_VERSIONS, vllm_version
from glm4v_core.errors import MissingDependencyError

PLATFORM = """
class current_platform:
    device_type = "{device}"
    is_cuda = staticmethod(lambda: {cuda})
    is_cuda_alike = staticmethod(lambda: {cuda} or {rocm})
    has_device_capability = staticmethod(lambda capability: {capability} >= capability)
    get_device_name = staticmethod(lambda: "GPU 1")
"""
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a stub distribution of vLLM with just what the choice of an engine reads."""

    def install_vllm(
        version: str = "0.32.1", *, name: str = "vllm", gpus: int = 1, cuda: bool = True, capability: int = 90
    ) -> None:
        (tmp_path / "vllm").mkdir()
        (tmp_path / "vllm" / "__init__.py").touch()
        text = PLATFORM.format(device="cuda" if cuda else "xpu", cuda=cuda, rocm=False, capability=capability)
        (tmp_path / "vllm" / "platforms.py").write_text(text)
        metadata = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
        (metadata / "top_level.txt").write_text("vllm\n")
        monkeypatch.syspath_prepend(tmp_path)
        for module in [module for module in sys.modules if module.partition(".")[0] == "vllm"]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    yield install_vllm
    for module in ("vllm", "vllm.platforms"):
        sys.modules.pop(module, None)


def chosen(caplog: pytest.LogCaptureFixture, folder: Path) -> tuple[str, str]:
    caplog.set_level(logging.INFO, "glm4v_core")
    plan = plan_engine(folder, "auto", {})
    [line] = [record.message for record in caplog.records]
    return plan.key[0], line  # type: ignore[index]


def test_vllm_with_a_gpu_is_chosen(install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    install()
    engine, line = chosen(caplog, tmp_path)
    assert engine == "vllm"
    assert line.endswith("vLLM is installed and a supported GPU is available.")
    assert plan_engine(tmp_path, "vllm", {}).key == plan_engine(tmp_path, "auto", {}).key
    assert (
        plan_engine(tmp_path, "vllm", {"context": 4096}).key
        == plan_engine(tmp_path, "vllm", {"max_model_len": 4096}).key
    )


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        ({"gpus": 0}, "no GPU is visible"),
        ({"cuda": False}, r"another kind of device \(xpu\)"),
        ({"capability": 75}, "GPU 1 has no bfloat16"),
        ({"version": "0.31.0"}, r"vLLM 0\.31\.0 is installed, but glm4v needs"),
        ({"version": "0.34.0rc1"}, "is installed, but"),
    ],
)
def test_transformers_is_chosen_where_vllm_cannot_run(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture, there: dict[str, object], reason: str
) -> None:
    install(**there)
    engine, line = chosen(caplog, tmp_path)
    assert engine == "transformers"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(line)


def test_an_untested_version_is_refused_with_the_fix(install: Install) -> None:
    install("0.40.0")
    with pytest.raises(MissingDependencyError, match=r"vLLM 0\.40\.0.*pip install 'vllm>=0\.32,<0\.34'"):
        plan_engine("tiny", "vllm", {})


def test_a_version_that_was_only_reviewed_is_accepted_with_a_warning(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("0.33.0")
    assert plan_engine(tmp_path, "auto", {}).key[0] == "vllm"
    [warning] = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "vLLM 0.33.0 is installed" in warning


def test_a_version_that_was_run_is_accepted_without_a_warning(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("0.32.4")
    assert plan_engine(tmp_path, "vllm", {}).key[0] == "vllm"
    assert caplog.records == []


def test_builds_under_another_name_are_recognised(install: Install) -> None:
    install("0.32.5", name="vllm-special")
    assert vllm_version() == "0.32.5"


def test_the_doctor_explains_the_choice(install: Install) -> None:
    install("0.32.0", gpus=0)
    findings = examine()
    assert findings.auto == "transformers: vLLM is installed, but no GPU is visible"
    assert findings.engines["vllm"] == READY
    assert {package.name: package.version for package in findings.packages}["vllm"] == "0.32.0"


def test_the_supported_versions_are_those_of_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text("utf-8"))
    assert f"vllm{VLLM_VERSIONS}" in project["project"]["optional-dependencies"]["vllm"]
