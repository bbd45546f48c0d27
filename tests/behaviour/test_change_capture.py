"""Mode cdc on PostgreSQL: every kind of change arrives once, values exact, and what is lost is named."""

from __future__ import annotations

from typing import Any

import pytest

from assets.errors import HeadraceError, SchemaChangedError, SourceAccessError, StreamLostError, UnsupportedTableError
from assets.lakehouse.interface import TableId
from assets.sources.postgres_capture import publication_name, slot_name
from tests.behaviour.installation import Installation

TABLE = "public.t"
BIG = "string_agg(md5(g::text || random()::text), '')"


@pytest.fixture
def followed(shop: Installation) -> Installation:
    """``t`` is followed: five thousand rows are there, one of them with a value that PostgreSQL stores apart."""
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text, price numeric(12, 2), updated_at timestamptz, big text)",
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL",
        "INSERT INTO t SELECT i, 'row ' || i, i / 7.0, now(), 'small' FROM generate_series(1, 5000) i",
        f"UPDATE t SET big = (SELECT {BIG} FROM generate_series(1, 200) g) WHERE id IN (7, 8, 9)",
    )
    result = shop.sync(TABLE, mode="cdc")
    assert (result.status, result.mode, result.equal, result.rows_read) == ("succeeded", "full", True, 5000)
    return shop


def synced(shop: Installation, **options: Any) -> tuple[int, int]:
    """Sync by the log, and see that Silver equals the source by every value. Returns upserts and deletes."""
    result = shop.sync(TABLE, **{"mode": "cdc"} | options)
    assert (result.mode, result.equal) == ("cdc", True)
    found = shop.verify(TABLE)
    assert found.equal is True, found
    return result.rows_read, result.rows_deleted


def slots(shop: Installation) -> list[str]:
    return [
        name
        for (name,) in shop.source_rows(
            "SELECT slot_name::text FROM pg_replication_slots WHERE database = current_database()"
        )
    ]


def bronze_state(shop: Installation) -> Any:
    state = shop.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table=TABLE))
    assert state is not None
    return state


def test_inserts_updates_and_deletes_arrive_and_a_quiet_table_costs_no_commit(followed: Installation) -> None:
    followed.execute(
        "INSERT INTO t VALUES (6001, 'new', 1, now(), NULL)",
        "UPDATE t SET name = 'changed' WHERE id <= 10",
        "UPDATE t SET name = 'changed again' WHERE id <= 10",
        "DELETE FROM t WHERE id > 4990 AND id < 5001",
    )
    assert synced(followed) == (21, 10)
    changes = followed.bronze(TABLE, ["id", "name", "_headrace_op", "_headrace_position"])
    assert [row[1:3] for row in sorted(changes, key=lambda r: r[3]) if row[0] == 3] == [
        ("row 3", "u"),
        ("changed", "u"),
        ("changed again", "u"),
    ]
    positions = [row[3] for row in changes if row[3] > min(r[3] for r in changes)]
    assert len(set(positions)) == len(positions) == 31, "each change has a position of its own"
    version = bronze_state(followed).version
    assert synced(followed) == (0, 0)
    assert bronze_state(followed).version == version
    assert synced(followed, mode="auto") == (0, 0), "a followed table stays followed"


def test_a_changed_key_is_a_delete_and_an_upsert_and_keys_may_swap(followed: Installation) -> None:
    followed.execute(
        "UPDATE t SET id = id + 100000 WHERE id <= 20",
        "UPDATE t SET id = -1 WHERE id = 30",
        "UPDATE t SET id = 30 WHERE id = 31",
        "UPDATE t SET id = 31 WHERE id = -1",
    )
    assert synced(followed) == (23, 23)


def test_a_large_value_that_did_not_change_is_kept_through_updates_and_key_changes(followed: Installation) -> None:
    before = followed.source_rows("SELECT id, big FROM t WHERE id IN (7, 8, 9)")
    followed.execute(
        "UPDATE t SET name = 'a' WHERE id = 7",
        "UPDATE t SET name = 'b' WHERE id = 8",
        "UPDATE t SET id = 20108 WHERE id = 8",
        "UPDATE t SET name = 'c' WHERE id = 20108",
        "UPDATE t SET id = 20208, name = 'd' WHERE id = 20108",
        f"UPDATE t SET big = (SELECT {BIG} FROM generate_series(1, 200) g) WHERE id = 9",
        "UPDATE t SET id = 20109 WHERE id = 9",
        "UPDATE t SET name = 'e' WHERE id = 20109",
        "DELETE FROM t WHERE id = 10",
        f"INSERT INTO t SELECT 10, 'again', 1, now(), {BIG} FROM generate_series(1, 200) g",
        "UPDATE t SET name = 'f' WHERE id = 10",
    )
    synced(followed)
    assert all(row[1] for row in followed.bronze(TABLE, ["_headrace_op", "big"]) if row[0] == "u" and row[1] != "small")
    assert dict(followed.silver(TABLE, ["id", "big"]))[20208] == dict(before)[8]


