"""Questions about the tables of knowledge, answered by DuckDB over their live rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assets.errors import NotFoundError
from assets.knowledge.resolution import folded
from assets.knowledge.tables import COLUMNS, KEYS, SILVER, silver
from assets.lakehouse.interface import Lakehouse
from assets.scratch_database import ScratchDatabase, quoted

if TYPE_CHECKING:
    from assets.settings import Settings

LISTED = 1_000
_EXPORT = {"jsonl": "FORMAT json", "csv": "FORMAT csv, HEADER", "parquet": "FORMAT parquet"}
_BAD_QUOTES = """
SELECT count(*) FROM {table} t LEFT JOIN messages m USING (source, session, message)
WHERE m.text IS NULL OR substring(m.text, t.start + 1, t."end" - t.start) <> t.quote OR t."end" <= t.start
"""


class KnowledgeReader(ScratchDatabase):
    """Loads the tables that a question needs, once each."""

    def __init__(self, settings: Settings, lakehouse: Lakehouse) -> None:
        super().__init__(settings.memory_limit, settings.home_path / "scratch")
        self._lakehouse = lakehouse
        self._loaded: set[str] = set()

    def load(self, *names: str) -> None:
        import pyarrow as pa

        from assets.knowledge.tables import columns_schema

        for name in names:
            if name in self._loaded:
                continue
            if name not in COLUMNS:
                raise NotFoundError(f"there is no table {name[:40]}.", remedy=f"One of: {', '.join(SILVER)}.")
            schema = columns_schema(COLUMNS[name])
            self._db.register("incoming", schema.empty_table())
            self._db.execute(f"CREATE TABLE {quoted(name)} AS SELECT * FROM incoming")
            if self._lakehouse.state(silver(name)) is not None:
                with self._lakehouse.scan(silver(name), list(COLUMNS[name])) as reader:
                    for batch in reader:
                        self._db.register("incoming", pa.Table.from_batches([batch]))
                        self._db.execute(f"INSERT INTO {quoted(name)} SELECT * FROM incoming")
            self._db.unregister("incoming")
            self._loaded.add(name)

    def _ask(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        found = self._db.execute(query, list(parameters))
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def rows(self, table: str, limit: int) -> list[dict[str, Any]]:
        self.load(table)
        order = ", ".join(quoted(column) for column in KEYS[table])
        return self._ask(f"SELECT * FROM {quoted(table)} ORDER BY {order} LIMIT ?", [limit])

    def count(self, table: str) -> int:
        self.load(table)
        return self._ask(f"SELECT count(*) AS n FROM {quoted(table)}")[0]["n"]

    def entity(self, wanted: str) -> dict[str, Any] | None:
        self.load("entities", "observations", "relations", "mentions", "entity_history")
        found = self._ask(
            "SELECT * FROM entities WHERE entity_id = ? OR lower(canonical_name) = lower(?)"
            " OR list_contains(list_transform(aliases, lambda a: lower(a)), lower(?))"
            " ORDER BY entity_id = ? DESC, lower(canonical_name) = lower(?) DESC, mentions DESC, entity_id LIMIT 1",
            [wanted] * 5,
        )
        if not found:
            every = self._ask("SELECT entity_id, canonical_name FROM entities")
            same = [row["entity_id"] for row in every if folded(row["canonical_name"]) == folded(wanted)]
            return self.entity(same[0]) if same else None
        id = found[0]["entity_id"]
        return {
            "entity": found[0],
            "observations": self._ask(
                'SELECT * FROM observations WHERE subject_id = ? ORDER BY "at", observation_id LIMIT ?', [id, LISTED]
            ),
            "relations": self._ask(
                "SELECT r.*, s.canonical_name AS subject_name, o.canonical_name AS object_name FROM relations r"
                " LEFT JOIN entities s ON s.entity_id = r.subject_id LEFT JOIN entities o ON o.entity_id = r.object_id"
                " WHERE ? IN (r.subject_id, r.object_id) ORDER BY relation_id LIMIT ?",
                [id, LISTED],
            ),
            "mentions": self._ask(
                'SELECT * FROM mentions WHERE entity_id = ? ORDER BY "at", mention_id LIMIT ?', [id, LISTED]
            ),
            "history": self._ask(
                "SELECT * FROM entity_history WHERE entity_id = ? ORDER BY run_group, history_id LIMIT ?", [id, LISTED]
            ),
        }

    def message(self, source: str, session: str, message: str) -> dict[str, Any] | None:
        self.load("messages", "mentions", "observations")
        place = [source, session, message]
        found = self._ask("SELECT * FROM messages WHERE source = ? AND session = ? AND message = ?", place)
        if not found:
            return None
        where = "WHERE source = ? AND session = ? AND message = ? ORDER BY start"
        return found[0] | {
            "mentions": self._ask(f"SELECT * FROM mentions {where}", place),
            "observations": self._ask(f"SELECT * FROM observations {where}", place),
        }

    def checks(self) -> list[dict[str, Any]]:
        """Each check: ``name``, ``table``, ``passed``, ``detail``, and the counts behind it."""
        self.load(*SILVER)
        results = []
        for table in ("observations", "mentions"):
            bad = self._ask(_BAD_QUOTES.format(table=table))[0]["count_star()"]
            total = self.count(table)
            results.append(
                {
                    "name": "spans_quote_their_message",
                    "table": table,
                    "passed": bad == 0,
                    "rows": total,
                    "wrong": bad,
                    "detail": f"{total - bad} of {total} spans quote their message exactly",
                }
            )
        loose = self._ask(
            "SELECT count(*) AS n FROM relations WHERE subject_id NOT IN (SELECT entity_id FROM entities)"
            " OR object_id NOT IN (SELECT entity_id FROM entities)"
        )[0]["n"]
        total = self.count("relations")
        results.append(
            {
                "name": "relations_point_to_entities",
                "table": "relations",
                "passed": loose == 0,
                "rows": total,
                "wrong": loose,
                "detail": f"{total - loose} of {total} relations point to entities at both ends",
            }
        )
        total, done = (
            self.count("sessions"),
            self._ask("SELECT count(*) AS n FROM sessions WHERE status = 'extracted' AND chunks = chunks_answered")[0][
                "n"
            ],
        )
        results.append(
            {
                "name": "extraction_coverage",
                "table": "sessions",
                "passed": done == total,
                "rows": total,
                "wrong": total - done,
                "detail": f"{done} of {total} sessions are extracted in full",
            }
        )
        return results

    def export(self, folder: Path, format: str) -> dict[str, int]:
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for name in SILVER:
            self.load(name)
            order = ", ".join(quoted(column) for column in KEYS[name])
            target, partial = folder / f"{name}.{format}", folder / f".{name}.{format}.part"
            address = str(partial).replace("'", "''")
            self._db.execute(f"COPY (SELECT * FROM {quoted(name)} ORDER BY {order}) TO '{address}' ({_EXPORT[format]})")
            os.replace(partial, target)
            written[name] = self.count(name)
        return written
