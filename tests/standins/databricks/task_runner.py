"""Runs one task of a job in a process of its own: ``python -m tests.standins.databricks.task_runner SPEC OUTPUT``."""

from __future__ import annotations

import contextlib
import json
import sys
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class NotebookExit(Exception):
    """``dbutils.notebook.exit(value)``."""


def run_notebook(source: str, parameters: dict[str, str]) -> str | None:
    def leave(value: str) -> None:
        raise NotebookExit(value)

    def widget(name: str, default: str = "", label: str = "") -> None:
        parameters.setdefault(name, default)

    widgets = SimpleNamespace(get=lambda name: parameters[name], text=widget)
    scope: dict[str, Any] = {"__name__": "__main__"}
    scope["dbutils"] = SimpleNamespace(widgets=widgets, notebook=SimpleNamespace(exit=leave))
    try:
        exec(compile(source, "notebook", "exec"), scope)
    except NotebookExit as end:
        return str(end.args[0])
    return None


def run_wheel(package: str, entry_point: str, parameters: list[str]) -> None:
    """Call the package's entry point of that name, or its function of that name, as the service does."""
    sys.argv = [package, *parameters]
    found = [e for e in entry_points(name=entry_point) if e.dist and e.dist.name.replace("-", "_") == package]
    if found:
        found[0].load()()
        return
    __import__(package)
    getattr(sys.modules[package], entry_point)()


def main() -> None:
    spec, output = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    result = None
    with contextlib.chdir(output.parent):
        if "notebook" in spec:
            result = run_notebook(spec["notebook"], spec["parameters"])
        elif "python" in spec:
            sys.argv = ["task", *spec["parameters"]]
            exec(compile(spec["python"], "task", "exec"), {"__name__": "__main__"})
        else:
            run_wheel(spec["package"], spec["entry_point"], spec["parameters"])
    output.write_text(json.dumps({"result": result}))


if __name__ == "__main__":
    main()
