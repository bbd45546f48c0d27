"""The Databricks stand-in of the tests, run for trying things out: ``headrace up --databricks-standin``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assets.errors import ConfigurationError

TOKEN = "dapi-standin"
WHAT_IT_IS = (
    "STAND-IN: this is no Databricks. A local server answers the SDK, with pysail and delta-rs as its SQL; it proves "
    "nothing about a real account, its speed or its cost. Everything in it is in"
)


@contextmanager
def databricks_standin(home: Path) -> Iterator[dict[str, str]]:
    """Run it while the block does; yields the environment variables that name it, which are set here too.

    Raises:
        ConfigurationError: it is not there: only a source checkout with the test requirements has it.
    """
    root = Path(__file__).parents[1]
    missing = [name for name in ("pysail", "pyspark", "psutil") if importlib.util.find_spec(name) is None]
    if missing or not (root / "tests" / "standins" / "databricks" / "__main__.py").is_file():
        raise ConfigurationError(
            "the stand-in is part of the source checkout and its test requirements",
            remedy="In a checkout: make install",
        )
    import json

    folder = home / "databricks-standin"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "tests.standins.databricks", "--folder", str(folder), "--die-with-parent"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=root,
        env={**os.environ, "STANDIN_TOKEN": TOKEN},
    ) as process:
        assert process.stdout is not None
        try:
            ready = json.loads(process.stdout.readline() or b"{}")
            if "url" not in ready:
                raise ConfigurationError("the stand-in did not start", where=str(folder))
            variables = {
                "HEADRACE_LAKEHOUSE": "databricks",
                "HEADRACE_DATABRICKS_HOST": str(ready["url"]),
                "HEADRACE_DATABRICKS_WAREHOUSE_ID": str(ready["warehouse"]),
                "HEADRACE_DATABRICKS_TOKEN": TOKEN,
            }
            os.environ.update(variables)
            print(f"{WHAT_IT_IS} {folder}", file=sys.stderr)
            print("For other terminals:", *(f"export {n}={v}" for n, v in variables.items()), sep="\n", file=sys.stderr)
            yield variables
        finally:
            process.kill()