def test_with_full_identity_the_log_itself_holds_the_large_values(followed: Installation) -> None:
    followed.execute("ALTER TABLE t REPLICA IDENTITY FULL")
    synced(followed)
    followed.execute(
        "UPDATE t SET name = 'a' WHERE id IN (7, 8)",
        "UPDATE t SET id = 20009 WHERE id = 9",
        "DELETE FROM t WHERE id = 8",
    )
    synced(followed)
    old = [r for r in followed.bronze(TABLE, ["id", "name", "_headrace_op"]) if r[2] == "d"]
    assert old == [(8, "a", "d"), (9, "row 9", "d")]


def test_a_truncate_removes_what_was_live_then_and_nothing_that_came_after(followed: Installation) -> None:
    followed.execute(
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO t VALUES (9001, 'before', 1, now(), NULL)",
        "TRUNCATE t",
        "INSERT INTO t VALUES (1, 'after', 1, now(), NULL), (2, 'after', 1, now(), NULL)",
        "TRUNCATE t",
        "INSERT INTO t VALUES (2, 'last', 1, now(), NULL)",
    )
    assert synced(followed) == (4, 1 + 5000 + 2)
    gone = [row for row in followed.silver(TABLE, ["id", "name", "_headrace_deleted_at"], live=False) if row[2]]
    assert len(gone) == 4999
    assert (5, "row 5") in [row[:2] for row in gone], "last values are kept"


def test_rolled_back_work_and_open_transactions_do_not_count_until_they_commit(followed: Installation) -> None:
    with followed.connect() as late, followed.connect() as other:
        late.execute("BEGIN")
        late.execute("UPDATE t SET name = 'late' WHERE id = 1")
        late.execute("SAVEPOINT s")
        late.execute("DELETE FROM t WHERE id = 2")
        late.execute("ROLLBACK TO s")
        late.execute("INSERT INTO t VALUES (7001, 'late', 1, now(), NULL)")
        other.execute("BEGIN")
        other.execute("DELETE FROM t WHERE id = 4")
        other.execute("ROLLBACK")
        followed.execute("UPDATE t SET name = 'early' WHERE id = 3")
        assert synced(followed) == (1, 0)
        late.execute("COMMIT")
        assert synced(followed) == (2, 0)


def test_a_first_load_waits_for_those_who_write_and_misses_no_change(shop: Installation) -> None:
    import threading

    shop.execute("CREATE TABLE t (id int PRIMARY KEY, name text)", "INSERT INTO t VALUES (1, 'one')")
    with shop.connect() as writer:
        writer.execute("BEGIN")
        writer.execute("INSERT INTO t VALUES (2, 'open')")
        threading.Timer(1.0, lambda: writer.execute("COMMIT")).start()
        assert shop.sync(TABLE, mode="cdc").rows_read == 2
    shop.execute("INSERT INTO t VALUES (3, 'three')")
    assert synced(shop) == (1, 0)


def test_tables_share_the_slot_and_each_has_its_own_place_in_the_log(followed: Installation) -> None:
    followed.execute("CREATE TABLE u (a int, b text, PRIMARY KEY (b, a))", "INSERT INTO u VALUES (1, 'x')")
    assert followed.sync("public.u", mode="cdc").equal
    assert slots(followed) == ["headrace_shop"]
    followed.execute("UPDATE u SET a = 2", "UPDATE t SET name = 'x' WHERE id = 1")
    assert synced(followed) == (1, 0)
    assert followed.sync("public.u", mode="cdc").rows_deleted == 1
    assert followed.verify("public.u").equal


