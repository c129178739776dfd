"""The engine room of glm4v: GLM-V models on your own machine, without any host framework."""

from glm4v_core import errors, tasks
from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT, WORKFLOW_PAGES_IN_FLIGHT, in_order
from glm4v_core.concurrency.own_loop import iterate_in_own_loop, run_in_own_loop
from glm4v_core.defaults import Defaults
from glm4v_core.dialect.families import FAMILIES, Family
from glm4v_core.dialect.schemas import closed_schema
from glm4v_core.engines import Engine, EngineInfo, TokenCount
from glm4v_core.engines.scripted import ScriptedEngine
from glm4v_core.errors import Failure, Glm4vError
from glm4v_core.hosts.reading import Facts, OnError, PageText, UnreadPage, answer_facts, open_pages, read_texts
from glm4v_core.hosts.settings import CallSettings, ModelSettings, call_settings
from glm4v_core.media.files import Paths, find_files, find_scans
from glm4v_core.media.image import Image, ImageSource, Provenance
from glm4v_core.media.limits import ImageLimits
from glm4v_core.media.page_options import PageOptions, check_page_options
from glm4v_core.media.pages import FailedPage, Page, PageInfo, count_pages, load_page, load_pages
from glm4v_core.media.source import check_url
from glm4v_core.model import Glm4v
from glm4v_core.store.asking import (
    Evidence,
    PageAnswer,
    PageAsking,
    Route,
    SourcedAnswer,
    aquery_pages,
    choose_answer,
    open_each,
    page_request,
    query_pages,
)
from glm4v_core.store.ingestion import IngestedPage, Ingestion, IngestOptions, aingest, ingest
from glm4v_core.store.page import FoundPage, Place, StoredPage, page_facts, page_id
from glm4v_core.store.store import PAGES_FOUND, PageStore
from glm4v_core.tasks import Answering, Step
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.results import DocumentResult, Outcome, PageFailure, StepInfo
from glm4v_core.tasks.workflow import Workflow, document_workflow
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
from glm4v_core.validation import check_choice

__all__ = [
    "FAMILIES",
    "PAGES_FOUND",
    "PAGES_IN_FLIGHT",
    "WORKFLOW_PAGES_IN_FLIGHT",
    "Answering",
    "Box",
    "CallSettings",
    "Choices",
    "Completion",
    "Constraint",
    "Defaults",
    "Delta",
    "DocumentResult",
    "Engine",
    "EngineInfo",
    "Evidence",
    "Facts",
    "FailedPage",
    "Failure",
    "Family",
    "FinishReason",
    "FoundPage",
    "Glm4v",
    "Glm4vError",
    "Image",
    "ImageLimits",
    "ImageSource",
    "IngestOptions",
    "IngestedPage",
    "Ingestion",
    "JsonSchema",
    "Language",
    "Message",
    "ModelSettings",
    "OnError",
    "Outcome",
    "Page",
    "PageAnswer",
    "PageAsking",
    "PageFailure",
    "PageInfo",
    "PageOptions",
    "PageStore",
    "PageText",
    "Part",
    "Paths",
    "Piece",
    "Place",
    "Provenance",
    "Regex",
    "Request",
    "Role",
    "Route",
    "Sampling",
    "ScriptedEngine",
    "SourcedAnswer",
    "Step",
    "StepInfo",
    "StoredPage",
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
    "aingest",
    "answer_facts",
    "aquery_pages",
    "call_settings",
    "check_choice",
    "check_page_options",
    "check_url",
    "choose_answer",
    "closed_schema",
    "count_pages",
    "document_workflow",
    "errors",
    "find_files",
    "find_scans",
    "in_order",
    "ingest",
    "iterate_in_own_loop",
    "load_page",
    "load_pages",
    "open_each",
    "open_pages",
    "page_facts",
    "page_id",
    "page_request",
    "query_pages",
    "read_texts",
    "run_in_own_loop",
    "tasks",
]
