"""Two sets of rows compared by key and by value in bounded memory: DuckDB, one hash a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from assets.scratch_database import ScratchDatabase

if TYPE_CHECKING:
    import pyarrow as pa

Side = Literal["source", "stored"]


class RowComparison(ScratchDatabase):
    """Collects the rows of the two sides, then answers what differs.

    Args:
        key: key columns, the same names on both sides; empty compares the sides as multisets of whole rows.
        schema: the columns to compare and their types; both sides are cast to it.
        memory_limit: DuckDB memory limit; larger sets spill into ``scratch``.
    """

    def __init__(self, key: Sequence[str], schema: pa.Schema, *, memory_limit: str, scratch: Path) -> None:
        super().__init__(memory_limit, scratch)
        self._schema = schema
        self._keys = [f"k{i}" for i in range(len(key))]
        # by place: DuckDB tells no two names apart that differ by case only, and a name may be that of another table
        self._places = [f"c{i}" for i in range(len(schema))]
        self._key_exprs = [self._places[schema.get_field_index(name)] for name in key]
        self._hash = f"hash({', '.join(self._places)})" if len(schema) else "0"
        self._created: set[str] = set()

    def add(self, side: Side, batches: Iterable[pa.RecordBatch]) -> int:
        """Take one side's rows; columns are picked by name and cast. Returns the number of rows."""
        import pyarrow as pa

        rows = 0
        columns = ", ".join(
            [*(f"{e} AS {k}" for e, k in zip(self._key_exprs, self._keys, strict=True)), f"{self._hash} AS h"]
        )
        for batch in batches:
            rows += batch.num_rows
            if not len(self._schema):
                continue
            table = pa.Table.from_batches([batch]).select(self._schema.names).cast(self._schema)
            self._db.register("incoming", table.rename_columns(self._places))
            verb = f"INSERT INTO {side}" if side in self._created else f"CREATE TABLE {side} AS"
            self._db.execute(f"{verb} SELECT {columns} FROM incoming")
            self._db.unregister("incoming")
            self._created.add(side)
        if side not in self._created:
            self._db.register("incoming", self._schema.empty_table().rename_columns(self._places))
            self._db.execute(f"CREATE TABLE {side} AS SELECT {columns} FROM incoming")
            self._db.unregister("incoming")
            self._created.add(side)
        return rows

    def add_stored(self, batches: Iterable[pa.RecordBatch], *, newest_only: bool) -> int:
        """Take the stored side. ``newest_only``: of several rows with one key the newest counts, and none if that is a
        delete; the batches then hold ``_headrace_position``, ``_headrace_loaded_at`` and ``_headrace_deleted_at`` too.
        """
        if not newest_only or not self._keys:
            return self.add("stored", batches)
        import pyarrow as pa

        from assets.lakehouse.interface import DELETED_AT, LOADED_AT, POSITION

        columns = [*(f"{e} AS {k}" for e, k in zip(self._key_exprs, self._keys, strict=True)), f"{self._hash} AS h"]
        select = f"SELECT {', '.join(columns)}, {POSITION} AS p, {LOADED_AT} AS l, {DELETED_AT} IS NOT NULL AS g"
        order = [pa.field(POSITION, pa.int64())]
        order += [pa.field(name, pa.timestamp("us", tz="UTC")) for name in (LOADED_AT, DELETED_AT)]
        schema = pa.schema([*self._schema, *order])
        names = [*self._places, *(field.name for field in order)]
        self._db.register("incoming", schema.empty_table().rename_columns(names))
        self._db.execute(f"CREATE TABLE versions AS {select} FROM incoming")
        for batch in batches:
            table = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
            self._db.register("incoming", table.rename_columns(names))
            self._db.execute(f"INSERT INTO versions {select} FROM incoming")
        self._db.unregister("incoming")
        keys = ", ".join(self._keys)
        self._db.execute(
            f"CREATE TABLE stored AS SELECT {keys}, h FROM (SELECT {keys}, arg_max(h, (p, l, g)) AS h, "
            f"arg_max(g, (p, l, g)) AS g FROM versions GROUP BY {keys}) WHERE NOT g"
        )
        self._created.add("stored")
        (rows,) = self._db.execute("SELECT count(*) FROM stored").fetchone() or (0,)
        return int(rows)

    def _join(self) -> str:
        same = " AND ".join(f"s.{k} IS NOT DISTINCT FROM d.{k}" for k in self._keys)
        return f"(SELECT true AS f, * FROM source) s FULL JOIN (SELECT true AS f, * FROM stored) d ON {same}"

    def differences(self, limit: int) -> dict[str, tuple[int, tuple[str, ...]]]:
        """``missing`` (source only), ``extra`` (stored only) and ``differing``: count and up to ``limit`` keys as JSON.

        Without a key ``missing`` and ``extra`` count whole rows, and no key is named.
        """
        if not self._keys:
            return self.differences_of_rows()
        found: dict[str, tuple[int, tuple[str, ...]]] = {}
        conditions = {"missing": "d.f IS NULL", "extra": "s.f IS NULL", "differing": "s.f AND d.f AND s.h != d.h"}
        for name, condition in conditions.items():
            side = "d" if name == "extra" else "s"
            key = f"to_json([{', '.join(f'{side}.{k}::VARCHAR' for k in self._keys)}])"
            count = self._db.execute(f"SELECT count(*) FROM {self._join()} WHERE {condition}").fetchone()
            total = int(count[0]) if count else 0
            named: list[Any] = []
            if total and limit:
                query = f"SELECT {key}::VARCHAR FROM {self._join()} WHERE {condition} ORDER BY 1 LIMIT {int(limit)}"
                named = self._db.execute(query).fetchall()
            found[name] = (total, tuple(row[0] for row in named))
        return found

    def differences_of_rows(self) -> dict[str, tuple[int, tuple[str, ...]]]:
        """The same of the sides as multisets of whole rows."""
        counts = self._db.execute(
            "SELECT coalesce(sum(greatest(n, 0)), 0), coalesce(sum(greatest(-n, 0)), 0) FROM "
            "(SELECT sum(n) AS n FROM (SELECT h, 1 AS n FROM source UNION ALL SELECT h, -1 FROM stored) GROUP BY h)"
        ).fetchone()
        assert counts is not None
        return {"missing": (int(counts[0]), ()), "extra": (int(counts[1]), ()), "differing": (0, ())}

    def key_repeats(self) -> bool:
        """Whether several rows of the source have one key."""
        keys = ", ".join(self._keys)
        query = f"SELECT 1 FROM source GROUP BY {keys} HAVING count(*) > 1 LIMIT 1"
        return bool(self._keys) and self._db.execute(query).fetchone() is not None

    def extra_keys(self, batch_rows: int) -> Iterable[pa.RecordBatch]:
        """The keys that only ``stored`` has, as batches with columns ``k0``, ``k1``, ..."""
        columns = ", ".join(f"d.{k}" for k in self._keys)
        result = self._db.execute(f"SELECT {columns} FROM {self._join()} WHERE s.f IS NULL")
        yield from result.to_arrow_reader(batch_rows)
