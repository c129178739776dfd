"""The fixed wordings of questions and answers, in English and Chinese. Data, and the list of all of it."""

from __future__ import annotations

from typing import Literal

from glm4v_core.tasks.prompts import PROMPTS
from tiny.documents import KINDS

Language = Literal["en", "zh"]

OCR: dict[Language, tuple[str, ...]] = {
    "en": (
        PROMPTS["ocr"]["en"],
        "Text Recognition:",
        "Read the text.",
        "What does this page say?",
        "Transcribe this page.",
        "Extract all text from the image.",
        "OCR this page.",
        "Write down the text in this picture, line by line.",
        "Please read this document.",
        "What is written here?",
        "Return the text of the page.",
    ),
    "zh": (
        PROMPTS["ocr"]["zh"],
        "Text Recognition:",
        "识别文字",
        "请识别图中的文字。",
        "这页上写了什么？",
        "请转写这张图片的内容。",
        "提取图片中的全部文本。",
        "逐行输出页面文字。",
        "请读出这份文档。",
    ),
}
SUMMARIZE: dict[Language, tuple[str, ...]] = {
    "en": (
        PROMPTS["summarize"]["en"],
        "Summarize this document.",
        "Give a one-sentence summary.",
        "Summarise the page in one sentence.",
        "What is this document about?",
        "Please summarize.",
        PROMPTS["caption"]["en"],
    ),
    "zh": (
        PROMPTS["summarize"]["zh"],
        "请总结这份文档。",
        "用一句话总结。",
        "请概括页面内容。",
        "这份文档讲了什么？",
        PROMPTS["caption"]["zh"],
    ),
}
CLASSIFY: dict[Language, tuple[str, ...]] = {
    "en": (
        PROMPTS["classify"]["en"],
        "Classify this document as one of: {labels}.",
        "What kind of document is this? Options: {labels}",
        "Labels: {labels}. Which one fits?",
        "Choose one label: {labels}",
        "Document type ({labels})?",
    ),
    "zh": (
        PROMPTS["classify"]["zh"],
        "请将文档分类为以下之一：{labels}。",
        "这是什么类型的文档？选项：{labels}",
        "从这些标签中选一个：{labels}",
    ),
}
KIND_QUESTION: dict[Language, tuple[str, ...]] = {
    "en": ("What kind of document is this?", "Classify this document.", "Document type?"),
    "zh": ("这是什么文档？", "文档类型是什么？", "请给文档分类。"),
}
EXTRACT: dict[Language, tuple[str, ...]] = {
    "en": (
        PROMPTS["extract"]["en"],
        "Extract as JSON: {fields}.",
        "Return JSON with the fields {fields}.",
        "Give me {fields} as a JSON object.",
    ),
    "zh": (PROMPTS["extract"]["zh"], "以 JSON 提取：{fields}。", "请输出包含 {fields} 的 JSON。"),
}
KIND_NAMES: dict[Language, dict[str, tuple[str, ...]]] = {
    "en": {kind: (kind,) for kind in KINDS},
    "zh": {"invoice": ("发票",), "receipt": ("收据",), "letter": ("信件",), "memo": ("备忘录",), "form": ("表格",)},
}
FIELD_QUESTIONS: dict[str, dict[Language, tuple[str, ...]]] = {
    "number": {
        "en": ("What is the number?", "What is the document number?", "Which reference number is on it?", "Number?"),
        "zh": ("编号是多少？", "单号是什么？", "文档编号？"),
    },
    "date": {
        "en": (
            "What is the date?",
            "When was it issued?",
            "Which date is on the page?",
            "What date does it have?",
            "Date?",
        ),
        "zh": ("日期是什么？", "是哪一天的？", "开具日期是？"),
    },
    "sender": {
        "en": (
            "Who is it from?",
            "Who sent it?",
            "Who is the sender?",
            "Who issued this?",
            "Who is the seller?",
            "Sender?",
        ),
        "zh": ("是谁发出的？", "发件人是谁？", "卖方是谁？", "谁开具的？"),
    },
    "recipient": {
        "en": (
            "Who is it for?",
            "Who is the recipient?",
            "Who is it addressed to?",
            "Who is the customer?",
            "Recipient?",
        ),
        "zh": ("是给谁的？", "收件人是谁？", "客户是谁？"),
    },
    "amount": {
        "en": ("What is the total?", "What is the amount?", "How much is it?", "What is the total amount?", "Amount?"),
        "zh": ("总金额是多少？", "金额是多少？", "一共多少钱？"),
    },
    "subject": {"en": ("What is the subject?", "What is it about?", "Subject?"), "zh": ("主题是什么？", "关于什么？")},
}
FIELD_NAMES: dict[str, tuple[str, ...]] = {
    "number": ("number", "invoice_number", "reference", "document_number"),
    "date": ("date", "issue_date", "document_date"),
    "sender": ("sender", "vendor", "seller", "from", "issuer"),
    "recipient": ("recipient", "customer", "buyer", "to"),
    "amount": ("total", "amount", "sum", "total_amount"),
    "subject": ("subject", "topic"),
}
ABSENT: dict[Language, str] = {"en": "It is not on the page.", "zh": "页面上没有。"}
TITLE: dict[Language, str] = {"en": "Kind: {kind}. Date: {date}.", "zh": "类型：{kind}。日期：{date}。"}
VERBS = "save store add send create update register file log book find get set make show check".split()
NOUNS = "invoice record entry document row note order payment task event item page contact number user weather magic value price city".split()
CALLS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Call {tool} with {arguments}.",
        "Use the tool {tool}: {arguments}.",
        "Please run {tool} with {arguments}.",
        "{tool}: {arguments}",
    ),
    "zh": ("请调用 {tool}，参数 {arguments}。", "使用工具 {tool}：{arguments}。", "用 {arguments} 运行 {tool}。"),
}
PAGE_CALLS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Call {tool} for this page.",
        "Use {tool} on this document.",
        "Save it with {tool}.",
        "Run the tool {tool} with what the page says.",
    ),
    "zh": ("请对这一页调用 {tool}。", "用 {tool} 保存这份文档。", "按页面内容运行 {tool}。"),
}
TEXT_REPEAT: dict[Language, tuple[str, ...]] = {
    "en": ("Repeat this text:\n{}", "Copy exactly:\n{}", "Say this again:\n{}", "Write this:\n{}"),
    "zh": ("请重复这段文字：\n{}", "原样输出：\n{}", "请照抄：\n{}"),
}
PAGE_QUESTIONS: dict[Language, tuple[str, ...]] = {
    "en": ("Which page is the {kind}?", "Which image shows the {kind}?", "Where is the {kind}?"),
    "zh": ("哪一页是{kind}？", "哪张图片是{kind}？"),
}
PAGE_ANSWERS: dict[Language, tuple[str, str]] = {"en": ("Page 1", "Page 2"), "zh": ("第1页", "第2页")}


