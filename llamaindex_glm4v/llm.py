"""`GLM4VMultiModal`: a GLM-V model on your own machine as a LlamaIndex LLM."""

from __future__ import annotations

from llamaindex_glm4v._function_calling import FunctionCallingGLM4V

try:
    from llama_index.core.multi_modal_llms import MultiModalLLM
except ImportError:  # its makers are giving it up; everything but the type works without it
    MultiModalLLM = object  # type: ignore[assignment,misc]


class GLM4VMultiModal(FunctionCallingGLM4V, MultiModalLLM):  # type: ignore[misc]  # its bases disagree on `complete`
    """A GLM-V model that runs in this process, for everything that takes an LLM or a MultiModalLLM.

    Making one costs nothing; the first call loads the model, and all LLMs with the same model, engine and engine
    options share it. Every setting of sampling and thinking may also be given per call, as in `chat(messages, seed=1)`;
    a call wins over the constructor, and that over the family's default. Unknown settings raise.

    Example:
        ```python
        llm = GLM4VMultiModal(model="tiny")
        llm.complete("What is the total?", image_documents=["page.png"])
        ```
    """
