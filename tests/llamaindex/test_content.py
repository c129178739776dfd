"""Every form of content reaches the engine unchanged, or is refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from llama_index.core.base.llms.types import (
    CachePoint,
    CitableBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.llms import (
    AudioBlock,
    CacheControl,
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    VideoBlock,
)
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.schema import Document, ImageDocument, ImageNode, MediaResource, Node, NodeWithScore, TextNode

from glm4v_core import Image, Message, Request, Text, Thinking, ToolCall, ToolResult
from glm4v_core.errors import (
    ImageBrokenError,
    ImageError,
    ImageFormatError,
    ImageUrlError,
    MessageError,
    UnsupportedError,
)
from glm4v_core.types import Part
from llamaindex_glm4v import GLM4VMultiModal
from tests.support.llamaindex_calls import COMPLETE_WAYS, Make, ask


@pytest.fixture
def path(tmp_path: Path, png: bytes) -> Path:
    file = tmp_path / "page.png"
    file.write_bytes(png)
    return file


@pytest.fixture
def uri(png_base64: str) -> str:
    return f"data:image/png;base64,{png_base64}"


@pytest.fixture
def forms(path: Path, uri: str, png: bytes, png_base64: str, picture: PIL.Image.Image, tmp_path: Path) -> list[Any]:
    """Return the same image in every form that a caller may pass."""
    bare = tmp_path / "no_suffix"
    bare.write_bytes(png)
    return [
        path,
        str(path),
        bare,
        png,
        uri,
        io.BytesIO(png),
        picture,
        Image.load(png),
        ImageBlock(image=png),
        ImageBlock(path=path),
        ImageNode(image=png_base64),
        ImageNode(image_path=str(path)),
        ImageNode(image_url=uri),
        ImageNode(metadata={"file_path": str(path)}),
        ImageDocument(image=png_base64),
        ImageDocument(image_path=str(path)),
        Document(image_resource=MediaResource(data=png)),
        Node(image_resource=MediaResource(path=path)),
        NodeWithScore(node=ImageNode(image=png_base64), score=0.5),
    ]


def images_of(request: Request) -> list[Image]:
    return [part for message in request.messages for part in message.parts if isinstance(part, Image)]


@pytest.mark.parametrize("way", COMPLETE_WAYS)
async def test_a_completion_takes_every_form_of_image_in_order(
    scripted: Make, way: str, forms: list[Any], picture: PIL.Image.Image
) -> None:
    llm, engine = scripted("seen")
    await ask(llm, way, "What is it?", image_documents=forms)
    (message,) = engine.history[0].messages
    assert images_of(engine.history[0]) == [Image.load(picture)] * len(forms)
    assert message.parts[-1] == Text("What is it?")
    assert len(message.parts) == len(forms) + 1


def test_images_keep_their_order(scripted: Make, picture: PIL.Image.Image) -> None:
    other = picture.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    llm, engine = scripted("seen")
    llm.complete("Compare.", image_documents=[other, picture, other])
    assert images_of(engine.history[0]) == [Image.load(each) for each in (other, picture, other)]


def test_a_single_image_needs_no_list_and_none_means_no_image(scripted: Make, path: Path) -> None:
    llm, engine = scripted("a", "b", "c", "d", max_image_tokens=4)
    llm.complete("x", image_documents=str(path))
    for images in ([], None):
        llm.complete("x", image_documents=images)
    llm.complete("x")
    first, *others = engine.history
    assert [image.max_tokens for image in images_of(first)] == [4]
    assert [request.messages for request in others] == [(Message.user("x"),)] * 3


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda path: TextNode(text="no picture"), MessageError, "holds no image"),
        (lambda path: Document(text="no picture"), MessageError, "holds no image"),
        (lambda path: ImageNode(text="no picture"), MessageError, "neither data nor a path"),
        (lambda path: ImageNode(image_url="https://example.com/a.png"), ImageUrlError, "fetch policy"),
        (lambda path: ImageNode(image_url=str(path)), ImageUrlError, "data URI"),
        (lambda path: 3, ImageFormatError, "int"),
        (lambda path: "data:image/png;base64,bm9uc2Vuc2U=", ImageFormatError, "data URI"),
    ],
)
def test_documents_without_an_image_are_refused(
    scripted: Make, path: Path, make: Callable[[Path], Any], error: type[Exception], words: str
) -> None:
    llm, engine = scripted()
    with pytest.raises(error, match=words):
        llm.complete("x", image_documents=[make(path)])
    assert engine.history == []


def parts_of(llm: GLM4VMultiModal, engine: Any, *blocks: Any) -> tuple[Part, ...]:
    llm.chat([ChatMessage(blocks=list(blocks))])
    return engine.history[-1].messages[0].parts  # type: ignore[no-any-return]


def test_an_image_block_may_contain_its_image_in_any_form(
    scripted: Make, png: bytes, png_base64: str, path: Path, uri: str, picture: PIL.Image.Image, tmp_path: Path
) -> None:
    bare = tmp_path / "no_suffix"
    bare.write_bytes(png)
    blocks = [
        ImageBlock(image=png),
        ImageBlock(image=png_base64.encode()),
        ImageBlock(image=png_base64),
        ImageBlock(image=png, image_mimetype="image/jpeg", detail="high"),
        ImageBlock(image=io.BytesIO(png)),
        ImageBlock(path=path),
        ImageBlock(path=bare),
        ImageBlock(url=uri),
    ]
    llm, engine = scripted("seen")
    texts = [TextBlock(text=f"text {number}") for number in range(len(blocks))]
    parts = parts_of(llm, engine, *(block for pair in zip(texts, blocks, strict=True) for block in pair))
    assert parts == tuple(
        part for number in range(len(blocks)) for part in (Text(f"text {number}"), Image.load(picture))
    )


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda folder: ImageBlock(url="http://example.com/a.png"), ImageUrlError, "fetch policy"),
        (lambda folder: ImageBlock(url="file:///etc/passwd"), ImageUrlError, "data URI"),
        (lambda folder: ImageBlock(), MessageError, "neither data nor a path"),
        (lambda folder: ImageBlock(image=b""), MessageError, "its data is empty"),
        (lambda folder: ImageBlock(path=folder / "empty.png"), ImageBrokenError, "0 bytes"),
        (lambda folder: ImageBlock(path=folder / "text.png"), ImageFormatError, "text.png"),
        (lambda folder: AudioBlock(audio=b"RIFF"), UnsupportedError, "AudioBlock"),
        (lambda folder: VideoBlock(video=b"ftyp"), UnsupportedError, "VideoBlock"),
        (lambda folder: DocumentBlock(data=b"plain words"), ImageError, "not"),
        (lambda folder: DocumentBlock(url="https://example.com/a.pdf"), ImageUrlError, "fetch policy"),
        (lambda folder: CitableBlock(title="t", source="s", content="words"), UnsupportedError, "CitableBlock"),
    ],
)
def test_blocks_that_cannot_be_read_are_refused_by_name(
    scripted: Make, tmp_path: Path, make: Callable[[Path], Any], error: type[Exception], words: str
) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    llm, engine = scripted()
    with pytest.raises(error, match=words):
        llm.chat([ChatMessage(blocks=[make(tmp_path)])])
    assert engine.history == []


def test_a_document_becomes_its_pages(scripted: Make, picture: PIL.Image.Image, tmp_path: Path) -> None:
    pages = [picture, picture.transpose(PIL.Image.Transpose.ROTATE_180)]
    file = tmp_path / "scan.pdf"
    pages[0].save(file, "PDF", save_all=True, append_images=pages[1:])
    llm, engine = scripted(*["read"] * 3)
    for block in (DocumentBlock(path=file), DocumentBlock(data=file.read_bytes())):
        first, second, text = parts_of(llm, engine, block, TextBlock(text="Summarize."))
        assert isinstance(first, Image)
        assert isinstance(second, Image)
        assert first.provenance.format == second.provenance.format == "PDF"
        assert text == Text("Summarize.")
    assert parts_of(llm, engine, DocumentBlock(path=file)) == (first, second)


def test_a_conversation_keeps_roles_thoughts_calls_and_results(scripted: Make, png: bytes) -> None:
    llm, engine = scripted("ok")
    image = Image.load(png)
    llm.chat(
        [
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="developer", content="And kind."),
            ChatMessage(role="user", blocks=[TextBlock(text="See"), ImageBlock(image=png), TextBlock(text="this.")]),
            ChatMessage(
                role="assistant",
                blocks=[
                    ThinkingBlock(content="A page is needed."),
                    TextBlock(text="I will."),
                    ToolCallBlock(tool_call_id="c1", tool_name="page", tool_kwargs={"number": 2}),
                    ToolCallBlock(tool_call_id="c2", tool_name="page", tool_kwargs='{"number": 3}'),
                    ToolCallBlock(tool_call_id="c3", tool_name="page", tool_kwargs="{oops"),
                ],
            ),
            ChatMessage(
                role="tool",
                blocks=[TextBlock(text="page 2"), ImageBlock(image=png)],
                additional_kwargs={"tool_call_id": "c1"},
            ),
            ChatMessage(role="function", content="page 3", additional_kwargs={"tool_call_id": "c2"}),
            ChatMessage(role="tool", blocks=[], additional_kwargs={"tool_call_id": "c3"}),
            ChatMessage(role="chatbot", content="Done."),
            ChatMessage(role="model", content="Really."),
            ChatMessage(blocks=[TextBlock(text="And?"), CachePoint(cache_control=CacheControl(type="ephemeral"))]),
            ChatMessage(role="system", content="Answer now."),
        ]
    )
    assert engine.history[0].messages == (
        Message.system("Be brief."),
        Message.system("And kind."),
        Message.user("See", image, "this."),
        Message.assistant(
            Thinking("A page is needed."),
            "I will.",
            ToolCall("c1", "page", {"number": 2}),
            ToolCall("c2", "page", {"number": 3}, raw='{"number": 3}'),
            ToolCall("c3", "page", None, raw="{oops", error="The arguments are not a JSON object."),
        ),
        Message("tool", (ToolResult("c1", (Text("page 2"), image)),)),
        Message("tool", (ToolResult("c2", (Text("page 3"),)),)),
        Message("tool", (ToolResult("c3", ()),)),
        Message.assistant("Done."),
        Message.assistant("Really."),
        Message.user("And?"),
        Message.system("Answer now."),
    )


def test_every_role_is_supported() -> None:
    llm = GLM4VMultiModal(engine="scripted", engine_options={"answers": ["ok"] * len(MessageRole)})
    for role in MessageRole:
        llm.chat([ChatMessage(role=role, content="x", additional_kwargs={"tool_call_id": "c"})])
    llm.close()


@pytest.mark.parametrize("blocks", [[], [TextBlock(text="")], [TextBlock(text=" \n")]])
def test_an_empty_system_message_is_left_out(scripted: Make, blocks: list[TextBlock]) -> None:
    llm, engine = scripted("ok")
    llm.chat([ChatMessage(role="system", blocks=blocks), ChatMessage(content="x")])
    assert engine.history[0].messages == (Message.user("x"),)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (ChatMessage(role="tool", content="4"), "tool_call_id"),
        (
            ChatMessage(role="tool", blocks=[ThinkingBlock(content="hm")], additional_kwargs={"tool_call_id": "c1"}),
            "only text, images",
        ),
        (ChatMessage(role="assistant", additional_kwargs={"tool_calls": [{"id": "c1"}]}), "ToolCallBlock"),
    ],
)
def test_unsupported_messages_are_refused(scripted: Make, message: ChatMessage, words: str) -> None:
    llm, engine = scripted()
    with pytest.raises(MessageError, match=words):
        llm.chat([message])
    assert engine.history == []


def test_a_prompt_template_fills_in_an_image(
    scripted: Make, path: Path, picture: PIL.Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm, engine = scripted("a")
    template = RichPromptTemplate("{% chat role='user' %}What is {{ page | image }}?{% endchat %}")
    monkeypatch.chdir(path.parent)  # templates read no files from elsewhere
    llm.predict(template, page=path.name)
    assert images_of(engine.history[0]) == [Image.load(picture)]


def test_a_wrong_request_does_not_load_the_model() -> None:
    llm = GLM4VMultiModal(model="/there/is/no/such/model", engine="transformers")
    with pytest.raises(UnsupportedError, match="AudioBlock"):
        llm.chat([ChatMessage(blocks=[AudioBlock(audio=b"RIFF")])])
