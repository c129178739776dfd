"""The engines under test in the shared suite, `vllm serve` on this machine among them."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glm4v_core import Glm4v
from glm4v_core.tiny import checkpoint_path

ENGINES = ["transformers", *(["vllm", "server"] if importlib.util.find_spec("vllm") else [])]
SECONDS_TO_START = 300
SETTINGS: dict[str, Any] = {
    "enforce_eager": True,
    "kv_cache_memory_bytes": 2**28,
    "max_num_seqs": 16,
    "enable_prefix_caching": True,
}
"""No compilation, a quarter of a gigabyte of keys and values, and as many rows as the transformers engine has slots."""


@dataclass
class Engine:
    """One engine under test.

    Attributes:
        server: the process of `vllm serve`; None elsewhere.
    """

    name: str
    model: Glm4v
    server: subprocess.Popen[bytes] | None = None


@contextmanager
def running(name: str, log: Path) -> Iterator[Engine]:
    """Load the tiny model into an engine; the server's output goes to `log`."""
    if name == "server":
        with serving(checkpoint_path(), log) as (url, process):
            yield Engine(name, Glm4v.load(None, name, base_url=url, family="tiny", grammars=True), process)
        return
    engine = Engine(name, Glm4v.load("tiny", name, **(SETTINGS if name == "vllm" else {})))
    yield engine
    engine.model.close()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def command(folder: Path, port: int, *more: str) -> list[str]:
    return [
        # What `vllm serve` runs; that command asks for its version under a name that the build for CPUs does not have.
        *[sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)],
        *["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", "--dtype", "float32"],
        *["--enforce-eager", "--kv-cache-memory-bytes", str(2**28), "--max-num-seqs", "16"],
        *["--limit-mm-per-prompt", '{"image": 8, "video": 0}', "--enable-prompt-tokens-details"],
        "--enable-prefix-caching",
        *["--structured-outputs-config.backend", "guidance"],
        *["--reasoning-config", '{"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}'],
        *more,
    ]


@contextmanager
def serving(folder: Path, log: Path, *more: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a server and wait until it answers; yields its URL and its process, which leads a group of its own."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(command(folder, port, *more), stdout=output, stderr=output, start_new_session=True)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1", process
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a server with all its processes."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"vllm serve did not start:\n{log.read_text(errors='replace')[-4000:]}")
