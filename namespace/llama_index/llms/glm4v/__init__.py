"""`from llama_index.llms.glm4v import GLM4V`: `llamaindex_glm4v` under the name that LlamaIndex users look for."""

from llamaindex_glm4v import GLM4V, GLM4VMultiModal

__all__ = ["GLM4V", "GLM4VMultiModal"]
