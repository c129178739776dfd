"""`llamaindex_glm4v` where LlamaIndex's own integrations stand: `from llama_index.llms.glm4v import GLM4V`."""

from llamaindex_glm4v import GLM4V, GLM4VMultiModal

__all__ = ["GLM4V", "GLM4VMultiModal"]
