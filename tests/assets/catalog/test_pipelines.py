"""Pipelines: checked when they are written."""

from __future__ import annotations

from typing import Any

import pytest

from assets.catalog.records import PipelineTable
from assets.catalog.store import Catalog
from assets.errors import ConfigurationError, ConflictError, NotFoundError
from assets.sync import ColumnChoice


@pytest.fixture
def shop(catalog: Catalog, shop_config: dict[str, Any]) -> Catalog:
    catalog.add_connector("shop", "postgres", shop_config)
    return catalog


def test_a_pipeline_comes_back_as_it_was_written(shop: Catalog) -> None:
    tables = ["public.orders", PipelineTable(name='public."Odd, name"', mode="full", key=("a", "b"))]
    added = shop.add_pipeline(
        "nightly",
        "shop",
        tables,
        mode="incremental",
        cursor="updated_at",
        key=["id"],
        deletes="keys",
        schedule="cron:0  3 * * *",
        timezone="Europe/Berlin",
    )
    assert shop.pipeline("nightly") == added == shop.pipelines("shop")[0]
    assert (added.schedule, added.timezone, added.active) == ("cron:0 3 * * *", "Europe/Berlin", True)
    plain = added.table_sync("public.orders", "run1", trigger="schedule")
    assert (plain.mode, plain.cursor, plain.key, plain.deletes) == ("incremental", "updated_at", ("id",), "keys")
    assert (plain.pipeline, plain.trigger, plain.run_group) == ("nightly", "schedule", "run1")
    odd = added.table_sync('public."Odd, name"', "run1")
    assert (odd.mode, odd.key, odd.deletes) == ("full", ("a", "b"), "keys")


def test_a_table_follows_its_pipeline_where_it_says_nothing_itself(shop: Catalog) -> None:
    columns = {"exclude": ["secret"], "hash": ["email"]}
    tables = ["public.a", {"name": "public.b", "write": "append", "row_filter": "id > 5", "drift": None}]
    added = shop.add_pipeline("p", "shop", tables, write="scd2", drift="freeze", columns=columns, fill_added=True)
    assert shop.pipeline("p") == added
    assert added.tables[1].model_dump(mode="json") == {"name": "public.b", "write": "append", "row_filter": "id > 5"}
    a, b = (added.table_sync(name, "run1") for name in ("public.a", "public.b"))
    assert (a.write, a.drift, a.row_filter, a.fill_added) == ("scd2", "freeze", None, True)
    assert a.columns == ColumnChoice(exclude=("secret",), hash=("email",))
    assert (b.write, b.drift, b.row_filter, b.columns) == ("append", "freeze", "id > 5", a.columns)


def test_contradicting_choices_of_columns_are_refused(shop: Catalog) -> None:
    for columns in (
        {"exclude": ["a"], "hash": ["a"]},
        {"include": ["a"], "mask": ["b"]},
        {"hash": ["a"], "mask": ["a"]},
    ):
        with pytest.raises(ConfigurationError, match="contradicting"):
            shop.add_pipeline("p", "shop", all_tables=True, columns=columns)


@pytest.mark.parametrize(
    ("schedule", "kind", "seconds"),
    [
        ("manual", "manual", None),
        ("every:15m", "interval", 900),
        ("every:2h", "interval", 7200),
        ("every:1d", "interval", 86400),
        ("cron:*/5 * * * *", "cron", None),
        ("cron:0 9-17/2 * jan,jul mon-fri", "cron", None),
        ("cron:0 0 29 2 *", "cron", None),
    ],
)
def test_good_schedules(shop: Catalog, schedule: str, kind: str, seconds: int | None) -> None:
    added = shop.add_pipeline("p", "shop", all_tables=True, schedule=schedule)
    assert (added.schedule_kind, added.schedule, added.interval_seconds) == (kind, schedule, seconds)


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "daily",
        "every:",
        "every:0m",
        "every:-5m",
        "every:15",
        "every:15s",
        "every:999999d",
        "every:1.5h",
        "cron:",
        "cron:* * * *",
        "cron:* * * * * *",
        "cron:61 * * * *",
        "cron:0 0 30 2 *",
        "cron:*/0 * * * *",
        "cron:@daily",
        "cron:a b c d e",
        "cron:5-1-2 * * * *",
        "cron:H * * * *",
        "cron:R * * * *",
    ],
)
def test_bad_schedules_are_refused(shop: Catalog, schedule: str) -> None:
    with pytest.raises(ConfigurationError, match=r"schedule|cron|interval"):
        shop.add_pipeline("p", "shop", all_tables=True, schedule=schedule)
    assert shop.pipelines() == []


@pytest.mark.parametrize("timezone", ["", "Mars/Base", "Europe", "../../etc/passwd", "/etc/localtime", "utc\0"])
def test_bad_time_zones_are_refused(shop: Catalog, timezone: str) -> None:
    with pytest.raises(ConfigurationError, match="is no time zone"):
        shop.add_pipeline("p", "shop", all_tables=True, schedule="cron:0 0 * * *", timezone=timezone)


def test_wrong_definitions_are_refused(shop: Catalog) -> None:
    with pytest.raises(NotFoundError, match="connectors list"):
        shop.add_pipeline("p", "other", all_tables=True)
    with pytest.raises(ConfigurationError, match="--all"):
        shop.add_pipeline("p", "shop")
    with pytest.raises(ConfigurationError, match="named twice"):
        shop.add_pipeline("p", "shop", ["public.t", "public.t"])
    with pytest.raises(ConfigurationError, match="mode"):
        shop.add_pipeline("p", "shop", ["public.t"], mode="sometimes")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="colour"):
        shop.add_pipeline("p", "shop", [{"name": "public.t", "colour": "red"}])
    with pytest.raises(ConfigurationError, match="no pipeline name"):
        shop.add_pipeline("P", "shop", ["public.t"])
    assert shop.pipelines() == []


def test_pause_resume_replace_remove(shop: Catalog) -> None:
    shop.add_pipeline("p", "shop", ["public.t"], schedule="every:1h")
    assert shop.set_pipeline_active("p", False).active is False
    assert shop.pipeline("p").active is False
    assert shop.set_pipeline_active("p", True).active is True
    with pytest.raises(ConflictError, match="exists already"):
        shop.add_pipeline("p", "shop", all_tables=True)
    before = shop.version()
    assert shop.add_pipeline("p", "shop", all_tables=True, replace=True).tables == ()
    assert shop.version() != before
    shop.remove_pipeline("p")
    with pytest.raises(NotFoundError):
        shop.remove_pipeline("p")
