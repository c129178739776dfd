"""`llamaindex_glm4v` under the import path of LlamaIndex's own integrations: `from llama_index.llms.glm4v import GLM4V`."""

from llamaindex_glm4v import GLM4V, GLM4VMultiModal

__all__ = ["GLM4V", "GLM4VMultiModal"]
