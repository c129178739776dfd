"""A page store that several processes write to, and one whose writer was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from glm4v_core import Glm4v, PageStore, ScriptedEngine, ingest
from glm4v_core.store import Ingestion
from tests.support.letters import TEXTS, read, save_pages, width_of

ROOT = Path(__file__).parents[3]
INGEST = """
import sys
from glm4v_core import Glm4v, IngestOptions, PageStore, ScriptedEngine, ingest
from tests.support.letters import read, width_of

def reply(request):
    if width_of(request) == int(sys.argv[3]):
        print("here", flush=True)
        sys.stdin.readline()
    return read(request)

with PageStore(sys.argv[1]) as store:
    print(ingest(store, Glm4v.from_engine(ScriptedEngine(reply)), sys.argv[2], IngestOptions(concurrency=1)).failed)
"""


def begin(store: Path, scans: Path, page: int) -> subprocess.Popen[str]:
    """Start a process that ingests, and return once it waits for a line at the given page."""
    command = [sys.executable, "-c", INGEST, str(store), str(scans), str(page)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def ingest_here(store: PageStore, scans: Path) -> tuple[Ingestion, set[int]]:
    """Return the outcome, and which pages were asked about."""
    engine = ScriptedEngine(read)
    return ingest(store, Glm4v.from_engine(engine), scans), {width_of(request) for request in engine.history}


def test_a_killed_process_leaves_complete_pages_and_the_next_one_resumes(tmp_path: Path) -> None:
    save_pages(tmp_path / "scans")
    with begin(tmp_path / "pages.sqlite", tmp_path / "scans", 3) as killed:
        killed.kill()
    with PageStore(tmp_path / "pages.sqlite", create=False) as store:
        assert [page.text for page in store.pages()] == [TEXTS[1], TEXTS[2]]
        assert [found.page.text for found in store.search("Glacier")] == [TEXTS[2]]
        outcome, asked = ingest_here(store, tmp_path / "scans")
        assert (outcome.read, outcome.kept, asked) == (1, 2, {3})
        assert ingest_here(store, tmp_path / "scans")[1] == set()


def test_two_processes_store_each_page_once_while_a_third_searches(tmp_path: Path) -> None:
    save_pages(tmp_path / "scans")
    path = tmp_path / "pages.sqlite"
    both = [begin(path, tmp_path / "scans", 2), begin(path, tmp_path / "scans", 3)]
    with PageStore(path, create=False) as store:
        assert [found.page.text for found in store.search("Mona Holt", k=1)] == [TEXTS[1]]
        for process in both:
            assert process.communicate("\n" * 9, timeout=60)[0].endswith("[]\n")
            assert process.returncode == 0
        assert sorted(page.text for page in store.pages()) == sorted(TEXTS.values())
        assert all(len(page.places) == 1 for page in store.pages())
        assert ingest_here(store, tmp_path / "scans")[1] == set()
