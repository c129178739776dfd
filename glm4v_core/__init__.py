"""The engine room of glm4v: GLM-V models on your own machine, without any host framework."""

from glm4v_core import errors, shared, tasks
from glm4v_core.defaults import Defaults
from glm4v_core.engines import Engine, EngineInfo, TokenCount
from glm4v_core.engines.loop import pull
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import Glm4vError
from glm4v_core.families import FAMILIES, Family
from glm4v_core.image_limits import ImageLimits
from glm4v_core.image_source import check_url
from glm4v_core.images import Image, ImageSource, Provenance
from glm4v_core.model import Glm4v
from glm4v_core.ordered import in_order
from glm4v_core.page_files import Paths, find_files, find_scans
from glm4v_core.pages import FailedPage, Page, PageOptions, count_pages, load_page, load_pages
from glm4v_core.reading import (
    Facts,
    OnError,
    PageText,
    UnreadPage,
    answer_facts,
    check_on_error,
    open_pages,
    read_texts,
)
from glm4v_core.schemas import closed_schema
from glm4v_core.settings import SAMPLING_SETTINGS, ModelSettings, call_settings
from glm4v_core.task_prompts import Language
from glm4v_core.tasks import Answering, Step
from glm4v_core.types import (
    Box,
    Choices,
    Completion,
    Constraint,
    Delta,
    FinishReason,
    JsonSchema,
    Message,
    Part,
    Piece,
    Regex,
    Request,
    Role,
    Sampling,
    Text,
    Thinking,
    Timings,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Usage,
    Video,
)
from glm4v_core.workflow import (
    DocumentResult,
    Failure,
    Outcome,
    PageFailure,
    PageInfo,
    StepInfo,
    Workflow,
    document_workflow,
)

__all__ = [
    "FAMILIES",
    "SAMPLING_SETTINGS",
    "Answering",
    "Box",
    "Choices",
    "Completion",
    "Constraint",
    "Defaults",
    "Delta",
    "DocumentResult",
    "Engine",
    "EngineInfo",
    "Facts",
    "FailedPage",
    "Failure",
    "Family",
    "FinishReason",
    "Glm4v",
    "Glm4vError",
    "Image",
    "ImageLimits",
    "ImageSource",
    "JsonSchema",
    "Language",
    "Message",
    "ModelSettings",
    "OnError",
    "Outcome",
    "Page",
    "PageFailure",
    "PageInfo",
    "PageOptions",
    "PageText",
    "Part",
    "Paths",
    "Piece",
    "Provenance",
    "Regex",
    "Request",
    "Role",
    "Sampling",
    "ScriptedEngine",
    "Step",
    "StepInfo",
    "Text",
    "Thinking",
    "Timings",
    "TokenCount",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolChoice",
    "ToolResult",
    "UnreadPage",
    "Usage",
    "Video",
    "Workflow",
    "answer_facts",
    "call_settings",
    "check_on_error",
    "check_url",
    "closed_schema",
    "count_pages",
    "document_workflow",
    "errors",
    "find_files",
    "find_scans",
    "in_order",
    "load_page",
    "load_pages",
    "open_pages",
    "pull",
    "read_texts",
    "shared",
    "tasks",
]
