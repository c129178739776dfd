"""LlamaIndex's agents, with images in questions and in the results of tools."""

from __future__ import annotations

from typing import Any

import PIL.Image
import pytest
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel
from workflows.errors import WorkflowRuntimeError

from glm4v_core import Image, JsonSchema, Request, Text, Thinking, ToolCall, ToolResult
from llamaindex_glm4v import ToolCallError
from tests.support.llamaindex_calls import IGNORE_AGENT_WARNINGS, Make
from tests.support.tool_calls import tool_call

pytestmark = IGNORE_AGENT_WARNINGS
LOOK = "<think>I must see it.</think>" + tool_call("look", page="2")


def looker(png: bytes) -> Any:
    def look(page: int) -> list[Any]:
        """Look at a page."""
        return [TextBlock(text=f"page {page}"), ImageBlock(image=png)]

    return look


async def run(agent: Any, question: str | ChatMessage, **options: Any) -> tuple[Any, list[Any]]:
    handler = agent.run(question, **options)
    events = [event async for event in handler.stream_events()]
    return await handler, events


def parts_of(request: Request, role: str) -> list[Any]:
    return [part for message in request.messages if message.role == role for part in message.parts]


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_function_agent_sees_images_in_questions_and_results(
    scripted: Make, streaming: bool, png: bytes, picture: PIL.Image.Image
) -> None:
    llm, engine = scripted(LOOK + tool_call("look", page="3"), "A cat.", thinking=True)
    agent = FunctionAgent(llm=llm, tools=[looker(png)], system_prompt="Look first.", streaming=streaming)
    question = ChatMessage(blocks=[TextBlock(text="Is it the same cat?"), ImageBlock(image=png)])
    output, events = await run(agent, question)

    assert output.response.content == "A cat."
    image = Image.load(picture)
    first, second = engine.history
    assert [tool.name for tool in first.tools] == ["look"]
    assert first.parallel_tool_calls is True
    assert parts_of(first, "user") == [Text("Is it the same cat?"), image]
    thought, _, *calls = parts_of(second, "assistant")
    assert thought == Thinking("I must see it.")
    assert [made.arguments for made in calls if isinstance(made, ToolCall)] == [{"page": 2}, {"page": 3}]
    results = parts_of(second, "tool")
    assert all(isinstance(result, ToolResult) for result in results)
    shown = {result.call_id: result.parts for result in results}
    assert [shown[made.id] for made in calls] == [(Text("page 2"), image), (Text("page 3"), image)]
    if streaming:
        streams = [event for event in events if isinstance(event, AgentStream)]
        assert "".join(event.thinking_delta or "" for event in streams) == "I must see it."
        assert "".join(event.delta for event in streams) == "A cat."
        assert streams[-1].raw["usage"]["completion_tokens"] > 0  # type: ignore[index]


