"""Grammars of requests, and whether they accept a text, on a byte tokenizer."""

from __future__ import annotations

from functools import cache

from llguidance import LLMatcher, LLTokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from glm4v_core.dialect.dialects import Dialect
from glm4v_core.dialect.grammar import compile_grammar
from glm4v_core.types import Request


@cache
def byte_tokenizer(dialect: Dialect) -> tuple[Tokenizer, LLTokenizer]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={character: index for index, character in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    plain = () if dialect.tools == "template" else ("<tool_", "</tool_", "<arg_", "</arg_")
    tokens = [token for token in dialect.control_tokens if not token.startswith(plain or "\0")]
    made.add_tokens([AddedToken(token) for token in tokens])
    return made, LLTokenizer(made.to_str(), eos_token=made.token_to_id("<|endoftext|>"))


def accepts(dialect: Dialect, grammar: str, text: str) -> bool:
    encoder, tokens = byte_tokenizer(dialect)
    matcher = LLMatcher(tokens, grammar)
    assert not matcher.is_error(), matcher.get_error()
    ids = encoder.encode(text, add_special_tokens=False).ids
    return matcher.validate_tokens(ids) == len(ids) and matcher.consume_tokens(ids) and matcher.is_accepting()


def grammar(dialect: Dialect, asked: Request) -> str:
    compiled = compile_grammar(asked, dialect)
    assert compiled is not None
    return compiled.text