@pytest.mark.parametrize("how", ["slot", "publication", "table", "moved"])
def test_a_lost_stream_is_named_and_one_command_reads_the_table_anew(followed: Installation, how: str) -> None:
    slot = slot_name("shop", followed.steps.catalog.connector("shop").config)
    name = publication_name(slot, TABLE)
    lose = {
        "slot": f"SELECT pg_drop_replication_slot('{slot}')",
        "publication": f"DROP PUBLICATION {name}; CREATE PUBLICATION {name} FOR TABLE t",
        "table": "ALTER TABLE t RENAME TO old; CREATE TABLE t (LIKE old INCLUDING ALL)",
        "moved": f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_flush_lsn())",
    }
    followed.execute("UPDATE t SET name = 'lost' WHERE id = 1", "CHECKPOINT", *lose[how].split("; "))
    with pytest.raises(StreamLostError, match=r"headrace sync shop public\.t --mode cdc --reset"):
        followed.sync(TABLE, mode="cdc")
    assert followed.sync(TABLE, mode="cdc", reset=True).mode == "full"
    followed.execute("INSERT INTO t VALUES (6001, 'new', 1, now(), NULL)")
    assert synced(followed) == (1, 0)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("ALTER TABLE t ADD COLUMN extra int DEFAULT 5", "added with a default"),
        ("ALTER TABLE t RENAME name TO title", "now named title"),
    ],
)
def test_a_change_of_schema_that_no_log_tells_is_refused(followed: Installation, statement: str, error: str) -> None:
    followed.execute(statement)
    with pytest.raises(SchemaChangedError, match=error):
        followed.sync(TABLE, mode="cdc")
    assert followed.sync(TABLE, mode="cdc", reset=True).equal


def test_a_wider_decimal_is_followed_and_another_scale_reads_the_table_anew(followed: Installation) -> None:
    followed.execute(
        "ALTER TABLE t ALTER price TYPE numeric(14, 2)", "UPDATE t SET price = 123456789012.34 WHERE id = 1"
    )
    assert synced(followed) == (1, 0)
    followed.execute("ALTER TABLE t ALTER price TYPE numeric(14, 1)")
    result = followed.sync(TABLE, mode="cdc")
    assert (result.mode, result.equal) == ("full", True)
    followed.execute("DELETE FROM t WHERE id = 1")
    assert synced(followed) == (0, 1)


def test_columns_come_and_go_between_changes(followed: Installation) -> None:
    followed.execute(
        "UPDATE t SET name = 'before' WHERE id = 1",
        "ALTER TABLE t ADD COLUMN extra int",
        "UPDATE t SET extra = 5 WHERE id IN (1, 2)",
        "ALTER TABLE t DROP COLUMN updated_at",
        "UPDATE t SET extra = 6 WHERE id = 3",
    )
    assert synced(followed) == (4, 0)


def test_partitions_are_one_table_and_a_partition_truncated_alone_is_refused(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, name text) PARTITION BY RANGE (id)",
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100)",
        "CREATE TABLE t2 (name text, id int NOT NULL)",
        "ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (100) TO (200)",
        "INSERT INTO t SELECT i, 'row' FROM generate_series(1, 150) i",
    )
    shop.sync(TABLE, mode="cdc")
    shop.execute(
        "UPDATE t SET id = 160 WHERE id = 1",
        "DELETE FROM t WHERE id = 120",
        "CREATE TABLE t3 PARTITION OF t FOR VALUES FROM (200) TO (300)",
        "INSERT INTO t VALUES (250, 'x')",
    )
    assert synced(shop) == (2, 2)
    shop.execute("TRUNCATE t", "INSERT INTO t VALUES (1, 'y')")
    synced(shop)
    shop.execute("TRUNCATE t2")
    with pytest.raises(StreamLostError, match="a partition was truncated"):
        shop.sync(TABLE, mode="cdc")


