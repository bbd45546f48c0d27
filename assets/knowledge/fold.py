"""The last step: staged findings become the tables.

Evidence (messages, mentions, statements) belongs to its session and is replaced with it. What is derived (entities,
relations, observations) is a function of all evidence: it is computed anew and only the difference is written, so the
order of runs, repeats and crashes leave no trace, and a session that leaves takes along what rested on it alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.failpoints import failpoint
from assets.knowledge.derived import DERIVED_QUERIES, HISTORY_QUERY
from assets.knowledge.tables import (
    ANSWER_COLUMNS,
    ANSWER_KEY,
    ANSWERS,
    COLUMNS,
    DERIVED,
    EVIDENCE,
    KEYS,
    answers_table,
    silver,
    table_schema,
)
from assets.knowledge.work import FoldInput, FoldResult
from assets.lakehouse.interface import LOADED_AT, POSITION, RUN, Lakehouse, TableId
from assets.scratch_database import ScratchDatabase, quoted
from assets.sync import Part

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 20_000
ROUNDS = 20
_SQL = {
    "string": "VARCHAR", "int64": "BIGINT", "time": "TIMESTAMPTZ", "double": "DOUBLE", "bool": "BOOLEAN",
    "list": "VARCHAR[]",
}  # fmt: skip


class Fold(ScratchDatabase):
    """One fold. Everything it holds may spill to disk."""

    def __init__(self, lakehouse: Lakehouse, fold: FoldInput, memory_limit: str, scratch: Path) -> None:
        super().__init__(memory_limit, scratch)
        self._lakehouse, self._fold = lakehouse, fold
        self._tag = f"{fold.work.source}/{fold.work.run_group}/{fold.generation}"
        self._loaded_at = datetime.now(UTC)
        self._versions: dict[str, int] = {}

    def run(self) -> FoldResult:
        """Bring everything up; may be repeated."""
        self._load_staged()
        self._store_answers()
        for name in EVIDENCE:
            self._replace_sessions(name)
            failpoint("knowledge_during_fold")
        result = self.derive()
        self._replace_sessions("sessions")  # last: a session counts as done when everything of it is in the tables
        return result

    def derive(self) -> FoldResult:
        """Compute what is derived from the evidence, until no rival has changed the evidence meanwhile."""
        for _ in range(ROUNDS):
            seen = self._evidence_versions()
            for name in ("mentions", "statements"):
                self._load(name, silver(name), COLUMNS[name])
            for name in DERIVED:
                self._db.execute(f"CREATE OR REPLACE TABLE want_{name} AS {DERIVED_QUERIES[name]}")
                self._load(f"have_{name}", silver(name), COLUMNS[name])
            history = self._lakehouse.state(silver("entity_history"))
            self._versions["entity_history"] = history.version if history else -1
            self._history(seen)
            for name in DERIVED:
                self._write_difference(name)
                failpoint("knowledge_during_fold")
            if self._evidence_versions() == seen:
                break
        return self._counts()

    def _counts(self) -> FoldResult:
        counts = {n: self._db.execute(f"SELECT count(*) FROM want_{n}").fetchall()[0][0] for n in DERIVED}
        (disputed,) = self._db.execute(
            "SELECT (SELECT count(*) FROM want_relations WHERE status = 'disputed')"
            " + (SELECT count(*) FROM want_observations WHERE status = 'disputed')"
        ).fetchall()[0]
        (mentions,) = self._db.execute("SELECT count(*) FROM mentions").fetchall()[0]
        return FoldResult(**counts, mentions=mentions, disputed=disputed)

    # staged

    def _load_staged(self) -> None:
        for name in (*EVIDENCE, "sessions"):
            parts = [part for batch in self._fold.batches for part in batch.parts.get(name, ())]
            self._create(f"new_{name}", COLUMNS[name])
            self._insert(f"new_{name}", COLUMNS[name], self._lakehouse.read_parts(parts))
        parts = [part for batch in self._fold.batches for part in batch.parts.get(ANSWERS, ())]
        self._create("new_answers", ANSWER_COLUMNS)
        self._insert("new_answers", ANSWER_COLUMNS, self._lakehouse.read_parts(parts))
        self._create("touched", {"source": "string", "session": "string"})
        self._db.execute("INSERT INTO touched SELECT source, session FROM new_sessions")
        self._insert_gone(self._fold.gone_part)

    def _insert_gone(self, parts: Sequence[Part]) -> None:
        for batch in self._lakehouse.read_parts(parts):
            self._db.register("incoming", batch)
            self._db.execute("INSERT INTO touched SELECT source, session FROM incoming")
            self._db.unregister("incoming")

    def _create(self, name: str, columns: dict[str, str]) -> None:
        defined = ", ".join(f"{quoted(column)} {_SQL[kind]}" for column, kind in columns.items())
        self._db.execute(f"CREATE OR REPLACE TABLE {name} ({defined})")

    def _insert(self, name: str, columns: dict[str, str], batches: Iterator[pa.RecordBatch]) -> None:
        chosen = ", ".join(quoted(column) for column in columns)
        for batch in batches:
            self._db.register("incoming", batch)
            self._db.execute(f"INSERT INTO {name} SELECT {chosen} FROM incoming")
            self._db.unregister("incoming")

    def _load(self, name: str, table: TableId, columns: dict[str, str]) -> None:
        """The live rows of a stored table."""
        self._create(name, columns)
        state = self._lakehouse.state(table)
        self._versions[table.table] = state.version if state else -1
        if state is not None:
            with self._lakehouse.scan(table, list(columns)) as reader:
                self._insert(name, columns, iter(reader))

    # tables

    def _store_answers(self) -> None:
        """Raw answers, one row a key, for whoever wants to look behind a finding."""
        key = ", ".join(ANSWER_KEY)
        self._load("have_answers", answers_table(), ANSWER_COLUMNS)
        self._db.execute(
            f"CREATE OR REPLACE TABLE change AS SELECT DISTINCT ON ({key}) * FROM new_answers n"
            " WHERE NOT EXISTS (SELECT 1 FROM have_answers h WHERE h.content_hash = n.content_hash"
            " AND h.model = n.model AND h.prompt_version = n.prompt_version AND h.status = n.status)"
        )
        self._db.execute("CREATE OR REPLACE TABLE removal AS SELECT * FROM change LIMIT 0")
        self._upsert(answers_table(), ANSWER_COLUMNS, ANSWER_KEY)

    def _replace_sessions(self, name: str) -> None:
        """The new rows of the touched sessions, instead of those that they had."""
        columns, key = COLUMNS[name], KEYS[name]
        self._load(f"have_{name}", silver(name), columns)
        same = " AND ".join(f"h.{quoted(column)} = n.{quoted(column)}" for column in key)
        self._db.execute(
            f"CREATE OR REPLACE TABLE change AS SELECT DISTINCT ON ({', '.join(map(quoted, key))}) * FROM"
            f" (SELECT * FROM new_{name} EXCEPT SELECT * FROM have_{name})"
        )
        self._db.execute(
            f"CREATE OR REPLACE TABLE removal AS SELECT * FROM have_{name} h SEMI JOIN touched USING (source, session)"
            f" WHERE NOT EXISTS (SELECT 1 FROM new_{name} n WHERE {same})"
        )
        self._upsert(silver(name), columns, key)
        self._db.execute(f"DROP TABLE have_{name}")

    def _evidence_versions(self) -> str:
        states = [self._lakehouse.state(silver(name)) for name in ("mentions", "statements")]
        return ".".join(str(state.version if state else -1) for state in states)

    def _write_difference(self, name: str) -> None:
        (key,) = KEYS[name]
        self._db.execute(
            f"CREATE OR REPLACE TABLE change AS SELECT * FROM want_{name} EXCEPT SELECT * FROM have_{name}"
        )
        self._db.execute(
            f"CREATE OR REPLACE TABLE removal AS SELECT * FROM have_{name} ANTI JOIN want_{name} USING ({key})"
        )
        self._upsert(silver(name), COLUMNS[name], KEYS[name])

    def _history(self, seen: str) -> None:
        """What changes about entities, written before it changes: a repeat finds the same change under the same id."""
        self._db.execute(
            f"CREATE OR REPLACE TABLE change AS {HISTORY_QUERY}", {"run": self._fold.work.run_group, "tag": seen}
        )
        self._db.execute("CREATE OR REPLACE TABLE removal AS SELECT * FROM change LIMIT 0")
        self._upsert(silver("entity_history"), COLUMNS["entity_history"], KEYS["entity_history"])

    def _upsert(self, table: TableId, columns: dict[str, str], key: Sequence[str]) -> None:
        """Commit ``change`` and ``removal``, which were made from the table's version that `_load` saw last.

        The version is in the tag: an attempt that died after its commit is repeated on another version, finds no
        difference, and commits nothing; a zombie of the same version finds the tag.
        """
        (changes,), (removals,) = (
            self._db.execute(f"SELECT count(*) FROM {name}").fetchall()[0] for name in ("change", "removal")
        )
        version = self._versions.get(table.table, -1)
        if not changes and not removals and version >= 0:
            return
        schema = table_schema(columns)
        self._lakehouse.upsert(
            table,
            self._rows("change", list(columns), schema),
            self._rows("removal", list(key), schema),
            schema,
            key=list(key),
            tag=f"{self._tag}@{version}",
        )

    def _rows(self, name: str, columns: list[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Rows of a scratch table with the metadata of this run."""
        import pyarrow as pa

        from assets.lakehouse.interface import DELETED_AT

        extra: dict[str, Any] = {RUN: self._tag, LOADED_AT: self._loaded_at, POSITION: self._fold.generation}
        if name == "change":
            extra[DELETED_AT] = None
        wanted = pa.schema([schema.field(column) for column in [*columns, *extra]])
        chosen = ", ".join(quoted(column) for column in columns)
        # a cursor of its own: the lakehouse reads one table while another is written
        found = self._db.cursor().execute(f"SELECT {chosen} FROM {name} ORDER BY ALL")
        while rows := found.fetchmany(ROWS):
            arrays = [
                pa.array(values, type=wanted.field(position).type)
                for position, values in enumerate(zip(*rows, strict=True))
            ]
            arrays += [
                pa.nulls(len(rows), wanted.field(column).type)
                if value is None
                else pa.repeat(pa.scalar(value, wanted.field(column).type), len(rows))
                for column, value in extra.items()
            ]
            yield pa.RecordBatch.from_arrays(arrays, schema=wanted)
