"""Tool calls as a model of the 4.6V dialect writes them."""

from __future__ import annotations


def tool_call(name: str, *pairs: tuple[str, str], newline: str = "\n", **arguments: str) -> str:
    """Write a call; `pairs` are for arguments whose names are not Python names, or come twice."""
    body = "".join(
        f"<arg_key>{key}</arg_key>{newline}<arg_value>{value}</arg_value>{newline}"
        for key, value in (*pairs, *arguments.items())
    )
    return f"<tool_call>{name}{newline}{body}</tool_call>"
