"""`glm4v run` reads a PDF page and a picture with the bundled model."""

import json
import subprocess
import sys
from pathlib import Path

command = str(Path(sys.executable).with_name("glm4v"))
samples = Path(sys.argv[1])
pages = [str(samples / name) for name in ("scan-01.png", "three-pages.pdf")]
subprocess.run([command, "run", *pages, "--task", "ocr", "--out", "out"], check=True, capture_output=True)
rows = [json.loads(line) for line in Path("out/results.jsonl").read_text("utf-8").splitlines()]
assert len(rows) == 4, rows
assert all(len(row["text"]) > 20 for row in rows), rows
