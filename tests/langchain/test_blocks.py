"""Every form of content reaches the engine unchanged, or is refused by name."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from langchain_core.load import dumps
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate

from glm4v_core import Image, Message, Request, Text, Thinking, ToolCall, ToolResult, load_pages
from glm4v_core.errors import (
    ImageBrokenError,
    ImageFormatError,
    ImageUrlError,
    MessageError,
    PageBrokenError,
    UnsupportedError,
)
from langchain_glm4v import ChatGLM4V, document_blocks, image_block
from tests.support.langchain_calls import Make


def ask(scripted: Make, *messages: BaseMessage) -> Request:
    llm, engine = scripted("ok")
    llm.invoke(list(messages))
    return engine.history[0]


def test_every_form_of_image_arrives_with_the_same_pixels_between_its_texts(
    scripted: Make, picture: PIL.Image.Image, png: bytes, png_base64: str, tmp_path: Path
) -> None:
    path = tmp_path / "page.png"
    path.write_bytes(png)
    uri = f"data:image/png;base64,{png_base64}"
    forms: list[dict[str, Any]] = [
        {"type": "image", "base64": png_base64, "mime_type": "image/png"},
        {"type": "image", "base64": png_base64, "mime_type": "image/jpeg"},
        {"type": "image", "url": uri},
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "image_url", "image_url": {"url": uri, "detail": "high"}},
        {"type": "image_url", "image_url": uri},
        {"type": "input_image", "image_url": uri},
        {"type": "image", "source_type": "base64", "data": png_base64, "mime_type": "image/png"},
        {"type": "image", "source_type": "url", "url": uri},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": png_base64}},
        {"type": "image", "image": picture},
        {"type": "image", "image": Image.load(png)},
        image_block(path),
        image_block(png),
        image_block(uri),
        image_block(picture),
        image_block(Image.load(png)),
    ]
    content: list[Any] = []
    for number, form in enumerate(forms):
        content += [f"text {number}", form]
    request = ask(scripted, HumanMessage([*content, {"type": "text", "text": "end"}]))

    (message,) = request.messages
    images = [part for part in message.parts if isinstance(part, Image)]
    assert {image.sha256 for image in images} == {Image.load(picture).sha256}
    expected: list[object] = []
    for number, image in enumerate(images):
        expected += [Text(f"text {number}"), image]
    assert list(message.parts) == [*expected, Text("end")]
    assert len(images) == len(forms)


def make_pdf(*pages: PIL.Image.Image) -> bytes:
    file = io.BytesIO()
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:], resolution=200)
    return file.getvalue()


def test_every_form_of_document_becomes_its_pages_in_their_place(scripted: Make, picture: PIL.Image.Image) -> None:
    pdf = make_pdf(picture, picture.transpose(PIL.Image.Transpose.ROTATE_90))
    data = base64.b64encode(pdf).decode()
    uri = f"data:application/pdf;base64,{data}"
    forms: list[dict[str, Any]] = [
        {"type": "file", "base64": data, "mime_type": "application/pdf"},
        {"type": "file", "url": uri},
        {"type": "file", "source_type": "base64", "data": data, "mime_type": "application/pdf"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": uri}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}},
    ]
    content: list[Any] = [entry for number, form in enumerate(forms) for entry in (form, f"text {number}")]
    request = ask(scripted, HumanMessage([*content, *document_blocks(pdf)]))
    expected = [page.image.sha256 for page in load_pages(pdf)]
    parts = [part.sha256 if isinstance(part, Image) else part for part in request.messages[0].parts]
    assert parts == [*(one for number in range(5) for one in (*expected, Text(f"text {number}"))), *expected]
    assert len(set(expected)) == 2


def test_a_document_in_a_tool_result_becomes_its_pages(scripted: Make, picture: PIL.Image.Image) -> None:
    pdf = make_pdf(picture, picture)
    block = {"type": "file", "base64": base64.b64encode(pdf).decode(), "mime_type": "application/pdf"}
    call = {"name": "open_page", "args": {}, "id": "1"}
    request = ask(
        scripted, HumanMessage("?"), AIMessage("", tool_calls=[call]), ToolMessage(["two:", block], tool_call_id="1")
    )
    (result,) = request.messages[-1].parts
    assert isinstance(result, ToolResult)
    assert [type(part) for part in result.parts] == [Text, Image, Image]


def test_the_chat_models_image_limit_applies_unless_an_image_has_its_own(
    scripted: Make, picture: PIL.Image.Image
) -> None:
    llm, engine = scripted("ok", max_image_tokens=9)
    own = image_block(picture, max_image_tokens=4)
    llm.invoke([HumanMessage([{"type": "image", "image": picture}, own, image_block(picture)])])
    images = [part for part in engine.history[0].messages[0].parts if isinstance(part, Image)]
    assert [image.max_tokens for image in images] == [9, 4, 9]


@pytest.mark.parametrize(
    ("block", "error", "words"),
    [
        ({"type": "image", "url": "http://example.com/a.png"}, ImageUrlError, "example.com"),
        ({"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}, ImageUrlError, "example.com"),
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, ImageUrlError, "example.com"),
        ({"type": "image", "url": "file:///etc/passwd"}, ImageUrlError, "image_block"),
        ({"type": "image_url", "image_url": "/etc/passwd"}, ImageUrlError, "image_block"),
        ({"type": "image", "image": "/etc/passwd"}, MessageError, "type, image"),
        ({"type": "image", "file_id": "file-7"}, UnsupportedError, "file-7"),
        ({"type": "image", "base64": "bm9uc2Vuc2U=", "mime_type": "image/png"}, ImageFormatError, "data URI"),
        ({"type": "image", "path": "/etc/passwd"}, MessageError, "path"),
        ({"type": "image", "image": "forged", "sha256": "0"}, MessageError, "image, sha256"),
        ({"type": "file", "base64": "JVBERi0=", "mime_type": "application/pdf"}, PageBrokenError, "cannot be read"),
        ({"type": "file", "url": "file:///etc/passwd"}, ImageUrlError, "image_block"),
        ({"type": "file", "file_id": "file-8"}, UnsupportedError, "file-8"),
        ({"type": "video", "base64": "AAAA", "mime_type": "video/mp4"}, UnsupportedError, "'video'"),
        ({"type": "video_url", "video_url": {"url": "x"}}, UnsupportedError, "video_url"),
        ({"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"}, UnsupportedError, "'audio'"),
        ({"type": "hologram", "depth": 3}, MessageError, "hologram"),
        ({"no_type": 1}, MessageError, "no_type"),
    ],
    ids=lambda value: str(value.get("type")) if isinstance(value, dict) else None,
)
def test_unreadable_content_is_refused_by_name(
    scripted: Make, block: dict[str, Any], error: type[Exception], words: str
) -> None:
    llm, engine = scripted("never asked")
    with pytest.raises(error, match=words):
        llm.invoke([HumanMessage([block])])
    assert engine.history == []


def test_a_broken_image_is_an_error_and_not_a_missing_part(scripted: Make, png: bytes) -> None:
    llm, _ = scripted("never asked")
    cut = PIL.Image.open(io.BytesIO(png[: len(png) // 2]))
    with pytest.raises(ImageBrokenError):
        llm.invoke([HumanMessage([{"type": "image", "image": cut}])])


def test_a_conversation_keeps_roles_thoughts_calls_and_results(scripted: Make, png_base64: str) -> None:
    request = ask(
        scripted,
        SystemMessage("Be brief."),
        HumanMessage("Look it up.", name="ann"),
        AIMessage(
            "I will.",
            additional_kwargs={"reasoning_content": "A page is needed."},
            tool_calls=[{"name": "page", "args": {"number": 2}, "id": "c1"}],
            invalid_tool_calls=[{"name": "page", "args": "{oops", "id": "c2", "error": "not JSON"}],
        ),
        ToolMessage(
            [
                {"type": "text", "text": "page 2"},
                {"type": "image", "base64": png_base64, "mime_type": "image/png"},
                {"type": "json", "json": {"größe": 1}},
            ],
            tool_call_id="c1",
        ),
        ToolMessage("it failed", tool_call_id="c2", status="error"),
        AIMessage([{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Done."}]),
        ChatMessage("And?", role="user"),
    )
    image = next(part for part in request.messages[3].parts[0].parts if isinstance(part, Image))  # type: ignore[union-attr]
    assert request.messages == (
        Message.system("Be brief."),
        Message.user("Look it up."),
        Message.assistant(
            Thinking("A page is needed."),
            "I will.",
            ToolCall("c1", "page", {"number": 2}),
            ToolCall("c2", "page", None, raw="{oops", error="not JSON"),
        ),
        Message("tool", (ToolResult("c1", (Text("page 2"), image, Text('{"größe": 1}'))),)),
        Message("tool", (ToolResult("c2", (Text("it failed"),)),)),
        Message.assistant(Thinking("Hm."), "Done."),
        Message.user("And?"),
    )


@pytest.mark.parametrize("message", [FunctionMessage("4", name="add"), ChatMessage("hm", role="narrator")])
def test_a_message_without_a_matching_role_is_refused(scripted: Make, message: BaseMessage) -> None:
    llm, _ = scripted("never asked")
    with pytest.raises(MessageError, match=f"{type(message).__name__}"):
        llm.invoke([message])


def test_a_prompt_template_fills_an_image_block(scripted: Make, png_base64: str, picture: PIL.Image.Image) -> None:
    llm, engine = scripted("ok")
    image = {"type": "image", "base64": "{page}", "mime_type": "image/png"}
    chain = ChatPromptTemplate([("user", ["{question}", image])]) | llm
    chain.invoke({"question": "What is it?", "page": png_base64})
    assert engine.history[0].messages == (Message.user("What is it?", Image.load(picture)),)


def test_an_image_block_keeps_traces_small_and_cache_keys_apart(picture: PIL.Image.Image) -> None:
    other = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    first, same, different = (dumps(HumanMessage([image_block(source)])) for source in (picture, picture, other))
    assert json.loads(first)["kwargs"]["content"][0]["sha256"] == Image.load(picture).sha256
    assert first == same != different
    assert len(first) < 1000


def test_a_wrong_request_does_not_load_the_model() -> None:
    llm = ChatGLM4V(model="/there/is/no/such/model", engine="transformers")
    with pytest.raises(MessageError):
        llm.invoke([HumanMessage([{"type": "hologram"}])])
