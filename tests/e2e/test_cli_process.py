"""The command line as a separate process: interrupts, missing libraries, lazy imports."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import PIL.Image
import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
INTERRUPTIBLE = """
import signal
from glm4v_core.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""The command line, with interrupts enabled: background jobs of a shell, as the tests may be, ignore them."""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_an_interrupted_run_leaves_valid_files(tmp_path: Path) -> None:
    for number in range(40):
        PIL.Image.new("RGB", (40, 30), "white").save(tmp_path / f"{number}.png")
    answers = json.dumps([f"text {number}" for number in range(40)])
    arguments = [
        "run",
        tmp_path,
        "--task",
        "ocr",
        "--out",
        tmp_path / "out",
        "--concurrency",
        "1",
        "--engine",
        "scripted",
    ]
    options = ["--option", f"answers={answers}", "--option", "latency=0.05"]
    command = [sys.executable, "-c", INTERRUPTIBLE, *map(str, arguments), *options]
    lines = tmp_path / "out" / "results.jsonl"
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (lines.exists() and lines.read_text().count("\n") >= 3):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert 3 <= len(rows) < 40
    assert [row["text"] for row in rows] == [f"text {number}" for number in range(len(rows))]
    assert json.loads((tmp_path / "out" / "results.json").read_text("utf-8")) == rows
    assert (tmp_path / "out" / "report.html").read_text("utf-8").endswith("</html>\n")
    assert f"{len(rows)} pages" in out
    assert "Stopped early" in err
    assert "Traceback" not in err
    kept = json.dumps([f"text {number}" for number in range(len(rows), 40)])
    again = [*command[:-4], "--option", f"answers={kept}", "--resume"]
    assert subprocess.run(again, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0
    rows = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == [f"text {number}" for number in range(40)]


def test_without_typer_the_install_line_is_shown() -> None:
    code = "import sys; sys.modules['typer'] = None; from glm4v_core.cli.main import main; main()"
    ended = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'glm4v[cli]'" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_jiwer_the_install_line_is_shown(tmp_path: Path) -> None:
    code = "import sys; sys.modules['jiwer'] = None; from glm4v_core.cli.main import main; main()"
    command = [sys.executable, "-c", code, "eval", str(tmp_path)]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "pip install 'glm4v[eval]'" in ended.stderr


def test_a_wrong_path_is_reported_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys; sys.argv = ['glm4v', 'ask', 'gone.png', '?']; from glm4v_core.cli.main import main\n"
        "try: main()\nexcept SystemExit as ended: print(ended.code)\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["2", "[]"]
    assert ended.stderr.startswith("Error (image_not_found): ")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['glm4v', 'run', '--help']; from glm4v_core.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'jiwer', 'pypdfium2', 'llguidance'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"
