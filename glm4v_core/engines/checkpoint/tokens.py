"""Converts tokens to text, in whole characters."""

from __future__ import annotations

import codecs
import functools
from typing import Any

from glm4v_core.errors import ModelLoadError


class TokenBytes:
    """The bytes of every token of a byte-level BPE tokenizer, special tokens included."""

    def __init__(self, tokenizer: Any) -> None:
        vocabulary: dict[str | bytes, int] = tokenizer.get_vocab()
        added = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}
        # The first generation's tokenizer is not byte-level BPE; its vocabulary contains the bytes themselves.
        in_letters = not any(isinstance(token, bytes) for token in vocabulary)
        if in_letters and "ByteLevel" not in str(tokenizer.backend_tokenizer.decoder):
            raise ModelLoadError("The tokenizer is not a byte-level BPE tokenizer, as every GLM-V tokenizer is.")
        table = [b""] * (max(*vocabulary.values(), 0) + 1)
        for token, index in vocabulary.items():
            table[index] = added.get(index) or (token if isinstance(token, bytes) else _bytes_of(token))
        self._table = table

    def __getitem__(self, token: int) -> bytes:
        """Return the token's bytes. They are empty for padding rows of the embedding matrix, which are not tokens."""
        return self._table[token] if token < len(self._table) else b""

    def text(self, token: int) -> str:
        """Return a token by itself as text; incomplete characters are replaced."""
        return self[token].decode(errors="replace")


def _bytes_of(token: str) -> bytes:
    alphabet = _byte_alphabet()
    return bytes(alphabet[letter] for letter in token)


@functools.cache
def _byte_alphabet() -> dict[str, int]:
    """Map the characters that represent bytes in a byte-level BPE vocabulary to these bytes.

    Printable Latin-1 characters represent their own byte. The other bytes are represented by the characters from
    U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + index): byte for index, byte in enumerate(others)}


class Detokenizer:
    """Converts one stream of tokens to text. The bytes of an incomplete character wait for the rest of it."""

    def __init__(self, table: TokenBytes) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, token: int) -> str:
        """Return the characters that are complete with this token."""
        return self._decoder.decode(self._table[token])
