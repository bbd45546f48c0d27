"""The demo: the same shop on every machine, and a proof that would notice a difference."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestration import demo_shop
from orchestration.demo import DemoFailure, _fresh_home
from orchestration.embedded_postgres import EmbeddedPostgres

_FINGERPRINT = "SELECT md5(string_agg(md5(t::text), '' ORDER BY id)) FROM (SELECT * FROM {table} WHERE id <= 1000) AS t"


def test_the_shop_is_the_same_every_time(postgres: EmbeddedPostgres, database: Callable[[], str]) -> None:
    seen = []
    for name in (database(), database()):
        with postgres.connect(name) as connection:
            rows: dict[str, int] = dict.fromkeys(demo_shop.TABLES, 0)

            def count(table: str, loaded: int, rows: dict[str, int] = rows) -> None:
                rows[table] += loaded

            demo_shop.load_shop(connection, count)
            assert rows == demo_shop.TABLES
            seen.append(
                [
                    connection.execute(_FINGERPRINT.format(table=table)).fetchone()  # type: ignore[arg-type]
                    for table in ("customers", "products", "orders", "chat_messages")
                ]
            )
    assert seen[0] == seen[1]


def test_the_late_transaction_commits_below_the_newest_cursor_value(
    postgres: EmbeddedPostgres, database: Callable[[], str]
) -> None:
    name = database()
    query = "SELECT max(updated_at), count(*) FROM orders"
    with postgres.connect(name) as connection, postgres.connect(name) as late:
        demo_shop.load_shop(connection, lambda table, rows: None)
        demo_shop.begin_late_transaction(late)
        before = connection.execute(query).fetchone()
        connection.commit()
        late.commit()
        after = connection.execute(query).fetchone()
    assert before is not None and after is not None
    assert after == (before[0], before[1] + 25)


def test_the_demo_refuses_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not remove")
    with pytest.raises(DemoFailure, match="files that no demo made"):
        _fresh_home(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_demo_ends_with_all_tables_equal(tmp_path: Path) -> None:
    environment = {**os.environ, "COLUMNS": "200"}
    environment.pop("TEMPORAL_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "orchestration.demo", "--home", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        timeout=380,
        env=environment,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "kill -9" in done.stdout
    assert "DIFFERENT" not in done.stdout
    assert "All tables equal" in done.stdout
