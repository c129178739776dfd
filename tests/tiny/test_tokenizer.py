"""The tiny vocabulary: lossless, one token per character, tags as in the 4.6V vocabulary."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny.network import build_config
from tiny.questions import tool_schema
from tiny.sequences import PRINTABLE, tools_block
from tiny.tokenizer import PHRASES, SPECIAL, VISIBLE
from tiny.wordings import every_text
from tokenizers import Tokenizer

from glm4v_core.dialect.families import GLM46V
from glm4v_core.engines.transformers.loading import Checkpoint

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CHINESE = sorted({character for text in every_text() for character in text if ord(character) > 127})


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_TEXT | st.sampled_from((*SPECIAL, *PHRASES))).map("".join))
def test_any_text_survives_a_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from([*PRINTABLE, " ", "\n", *CHINESE[::20]])))
def test_a_known_character_is_one_token_in_any_context(tokenizer: Tokenizer, text: str) -> None:
    assume(not any(whole in text for whole in (*SPECIAL, *PHRASES)))
    single = [token for character in text for token in tokenizer.encode(character).ids]
    assert len(single) == len(text)
    assert tokenizer.encode(text).ids == single


def test_every_chinese_character_of_the_wordings_is_one_token(tokenizer: Tokenizer) -> None:
    assert len(CHINESE) > 500
    assert {len(tokenizer.encode(character).ids) for character in CHINESE} == {1}


def test_special_tokens_are_single_and_hidden_when_they_are_in_the_46v_vocabulary(tokenizer: Tokenizer) -> None:
    for token in SPECIAL:
        assert tokenizer.encode(token).ids == [tokenizer.token_to_id(token)]
    shown = [token for token in SPECIAL if tokenizer.decode([tokenizer.token_to_id(token)], skip_special_tokens=True)]
    assert shown == [token for token in SPECIAL if token in VISIBLE]
    assert {"<think>", "</think>", "<tool_call>", "<arg_key>", "/nothink", "<|begin_of_box|>"} <= set(shown)
    assert set(shown).isdisjoint({"<|user|>", "<|endoftext|>", "<|image|>", "[gMASK]"})


def test_the_vocabulary_has_every_control_token_of_the_dialect(tokenizer: Tokenizer) -> None:
    assert set(GLM46V.control_tokens) <= set(SPECIAL)
    assert None not in map(tokenizer.token_to_id, GLM46V.control_tokens)


def test_ids_grow_from_bytes_to_characters_to_special_tokens_to_phrases(tokenizer: Tokenizer) -> None:
    ids = list(map(tokenizer.token_to_id, (*SPECIAL, *PHRASES)))
    size = tokenizer.get_vocab_size()
    assert ids == list(range(size - len(ids), size))
    assert max(tokenizer.encode(PRINTABLE).ids) < 256


def test_fixed_sentences_around_tools_are_one_token_each(tokenizer: Tokenizer) -> None:
    tool = tool_schema("add", {"a": "integer", "b": "string"}, Random(0))
    prompt = tools_block([tool]) + "<|user|>\n<document>\nText\n</document>\n"
    ids = tokenizer.encode(prompt).ids
    assert [phrase for phrase in PHRASES if tokenizer.token_to_id(phrase) not in ids] == []
    assert len(ids) < len(prompt) / 4


def test_the_configuration_names_the_vocabulary_s_tokens(tokenizer: Tokenizer) -> None:
    config, token = build_config(tokenizer), tokenizer.token_to_id
    assert config.image_token_id == token("<|image|>")
    assert config.image_start_token_id == token("<|begin_of_image|>")
    assert config.image_end_token_id == token("<|end_of_image|>")
    assert config.text_config.eos_token_id == [token("<|endoftext|>"), token("<|user|>"), token("<|observation|>")]
    assert config.text_config.vocab_size >= tokenizer.get_vocab_size()


@pytest.mark.parametrize("text", ["Total:\t$1,234.50\n发票", "<|user|>\n<document>\n", "日本 ☂ é", *SPECIAL, *PHRASES])
def test_the_exported_tokenizer_gives_the_same_ids(tokenizer: Tokenizer, checkpoint: Checkpoint, text: str) -> None:
    exported = checkpoint.tokenizer
    assert exported(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).ids
    assert exported.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
