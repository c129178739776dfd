"""An error reads as sentences, whoever wrote its message."""

from __future__ import annotations

import pytest

from glm4v_core.errors import ImageError


@pytest.mark.parametrize("message", ["The file is cut off", "The file is cut off.", "Is it cut off?"])
def test_a_message_ends_before_its_hint(message: str) -> None:
    first, _, hint = str(ImageError(message, hint="Scan it again.")).partition(" Hint: ")
    assert first == (message if message[-1] in ".?" else f"{message}.")
    assert hint == "Scan it again."
