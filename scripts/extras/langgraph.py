"""The document graph reads a page, with a checkpoint."""

import sys
from pathlib import Path

from langgraph.checkpoint.memory import InMemorySaver

from langchain_glm4v import ChatGLM4V, document_workflow
from langchain_glm4v.graph import document_graph, outcomes_of

llm = ChatGLM4V(model="any", engine="scripted", engine_options={"answers": ["text", "summary"]})
graph = document_graph(document_workflow(llm), checkpointer=InMemorySaver())
state = graph.invoke({"paths": [str(Path(sys.argv[1]) / "scan-01.png")]}, {"configurable": {"thread_id": "1"}})
[outcome] = outcomes_of(state)
assert (outcome.text, outcome.summary) == ("text", "summary"), outcome
