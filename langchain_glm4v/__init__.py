"""GLM-V models on your own machine, for LangChain."""

from langchain_glm4v._convert import document_blocks, image_block
from langchain_glm4v.chat_model import ChatGLM4V
from langchain_glm4v.documents import GLM4VBlobParser, ScannedDocumentLoader
from langchain_glm4v.errors import ChatContextOverflowError, ChatModelNotFoundError, ChatTimeoutError
from langchain_glm4v.retriever import PageQuestion, PageRetriever, page_document, page_query_chain
from langchain_glm4v.workflows import document_workflow

__all__ = [
    "ChatContextOverflowError",
    "ChatGLM4V",
    "ChatModelNotFoundError",
    "ChatTimeoutError",
    "GLM4VBlobParser",
    "PageQuestion",
    "PageRetriever",
    "ScannedDocumentLoader",
    "document_blocks",
    "document_workflow",
    "image_block",
    "page_document",
    "page_query_chain",
]
