"""Stop strings, which end an answer and are not part of it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on up to the first stop string; holds back text that may be the beginning of one.

    Attributes:
        found: whether a stop string has been found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Return the text that is certainly not part of a stop string; set `found` if one is complete."""
        if not self._stops:
            return text
        text = self._held + text
        ends = [index for stop in self._stops if (index := text.find(stop)) >= 0]
        if ends:
            self.found, self._held = True, ""
            return text[: min(ends)]
        cut = len(text) - self._overlap(text)
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return the text that was held back, at the end of the answer."""
        text, self._held = self._held, ""
        return text

    def _overlap(self, text: str) -> int:
        """Return the length of the longest suffix of `text` with which a stop string begins."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
