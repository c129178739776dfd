"""Bad checkpoints are refused with a reason; loading runs no code and unpickles nothing from a checkpoint."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging as hf_logging

from glm4v_core.engines.checkpoint.files import find_checkpoint
from glm4v_core.engines.transformers.engine import TransformersEngine
from glm4v_core.engines.transformers.loading import choose_device, choose_dtype, load_checkpoint
from glm4v_core.engines.transformers.options import TransformersOptions
from glm4v_core.engines.transformers.quiet import without_progress_bars
from glm4v_core.errors import (
    ConfigError,
    MissingDependencyError,
    ModelLoadError,
    ModelNotFoundError,
    UnknownOptionError,
    UnsupportedError,
)

OPTIONS = TransformersOptions()


@pytest.fixture
def folder(checkpoint_folder: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "copy"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_unknown_options_are_refused_by_name() -> None:
    with pytest.raises(UnknownOptionError, match=r"temprature.*slots"):
        TransformersOptions(temprature=1, slots=2)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"dtype": "float16"}, UnsupportedError),
        ({"dtype": "int8"}, ConfigError),
        ({"slots": 0}, ConfigError),
        ({"cache_bytes": -1}, ConfigError),
        ({"repetition_repeats": 1}, ConfigError),
        ({"max_image_tokens": 0}, ConfigError),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        TransformersOptions(**options)


def test_a_torch_device_is_accepted_as_well_as_its_name() -> None:
    device: Any = torch.device("cuda:1")
    assert TransformersOptions(device=device) == TransformersOptions(device="cuda:1")


def test_a_context_beyond_the_model_is_refused(checkpoint_folder: Path) -> None:
    with pytest.raises(ConfigError, match="4096"):
        TransformersEngine.load(checkpoint_folder, TransformersOptions(context=5000))


@pytest.mark.parametrize("model", ["no/such/folder/here", "./missing", "nobody/no-such-model", "two words"])
def test_a_missing_model_is_not_found(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError) as caught:
        find_checkpoint(model, None)
    assert caught.value.__cause__ is not None


def test_a_folder_without_a_config_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"config\.json"):
        load_checkpoint(tmp_path, OPTIONS)


def spoil_code(folder: Path) -> None:
    edit(folder / "config.json", auto_map={"AutoModel": "modeling.Evil"})


def spoil_family(folder: Path) -> None:
    edit(folder / "config.json", model_type="llama")


def spoil_legacy(folder: Path) -> None:
    edit(folder / "config.json", model_type="chatglm")
    (folder / "chat_template.jinja").write_text("enable_thinking image_url")


def spoil_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def spoil_config_type(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def spoil_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)


def spoil_weights_format(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def spoil_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config=config["text_config"] | {"num_hidden_layers": 3})


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def spoil_image_token(folder: Path) -> None:
    edit(folder / "config.json", image_token_id=5)


def spoil_image_processor(folder: Path) -> None:
    edit(folder / "preprocessor_config.json", image_processor_type="CLIPImageProcessor")


def spoil_image_processor_file(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (spoil_code, UnsupportedError),
        (spoil_family, UnsupportedError),
        (spoil_legacy, UnsupportedError),
        (spoil_config, ModelLoadError),
        (spoil_config_type, ModelLoadError),
        (spoil_weights, ModelLoadError),
        (spoil_weights_format, ModelLoadError),
        (spoil_layers, ModelLoadError),
        (spoil_tokenizer, ModelLoadError),
        (spoil_image_token, ModelLoadError),
        (spoil_image_processor, UnsupportedError),
        (spoil_image_processor_file, ModelLoadError),
    ],
)
def test_a_damaged_checkpoint_is_refused(folder: Path, spoil: Callable[[Path], None], error: type[Exception]) -> None:
    spoil(folder)
    with pytest.raises(error):
        load_checkpoint(folder, OPTIONS)


def test_a_tokenizer_of_another_kind_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer.json", decoder=None)
    with pytest.raises(ModelLoadError, match="byte-level"):
        TransformersEngine.load(folder)


def test_libraries_that_are_too_old_are_named(checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.50.0")
    with pytest.raises(MissingDependencyError, match=r"transformers 5\.0\.0; 4\.50\.0 is installed"):
        load_checkpoint(checkpoint_folder, OPTIONS)


class TestProgressBars:
    """transformers has one hook for all progress bars, which others may use too."""

    def test_are_not_shown_while_loading(self, checkpoint_folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        load_checkpoint(checkpoint_folder, OPTIONS)
        assert capfd.readouterr() == ("", "")

    def test_of_other_libraries_are_left_alone(self, checkpoint_folder: Path) -> None:
        drawn: dict[str, Any] = {}

        def hook(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
            drawn[options["desc"]] = options.get("disable")
            if options["desc"] == "Loading weights":
                other = threading.Thread(target=lambda: hf_logging.tqdm([], desc="other", mininterval=9))
                other.start()
                other.join()
            return factory(*args, **options | {"disable": True})

        before = hf_logging.set_tqdm_hook(hook)
        try:
            load_checkpoint(checkpoint_folder, OPTIONS)
        finally:
            after = hf_logging.set_tqdm_hook(before)
        assert drawn == {"Loading weights": True, "other": None}
        assert after is hook

    def test_leave_a_hook_alone_that_was_set_meanwhile(self) -> None:
        def hook(factory: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None: ...

        with without_progress_bars():
            hf_logging.set_tqdm_hook(hook)
        assert hf_logging.set_tqdm_hook(None) is hook
        with pytest.raises(KeyError), without_progress_bars():
            raise KeyError
        assert hf_logging.set_tqdm_hook(None) is None


def test_a_base_model_cannot_chat(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UnsupportedError):
        TransformersEngine.load(folder)


def test_weights_are_float32_on_a_cpu_and_bfloat16_elsewhere() -> None:
    assert choose_dtype("auto", torch.device("cpu")) is torch.float32
    assert choose_dtype("auto", torch.device("cuda")) is torch.bfloat16
    assert choose_dtype("float32", torch.device("cuda")) is torch.float32
    assert choose_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16


def test_devices_are_checked() -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == (torch.accelerator.current_accelerator() or torch.device("cpu")).type
    with pytest.raises(UnsupportedError, match="quantum"):
        choose_device("quantum")
