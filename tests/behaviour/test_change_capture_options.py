"""Mode cdc with columns that are hashed or masked, and with versions kept in Silver, on PostgreSQL and MariaDB."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from assets.errors import MismatchError, SchemaChangedError, UnsupportedTableError
from assets.silver_history import IS_CURRENT, VALID_FROM, VALID_TO
from tests.behaviour.installation import Installation
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.behaviour.test_table_options import assert_nowhere
from tests.servers.mariadb_server import MariadbServer

CREATE = (
    "CREATE TABLE people (id int PRIMARY KEY, email varchar(80), region varchar(30), amount decimal(8, 2), note text)"
)
ROWS = [
    f"INSERT INTO people VALUES ({i}, 'mail{i}@canary.example', 'canary-region', {i * 10}, '{'x' * i}')"
    for i in range(1, 7)
]
PROTECTED = {"hash": ["id", "email"], "mask": ["region"]}


class Source:
    """A database with a table ``people``, and the installation that follows it."""

    def __init__(self, installation: Installation, table: str) -> None:
        self.installation, self.table = installation, table

    def execute(self, *statements: str) -> None:
        self.installation.execute(*statements)

    def sync(self, **options: Any) -> tuple[str | None, int, int]:
        """Sync by the log, and see that Silver equals the source by every value."""
        result = self.installation.sync(self.table, mode="cdc", **options)
        found = [self.installation.verify(self.table, level) for level in ("counts", "keys", "values")]
        assert (result.equal, *(one.equal for one in found)) == (True, True, True, True), (result, found)
        return result.mode, result.rows_read, result.rows_deleted

    def silver(self, *columns: str, live: bool = True) -> list[tuple[Any, ...]]:
        return self.installation.silver(self.table, list(columns), live=live)


@pytest.fixture(params=["postgres", "mysql"])
def people(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    if request.param == "postgres":
        server, database = request.getfixturevalue("postgres"), request.getfixturevalue("database")()
        source = Source(Installation(tmp_path / "home", server, database), "public.people")
        source.execute(CREATE, "ALTER TABLE people ALTER note SET STORAGE EXTERNAL")
    else:
        database = request.getfixturevalue("mariadb_database")
        shop = MysqlInstallation(tmp_path / "home", request.getfixturevalue("mariadb"), database)
        source = Source(shop, shop.name("people"))
        source.execute(CREATE)
    source.execute(*ROWS)
    return source


def test_hashed_and_masked_values_of_a_followed_table_are_nowhere(people: Source) -> None:
    assert people.sync(columns=PROTECTED) == ("full", 6, 0)
    people.execute(
        "UPDATE people SET email = 'new@canary.example' WHERE id = 1",
        "UPDATE people SET id = 700 WHERE id = 2",
        "UPDATE people SET region = NULL WHERE id = 3",
        "DELETE FROM people WHERE id = 6",
        "INSERT INTO people VALUES (8, 'mail5@canary.example', 'canary-region', 80, NULL)",
    )
    assert people.sync() == ("cdc", 4, 2)
    rows = people.silver("id", "email", "region")
    assert len(rows) == 6 and all(len(row[0]) == len(row[1]) == 64 for row in rows)
    assert sorted(str(row[2]) for row in rows) == ["***"] * 5 + ["None"]
    assert len({row[1] for row in rows}) == 5, "one value has one hash, loaded or followed"
    people.execute("TRUNCATE people", ROWS[0])
    people.sync()
    assert_nowhere(people.installation, b"canary")


def test_a_hashed_value_that_the_log_leaves_out_stays(shop: Installation) -> None:
    people = Source(shop, "public.people")
    people.execute(CREATE, "ALTER TABLE people ALTER note SET STORAGE EXTERNAL", ROWS[0], ROWS[1])
    people.execute("UPDATE people SET note = repeat('canary', 1000)")
    people.sync(columns={"hash": ["note", "id"], "mask": ["email"]})
    people.execute(
        "UPDATE people SET amount = 1 WHERE id = 1",
        "UPDATE people SET id = 9 WHERE id = 1",
        "UPDATE people SET amount = 2 WHERE id = 9",
        "UPDATE people SET amount = 3 WHERE id = 2",
    )
    assert people.sync() == ("cdc", 4, 1)
    assert len({note for (note,) in people.silver("note")}) == 1
    assert_nowhere(shop, b"canarycanary")


def test_a_renamed_column_of_a_followed_table_stays_protected(shop: Installation) -> None:
    people = Source(shop, "public.people")
    people.execute(CREATE, *ROWS)
    people.sync(columns=PROTECTED)
    people.execute("UPDATE people SET email = 'early@canary.example' WHERE id = 1")
    people.execute("ALTER TABLE people RENAME email TO mail")
    people.execute("UPDATE people SET mail = 'late@canary.example' WHERE id = 2")
    with pytest.raises(SchemaChangedError, match="column email is now named mail"):
        people.sync()
    people.sync(reset=True)
    assert {len(mail) for (mail,) in people.silver("mail")} == {64}
    assert_nowhere(shop, b"@canary")


def test_another_choice_of_columns_reads_a_followed_table_anew(people: Source) -> None:
    people.sync()
    people.execute("UPDATE people SET amount = 5 WHERE id = 1")
    assert people.sync(columns={"hash": ["email"]}) == ("full", 6, 0)
    people.execute("UPDATE people SET amount = 6 WHERE id = 1")
    assert people.sync() == ("cdc", 1, 0)
    assert {len(email) for (email,) in people.silver("email")} == {64}


def test_scd2_of_a_followed_table_has_a_version_for_each_sync_that_found_one(people: Source) -> None:
    assert people.sync(write="scd2", columns={"hash": ["email"]}) == ("full", 6, 0)
    people.execute("UPDATE people SET amount = 1 WHERE id = 1", "UPDATE people SET amount = 2 WHERE id = 1")
    people.execute("UPDATE people SET amount = amount WHERE id = 2", "DELETE FROM people WHERE id = 3")
    people.execute("UPDATE people SET id = 40 WHERE id = 4")
    people.sync()
    people.execute("INSERT INTO people VALUES (3, NULL, NULL, 33, NULL)", "UPDATE people SET amount = 3 WHERE id = 1")
    people.sync()
    rows = people.silver("id", "amount", IS_CURRENT, VALID_FROM, VALID_TO, live=False)
    versions: dict[int, list[Any]] = {}
    for key, amount, current, start, end in sorted(rows, key=lambda row: row[3]):
        versions.setdefault(key, []).append((int(amount), current, start, end))
    assert {key: [v[:2] for v in found] for key, found in versions.items()} == {
        1: [(10, False), (2, False), (3, True)],
        2: [(20, True)],
        3: [(30, False), (33, True)],
        4: [(40, False)],
        40: [(40, True)],
        5: [(50, True)],
        6: [(60, True)],
    }
    assert all(one[3] <= next_[2] for found in versions.values() for one, next_ in pairwise(found))
    assert people.sync() == ("cdc", 0, 0)


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({"write": "replace"}, "--write replace"),
        ({"drift": "quarantine"}, "--drift quarantine"),
    ],
)
def test_what_no_log_serves_is_refused_by_name(people: Source, options: dict[str, Any], asked: str) -> None:
    with pytest.raises(UnsupportedTableError, match=f"mode cdc does not go with {asked}"):
        people.installation.sync(people.table, mode="cdc", **options)


def versions(people: Source) -> dict[int, list[tuple[int | None, bool]]]:
    """Of each key its rows in Silver, in the order of their positions: the amount, or None and that the key went."""
    rows = people.silver("id", "amount", "_headrace_deleted_at", "_headrace_position", live=False)
    found: dict[int, list[tuple[int | None, bool]]] = {}
    for key, amount, gone, _ in sorted(rows, key=lambda row: row[3]):
        found.setdefault(key, []).append((None if gone else int(amount), gone is not None))
    return found


def test_append_of_a_followed_table_keeps_every_change(people: Source) -> None:
    assert people.sync(write="append") == ("full", 6, 0)
    people.execute("UPDATE people SET amount = 1 WHERE id = 1", "UPDATE people SET amount = 2 WHERE id = 1")
    people.execute("DELETE FROM people WHERE id = 3", "UPDATE people SET id = 40 WHERE id = 4")
    assert people.sync() == ("cdc", 3, 2)
    people.execute("INSERT INTO people VALUES (3, NULL, NULL, 33, NULL)", "UPDATE people SET amount = 3 WHERE id = 1")
    assert people.sync() == ("cdc", 2, 0)
    expected: dict[int, list[tuple[int | None, bool]]] = {
        1: [(10, False), (1, False), (2, False), (3, False)],
        2: [(20, False)],
        3: [(30, False), (None, True), (33, False)],
        4: [(40, False), (None, True)],
        40: [(40, False)],
        5: [(50, False)],
        6: [(60, False)],
    }
    assert versions(people) == expected
    assert people.sync() == ("cdc", 0, 0)
    people.execute("UPDATE people SET amount = 55 WHERE id = 5", "DELETE FROM people WHERE id = 6")
    people.installation.sync(people.table, mode="full")  # not followed from here on: only what differs is added
    assert people.installation.verify(people.table).equal is True
    people.execute("UPDATE people SET amount = 22 WHERE id = 2")
    assert people.sync() == ("full", 5, 0)
    people.execute("UPDATE people SET amount = 222 WHERE id = 2")
    assert people.sync() == ("cdc", 1, 0)
    expected[5].append((55, False))
    expected[6].append((None, True))
    expected[2] += [(22, False), (222, False)]
    assert versions(people) == expected


def test_a_truncate_of_an_appended_table_ends_what_was_live(people: Source) -> None:
    people.sync(write="append", columns={"hash": ["email"]})
    people.execute("UPDATE people SET amount = 1 WHERE id = 1", "DELETE FROM people WHERE id = 2")
    people.sync()
    people.execute(ROWS[1], "TRUNCATE people", ROWS[2])
    assert people.sync() == ("cdc", 2, 6)
    assert versions(people)[1] == [(10, False), (1, False), (None, True)]
    assert versions(people)[2] == [(20, False), (None, True), (20, False), (None, True)]
    assert versions(people)[3] == [(30, False), (None, True), (30, False)]
    people.execute("DELETE FROM people")
    assert people.sync() == ("cdc", 0, 1)


def test_an_appended_table_takes_what_the_log_leaves_out_from_its_newest_versions(shop: Installation) -> None:
    people = Source(shop, "public.people")
    people.execute(CREATE, "ALTER TABLE people ALTER note SET STORAGE EXTERNAL", ROWS[0], ROWS[1])
    people.execute("UPDATE people SET note = repeat('first', 1000)")
    people.sync(write="append")
    people.execute("UPDATE people SET note = repeat('second', 1000) WHERE id = 1")
    people.sync()
    people.execute("UPDATE people SET amount = 5 WHERE id = 1", "UPDATE people SET id = 9 WHERE id = 2")
    assert people.sync() == ("cdc", 2, 1)
    notes = sorted((key, amount, note[:6]) for key, amount, note in people.silver("id", "amount", "note"))
    assert [(key, int(amount), note) for key, amount, note in notes] == [
        (1, 5, "second"),
        (1, 10, "firstf"),
        (1, 10, "second"),
        (2, 20, "firstf"),
        (9, 20, "firstf"),
    ]


def test_an_appended_run_that_died_before_silver_is_caught_up_once(people: Source) -> None:
    people.sync(write="append")
    people.execute("UPDATE people SET amount = 1 WHERE id = 1", "DELETE FROM people WHERE id = 2")
    steps, work = people.installation.steps, people.installation.work(people.table, mode="cdc")
    steps.commit_bronze(work, steps.extract(work, steps.open_window(work), 1))
    assert people.sync() == ("cdc", 0, 0)
    assert versions(people)[1] == [(10, False), (1, False)]
    assert versions(people)[2] == [(20, False), (None, True)]


def test_a_delete_that_no_log_told_is_found_in_an_appended_table(
    mariadb: MariadbServer, mariadb_database: str, tmp_path: Path
) -> None:
    shop = MysqlInstallation(tmp_path / "home", mariadb, mariadb_database)
    people = Source(shop, shop.name("people"))
    people.execute(CREATE, *ROWS)
    people.sync(write="append")
    people.execute("UPDATE people SET amount = 1 WHERE id = 1")
    people.sync()
    people.execute("SET sql_log_bin = 0", "DELETE FROM people WHERE id = 2")
    found = shop.verify(people.table)
    assert (found.equal, found.extra) == (False, 1)
    assert shop.verify(people.table, "counts").equal is False
    with pytest.raises(MismatchError, match="source 5, Silver 6"):
        people.sync()


INSIDE = "region = 'EU' and amount >= 20"


def filtered(people: Source) -> Source:
    """The log tells whole rows; half of the rows lie in the EU, two of them with an amount of 20 and more."""
    if people.table == "public.people":
        people.execute("ALTER TABLE people REPLICA IDENTITY FULL")
    people.execute("UPDATE people SET region = CASE WHEN id % 2 = 1 THEN 'EU' ELSE 'outside' END")
    people.execute("UPDATE people SET email = 'outside' WHERE region = 'outside' OR amount < 20")
    people.execute(f"UPDATE people SET note = '{'n' * 9000}'")
    return people


@pytest.mark.parametrize("write", ["merge", "append", "scd2"])
def test_a_filter_of_a_followed_table_judges_each_row_before_and_after_its_change(people: Source, write: str) -> None:
    filtered(people)
    assert people.sync(row_filter=INSIDE, write=write) == ("full", 2, 0)
    people.execute(
        "UPDATE people SET amount = 15, email = 'outside' WHERE id = 3",  # leaves
        "UPDATE people SET amount = 50, email = 'came' WHERE id = 1",  # comes: its note, not in PostgreSQL's log, too
        "UPDATE people SET amount = 51 WHERE id = 5",  # stays
        "UPDATE people SET amount = 52 WHERE id = 4",  # stays outside
        "INSERT INTO people VALUES (7, 'in', 'EU', 70, NULL), (8, 'outside', 'US', 80, NULL)",
        "INSERT INTO people VALUES (9, 'outside', 'EU', 9, '')",
        "DELETE FROM people WHERE id IN (2, 8)",  # outside
    )
    assert people.sync() == ("cdc", 3, 1)
    assert {row[0] for row in people.silver("id", "amount") if row[0] != 3} == {1, 5, 7}
    people.execute(
        "UPDATE people SET id = 70 WHERE id = 7",  # stays under another key
        "UPDATE people SET id = 50, region = 'US', email = 'outside' WHERE id = 5",  # leaves with another key
        "UPDATE people SET id = 90, region = 'EU', email = 'in', amount = 90 WHERE id = 6",  # comes with another key
        "UPDATE people SET id = 40 WHERE id = 4",
        "DELETE FROM people WHERE id = 1",
        "UPDATE people SET amount = NULL, email = 'outside' WHERE id = 70",  # neither true nor false: outside
        "UPDATE people SET amount = 20, email = 'in' WHERE id = 3",  # back
        "UPDATE people SET amount = 10, email = 'outside' WHERE id = 3",
        "UPDATE people SET amount = 30, email = 'in' WHERE id = 3",
    )
    people.sync()
    people.execute("TRUNCATE people", "INSERT INTO people VALUES (1, 'in', 'EU', 20, ''), (2, 'outside', 'EU', 1, '')")
    assert people.sync()[1] == 1
    assert people.sync(row_filter="amount < 20")[0] == "full"
    assert people.sync() == ("cdc", 0, 0)
    people.execute("UPDATE people SET amount = 21 WHERE id = 2")
    assert people.sync() == ("cdc", 0, 1)


def test_what_a_filter_leaves_out_of_a_followed_table_is_nowhere(people: Source) -> None:
    filtered(people)
    people.sync(row_filter=INSIDE)
    people.execute(
        "UPDATE people SET amount = 1, email = 'outside' WHERE id = 3",
        "UPDATE people SET amount = 50, email = 'in' WHERE id = 1",
        "UPDATE people SET note = 'outside' WHERE id = 2",
        "UPDATE people SET id = 20 WHERE id = 2",
        "DELETE FROM people WHERE id = 4",
        "INSERT INTO people VALUES (7, 'outside', 'US', 70, 'outside')",
    )
    people.sync()
    assert_nowhere(people.installation, b"outside")


def test_the_filter_of_a_followed_table_may_name_what_is_not_stored_or_hashed(people: Source) -> None:
    filtered(people)
    choice = {"exclude": ["amount"], "hash": ["region"]}
    assert people.sync(row_filter=INSIDE, columns=choice) == ("full", 2, 0)
    people.execute("UPDATE people SET amount = 1 WHERE id = 3", "UPDATE people SET amount = 20 WHERE id = 1")
    assert people.sync() == ("cdc", 1, 1)
    assert sorted(row[0] for row in people.silver("id")) == [1, 5]
    assert {len(region) for (region,) in people.silver("region")} == {64}


def test_a_followed_table_takes_another_mode_with_its_filter(people: Source) -> None:
    filtered(people)
    people.sync(row_filter=INSIDE)
    people.execute("UPDATE people SET amount = 20 WHERE id = 1")
    result = people.installation.sync(people.table, mode="incremental")
    assert (result.mode, result.rows_silver) == ("full", 3)
    assert people.installation.verify(people.table).equal is True
    people.execute("UPDATE people SET amount = 2 WHERE id = 1")
    assert people.sync() == ("full", 2, 0)


def test_a_filter_needs_the_old_values_in_the_log(shop: Installation) -> None:
    people = Source(shop, "public.people")
    people.execute(CREATE, *ROWS)
    with pytest.raises(UnsupportedTableError, match=r'ALTER TABLE "public"\."people" REPLICA IDENTITY FULL;'):
        people.sync(row_filter=INSIDE)
    filtered(people)
    people.sync(row_filter=INSIDE)
    people.execute("ALTER TABLE people REPLICA IDENTITY DEFAULT", "UPDATE people SET amount = 1 WHERE id = 3")
    with pytest.raises(UnsupportedTableError, match=r"the row filter judges them.*\n.*REPLICA IDENTITY FULL"):
        people.sync()
    people.execute("ALTER TABLE people REPLICA IDENTITY FULL")
    with pytest.raises(UnsupportedTableError, match="did not carry the old values that the row filter needs"):
        people.sync()
    assert people.sync(reset=True) == ("full", 1, 0)


def test_partitions_are_followed_through_a_filter(shop: Installation) -> None:
    shop.execute(
        "CREATE TABLE parts (id int, region text, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE early PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2024-01-01')",
        "CREATE TABLE late PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO (MAXVALUE)",
        "ALTER TABLE early REPLICA IDENTITY FULL",
        "ALTER TABLE late REPLICA IDENTITY FULL",
        "INSERT INTO parts SELECT i, 'EU', date '2023-12-28' + i FROM generate_series(1, 8) i",
        "UPDATE parts SET region = NULL WHERE id % 2 = 1",
    )
    parts = Source(shop, "public.parts")
    assert parts.sync(row_filter="region = 'EU' and day > '2023-12-31'") == ("full", 3, 0)
    shop.execute(
        "UPDATE parts SET day = '2023-01-01' WHERE id = 4",  # to another partition, and out
        "UPDATE parts SET day = '2024-02-01' WHERE id = 2",  # and in
        "UPDATE parts SET day = 'infinity' WHERE id = 6",
    )
    assert parts.sync() == ("cdc", 1, 2)
    assert [row[0] for row in parts.silver("id")] == [2, 8]


def test_a_generated_column_that_is_left_out_stops_no_followed_table(shop: Installation) -> None:
    people = Source(shop, "public.people")
    people.execute(CREATE, *ROWS, "ALTER TABLE people ADD twice numeric GENERATED ALWAYS AS (amount * 2) STORED")
    people.sync(columns={"exclude": ["twice"]})
    people.execute("UPDATE people SET amount = 1 WHERE id = 1")
    assert people.sync() == ("cdc", 1, 0)
