"""Install each extra alone into an empty environment and use it, and check which extras fit together.

Every extra has a small program in `scripts/extras/` that uses what the extra is for. It runs without the checkout on
its path and with warnings as errors. Which extras fit into one environment is listed in `scripts/extras/combinations.toml`;
each row is resolved against the index without installing anything. vLLM is only resolved: it wants a GPU and gigabytes.

Run it from an environment with the `dev` extra, such as `.venv/bin/python scripts/try_extras.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROGRAMS = ROOT / "scripts" / "extras"
EXTRAS = sorted(path.stem for path in PROGRAMS.glob("*.py"))
ON_TORCH = {"hf", "demo"}
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
UV = (sys.executable, "-m", "uv", "--quiet")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
SHOWN = ("vllm", "torch", "transformers", "langchain-core", "llama-index-core")


@dataclass(frozen=True)
class Workshop:
    """What all environments are made of: the project's wheel, and a requirement for torch.

    Attributes:
        torch: the file that pip chooses, so that its settings decide between builds for CPUs and for CUDA; uv does not
            read them. Nothing where no extra needs it.
    """

    folder: Path
    wheel: Path
    torch: Sequence[str]
    python: str

    def try_extra(self, extra: str) -> str:
        """Install one extra and use it; returns the error, or an empty text."""
        home = self.folder / extra
        python = home / "venv" / "bin" / "python"
        wanted = f"glm4v[{extra}] @ {self.wheel.as_uri()}" if extra != "core" else f"glm4v @ {self.wheel.as_uri()}"
        torch = self.torch if extra in ON_TORCH else ()
        program = (python, "-P", "-W", "error", PROGRAMS / f"{extra}.py", ROOT / "samples")
        return (
            run(*UV, "venv", "--python", self.python, home / "venv")
            or run(*UV, "pip", "install", "--python", python, wanted, *torch)
            or run(*program, cwd=home)
        )


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Run a command; returns what it said if it failed."""
    ended = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    return "" if ended.returncode == 0 else ended.stdout + ended.stderr or f"exit status {ended.returncode}"


def open_workshop(folder: Path, extras: Sequence[str], python: str) -> Workshop:
    """Build the project's wheel, and fetch torch where it is needed."""
    subprocess.run(
        [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT], check=True, cwd=folder
    )
    (wheel,) = folder.glob("glm4v-*.whl")
    return Workshop(folder, wheel, _torch(folder) if ON_TORCH & set(extras) else (), python)


def _torch(folder: Path) -> tuple[str]:
    pins = (ROOT / "requirements" / "dev.txt").read_text("utf-8").splitlines()
    [pin] = [pin for pin in pins if pin.startswith("torch==")]
    subprocess.run([*PIP, "download", "--no-deps", "--dest", folder / "torch", pin], check=True, cwd=folder)
    (file,) = (folder / "torch").iterdir()
    return (f"torch @ {file.as_uri()}",)


def try_extras(extras: Sequence[str], python: str) -> bool:
    """Try extras one after the other; prints a line for each."""
    with tempfile.TemporaryDirectory() as folder:
        workshop = open_workshop(Path(folder), extras, python)
        good = [_report(extra, partial(workshop.try_extra, extra)) for extra in extras]
    return all(good)


def _report(name: str, check: Callable[[], str]) -> bool:
    begun = time.monotonic()
    wrong = check()
    print(f"{'failed' if wrong else 'ok':7}{time.monotonic() - begun:5.1f} s  {name}")
    if wrong:
        print(wrong, file=sys.stderr)
    return not wrong


def resolve_all() -> bool:
    """Resolve all combinations; prints a line for each and the versions that were found."""
    table = tomllib.loads((PROGRAMS / "combinations.toml").read_text("utf-8"))
    tasks = [(row, python) for row in table["combination"] for python in table["pythons"]]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda task: _resolve(*task), tasks))
    good = [_tell(row, python, *result) for (row, python), result in zip(tasks, results, strict=True)]
    return all(good)


def _resolve(row: dict[str, Any], python: str) -> tuple[bool, str]:
    wanted = row["install"].split()
    lines = [f"{wanted[0]} @ {ROOT.as_uri()}", *wanted[1:]]
    command = [*UV, "pip", "compile", "--no-header", "--no-annotate", "--python-version", python, "-"]
    if "platform" in row:
        command += ["--python-platform", row["platform"]]
    ended = subprocess.run(
        command, input="\n".join(lines), env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, check=False
    )
    return ended.returncode == 0, ended.stdout if ended.returncode == 0 else ended.stderr


def _tell(row: dict[str, Any], python: str, fits: bool, said: str) -> bool:
    right = fits == row["fits"]
    found = "  ".join(_versions(said)) if fits else "does not fit"
    print(f"{'ok' if right else 'failed':7}{python}  {row['name']}: {found}")
    if not right:
        print(said, file=sys.stderr)
    return right


def _versions(pins: str) -> Iterator[str]:
    found = dict(line.split("==") for line in pins.splitlines() if "==" in line)
    return (f"{name} {found[name]}" for name in SHOWN if name in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", default=EXTRAS, help=f"out of {', '.join(EXTRAS)}; default: all")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environments; default: this one")
    parser.add_argument("--resolve", action="store_true", help="only check which extras fit together")
    arguments = parser.parse_args()
    good = resolve_all() if arguments.resolve else try_extras(arguments.extras, arguments.python)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
