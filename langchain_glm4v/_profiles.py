"""Model profiles, made from the core's table of families, so that each fact is written once."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from glm4v_core import FAMILIES, Family


def find_profile(model: str) -> ModelProfile | None:
    """Look up a hub id or "tiny"; return None for a checkpoint folder, whose files must be read first."""
    return next((profile_of(family) for family in FAMILIES if model in (family.name, *family.hub_ids)), None)


def profile_of(family: Family) -> ModelProfile:
    """Return what a family can do inside LangChain.

    Image URLs are data URIs only, so that flag is off. Structured output is on although no family was trained on it,
    because a grammar enforces it, also together with tools.
    """
    tools = family.dialect.tools != "none"
    return ModelProfile(
        name=family.name,
        open_weights=True,
        max_input_tokens=family.context,
        max_output_tokens=family.sampling.max_tokens or family.context,
        text_inputs=True,
        image_inputs=True,
        image_url_inputs=False,
        pdf_inputs=True,
        audio_inputs=False,
        video_inputs=False,
        image_tool_message=tools,
        pdf_tool_message=tools,
        text_outputs=True,
        image_outputs=False,
        audio_outputs=False,
        video_outputs=False,
        reasoning_output=family.dialect.think is not None,
        tool_calling=tools,
        tool_choice=tools,
        tool_call_streaming=tools,
        structured_output=True,
        attachment=True,
        temperature=True,
    )
