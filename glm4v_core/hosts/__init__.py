"""What adapters for a framework are made of, beside the names of `glm4v_core` itself."""

from glm4v_core.concurrency.ordered import PAGES_IN_FLIGHT, WORKFLOW_PAGES_IN_FLIGHT
from glm4v_core.concurrency.own_loop import iterate_in_own_loop, run_in_own_loop
from glm4v_core.dialect.schemas import closed_schema
from glm4v_core.hosts.asking import PageAsking
from glm4v_core.hosts.facts import page_facts, page_id
from glm4v_core.hosts.listing import list_pages
from glm4v_core.hosts.reading import Facts, OnError, PageText, UnreadPage, answer_facts, open_pages, read_texts
from glm4v_core.hosts.requests import read_tool_choice
from glm4v_core.hosts.settings import CallSettings, ModelSettings, call_settings
from glm4v_core.media.files import Paths, find_scans
from glm4v_core.media.image import ImageSource
from glm4v_core.media.page_options import check_page_options
from glm4v_core.media.pages import load_page
from glm4v_core.media.source import check_url
from glm4v_core.store.asking import Route, choose_answer, open_each
from glm4v_core.store.store import PAGES_FOUND
from glm4v_core.tasks import Answering
from glm4v_core.tasks.prompts import Language
from glm4v_core.tasks.results import Outcome
from glm4v_core.types import Constraint, FinishReason, Part, Role, ToolChoice
from glm4v_core.validation import check_choice

__all__ = [
    "PAGES_FOUND",
    "PAGES_IN_FLIGHT",
    "WORKFLOW_PAGES_IN_FLIGHT",
    "Answering",
    "CallSettings",
    "Constraint",
    "Facts",
    "FinishReason",
    "ImageSource",
    "Language",
    "ModelSettings",
    "OnError",
    "Outcome",
    "PageAsking",
    "PageText",
    "Part",
    "Paths",
    "Role",
    "Route",
    "ToolChoice",
    "UnreadPage",
    "answer_facts",
    "call_settings",
    "check_choice",
    "check_page_options",
    "check_url",
    "choose_answer",
    "closed_schema",
    "find_scans",
    "iterate_in_own_loop",
    "list_pages",
    "load_page",
    "open_each",
    "open_pages",
    "page_facts",
    "page_id",
    "read_texts",
    "read_tool_choice",
    "run_in_own_loop",
]