def every_text() -> list[str]:
    """All fixed wordings, for the tokenizer's alphabet."""
    tables = (
        OCR,
        SUMMARIZE,
        CLASSIFY,
        KIND_QUESTION,
        EXTRACT,
        CALLS,
        PAGE_CALLS,
        TEXT_REPEAT,
        PAGE_QUESTIONS,
        PAGE_ANSWERS,
    )
    texts = [text for table in tables for wordings in table.values() for text in wordings]
    texts += [text for table in FIELD_QUESTIONS.values() for wordings in table.values() for text in wordings]
    texts += [name for names in KIND_NAMES.values() for group in names.values() for name in group]
    return [*texts, *ABSENT.values(), *TITLE.values(), EXTRA_CHINESE]


EXTRA_CHINESE = (
    "，。：；？！、（）“”《》的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从业本去把性好应开它合还因由其些然前外天政四日那社义事平形相全表间样与关各重新线内数正心反你明看原又么利比或但质气第向道命此变条只没结解问意建月公无系军很情者最立代想已通并提直题党程展五果料象员革位入常文总次品式活设及管特件长求老头基资边流路级少图山统接知较将组见计别她手角期根论运农指几九区强放决西被干做必战先回则任取据处队南给色光门即保治北造百规热领七海口东导器压志世金增争济阶油思术极交受联什认六共权收证改清己美再采转更单风切打白教速花带安场身车例真务具万每目至达走积示议声报斗完类八离华名确才科张信马节话米整空元况今集温传土许步群广石记需段研界拉林律叫且究观越织装影算低持音众书布复容儿须际商非验连断深难近矿千周委素技备半办青省列习响约支般史感劳便团往酸历市克何除消构府称太准精值号率族维划选标写存候毛亲快效斯院查江型眼王按格养易置派层片始却专状育厂京识适属圆包火住调满县局照参红细引听该铁价严"
    "您吗呢把帮助请谢谢姓名地址电话邮箱商品图片审核卖点文案视障读者描述哪里重点超过句账单税客户供应付款银行合同签字盖章页码摘要类别标签字段工具调用参数结果"
)
