"""Imports point orchestration -> temporal_bridge -> assets, and a workflow file stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("assets", "temporal_bridge", "orchestration")
HEAVY = {"alembic", "dagster", "deltalake", "dlt", "duckdb", "numpy", "pandas", "polars", "psycopg", "pyarrow"}


def imported_modules(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules.add(node.module or "")
    return modules


def files_of(package: str) -> list[Path]:
    files = sorted((REPOSITORY / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("assets", {"temporal_bridge", "orchestration", "temporalio", "dagster"}),
        ("temporal_bridge", {"orchestration"}),
    ],
)
def test_no_package_imports_what_stands_above_it(package: str, forbidden: set[str]) -> None:
    found = {
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in files_of(package)
        for module in imported_modules(path)
        if module.split(".")[0] in forbidden
    }
    assert found == set()


LIGHT_MODELS = (
    "assets.sync",
    "assets.naming",
    "assets.databricks_job",
    "assets.knowledge.work",
    "assets.kits.model",
)


def test_a_workflow_file_imports_only_the_standard_library_temporalio_and_the_light_models() -> None:
    light = {"temporalio", "pydantic"} | set(sys.stdlib_module_names)
    found = {
        f"{path.name} imports {module}"
        for path in files_of("temporal_bridge/workflows")
        for module in imported_modules(path)
        if module.split(".")[0] not in light
        and module not in LIGHT_MODELS
        and not module.startswith("temporal_bridge.workflows.")
    }
    assert found == set()


@pytest.mark.parametrize(
    "module",
    [
        "temporal_bridge.client",
        "temporal_bridge.worker",
        "temporal_bridge.workflows.data_source_sync",
        "temporal_bridge.workflows.dataset_sync",
        "assets.sync",
        "assets.kits.model",
        "assets.settings",
    ],
)
def test_importing_a_light_module_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
