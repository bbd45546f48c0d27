"""Mode cdc with columns that are hashed or masked, and with versions kept in Silver, on PostgreSQL and MariaDB."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from assets.errors import SchemaChangedError, UnsupportedTableError
from assets.silver_history import IS_CURRENT, VALID_FROM, VALID_TO
from tests.behaviour.installation import Installation
from tests.behaviour.mysql_installation import MysqlInstallation
from tests.behaviour.test_table_options import assert_nowhere

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
        found = self.installation.verify(self.table)
        assert (result.equal, found.equal) == (True, True), (result, found)
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
        ({"write": "append"}, "--write append"),
        ({"write": "replace"}, "--write replace"),
        ({"row_filter": "amount > 10"}, "a row filter"),
        ({"drift": "quarantine"}, "--drift quarantine"),
    ],
)
def test_what_no_log_serves_is_refused_by_name(people: Source, options: dict[str, Any], asked: str) -> None:
    with pytest.raises(UnsupportedTableError, match=f"mode cdc does not go with {asked}"):
        people.installation.sync(people.table, mode="cdc", **options)
