"""GLM-V models on your own machine, for LlamaIndex."""

from llamaindex_glm4v.errors import ToolCallError
from llamaindex_glm4v.llm import GLM4VMultiModal

GLM4V = GLM4VMultiModal

__all__ = ["GLM4V", "GLM4VMultiModal", "ToolCallError"]
