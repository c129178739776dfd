"""The chat model answers about a picture, and the document workflow reads one."""

import sys
from pathlib import Path

from langchain_core.messages import HumanMessage

from langchain_glm4v import ChatGLM4V, document_workflow, image_block

page = Path(sys.argv[1]) / "scan-01.png"
llm = ChatGLM4V(model="any", engine="scripted", engine_options={"answers": ["42", "text", "summary"]})
assert llm.invoke([HumanMessage([image_block(page), "What is the total?"])]).text == "42"
result = document_workflow(llm).invoke(page)
assert (result.text, result.summary) == ("text", "summary"), result
