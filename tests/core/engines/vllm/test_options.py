"""What is passed to vLLM, checked without vLLM: settings, arguments, memory, and requests as plain data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glm4v_core.dialect.template import ChatTemplate
from glm4v_core.engines.checkpoint.files import CheckpointFiles, load_image_processor, read_files
from glm4v_core.engines.checkpoint.images import ProcessorSizer, SquareSizer
from glm4v_core.engines.checkpoint.prompt_tokenizer import PromptTokenizer
from glm4v_core.engines.checkpoint.tokens import TokenBytes
from glm4v_core.engines.vllm.arguments import arguments_of, plan_of
from glm4v_core.engines.vllm.memory import GIB, MemoryPlan, Shape, bytes_per_token, check_fit, needs
from glm4v_core.engines.vllm.options import VllmOptions
from glm4v_core.engines.vllm.requests import ResizedPages, logprob_of, prompt_of, sampling_of
from glm4v_core.errors import ConfigError, ModelLoadError, UnknownOptionError, UnsupportedError
from tests.support.engine_calls import ask, page
from tests.support.legacy import COMMIT, write_legacy

FLASH = Shape(
    layers=40,
    hidden=4096,
    heads=32,
    kv_heads=2,
    head=128,
    inner=13696,
    vocabulary=151552,
    vision_hidden=1536,
    vision_inner=13696,
)
PLAN = MemoryPlan(weights=int(20.6e9), context=131_072, image_tokens=6144)


@pytest.fixture(scope="module")
def files(checkpoint_folder: Path) -> CheckpointFiles:
    return read_files(checkpoint_folder, None)


class TestOptions:
    def test_unknown_ones_are_refused_by_name(self) -> None:
        misspelt: dict[str, Any] = {"gpu_memory_utilisation": 0.5}
        with pytest.raises(UnknownOptionError, match=r"gpu_memory_utilisation.*context.*gpu_memory_utilization"):
            VllmOptions(**misspelt)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"dtype": "float16"}, UnsupportedError),
            ({"dtype": "int8"}, ConfigError),
            ({"gpu_memory_utilization": 0.0}, ConfigError),
            ({"gpu_memory_utilization": 1.5}, ConfigError),
            ({"tensor_parallel_size": 0}, ConfigError),
            ({"mm_encoder_tp_mode": "both"}, ConfigError),
            ({"context": 100, "max_model_len": 100}, ConfigError),
            ({"trust_remote_code": True}, ConfigError),
            ({"trust_remote_code": True, "revision": "main"}, ConfigError),
        ],
    )
    def test_impossible_ones_are_refused(self, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error):
            VllmOptions(**options)

    def test_remote_code_needs_a_pinned_commit(self) -> None:
        assert VllmOptions(trust_remote_code=True, revision=COMMIT).trust_remote_code

    def test_an_adapter_may_be_named_by_a_path(self) -> None:
        folder: Any = Path("adapter")
        assert VllmOptions(lora=folder).passed_on() == VllmOptions(lora="adapter").passed_on()
        assert VllmOptions(lora=folder).lora == "adapter"

    def test_only_options_that_vllm_knows_are_passed_on(self) -> None:
        given: dict[str, Any] = {"context": 8192, "quantization": "fp8", "tensor_parallel_size": 2}
        options = VllmOptions(**given, enable_sleep_mode=True, lora="x")
        passed = options.passed_on()
        assert passed["max_model_len"] == 8192
        assert (passed["quantization"], passed["tensor_parallel_size"], passed["enable_sleep_mode"]) == ("fp8", 2, True)
        assert not {"lora", "context", "gpu_memory_utilization", "revision", "stats"} & passed.keys()
        assert not any(name.startswith("repetition") for name in passed)


class TestArguments:
    def test_of_a_checkpoint(self, files: CheckpointFiles) -> None:
        arguments = arguments_of(files, VllmOptions(), dtype="float32", size={})
        assert arguments["model"] == str(files.folder)
        assert arguments["limit_mm_per_prompt"] == {"image": files.family.limits.max_images, "video": 0}
        assert arguments["structured_outputs_config"] == {"backend": "guidance"}
        assert arguments["reasoning_config"] == {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
        assert arguments["load_format"] == "safetensors"
        assert "mm_processor_kwargs" not in arguments

    def test_a_bias_that_vllm_would_ignore_is_requested(self, files: CheckpointFiles) -> None:
        text = files.config["text_config"]
        assert "attention_bias" not in text
        arguments = arguments_of(files, VllmOptions(), dtype="float32", size={})
        assert arguments["hf_overrides"] == {"text_config": {"attention_bias": True}}
        said = replace(files, config={**files.config, "text_config": {**text, "attention_bias": False}})
        assert "hf_overrides" not in arguments_of(said, VllmOptions(), dtype="float32", size={})

    def test_smaller_images(self, files: CheckpointFiles) -> None:
        size = ProcessorSizer(load_image_processor(files.folder), 20).bounds()
        arguments = arguments_of(files, VllmOptions(max_image_tokens=20, max_images=2), dtype="float32", size=size)
        assert arguments["mm_processor_kwargs"] == {"size": {"shortest_edge": 12544, "longest_edge": 28 * 28 * 2 * 20}}
        assert arguments["limit_mm_per_prompt"]["image"] == 2

    @pytest.mark.parametrize(("rank", "room"), [(4, 8), (64, 64), (65, 128), (600, 600)])
    def test_an_adapter_sets_its_rank(self, files: CheckpointFiles, tmp_path: Path, rank: int, room: int) -> None:
        (tmp_path / "adapter_config.json").write_text(json.dumps({"r": rank}))
        arguments = arguments_of(files, VllmOptions(lora=str(tmp_path)), dtype="bfloat16", size={})
        assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, room)
        with pytest.raises(ModelLoadError, match="adapter_config"):
            arguments_of(files, VllmOptions(lora=str(tmp_path / "none")), dtype="bfloat16", size={})

    def test_a_plan_of_memory(self, files: CheckpointFiles) -> None:
        options = VllmOptions(kv_cache_dtype="fp8", cpu_offload_gb=1, tensor_parallel_size=2)
        plan = plan_of(files, options, dtype="bfloat16", image_tokens=400)
        assert (plan.context, plan.width, plan.kv_width, plan.offloaded) == (4096, 2, 1, GIB)
        assert plan.weights > 1e6
        assert plan_of(files, VllmOptions(max_model_len=100), dtype="float32", image_tokens=4).context == 100


class TestMemory:
    def test_the_context_of_the_9b_models_is_computed(self) -> None:
        assert bytes_per_token(FLASH, PLAN) == 40_960
        assert needs(FLASH, PLAN).context == pytest.approx(5.4e9, rel=0.01)

    def test_it_fits_a_large_device(self) -> None:
        assert check_fit(FLASH, PLAN, 80 * GIB).total < 30 * GIB

    @pytest.mark.parametrize(
        ("memory", "changes", "advice"),
        [
            (24, {}, r"max_model_len=\d+ or less"),
            (16, {}, r"FP8 or AWQ.*tensor_parallel_size=2"),
            (10, {"weights": int(8e9), "image_tokens": 20_000}, "max_image_tokens"),
        ],
    )
    def test_what_does_not_fit_is_refused_with_advice(self, memory: int, changes: dict[str, int], advice: str) -> None:
        with pytest.raises(ModelLoadError, match=advice):
            check_fit(FLASH, replace(PLAN, **changes), memory * GIB)

    def test_the_advised_context_fits(self) -> None:
        with pytest.raises(ModelLoadError) as caught:
            check_fit(FLASH, PLAN, 24 * GIB)
        length = int(caught.value.hint.partition("max_model_len=")[2].partition(" ")[0])
        check_fit(FLASH, replace(PLAN, context=length), 24 * GIB)

    def test_devices_share_the_model(self) -> None:
        alone, two = needs(FLASH, PLAN), needs(FLASH, replace(PLAN, tensor_parallel=2))
        assert two.weights == alone.weights // 2
        assert two.context == alone.context // 2
        staged = needs(FLASH, replace(PLAN, pipeline_parallel=2, offloaded=GIB))
        assert staged.weights == alone.weights // 2 - GIB

    def test_a_smaller_memory_share_leaves_less_room(self) -> None:
        with pytest.raises(ModelLoadError, match=r"vLLM may use 8\.0 GiB"):
            check_fit(FLASH, PLAN, 80 * GIB, share=0.1)

    def test_shapes_are_read_from_a_configuration(self, files: CheckpointFiles) -> None:
        shape = Shape.of(files.config)
        assert (shape.layers, shape.hidden, shape.kv_heads, shape.head) == (2, 128, 2, 64)
        assert (shape.vision_hidden, shape.vision_inner) == (64, 192)


class TestRequests:
    def test_sampling_is_translated_to_vllms_parameters(self) -> None:
        request = ask("Hello", top_p=0.0, top_k=3, seed=7, logprobs=2, thinking_budget=9, thinking=True)
        settings = sampling_of(request, [1, 2], 24, budget=True)
        assert settings["top_p"] == 1e-6
        assert (settings["top_k"], settings["seed"], settings["logprobs"]) == (3, 7, 2)
        assert (settings["max_tokens"], settings["stop_token_ids"], settings["detokenize"]) == (24, [1, 2], False)
        assert settings["thinking_token_budget"] == 9
        plain = sampling_of(ask("Hello"), [1], 24, budget=True)
        assert (plain["temperature"], plain["top_p"], plain["repetition_penalty"]) == (0.0, 1.0, 1.0)
        assert "thinking_token_budget" not in plain

    def test_images_are_identified_by_their_content(self, files: CheckpointFiles) -> None:
        processor = load_image_processor(files.folder)
        sizer, template = ProcessorSizer(processor, None), ChatTemplate(files.template, files.family.dialect)
        image_token = files.tokenizer.convert_tokens_to_ids("<|image|>")
        tokenizer = PromptTokenizer(files.tokenizer, image_token, sizer)
        shortest = sizer.bounds()["shortest_edge"]

        def written(*parts: Any) -> dict[str, Any]:
            tokenized = tokenizer.tokenize(template.render(ask(*parts)))
            pages = ResizedPages(processor.patch_size, int(processor.resample))
            return prompt_of(tokenized, [pages.get(image) for image in tokenized.images], shortest)

        same = written(page(1), "and", page(2), "and", page(1))
        first, second, third = same["multi_modal_uuids"]["image"]
        assert first == third != second
        assert [image.size for image in same["multi_modal_data"]["image"]] == [(112, 84)] * 3
        assert "mm_processor_kwargs" not in same
        assert "multi_modal_data" not in written("only text")
        small = written(page(1, max_tokens=4))
        assert small["mm_processor_kwargs"]["size"]["shortest_edge"] == 4 * 28 * 28 * 2
        assert small["multi_modal_data"]["image"][0].size == (56, 28)

    def test_the_cache_of_resized_pages_is_bounded(self, files: CheckpointFiles) -> None:
        processor = load_image_processor(files.folder)
        sizer = ProcessorSizer(processor, 20)
        pages = ResizedPages(processor.patch_size, int(processor.resample), room=30_000)
        first, second, third = (sizer.measure(page(seed, 280, 280)) for seed in (1, 2, 3))
        made = [pages.get(image) for image in (first, second, third)]
        assert [image.size for image in made] == [(112, 112)] * 3
        assert pages.get(third) is made[2]
        assert pages.get(first) is not made[0]

    def test_logprobs_are_ordered_and_named(self, files: CheckpointFiles) -> None:
        table = TokenBytes(files.tokenizer)
        letters = files.tokenizer("abc", add_special_tokens=False)["input_ids"][:2]
        found = {letters[0]: SimpleNamespace(logprob=-2.0), letters[1]: SimpleNamespace(logprob=-0.5)}
        read = logprob_of(letters[0], found, 1, table)
        assert (read.token, read.logprob) == (table.text(letters[0]), -2.0)
        assert read.top == ((table.text(letters[1]), -0.5),)
        assert logprob_of(letters[0], found, 0, table).top == ()


class TestLegacy:
    """The first generation, read from files in their published form; its weights need vLLM."""

    def test_its_code_is_not_run_unless_enabled(self, tmp_path: Path) -> None:
        folder = write_legacy(tmp_path / "legacy")
        with pytest.raises(UnsupportedError, match="trust_remote_code=True with a pinned revision"):
            read_files(folder, None)

    def test_its_code_is_run_with_a_warning(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        folder = write_legacy(tmp_path / "legacy")
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
        files = read_files(folder, COMMIT, remote_code=True)
        assert any(COMMIT in record.message and record.levelname == "WARNING" for record in caplog.records)
        assert (files.family.name, files.stop_token_ids) == ("GLM-4v-9b", {256, 263, 265})
        table = TokenBytes(files.tokenizer)
        tokenizer = PromptTokenizer(files.tokenizer, 256, SquareSizer(112, 14))
        request = ask(page(1), "Réad")
        tokenized = tokenizer.tokenize(ChatTemplate(files.template, files.family.dialect).render(request))
        text = b"".join(table[token] for token in tokenized.ids).decode()
        assert "<|begin_of_image|><|endoftext|><|end_of_image|>Réad" in text
        assert tokenized.length == len(tokenized.ids) + 15
        arguments = arguments_of(files, VllmOptions(), dtype="bfloat16", size={})
        assert arguments["hf_overrides"] == {"architectures": ["GLM4VForCausalLM"]}
        assert arguments["limit_mm_per_prompt"] == {"image": 1}
        assert "reasoning_config" not in arguments
        assert Shape.of(files.config).kv_heads == 2

    def test_the_code_of_other_checkpoints_is_never_run(self, checkpoint_folder: Path, tmp_path: Path) -> None:
        config = json.loads((checkpoint_folder / "config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Evil"}}))
        with pytest.raises(UnsupportedError, match="requires custom code"):
            read_files(tmp_path, COMMIT, remote_code=True)
