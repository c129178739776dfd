"""From tokens to text: whole characters only, and stop strings that never leave the engine."""

from __future__ import annotations

import codecs
import functools
from collections.abc import Sequence
from typing import Any

from glm4v_core.errors import ModelLoadError


class TokenBytes:
    """The bytes of every token of a byte-level BPE tokenizer, special tokens included."""

    def __init__(self, tokenizer: Any) -> None:
        vocabulary: dict[str | bytes, int] = tokenizer.get_vocab()
        added = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}
        # The tokenizer of the first generation is no BPE of this kind; its vocabulary holds the bytes themselves.
        in_letters = not any(isinstance(token, bytes) for token in vocabulary)
        if in_letters and "ByteLevel" not in str(tokenizer.backend_tokenizer.decoder):
            raise ModelLoadError("The tokenizer is not a byte-level BPE tokenizer, as every GLM-V tokenizer is.")
        table = [b""] * (max(*vocabulary.values(), 0) + 1)
        for token, index in vocabulary.items():
            table[index] = added.get(index) or (token if isinstance(token, bytes) else _bytes_of(token))
        self._table = table

    def __getitem__(self, token: int) -> bytes:
        """Return the token's bytes; a row of the embedding matrix that is no token has none."""
        return self._table[token] if token < len(self._table) else b""

    def text(self, token: int) -> str:
        return self[token].decode(errors="replace")


def _bytes_of(token: str) -> bytes:
    alphabet = _byte_alphabet()
    return bytes(alphabet[letter] for letter in token)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Map the letters in which byte-level BPE writes bytes back to these bytes.

    Printable Latin-1 bytes stand for themselves; the others got the letters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


class Detokenizer:
    """Turns one stream of tokens into text; bytes of an unfinished character wait for the rest of it."""

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        return self._decoder.decode(self._table[token])


class StopStrings:
    """Passes text on until the first stop string; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Return the text that is safe to show; `found` is set once a stop string is complete."""
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
        """Return what was held back and turned out to begin no stop string."""
        text, self._held = self._held, ""
        return text

    def _overlap(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
