"""`glm4v doctor`: the findings as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from glm4v_core.engines.doctor import READY, Findings


def print_findings(findings: Findings) -> None:
    """Print what is installed, which engines are ready, and which models fit."""
    console = Console()
    console.print(f"Python {findings.python} on {findings.system}")
    for device in findings.devices:
        memory = "memory unknown" if device.memory is None else f"{device.memory:g} GB"
        console.print(f"{device.name}: {memory}")
    console.print(_packages(findings), _engines(findings), _models(findings))


def _packages(findings: Findings) -> Table:
    table = Table("package", "version", "comes with", title="Installed")
    for package in findings.packages:
        source = f"glm4v[{package.extra}]" if package.extra else "glm4v"
        found = Text(package.version, "green") if package.version else Text("not installed", "yellow")
        table.add_row(package.name, found, Text(source))
    return table


def _engines(findings: Findings) -> Table:
    table = Table("engine", "state", title="Engines")
    for name, state in findings.engines.items():
        table.add_row(name, Text(state, "green" if state == READY else "yellow"))
    table.add_row("auto", Text(findings.auto))
    return table


def _models(findings: Findings) -> Table:
    table = Table("model", "CPU (GB)", "GPU (GB)", "would run on", title="Models and the memory they need")
    for model in findings.models:
        where = Text(", ".join(model.runs_on), "green") if model.runs_on else Text("; ".join(model.obstacles), "yellow")
        table.add_row(model.hub_id, f"{model.memory['cpu']:g}", f"{model.memory['gpu']:g}", where)
    return table
