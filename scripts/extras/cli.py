"""Run the doctor and read a page with the scripted engine."""

import json
import subprocess
import sys
from pathlib import Path

command = str(Path(sys.executable).with_name("glm4v"))
doctor = subprocess.run([command, "doctor", "--json"], check=True, capture_output=True, text=True)
assert json.loads(doctor.stdout)["engines"]["transformers"].endswith("pip install 'glm4v[hf]'")
page = str(Path(sys.argv[1]) / "scan-01.png")
options = ["--task", "ocr", "--engine", "scripted", "--option", 'answers=["text"]', "--out", "out"]
subprocess.run([command, "run", page, *options], check=True, capture_output=True)
[row] = map(json.loads, Path("out/results.jsonl").read_text("utf-8").splitlines())
assert row["text"] == "text", row
