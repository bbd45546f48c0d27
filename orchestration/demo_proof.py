"""The proof of the demo: Bronze folded to its newest rows equals Silver, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.lakehouse.interface import LOADED_AT, OP, POSITION, Lakehouse, TableId
from assets.naming import METADATA_PREFIX
from assets.silver import silver_names
from assets.sources.interface import UNFIT_COLUMN

if TYPE_CHECKING:
    import duckdb


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _load(database: duckdb.DuckDBPyConnection, name: str, lakehouse: Lakehouse, table: TableId) -> list[str]:
    with lakehouse.scan(table, live=table.layer == "silver") as rows:
        database.register("incoming", rows)
        database.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming")
        database.unregister("incoming")
        return list(rows.schema.names)


def bronze_equals_silver(lakehouse: Lakehouse, connector: str, table: str, key: tuple[str, ...], scratch: Path) -> bool:
    """Fold the changes in Bronze to the newest row a key, drop deleted keys, and compare with Silver's live rows.

    Args:
        key: source names of the key columns; empty: Bronze holds one whole copy of the table.
        scratch: folder for DuckDB, which holds both tables on disk.
    """
    import duckdb

    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "proof.duckdb"
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file), config={"memory_limit": "512MB", "threads": 2}) as database:
        database.execute("SET TimeZone = 'UTC'")
        bronze = _load(database, "bronze", lakehouse, TableId(layer="bronze", connector=connector, table=table))
        _load(database, "silver", lakehouse, TableId(layer="silver", connector=connector, table=table))
        data = [name for name in bronze if not name.startswith(METADATA_PREFIX) or name == UNFIT_COLUMN]
        names = silver_names(data)
        newest = ""
        if key:
            columns = ", ".join(_quoted(name) for name in key)
            newest = (
                f"QUALIFY row_number() OVER (PARTITION BY {columns} ORDER BY {POSITION} DESC, {LOADED_AT} DESC) = 1"
            )
        folded = f"SELECT * FROM (SELECT * FROM bronze {newest}) WHERE {OP} = 'u'"
        left = f"SELECT {', '.join(f'{_quoted(n)} AS {_quoted(names[n])}' for n in data)} FROM ({folded})"
        right = f"SELECT {', '.join(_quoted(names[n]) for n in data)} FROM silver"
        different: list[Any] = []
        for first, second in ((left, right), (right, left)):
            different += database.execute(f"SELECT count(*) FROM ({first} EXCEPT ALL {second})").fetchall()
    file.unlink(missing_ok=True)
    return all(count == 0 for (count,) in different)
