"""Which columns and rows of a table are taken, protected or read again; what is protected never leaves the reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from assets.errors import ConfigurationError, SchemaDriftError, UnsupportedTableError
from assets.lakehouse import key_index
from assets.lakehouse.interface import TableId
from tests.behaviour.installation import Installation
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.behaviour.source_installation import SourceInstallation
from tests.servers.mariadb_server import MariadbServer

CREATE = (
    "CREATE TABLE t (id int PRIMARY KEY, email text, ssn text, region text, amount numeric(8, 2), "
    "updated_at timestamptz)"
)
ROWS = (
    "INSERT INTO t SELECT i, 'mail' || i || '@canary.example', 'canary-ssn-' || i, "
    "CASE WHEN i % 2 = 0 THEN 'EU' ELSE 'US' END, i * 10, now() - interval '1 hour' FROM generate_series(1, 6) i"
)


@pytest.fixture
def people(shop: Installation) -> Installation:
    shop.execute(CREATE, ROWS)
    return shop


def assert_nowhere(shop: Installation | SourceInstallation, *texts: bytes) -> None:
    """No file of the installation holds the texts: staging, tables, catalog, logs."""
    for path in shop.settings.home_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".parquet":
                import pyarrow.parquet as pq

                content += repr(pq.read_table(path).to_pylist()).encode()
            for text in texts:
                assert text not in content, path


def test_excluded_hashed_and_masked_values_are_nowhere(people: Installation) -> None:
    options = {"columns": {"exclude": ["ssn"], "hash": ["email"], "mask": ["region"]}}
    result = people.sync("public.t", verify="values", **options)
    assert result.equal is True
    people.execute(
        "UPDATE t SET email = 'new@canary.example', updated_at = now() WHERE id = 1", "DELETE FROM t WHERE id = 6"
    )
    work = people.work("public.t", deletes="keys")  # a sync by hand keeps the choice
    manifest = people.steps.extract(work, people.steps.open_window(work), 1)
    assert_nowhere(people, b"canary")
    bronze, silver = people.steps.commit_bronze(work, manifest), people.steps.merge_silver(work, manifest)
    assert people.steps.record(work, people.steps.verify(work, manifest, bronze, silver)).equal is True
    assert people.verify("public.t").equal is True
    assert_nowhere(people, b"canary")
    rows = people.silver("public.t", ["id", "email", "region"])
    assert len({row[1] for row in rows}) == 5
    assert all(len(row[1]) == 64 and row[2] == "***" for row in rows)


def test_one_value_has_one_hash_in_every_table_and_as_a_key(people: Installation) -> None:
    people.execute(
        "CREATE TABLE visits (email varchar(80) PRIMARY KEY, n bigint, updated_at timestamptz)",
        "INSERT INTO visits SELECT email, id, now() - interval '1 hour' FROM t",
    )
    people.sync("public.t", columns={"hash": ["email", "id"]})
    result = people.sync("public.visits", columns={"hash": ["email"]}, verify="values")
    assert result.equal is True
    assert people.silver("public.visits", ["email"]) == people.silver("public.t", ["email"])
    people.execute("DELETE FROM visits WHERE n = 1", "UPDATE visits SET n = 20, updated_at = now() WHERE n = 2")
    result = people.sync("public.visits", deletes="keys")
    assert (result.mode, result.rows_read, result.rows_deleted, result.equal) == ("incremental", 1, 1, True)
    for level in ("keys", "values"):
        assert people.verify("public.visits", level).equal is True  # type: ignore[arg-type]


def test_a_value_that_fits_no_type_is_protected_too(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE t (id int PRIMARY KEY, born date, updated_at timestamptz)",
        "INSERT INTO t VALUES (1, 'infinity', now()), (2, '2000-02-03', now()), (3, NULL, now())",
    )
    shop.sync("public.t", columns={"hash": ["born"]}, verify="values")
    rows = shop.silver("public.t", ["id", "born", "_headrace_unfit"])
    assert [len(row[1] or "") for row in rows] == [64, 64, 0]
    assert {row[2] for row in rows} == {None}
    assert_nowhere(shop, b"infinity", b"2000-02-03")


def test_a_renamed_column_stays_protected_whatever_the_choice_calls_it(people: Installation) -> None:
    choice = {"hash": ["email"], "exclude": ["ssn"]}
    people.sync("public.t", columns=choice)
    people.execute("ALTER TABLE t RENAME email TO mail", "ALTER TABLE t RENAME ssn TO social")
    people.execute("ALTER TABLE t ADD COLUMN email text")
    for _ in range(2):
        people.execute("UPDATE t SET updated_at = now()")
        people.sync("public.t", columns=choice)
        assert_nowhere(people, b"canary")
    assert "mail" in people.silver_names("public.t")
    assert people.verify("public.t").equal is True


def test_a_choice_that_names_no_column_reads_nothing(people: Installation) -> None:
    for choice in ({"hash": ["emial"]}, {"exclude": ["nothing"]}, {"include": ["absent"]}):
        with pytest.raises(UnsupportedTableError, match="names what is not there"):
            people.sync("public.t", columns=choice)
    with pytest.raises(UnsupportedTableError, match="watermark"):
        people.sync("public.t", cursor="updated_at", columns={"hash": ["updated_at"]})


def test_another_choice_reads_the_table_in_full_and_leaves_no_original(people: Installation) -> None:
    people.sync("public.t", write="scd2")
    result = people.sync("public.t", columns={"hash": ["email"]})
    assert (result.mode, result.reason, result.equal) == ("full", "another choice of columns was asked for", True)
    assert all(len(row[0]) == 64 for row in people.silver("public.t", ["email"], live=False))
    back = people.sync("public.t", columns={})
    assert (back.mode, people.verify("public.t").equal) == ("full", True)


def test_rows_that_leave_the_filter_count_as_deletes(people: Installation) -> None:
    result = people.sync("public.t", row_filter="region = 'EU' and amount > 10", verify="values")
    assert (result.rows_silver, result.equal) == (3, True)
    people.execute(
        "UPDATE t SET region = 'US', updated_at = now() WHERE id = 2",
        "UPDATE t SET region = 'EU', updated_at = now() WHERE id = 1",
    )
    result = people.sync("public.t", deletes="keys")
    assert (result.mode, result.rows_read, result.rows_deleted, result.equal) == ("incremental", 0, 1, True)
    assert people.silver("public.t", ["id"]) == [(4,), (6,)]
    for level in ("counts", "keys", "values"):
        assert people.verify("public.t", level).equal is True  # type: ignore[arg-type]
    result = people.sync("public.t", row_filter="")
    assert (result.mode, result.reason, result.rows_silver) == ("full", "the row filter is another one", 6)


def test_a_backfill_reads_a_range_again_and_leaves_the_watermark(people: Installation) -> None:
    first = people.sync("public.t")
    people.execute("UPDATE t SET amount = 1, updated_at = '2020-05-05' WHERE id = 2")  # the cursor goes back: unseen
    people.execute("INSERT INTO t VALUES (7, 'x', 'y', 'EU', 7, '2020-05-06')", "UPDATE t SET amount = 99 WHERE id = 3")
    bounds = {"low": "2020-01-01", "high": "2020-05-06"}
    result = people.sync("public.t", backfill=bounds)
    assert (result.mode, result.rows_read, result.watermark_after) == ("incremental", 2, first.watermark_after)
    assert (2, 1) in [(row[0], int(row[1])) for row in people.silver("public.t", ["id", "amount"])]
    assert people.sync("public.t").equal is True
    for contradicting in ({"reset": True}, {"mode": "full"}, {"deletes": "keys"}):
        with pytest.raises(ConfigurationError, match="backfill"):
            people.sync("public.t", backfill=bounds, **contradicting)


@pytest.mark.parametrize("write", ["append", "scd2"])
def test_a_backfill_adds_no_version_that_is_there(people: Installation, write: str) -> None:
    people.sync("public.t", write=write)
    before = people.silver("public.t", ["id", "email"], live=False)
    assert people.sync("public.t", backfill={"low": "2000-01-01"}).rows_read == 6
    assert people.silver("public.t", ["id", "email"], live=False) == before
    work = people.work("public.t", backfill={"low": "2000-01-01"})
    people.steps.commit_bronze(work, people.steps.extract(work, people.steps.open_window(work), 1))  # dies here
    people.sync("public.t")
    assert people.silver("public.t", ["id", "email"], live=False) == before


def test_a_reset_starts_the_table_anew_in_one_swap(people: Installation) -> None:
    people.sync("public.t", write="scd2", row_filter="id > 2")
    people.execute("UPDATE t SET amount = 5, updated_at = now()")
    people.sync("public.t")
    result = people.sync("public.t", reset=True, write="merge", row_filter="")
    assert (result.mode, result.reason, result.rows_silver, result.equal) == ("full", "the table starts anew", 6, True)
    assert people.verify("public.t").equal is True
    assert "_headrace_valid_from" not in people.silver_names("public.t")


def test_a_reset_keeps_what_was_asked_for_of_the_table(people: Installation) -> None:
    people.sync("public.t", write="scd2", row_filter="id > 2", columns={"hash": ["email"], "exclude": ["ssn"]})
    people.execute("ALTER TABLE t RENAME email TO mail", "ALTER TABLE t DROP ssn")
    people.execute("UPDATE t SET amount = 5, updated_at = now()")
    result = people.sync("public.t", reset=True)
    assert (result.mode, result.write, result.rows_silver, result.equal) == ("full", "scd2", 4, True)
    assert "_headrace_valid_from" in people.silver_names("public.t")
    people.execute("ALTER TABLE t ADD ssn text")
    people.execute("UPDATE t SET ssn = 'canary-ssn', updated_at = now()")
    people.sync("public.t")
    assert_nowhere(people, b"canary")
    people.sync("public.t", reset=True, columns={}, row_filter="", write="merge")
    assert len(people.silver("public.t", ["mail", "ssn"])) == 6


def test_a_dropped_column_that_was_protected_stops_no_sync_and_is_protected_when_it_comes_back(
    people: Installation,
) -> None:
    choice = {"hash": ["email"], "exclude": ["ssn"]}
    people.sync("public.t", columns=choice)
    people.execute("ALTER TABLE t DROP COLUMN email", "ALTER TABLE t DROP ssn")
    for options in ({}, {"columns": choice}, {}):
        people.execute("UPDATE t SET updated_at = now()")
        assert people.sync("public.t", **options).equal is True
    people.execute("ALTER TABLE t ADD email text", "ALTER TABLE t ADD ssn text")
    people.execute("UPDATE t SET email = 'back@canary.example', ssn = 'canary', updated_at = now()")
    assert people.sync("public.t").equal is True
    assert {len(email) for (email,) in people.silver("public.t", ["email"])} == {64}
    assert_nowhere(people, b"canary")


def test_a_table_made_anew_with_a_protected_column_under_another_name_is_not_read(people: Installation) -> None:
    people.sync("public.t", columns={"mask": ["email"], "exclude": ["ssn"]})
    people.execute("CREATE TABLE made (LIKE t INCLUDING ALL)", "INSERT INTO made SELECT * FROM t", "DROP TABLE t")
    people.execute("ALTER TABLE made RENAME TO t", "ALTER TABLE t RENAME email TO mail")
    with pytest.raises(SchemaDriftError, match="email, excluded, hashed or masked, is gone, and mail came"):
        people.sync("public.t")
    assert people.sync("public.t", columns={"mask": ["mail"], "exclude": ["ssn"]}).equal is True
    assert_nowhere(people, b"canary")


def test_a_column_that_may_be_a_protected_one_renamed_is_not_read_where_the_source_does_not_tell(
    tmp_path: Path, mariadb: MariadbServer, mariadb_database: str
) -> None:
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    table = shop.name("t")
    shop.execute("CREATE TABLE t (id int PRIMARY KEY, email varchar(50), n int)")
    shop.execute("INSERT INTO t VALUES (1, 'one@canary.example', 1)")
    shop.sync(table, columns={"hash": ["email"]})
    shop.execute("ALTER TABLE t CHANGE email mail varchar(50)")
    for options in ({}, {"reset": True}, {"columns": {"hash": ["email"]}}):
        with pytest.raises(SchemaDriftError, match="email, excluded, hashed or masked, is gone, and mail came"):
            shop.sync(table, **options)
    assert_nowhere(shop, b"canary")
    assert shop.sync(table, columns={"hash": ["mail"]}).equal is True
    assert_nowhere(shop, b"canary")
    shop.execute("ALTER TABLE t DROP mail")
    assert shop.sync(table).equal is True
    shop.execute("ALTER TABLE t ADD other int DEFAULT 7")
    assert shop.sync(table).equal is True
    assert shop.silver(table, ["other"]) == [(7,)]


def test_hostile_filters_are_refused(people: Installation) -> None:
    hostile = ["1 = 1", "id = 1; drop table t", "pg_sleep(9) = id", "id in (select 1)", "id = email", "id::text = '1'"]
    for text in hostile:
        with pytest.raises(ConfigurationError):
            people.sync("public.t", row_filter=text)
    assert people.sync("public.t", row_filter="email = 'x'' or 1=1 --' or email like '%\"%'").rows_silver == 0


@pytest.mark.parametrize("engine", ["local"], indirect=True)
def test_a_table_that_will_have_increments_gets_key_indexes_with_its_first_load(
    people: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_index, "INDEXED_ROWS", 1)  # a size, so that six rows make a large file

    def indexed(table: str) -> int:
        silver = TableId(layer="silver", connector="shop", table=table)
        return len(list(Path(people.steps.lakehouse.uri(silver), key_index.KEY_INDEXES).glob("*")))

    people.execute(
        "CREATE TABLE small (id int PRIMARY KEY, updated_at timestamptz)", "INSERT INTO small VALUES (1, now())"
    )
    people.sync("public.small", mode="full")
    people.sync("public.t")
    assert (indexed("public.small"), indexed("public.t")) == (0, 1)
    people.execute("UPDATE t SET amount = 1, updated_at = now() WHERE id < 3")
    result = people.sync("public.t", verify="values")
    assert (result.mode, result.rows_read, result.equal) == ("incremental", 2, True)
