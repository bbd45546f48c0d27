"""A JSON API as tables: every page once, every value exact, every way to log in, every fault told or survived."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from assets.errors import ConfigurationError, SourceAccessError, SourceUnreachableError, UrlRefusedError
from tests.behaviour.source_installation import SourceInstallation
from tests.servers.rest_server import RestServer, stamp

PAGES: dict[str, dict[str, Any]] = {
    "all": {"type": "single_page"},
    "header": {"type": "header_link"},
    "json": {"type": "json_link"},
    "offset": {"type": "offset", "limit": 10},
    "page": {"type": "page_number"},
    "cursor": {"type": "cursor", "cursor_param": "cursor"},
    "headercursor": {"type": "header_cursor", "cursor_key": "X-Next"},
}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[RestServer]:
    monkeypatch.setenv("HEADRACE_URL_ALLOW", "127.0.0.1")
    with RestServer() as server:
        server.tables["orders"] = [{"id": i, "name": f"n{i}"} for i in range(35)]
        yield server


def config(api: RestServer, kind: str = "json", **more: Any) -> dict[str, Any]:
    endpoint = {"name": "orders", "path": f"{kind}/orders", "primary_key": ["id"]} | more.pop("endpoint", {})
    return {"base_url": api.url, "paginator": PAGES[kind], "endpoints": [endpoint], "retries": 3} | more


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.mark.parametrize("kind", PAGES)
def test_every_kind_of_paging_brings_every_row_once(api: RestServer, home: Path, kind: str) -> None:
    source = SourceInstallation(home, "rest_api", config(api, kind))
    result = source.sync("api.orders")
    assert (result.mode, result.rows_read, result.equal) == ("full", 35, True)
    assert source.silver("api.orders", "id", "name") == sorted([(i, f"n{i}") for i in range(35)], key=repr)
    assert source.verify("api.orders").equal


def test_paging_is_found_or_refused_but_half_of_the_rows_are_never_taken_for_all(api: RestServer, home: Path) -> None:
    source = SourceInstallation(home, "rest_api", config(api, "json", paginator={"type": "auto"}))
    assert source.sync("api.orders").rows_read == 35
    source.configure(config(api, "headercursor", paginator={"type": "auto"}))
    with pytest.raises((ConfigurationError, SourceAccessError)):
        source.sync("api.orders")


def test_values_are_exact_and_nested_ones_are_kept_as_json(api: RestServer, home: Path) -> None:
    api.tables["orders"] = [
        {"id": 1, "big": 12345678901234567890123, "price": 1.5, "mixed": 1, "flag": True, "deep": {"a": [1.0, None]}},
        {"id": 2, "big": 1, "price": 2.25, "mixed": "1", "flag": None, "late": "x"},
    ]
    source = SourceInstallation(home, "rest_api", config(api, "all"))
    assert source.sync("api.orders").equal
    rows = source.silver("api.orders", "id", "big", "price", "mixed", "flag", "deep", "late")
    assert [tuple(map(str, row)) for row in rows] == [
        ("1", "12345678901234567890123", "1.5", "1", "True", '{"a":[1.0,null]}', "None"),
        ("2", "1", "2.25", "1", "None", "None", "x"),
    ]
    assert source.verify("api.orders").equal


def test_nested_rows_become_tables_as_dlt_makes_them(api: RestServer, home: Path) -> None:
    api.tables["orders"] = [{"id": 1, "who": {"name": "Ann"}, "lines": [{"sku": "a"}, {"sku": "b"}], "tags": ["x"]}]
    source = SourceInstallation(home, "rest_api", config(api, "all", endpoint={"nested": "tables"}))
    names = sorted(table.name for table in source.steps.catalog.connector("src").discover())
    assert names == ["api.orders", "api.orders__lines", "api.orders__tags"]
    for name in names:
        assert source.sync(name).equal and source.verify(name).equal
    assert source.silver("api.orders", "id", "who__name") == [(1, "Ann")]
    ((identity,),) = source.silver("api.orders", "_dlt_id")
    assert source.silver("api.orders__lines", "_dlt_parent_id", "_dlt_list_idx", "sku") == [
        (identity, 0, "a"),
        (identity, 1, "b"),
    ]
    assert source.silver("api.orders__tags", "value") == [("x",)]


def test_an_endpoint_is_read_for_each_row_of_its_parent(api: RestServer, home: Path) -> None:
    api.tables["orders"] = [{"id": i} for i in range(12)]
    for i in range(12):
        api.tables[f"orders/{i}/lines"] = [{"line": n} for n in range(i)]
    child = {
        "name": "lines",
        "path": "all/orders/{order}/lines",
        "parent": {"endpoint": "orders", "params": {"order": "id"}, "include": ["id"]},
        "primary_key": ["_parent_id", "line"],
        "paginator": {"type": "single_page"},
    }
    settings = config(api)
    settings["endpoints"].append(child)
    source = SourceInstallation(home, "rest_api", settings)
    assert source.sync("api.lines").rows_read == sum(range(12))
    assert source.silver("api.lines", "_parent_id", "line")[-1] == (9, 8)
    assert source.verify("api.lines").equal


def test_incremental_asks_for_what_changed_and_moves_no_watermark_on_rows_of_the_future(
    api: RestServer, home: Path
) -> None:
    start = datetime.now(UTC) - timedelta(days=1)
    api.tables["orders"] = [{"id": i, "v": 0, "updated_at": stamp(start + timedelta(minutes=i))} for i in range(30)]
    described = {"incremental": {"field": "updated_at", "start_param": "since"}}
    source = SourceInstallation(home, "rest_api", config(api, "all", endpoint=described))
    first = source.sync("api.orders")
    assert (first.mode, first.rows_read, first.equal) == ("full", 30, True)
    api.tables["orders"][3] |= {"v": 1, "updated_at": stamp(start + timedelta(hours=2))}
    api.tables["orders"].append({"id": 99, "v": 2, "updated_at": stamp(start + timedelta(days=3000))})
    second = source.sync("api.orders")
    assert (second.mode, second.future_rows) == ("incremental", 1)
    assert second.rows_read == 4, "the two changes, and those of the overlap"
    assert second.watermark_after == stamp(start + timedelta(hours=2))
    assert f"since={stamp(start + timedelta(minutes=28))}".replace(":", "%3A") in api.requests[-1][0]
    assert source.verify("api.orders").equal
    api.tables["orders"].pop(5)
    third = source.sync("api.orders", deletes="keys")
    assert third.rows_deleted == 1
    assert source.verify("api.orders").equal


LOGINS: dict[str, tuple[dict[str, Any], Any]] = {
    "header": (
        {"type": "api_key", "name": "X-Key", "value": "k-secret"},
        lambda headers, query: headers.get("x-key") == "k-secret",
    ),
    "query": (
        {"type": "api_key", "name": "key", "value": "k-secret", "location": "query"},
        lambda headers, query: query.get("key") == "k-secret",
    ),
    "basic": (
        {"type": "basic", "user": "ann", "password": "p-secret"},
        lambda headers, query: headers.get("authorization") == "Basic YW5uOnAtc2VjcmV0",
    ),
    "bearer": (
        {"type": "bearer", "token": "t-secret"},
        lambda headers, query: headers.get("authorization") == "Bearer t-secret",
    ),
}


@pytest.mark.parametrize("login", LOGINS)
def test_every_login_works_and_a_wrong_one_is_told_without_its_secret(api: RestServer, home: Path, login: str) -> None:
    auth, api.authorized = LOGINS[login]
    source = SourceInstallation(home, "rest_api", config(api, auth=auth))
    assert source.sync("api.orders").rows_read == 35
    assert all(result.ok for result in source.steps.catalog.connector("src").check())
    wrong = {name: "wrong-secret" if "secret" in str(value) else value for name, value in auth.items()}
    source.configure(config(api, auth=wrong))
    bad = next(result for result in source.steps.catalog.connector("src").check() if not result.ok)
    assert (bad.name, bad.fix) == ("endpoint orders", "Correct `auth`.")
    assert "secret" not in bad.model_dump_json()


def oauth(api: RestServer, kind: str, **more: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "token_url": f"{api.url}/token",
        "client_id": "me",
        "client_secret": "client-secret",
    } | more


def test_tokens_that_expire_in_the_middle_of_a_read_are_renewed(api: RestServer, home: Path) -> None:
    api.token_uses = 0  # each token is good for two requests
    source = SourceInstallation(home, "rest_api", config(api, auth=oauth(api, "oauth2_client_credentials")))
    assert source.sync("api.orders").rows_read == 35
    assert len(api.token_forms) >= 2


def test_a_refresh_token_is_kept_and_a_rotated_one_is_stored(api: RestServer, home: Path) -> None:
    auth = oauth(api, "oauth2_refresh_token", refresh_token="refresh-1")
    api.tokens = {"none"}
    source = SourceInstallation(home, "rest_api", config(api, auth=auth))
    assert source.sync("api.orders").rows_read == 35
    assert {form["refresh_token"] for form in api.token_forms} == {"refresh-1"}
    api.rotate = True
    for _ in range(3):
        assert source.sync("api.orders").rows_read == 35
        assert all(result.ok for result in source.steps.catalog.connector("src").check()), "a test stores it too"
    assert len({form["refresh_token"] for form in api.token_forms}) > 3
    stored = source.steps.catalog.stored_config("src")
    assert api.refresh_token not in str(stored) and "fernet:" in str(stored["auth"]["refresh_token"])


def test_a_refused_token_request_says_what_to_do(api: RestServer, home: Path) -> None:
    auth = oauth(api, "oauth2_client_credentials", client_secret="nonsense-secret")
    source = SourceInstallation(home, "rest_api", config(api, auth=auth))
    bad = next(result for result in source.steps.catalog.connector("src").check() if not result.ok)
    assert bad.name == "login" and "400" in bad.detail and "nonsense" not in bad.model_dump_json()


def test_refusals_and_cuts_are_survived_and_a_long_wait_is_not(api: RestServer, home: Path) -> None:
    source = SourceInstallation(home, "rest_api", config(api))
    source.discover("api.orders")
    at = len(api.requests)
    api.fail = {at + 3: "status 429 0", at + 4: "status 503 0", at + 6: "cut", at + 8: "status 500"}
    assert source.sync("api.orders").equal
    assert source.verify("api.orders").equal
    api.fail = {len(api.requests) + 1: "status 429 3600"}
    with pytest.raises(SourceUnreachableError, match="3600"):
        source.discover("api.orders")
    api.fail = {len(api.requests) + n: "status 503 0" for n in range(1, 10)}
    with pytest.raises(SourceUnreachableError, match="503") as error:
        source.discover("api.orders")
    assert "row value" not in str(error.value)


def test_pages_that_go_round_and_totals_that_are_wrong_fail_the_sync(api: RestServer, home: Path) -> None:
    source = SourceInstallation(home, "rest_api", config(api, "cursor"))
    source.sync("api.orders")
    api.fail = {len(api.requests) + n: "loop" for n in range(4, 9)}
    with pytest.raises(SourceAccessError, match="circle"):
        source.sync("api.orders")
    api.fail = {}
    source.configure(config(api, "cursor", endpoint={"total_path": "total"}))
    assert source.sync("api.orders").equal
    api.total = 36
    with pytest.raises(SourceUnreachableError, match="says 36 rows and gave 35"):
        source.sync("api.orders")


def test_redirects_and_links_to_other_places_are_refused(api: RestServer, home: Path) -> None:
    source = SourceInstallation(home, "rest_api", config(api))
    api.fail = {len(api.requests) + 1: "redirect http://169.254.169.254/latest/meta-data"}
    with pytest.raises(UrlRefusedError):
        source.discover("api.orders")
    source.configure(config(api) | {"base_url": "http://127.0.0.2:1"})
    bad = source.steps.catalog.connector("src").check()[0]
    assert (bad.name, bad.ok) == ("network", False) and "HEADRACE_URL_ALLOW" in bad.fix


def test_a_response_beyond_the_limit_is_refused(api: RestServer, home: Path) -> None:
    api.tables["orders"] = [{"id": 1, "v": "x" * 5000}]
    source = SourceInstallation(home, "rest_api", config(api, max_response_bytes=2000))
    table = source.discover("api.orders")
    assert table.refusal is not None and "larger than 2000 bytes" in table.refusal


def test_conditions_of_a_filter_go_to_the_parameters_that_the_config_declares(api: RestServer, home: Path) -> None:
    api.tables["orders"] = [
        {"id": i, "status": "open" if i % 3 else "closed", "at": i * 10, "paid": bool(i % 2)} for i in range(30)
    ]
    api.filters = {
        "status": lambda row, value: row["status"] == value,
        "min_at": lambda row, value: row["at"] >= int(value),
        "paid": lambda row, value: row["paid"] is (value == "true"),
    }
    filters = [
        {"field": "status", "param": "status"},
        {"field": "at", "param": "min_at", "operator": ">="},
        {"field": "paid", "param": "paid"},
    ]
    source = SourceInstallation(home, "rest_api", config(api, "all", endpoint={"filters": filters}))
    wanted = "status = 'open' and at > 100 and (paid = true or id = 20)"
    result = source.sync("api.orders", row_filter=wanted)
    ids = [i for i in range(11, 30) if i % 3 and (i % 2 or i == 20)]
    assert (result.rows_read, result.equal) == (len(ids), True)
    assert source.silver("api.orders", "id") == [(number,) for number in ids]
    queries = {path.partition("?")[2] for path, _ in api.requests}
    assert queries == {"", "status=open&min_at=100"}, "without a parameter only the columns were looked at"
    assert source.verify("api.orders").equal

    api.tables["orders"][11]["status"] = "closed"
    changed = source.sync("api.orders")
    assert (changed.rows_silver, changed.equal) == (len(ids) - 1, True)
    twice = config(api, endpoint={"filters": filters, "params": {"paid": "true"}})
    with pytest.raises(ConfigurationError, match=r"endpoints\.0"):
        source.configure(twice)