async def test_an_agent_remembers_across_runs(scripted: Make, png: bytes) -> None:
    llm, engine = scripted(LOOK, "A cat.", "As I said, a cat.")
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    agent = FunctionAgent(llm=llm, tools=[looker(png)])
    await run(agent, "What is on page 2?", memory=memory)
    await run(agent, "Say it again.", memory=memory)
    roles = [message.role for message in engine.history[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_workflow_of_agents_hands_over(scripted: Make, streaming: bool, png: bytes) -> None:
    handoff = tool_call("handoff", to_agent="writer", reason="I have seen it.")
    llm, engine = scripted(LOOK, handoff, "It shows a cat.", family="GLM-4.6V", thinking=True)
    reader = FunctionAgent(
        name="reader",
        description="Looks at pages.",
        system_prompt="You look.",
        tools=[looker(png)],
        llm=llm,
        can_handoff_to=["writer"],
        streaming=streaming,
    )
    writer = FunctionAgent(
        name="writer", description="Writes.", system_prompt="You write.", tools=[], llm=llm, streaming=streaming
    )
    workflow = AgentWorkflow(agents=[reader, writer], root_agent="reader")
    question = ChatMessage(blocks=[TextBlock(text="What is it?"), ImageBlock(image=png)])
    output, _ = await run(workflow, question)
    assert output.response.content == "It shows a cat."
    assert output.current_agent_name == "writer"
    first, _, last = engine.history
    assert [tool.name for tool in first.tools] == ["look", "handoff"]
    assert last.messages[0].parts == (Text("You write."),)
    image = Image.load(png)
    assert [part for part in parts_of(last, "user") if isinstance(part, Image)] == [image]
    seen, handed_over = parts_of(last, "tool")
    assert seen.parts == (Text("page 2"), image)
    assert "writer" in handed_over.parts[0].text


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_react_agent_calls_tools_in_text(scripted: Make, streaming: bool, png: bytes) -> None:
    llm, engine = scripted(
        '<think>Hm.</think>Thought: I must count.\nAction: count\nAction Input: {"word": "cat"}',
        "",
        "Thought: I know it.\nAnswer: Three cats.",
        thinking=True,
    )

    def count(word: str) -> int:
        """Count a word."""
        return len(word)

    agent = ReActAgent(llm=llm, tools=[count], streaming=streaming)
    question = ChatMessage(blocks=[TextBlock(text="How many?"), ImageBlock(image=png)])
    output, events = await run(agent, question)
    assert output.response.content == "Three cats."
    assert [event.tool_output.raw_output for event in events if isinstance(event, ToolCallResult)] == [3]
    assert all(request.tools == () for request in engine.history)
    assert Image.load(png) in parts_of(engine.history[0], "user")
    assert "Observation: 3" in parts_of(engine.history[1], "user")[-1].text


async def test_a_react_agent_sees_only_the_text_of_a_tools_result(scripted: Make, png: bytes) -> None:
    """LlamaIndex writes a tool's result into a line of text here; its other agents keep the images."""
    llm, engine = scripted(
        'Thought: I must look.\nAction: look\nAction Input: {"page": 2}', "", "Thought: I know it.\nAnswer: A cat."
    )
    output, _ = await run(ReActAgent(llm=llm, tools=[looker(png)], streaming=False), "What is it?")
    assert output.response.content == "A cat."
    last = parts_of(engine.history[1], "user")[-1]
    assert last.text.startswith("Observation: page 2")
    assert not any(isinstance(part, Image) for part in parts_of(engine.history[1], "user"))


class Animal(BaseModel):
    kind: str
    legs: int


async def test_an_agent_may_return_an_object(scripted: Make) -> None:
    llm, engine = scripted("It is a cat.", '{"kind": "cat", "legs": 4}')
    output, _ = await run(FunctionAgent(llm=llm, output_cls=Animal), "What is it?")
    assert output.get_pydantic_model(Animal) == Animal(kind="cat", legs=4)
    assert isinstance(engine.history[1].constraint, JsonSchema)


async def test_a_stopped_agent_answers_with_what_it_has(scripted: Make, png: bytes) -> None:
    llm, engine = scripted(LOOK, LOOK, "I do not know.")
    agent = FunctionAgent(llm=llm, tools=[looker(png)], early_stopping_method="generate")
    output, _ = await run(agent, "What is it?", max_iterations=2)
    assert output.response.content == "I do not know."
    assert engine.history[-1].messages[-1].role == "system"


async def test_a_broken_call_ends_the_agent_with_its_reason(scripted: Make, png: bytes) -> None:
    llm, _ = scripted(LOOK.removesuffix("\n</tool_call>"))
    with pytest.raises((ToolCallError, WorkflowRuntimeError), match="cannot be read"):
        await run(FunctionAgent(llm=llm, tools=[looker(png)]), "What is it?")


async def test_an_agent_may_be_told_which_tool_comes_first(scripted: Make, png: bytes) -> None:
    llm, engine = scripted(LOOK, "A cat.")
    agent = FunctionAgent(llm=llm, tools=[looker(png)], initial_tool_choice="look", allow_parallel_tool_calls=False)
    await run(agent, "What is it?")
    assert [request.tool_choice for request in engine.history] == ["look", "auto"]
    assert engine.history[0].parallel_tool_calls is False
