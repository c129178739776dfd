"""Prompts of the built-in tasks, in English and Chinese. The placeholders in braces are filled in by `tasks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from glm4v_core.validation import check_choice

Language = Literal["en", "zh"]

PROMPTS: Mapping[str, Mapping[Language, str]] = {
    "ocr": {
        "en": "Read the text on this page, line by line. Output only the text.",
        "zh": "请逐行识别图片中的文字，只输出文字。",
    },
    "summarize": {
        "en": "Summarize this document in one sentence: its kind, the parties, the date and the amount.",
        "zh": "请用一句话概括这份文档：类型、双方、日期和金额。",
    },
    "classify": {
        "en": "Which label fits this document best? Labels: {labels}. Answer with one label only.",
        "zh": "这份文档属于哪一类？可选标签：{labels}。只回答一个标签。",
    },
    "extract": {
        "en": "Extract these fields as JSON: {fields}. Use null for a field that is not there.",
        "zh": "请提取以下字段并以 JSON 输出：{fields}。没有的字段写 null。",
    },
    "caption": {
        "en": "Describe this image in one or two sentences.",
        "zh": "用一两句话描述这张图片。",
    },
}

PRESETS: Mapping[str, Mapping[Language, str]] = {
    "product-copy": {
        "en": "Write an appealing product line for this image in at most 15 words. Output only the line.",
        "zh": "为这张商品图写一句不超过15个字的卖点文案，只输出文案。",
    },
    "lines": PROMPTS["ocr"],
    "alt-text": {
        "en": "Describe this image for a blind reader: what is where, which text is visible, what matters. At most three sentences.",
        "zh": "为视障读者描述这张图片：有什么、在哪里、有哪些文字、重点是什么。不超过三句话。",
    },
    "product-audit": {
        "en": "Audit this product image. Answer as JSON with the fields compliant (true or false), problems (list of strings), visible_text (string).",
        "zh": "审核这张商品图，以 JSON 输出：compliant（true 或 false）、problems（字符串列表）、visible_text（字符串）。",
    },
}

DOCUMENT: str = "<document>\n{text}\n</document>\n"
"""Wraps the text of a page when a step gets the text instead of the picture."""

NOT_ON_PAGE: Mapping[Language, str] = {"en": "It is not on the page.", "zh": "页面上没有。"}
"""The answer that a model is told to give when a page does not answer the question."""

ASK_PAGE: Mapping[Language, str] = {
    "en": "{question} If the page does not say, answer: " + NOT_ON_PAGE["en"],
    "zh": "{question}如果页面上没有答案，请回答：" + NOT_ON_PAGE["zh"],
}
"""A question about one of several pages that may have the answer."""


def prompt_of(task: str, language: Language) -> str:
    """Return the prompt of a built-in task.

    Raises:
        ConfigError: there are no prompts in this language.
    """
    check_choice("language", language, Language)
    return PROMPTS[task][language]