def test_what_the_log_does_not_tell_is_refused_with_the_statement_that_mends_it(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (a int, b text)",
        "CREATE VIEW v AS SELECT 1 AS id",
        "CREATE TABLE g (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) VIRTUAL)",
        "CREATE UNLOGGED TABLE n (id int PRIMARY KEY)",
        "CREATE TABLE d (id int PRIMARY KEY DEFERRABLE, v text)",
        "INSERT INTO d VALUES (1, 'a')",
        "CREATE TABLE p (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id)",
        "CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
        "ALTER TABLE p_1 REPLICA IDENTITY NOTHING",
    )
    with pytest.raises(UnsupportedTableError, match=r'ALTER TABLE "public"\."t" REPLICA IDENTITY FULL'):
        shop.sync(TABLE, mode="cdc")
    with pytest.raises(UnsupportedTableError, match=r'ALTER TABLE "public"\."t" REPLICA IDENTITY FULL'):
        shop.sync(TABLE, mode="cdc", key=("a",))
    shop.execute("ALTER TABLE t REPLICA IDENTITY FULL", "INSERT INTO t VALUES (1, 'x'), (2, 'y')")
    shop.sync(TABLE, mode="cdc", key=("a",))
    shop.execute("UPDATE t SET a = 3 WHERE a = 1", "DELETE FROM t WHERE a = 2")
    assert synced(shop, key=("a",)) == (1, 2)
    # the server would refuse every update of a published table without an identity
    for table, leaf in (("d", "d"), ("p", "p_1")):
        with pytest.raises(UnsupportedTableError, match=rf'ALTER TABLE "public"\."{leaf}" REPLICA IDENTITY FULL'):
            shop.sync(f"public.{table}", mode="cdc")
        shop.execute(f"ALTER TABLE {leaf} REPLICA IDENTITY FULL")
        shop.sync(f"public.{table}", mode="cdc")
    shop.execute("UPDATE d SET v = 'b'")
    assert shop.sync("public.d", mode="cdc").equal is True
    assert shop.silver("public.d", ["id", "v"]) == [(1, "b")]
    for table, why in (("v", "view"), ("g", "generated"), ("n", "unlogged")):
        with pytest.raises(UnsupportedTableError, match=why):
            shop.sync(f"public.{table}", mode="cdc")
    assert slots(shop) == ["headrace_shop"]


def test_a_role_without_the_rights_is_told_the_statement(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY)",
        "DROP ROLE IF EXISTS cdc_reader",
        "CREATE ROLE cdc_reader LOGIN PASSWORD 'secret-of-cdc'",
        "GRANT SELECT ON t TO cdc_reader",
    )
    config = shop.server.config(shop.database) | {"user": "cdc_reader", "password": "secret-of-cdc", "cdc": True}
    shop.steps.catalog.add_connector("shop", "postgres", config, replace=True)

    def missing() -> dict[str, str]:
        return {c.name: c.fix for c in shop.steps.catalog.connector("shop").check() if not c.ok}

    assert missing() == {
        "replication": 'ALTER ROLE "cdc_reader" REPLICATION;',
        "publication": f'GRANT CREATE ON DATABASE "{shop.database}" TO "cdc_reader";',
    }
    with pytest.raises(SourceAccessError, match='ALTER ROLE "cdc_reader" REPLICATION;'):
        shop.sync(TABLE, mode="cdc")
    shop.execute("ALTER ROLE cdc_reader REPLICATION", f"GRANT CREATE ON DATABASE {shop.database} TO cdc_reader")
    assert missing() == {}
    with pytest.raises(SourceAccessError, match="CREATE PUBLICATION") as refused:
        shop.sync(TABLE, mode="cdc")
    assert isinstance(refused.value, HeadraceError)
    shop.execute(refused.value.remedy.removeprefix("Have the owner run: "))
    assert shop.sync(TABLE, mode="cdc").equal
    shop.execute("INSERT INTO t VALUES (1)")
    assert synced(shop) == (1, 0)
    shop.execute("DROP OWNED BY cdc_reader", "DROP ROLE cdc_reader")


def test_another_mode_leaves_no_slot_and_no_publication(followed: Installation) -> None:
    assert slots(followed) == ["headrace_shop"]
    assert followed.sync(TABLE, mode="full").equal
    assert slots(followed) == []
    assert followed.source_rows("SELECT pubname FROM pg_publication") == []


def test_the_slot_moves_only_up_to_what_bronze_holds_of_every_table(
    followed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    import assets.sources.postgres_capture as capture

    monkeypatch.setattr(capture, "ACKNOWLEDGED_BYTES", 0)
    monkeypatch.setattr("assets.sources.postgres_changes.UNMOVED_BYTES", 0)
    followed.execute("CREATE TABLE u (id int PRIMARY KEY)")
    followed.sync("public.u", mode="cdc")

    def confirmed() -> int:
        ((lsn,),) = followed.source_rows(
            "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE database = current_database()"
        )
        return int(lsn)

    for number in range(3):
        followed.execute(f"UPDATE t SET name = 'n{number}' WHERE id = 1")
        assert synced(followed) == (1, 0)
    other = followed.steps.lakehouse.state(TableId(layer="bronze", connector="shop", table="public.u"))
    assert other is not None and other.watermark is not None
    assert confirmed() <= other.watermark.position["lsn"] < bronze_state(followed).watermark.position["lsn"]
    followed.sync("public.u", mode="cdc")
    synced(followed)
    assert confirmed() > other.watermark.position["lsn"]
