"""Agents: tools and a final object in one request, images from tools, and what middleware needs to know."""

from __future__ import annotations

from typing import Any

import PIL.Image
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from glm4v_core import FAMILIES, Image, JsonSchema, Request, ToolResult
from langchain_glm4v import ChatGLM4V, image_block
from tests.support.echo import echo
from tests.support.langchain_calls import Make


class Verdict(BaseModel):
    """What the page is."""

    label: str
    total: int


@tool
def look_up(number: int) -> str:
    """Look a bill up."""
    return f"bill {number} of 'Ann'"


def test_an_agent_calls_its_tool_and_ends_with_an_object(scripted: Make) -> None:
    llm, engine = scripted(echo)
    assert (llm.profile or {}).get("structured_output") is True
    agent = create_agent(llm, [look_up], response_format=Verdict)
    state = agent.invoke({"messages": [HumanMessage("Check bill 7.")]})
    assert state["structured_response"] == Verdict(label="Ann", total=7)
    assert [type(message) for message in state["messages"]] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    first, second = engine.history
    assert isinstance(first.constraint, JsonSchema)
    assert [known.name for known in first.tools] == ["look_up"]
    assert second.constraint == first.constraint


async def test_an_agent_without_tools_answers_with_an_object(scripted: Make) -> None:
    llm, engine = scripted(echo)
    agent = create_agent(llm, [], response_format=Verdict)
    state = await agent.ainvoke({"messages": [HumanMessage("Check bill 7 of 'Ann'.")]})
    assert state["structured_response"] == Verdict(label="Ann", total=7)
    assert len(engine.history) == 1


def test_a_picture_from_a_tool_reaches_the_model(scripted: Make, picture: PIL.Image.Image) -> None:
    @tool
    def open_page(number: int) -> list[dict[str, Any]]:
        """Show a page of the archive."""
        return [{"type": "text", "text": f"Page {number}:"}, image_block(picture)]

    def answers(request: Request) -> str:
        return "It is brown." if isinstance(request.messages[-1].parts[0], ToolResult) else echo(request)

    llm, engine = scripted(answers)
    state = create_agent(llm, [open_page]).invoke({"messages": [HumanMessage("Which colour has page 2?")]})
    assert state["messages"][-1].text == "It is brown."
    (result,) = engine.history[-1].messages[-1].parts
    assert isinstance(result, ToolResult)
    assert [part.sha256 for part in result.parts if isinstance(part, Image)] == [Image.load(picture).sha256]


def test_middleware_finds_the_context_window(scripted: Make) -> None:
    llm, _ = scripted(echo)
    middleware = SummarizationMiddleware(llm, trigger=("fraction", 0.8))
    agent = create_agent(llm, [], middleware=[middleware])
    assert agent.invoke({"messages": [HumanMessage("Hello.")]})["messages"][-1].text == "You said: Hello."


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_has_a_profile(family: Any) -> None:
    for name in family.hub_ids:
        profile = ChatGLM4V(model=name).profile
        assert profile is not None
        assert profile["max_input_tokens"] == family.context
        assert profile["tool_calling"] is (family.name != "GLM-4v-9b")
        assert profile["image_inputs"] is True
        assert profile["video_inputs"] is False


def test_an_explicit_profile_wins_and_a_folders_profile_is_known_once_loaded() -> None:
    own = ChatGLM4V(model="tiny", profile={"max_input_tokens": 7})
    assert own.profile == {"max_input_tokens": 7}
    folder = ChatGLM4V(model="some/folder", engine="scripted")
    assert folder.profile is None
    folder.load()
    assert folder.profile is not None
    assert folder.profile["max_input_tokens"] == 131_072
    folder.close()
