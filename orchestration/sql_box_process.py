"""The process of one query: ``python -m orchestration.sql_box_process``; the work on standard input, JSON on both."""

from __future__ import annotations

import json
import os
import resource
import sys
from typing import Any

from assets.errors import HeadraceError


def main() -> None:
    work = json.loads(sys.stdin.read())
    # a larger file is refused by the kernel, and a core dump would hold rows
    resource.setrlimit(resource.RLIMIT_FSIZE, (work["max_scratch_bytes"],) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = _answer(work)
    except HeadraceError as error:
        answer = {"error": type(error).__name__, "what": error.what[:1000]}
    except MemoryError:
        answer = {"error": "QueryError", "what": "the query needs more memory than it may have"}
    except Exception as error:
        answer = {"error": "QueryError", "what": f"the query failed ({type(error).__name__})"}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    os._exit(0)  # DuckDB's threads may still read a stream whose rows nobody wants any more


def _answer(work: dict[str, Any]) -> dict[str, Any]:
    from assets.lakehouse.interface import TableId, open_lakehouse
    from assets.lakehouse_sql import LakehouseSql
    from assets.settings import Settings

    settings = Settings(**work["settings"])
    sql = LakehouseSql(
        open_lakehouse(settings),
        {name: TableId.model_validate(table) for name, table in work["tables"].items()},
        memory_limit=settings.memory_limit,
        scratch=settings.home_path / "scratch",
        allowed=("silver.*",),
        streams=True,
    )
    found = sql.query(work["sql"], max_rows=work["max_rows"], max_seconds=work["max_seconds"])
    return found.model_dump(mode="json")


if __name__ == "__main__":
    main()
