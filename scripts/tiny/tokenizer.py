"""Byte-level tokenizer of the tiny model: one token per ASCII character and per Chinese character it was trained on.

Single characters keep copying simple for a small model: a page's character is always the same token. The fixed
sentences that the chat template prints around tools are one added token each, which keeps tool prompts short.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

SPECIAL = (
    "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|> <|begin_of_image|> <|end_of_image|> "
    "<|begin_of_video|> <|end_of_video|> <|begin_of_audio|> <|end_of_audio|> <|begin_of_transcription|> <|end_of_transcription|> <|code_prefix|> "
    "<|code_middle|> <|code_suffix|> <think> </think> <tool_call> </tool_call> <tool_response> </tool_response> <arg_key> </arg_key> <arg_value> "
    "</arg_value> /nothink <|begin_of_box|> <|end_of_box|> <|image|> <|video|>"
).split()

VISIBLE = frozenset(SPECIAL[SPECIAL.index("<think>") : SPECIAL.index("<|image|>")])
"""Tags of reasoning, tools and boxes: kept when special tokens are skipped, as in the 4.6V vocabulary."""

PHRASES = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n",
    "\n</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n",
    "{function-name}\n",
    "{arg-key-1}",
    "{arg-value-1}",
    "{arg-key-2}",
    "{arg-value-2}",
    '{"type": "function", "function": {"name": "',
    '", "description": "',
    '", "parameters": {"type": "object", "properties": {',
    '{"type": "string"}',
    '{"type": "integer"}',
    '"required": [',
    "<document>\n",
    "\n</document>\n",
)


def build_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Build the vocabulary; every non-ASCII character of `texts` becomes one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_of = _byte_symbols()
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for character in sorted({c for text in texts for c in text if ord(c) > 127}):
        symbols = [byte_of[b] for b in character.encode()]
        whole = symbols[0]
        for symbol in symbols[1:]:
            if whole + symbol not in vocabulary:
                vocabulary[whole + symbol] = len(vocabulary)
                merges.append((whole, symbol))
            whole += symbol
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=token not in VISIBLE, normalized=False) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in PHRASES])
    return tokenizer


def _byte_symbols() -> dict[int, str]:
    """Map each byte to the printable symbol that byte-level BPE writes for it: itself, or the next one from 256 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}
