"""Empty, nameless, hostile, keyless and very wide tables."""

from __future__ import annotations

import pytest

from assets.errors import MismatchError, SourceAccessError, SourceUnreachableError, UnsupportedTableError
from tests.behaviour.installation import Installation


def test_a_table_without_rows_becomes_tables_with_its_schema(shop: Installation) -> None:
    shop.execute("CREATE TABLE t (id int PRIMARY KEY, price numeric(10, 2), updated_at timestamptz)")
    result = shop.sync("public.t")
    assert (result.status, result.rows_silver, result.equal) == ("succeeded", 0, True)
    assert shop.silver("public.t", ["id", "price"]) == []
    shop.execute("INSERT INTO t VALUES (1, 9.99, now())")
    assert shop.sync("public.t").rows_silver == 1
    assert shop.verify("public.t").equal is True


def test_a_table_that_lost_all_rows_is_empty_after_a_full_refresh(shop: Installation) -> None:
    shop.execute("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    shop.sync("public.t")
    shop.execute("TRUNCATE t")
    result = shop.sync("public.t")
    assert (result.mode, result.rows_bronze, result.rows_silver, result.equal) == ("full", 0, 0, True)


def test_a_table_without_columns_is_refused_by_name(shop: Installation) -> None:
    shop.execute("CREATE TABLE nothing ()")
    with pytest.raises(UnsupportedTableError, match=r"public\.nothing"):
        shop.sync("public.nothing")


def test_a_materialized_view_that_was_never_filled_is_refused_until_it_is(shop: Installation) -> None:
    shop.execute("CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS n WITH NO DATA")
    with pytest.raises(UnsupportedTableError, match="REFRESH MATERIALIZED VIEW"):
        shop.sync("public.unfilled")
    shop.execute("REFRESH MATERIALIZED VIEW unfilled")
    assert shop.sync("public.unfilled").equal is True
    assert shop.silver("public.unfilled", ["n"]) == [(1,)]


def test_a_view_that_cannot_be_evaluated_is_refused_with_the_servers_words_and_is_not_tried_again(
    shop: Installation,
) -> None:
    shop.execute("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 1000)")
    shop.execute("CREATE VIEW broken AS SELECT id, 1 / (id - 500) AS ratio FROM t")
    with pytest.raises(SourceAccessError, match="division by zero") as refused:
        shop.sync("public.broken")
    assert not refused.value.retryable
    shop.execute("DELETE FROM t WHERE id = 500")
    assert shop.sync("public.broken").equal is True


def test_a_foreign_table_is_synced_and_what_its_server_refuses_is_not_taken_for_our_login(shop: Installation) -> None:
    shop.execute(
        "CREATE EXTENSION postgres_fdw",
        "CREATE TABLE t (id int PRIMARY KEY, name text)",
        "INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 1000) i",
        f"CREATE SERVER shard FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{shop.server.host}', "
        f"port '{shop.server.port}', dbname '{shop.database}')",
        f"CREATE USER MAPPING FOR PUBLIC SERVER shard OPTIONS (user '{shop.server.user}', password 'another')",
        "CREATE FOREIGN TABLE far (id int, name text) SERVER shard OPTIONS (table_name 't')",
    )
    with pytest.raises(SourceUnreachableError, match='could not connect to server "shard"') as told:
        shop.sync("public.far")
    assert shop.server.password not in str(told.value)
    shop.execute(f"ALTER USER MAPPING FOR PUBLIC SERVER shard OPTIONS (SET password '{shop.server.password}')")
    assert shop.sync("public.far").equal is True
    assert shop.verify("public.far").equal is True


def test_a_view_that_is_another_one_each_time_it_is_read_is_told_to_be_so(shop: Installation) -> None:
    shop.execute("CREATE VIEW drawn AS SELECT i FROM generate_series(1, 5000) i WHERE random() < 0.5")
    with pytest.raises(MismatchError, match=r"row counts differ: source \d+, staged \d+") as told:
        shop.sync("public.drawn")
    assert "it changes by itself" in told.value.remedy
    assert "--mode full" not in told.value.remedy


def test_a_table_without_a_key_is_loaded_in_full_and_says_why(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (a int, updated_at timestamptz)", "INSERT INTO t VALUES (1, now()), (1, now()), (2, NULL)"
    )
    shop.sync("public.t")
    shop.execute("DELETE FROM t WHERE a = 2", "INSERT INTO t VALUES (3, now())")
    result = shop.sync("public.t", mode="incremental")
    assert (result.mode, result.rows_silver, result.equal) == ("full", 3, True)
    assert "no key" in result.reason
    assert shop.verify("public.t").equal is True
    shop.execute("UPDATE t SET a = 7 WHERE a = 3")
    found = shop.verify("public.t")
    assert (found.equal, found.missing, found.extra) == (False, 1, 1)


NAMES = [
    "with space",
    "dot.ted",
    'quo"te',
    "apo'strophe",
    "emoji 🚰",
    "select",
    "MixedCase",
    "ümläut",
    "back\\slash",
    "per%cent",
    "semi;colon--",
    "n" * 63,
    "../../up",
    "new\nline",
]


@pytest.mark.parametrize("name", NAMES)
def test_hostile_names_of_tables_and_columns_are_synced(shop: Installation, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    shop.execute(
        f"CREATE TABLE {quoted} ({quoted} int PRIMARY KEY, v text, updated_at timestamptz)",
        f"INSERT INTO {quoted} VALUES (1, 'a', now()), (2, 'b', now())",
    )
    (table,) = [t.name for t in shop.steps.catalog.connector("shop").discover()]
    assert shop.sync(table).equal is True
    shop.execute(
        f"UPDATE {quoted} SET v = 'c', updated_at = now() WHERE {quoted} = 2", f"INSERT INTO {quoted} VALUES (3)"
    )
    shop.execute(f"DELETE FROM {quoted} WHERE {quoted} = 1")
    result = shop.sync(table, deletes="keys")
    assert (result.mode, result.rows_read, result.rows_deleted, result.equal) == ("incremental", 2, 1, True)
    assert shop.verify(table).equal is True


def test_names_that_differ_only_by_case_stay_apart(shop: Installation) -> None:
    shop.execute(
        'CREATE TABLE "Twin" ("Id" int PRIMARY KEY, "id" text, "ID" text)',
        """INSERT INTO "Twin" VALUES (1, 'a', 'A')""",
    )
    shop.execute("CREATE TABLE twin (id int PRIMARY KEY)", "INSERT INTO twin VALUES (5), (6)")
    for table, rows in (("public.Twin", 1), ("public.twin", 2)):
        assert shop.sync(table).rows_silver == rows
        assert shop.verify(table).equal is True


def test_1600_columns_are_synced(shop: Installation) -> None:
    columns = ", ".join(f"c{i} int" for i in range(1598))
    shop.execute(f"CREATE TABLE wide (id int PRIMARY KEY, {columns}, updated_at timestamptz)")
    shop.execute("INSERT INTO wide (id, c0, c1597, updated_at) SELECT i, i, -i, now() FROM generate_series(1, 50) i")
    assert shop.sync("public.wide").equal is True
    shop.execute("UPDATE wide SET c5 = 5, updated_at = now() WHERE id = 7")
    assert shop.sync("public.wide").rows_read == 1
    assert shop.verify("public.wide").equal is True


def test_a_column_added_at_the_source_arrives_with_the_next_sync(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, updated_at timestamptz)", "INSERT INTO t VALUES (1, now()), (2, now())"
    )
    shop.sync("public.t")
    shop.execute("ALTER TABLE t ADD COLUMN note text", "UPDATE t SET note = 'x', updated_at = now() WHERE id = 2")
    assert shop.sync("public.t").equal is True
    assert shop.silver("public.t", ["id", "note"]) == [(1, None), (2, "x")]
    assert shop.verify("public.t").equal is True


def test_columns_under_renamed_silver_names_keep_their_values(shop: Installation) -> None:
    shop.execute('CREATE TABLE t ("orderID" int PRIMARY KEY, "Unit Price" numeric(10, 2), updated_at timestamptz)')
    shop.execute("INSERT INTO t VALUES (1, 1.10, now()), (2, 2.20, now())")
    result = shop.sync("public.t")
    assert result.column_names["orderID"] == "order_id"
    shop.execute('UPDATE t SET "Unit Price" = 3.30, updated_at = now() WHERE "orderID" = 2')
    shop.sync("public.t")
    assert [(k, str(v)) for k, v in shop.silver("public.t", ["order_id", "unit_price"])] == [(1, "1.10"), (2, "3.30")]
    assert shop.verify("public.t").equal is True


@pytest.mark.parametrize("mode", ["incremental", "cdc"])
def test_deleted_rows_of_a_table_with_more_columns_than_delta_keeps_statistics_of_are_told(
    shop: Installation, mode: str
) -> None:
    more = ", ".join(f"c{number} int DEFAULT {number}" for number in range(40))
    shop.execute(f"CREATE TABLE t (id int PRIMARY KEY, {more}, updated_at timestamptz DEFAULT now())")
    shop.execute("INSERT INTO t (id) SELECT generate_series(1, 20)")
    options = {"mode": "cdc"} if mode == "cdc" else {"deletes": "keys"}
    assert shop.sync("public.t", **options).equal is True
    shop.execute("DELETE FROM t WHERE id > 15", "UPDATE t SET c39 = 0, updated_at = now() WHERE id = 1")
    result = shop.sync("public.t", **options)
    assert (result.rows_deleted, result.rows_silver, result.equal) == (5, 15, True)
    assert shop.verify("public.t").equal is True


def test_values_that_fit_no_date_are_a_key_only_where_they_cannot_be_taken_for_another(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (id int, until date, v int, updated_at timestamptz DEFAULT now(), PRIMARY KEY (id, until))",
        "INSERT INTO t VALUES (1, 'infinity', 1), (1, '2024-01-01', 2), (2, 'infinity', 3)",
    )
    assert shop.sync("public.t").mode == "full"
    shop.execute("UPDATE t SET v = 10, updated_at = now() WHERE until = 'infinity'")
    result = shop.sync("public.t", deletes="keys")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 2, True)
    assert shop.verify("public.t").equal

    shop.execute("INSERT INTO t VALUES (1, '4000-01-01 BC', 4)")
    with pytest.raises(UnsupportedTableError, match=r"public\.t: key column until holds a value that fits no date32"):
        shop.sync("public.t", deletes="keys")
    assert shop.verify("public.t", "counts").equal is False
    full = shop.sync("public.t", mode="full")
    assert (full.rows_silver, full.equal) == (4, True)
    compared = shop.verify("public.t")
    assert (compared.equal, compared.detail) == (
        True,
        "the key (id, until) is not unique in the source: whole rows were compared",
    )
    shop.execute("DELETE FROM t WHERE until < '0001-01-01'", "UPDATE t SET v = 5, updated_at = now()")
    assert shop.sync("public.t", mode="full").equal
    assert shop.verify("public.t").detail == ""


def test_a_named_key_that_repeats_is_told_apart_from_a_wrong_copy(shop: Installation) -> None:
    shop.execute("CREATE TABLE t (a int, b int)", "INSERT INTO t VALUES (1, 1), (1, 2), (2, NULL), (2, NULL)")
    assert shop.sync("public.t", key=["a"]).equal
    assert shop.verify("public.t").equal
    shop.execute("UPDATE t SET b = 3 WHERE b = 2")
    compared = shop.verify("public.t")
    assert (compared.equal, compared.missing, compared.extra) == (False, 1, 1)
    assert "whole rows were compared" in compared.detail
