"""GLM-V models on your own machine, for LlamaIndex."""

from llamaindex_glm4v.documents import GLM4VReader
from llamaindex_glm4v.errors import ToolCallError
from llamaindex_glm4v.llm import GLM4VMultiModal
from llamaindex_glm4v.retriever import PageQueryEngine, PageRetriever, page_node
from llamaindex_glm4v.transforms import GLM4VOCRTransform
from llamaindex_glm4v.workflows import DocumentWorkflow

GLM4V = GLM4VMultiModal

__all__ = [
    "GLM4V",
    "DocumentWorkflow",
    "GLM4VMultiModal",
    "GLM4VOCRTransform",
    "GLM4VReader",
    "PageQueryEngine",
    "PageRetriever",
    "ToolCallError",
    "page_node",
]
