"""GLM-V models on your own machine, without any host framework.

These are the names that most programs need. `glm4v_core.media`, `tasks`, `store`, `bulk` and `evaluation` have more on
their subjects; `glm4v_core.hosts` has what adapters for a framework are made of.
"""

from glm4v_core import errors, tasks
from glm4v_core.defaults import Defaults
from glm4v_core.dialect.families import FAMILIES, Family
from glm4v_core.engines import Engine, EngineInfo
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import Failure, Glm4vError
from glm4v_core.media.image import Image
from glm4v_core.media.limits import ImageLimits
from glm4v_core.media.page_options import PageOptions
from glm4v_core.media.pages import Page, PageInfo, load_pages
from glm4v_core.model import Glm4v
from glm4v_core.store.asking import Evidence, SourcedAnswer, query_pages
from glm4v_core.store.ingestion import IngestOptions, ingest
from glm4v_core.store.page import StoredPage
from glm4v_core.store.store import PageStore
from glm4v_core.tasks import Step
from glm4v_core.tasks.results import DocumentResult, PageFailure
from glm4v_core.tasks.workflow import Workflow, document_workflow
from glm4v_core.types import (
    Box,
    Choices,
    Completion,
    Delta,
    JsonSchema,
    Message,
    Regex,
    Request,
    Sampling,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
    Video,
)

__all__ = [
    "FAMILIES",
    "Box",
    "Choices",
    "Completion",
    "Defaults",
    "Delta",
    "DocumentResult",
    "Engine",
    "EngineInfo",
    "Evidence",
    "Failure",
    "Family",
    "Glm4v",
    "Glm4vError",
    "Image",
    "ImageLimits",
    "IngestOptions",
    "JsonSchema",
    "Message",
    "Page",
    "PageFailure",
    "PageInfo",
    "PageOptions",
    "PageStore",
    "Regex",
    "Request",
    "Sampling",
    "ScriptedEngine",
    "SourcedAnswer",
    "Step",
    "StoredPage",
    "Text",
    "Thinking",
    "Timings",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolResult",
    "Usage",
    "Video",
    "Workflow",
    "document_workflow",
    "errors",
    "ingest",
    "load_pages",
    "query_pages",
    "tasks",
]
