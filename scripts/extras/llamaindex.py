"""The LLM answers about a picture, by its own name and by LlamaIndex's."""

import sys
from pathlib import Path

from llama_index.llms.glm4v import GLM4VMultiModal as Alias

from llamaindex_glm4v import GLM4VMultiModal

assert Alias is GLM4VMultiModal
llm = GLM4VMultiModal(model="any", engine="scripted", engine_options={"answers": ["42"]})
page = Path(sys.argv[1]) / "scan-01.png"
assert llm.complete("What is the total?", image_documents=[page]).text == "42"
