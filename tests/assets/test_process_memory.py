"""The worker's allocators: where Arrow takes its memory from."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import temporal_bridge.worker
from assets.process_memory import limit_arenas
limit_arenas()
import pyarrow as pa
print(pa.default_memory_pool().backend_name)
"""


@pytest.mark.parametrize(("chosen", "used"), [(None, "system"), ("mimalloc", "mimalloc")])
def test_arrow_in_the_worker_allocates_by_malloc_unless_the_environment_chooses_otherwise(
    chosen: str | None, used: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ARROW_DEFAULT_MEMORY_POOL"}
    if chosen:
        environment["ARROW_DEFAULT_MEMORY_POOL"] = chosen
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == [used], done.stderr
