"""The prerequisites of a Snowflake connector, tried in turn, each with the statement that fixes it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from assets.errors import HeadraceError, UrlRefusedError
from assets.oauth import access_check, redirect_address
from assets.sources.snowflake_catalogue import list_tables, visible_schemas
from assets.sources.snowflake_connection import (
    SnowflakeConfig,
    error_number,
    explain,
    judge_host,
    open_session,
    rows,
    scrubbed,
)
from assets.sources.snowflake_names import folded, quoted, relation
from assets.sync import CheckResult

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection

    from assets.sources.snowflake import SnowflakeConnector
    from assets.sync import SourceTable

LARGE_ROWS = 1_000_000
MOST_TRIED_TABLES = 20
TRY_SECONDS = 3.0
STOP_AT = frozenset(["role", "warehouse", "database"])
Outcome = tuple[str, str]
"""What is wrong and the statement that fixes it; two empty texts where nothing is."""
_FINE: Outcome = ("", "")


def check_snowflake(connector: SnowflakeConnector) -> list[CheckResult]:
    """One result a prerequisite; what cannot be tried without an earlier one is not tried."""
    from snowflake.connector import errors

    name, config = connector.name, connector.config
    inside: list[tuple[str, Callable[[_Tried], Outcome]]] = [
        ("role", _role),
        ("warehouse", _warehouse),
        ("database", _database),
        ("grants", _grants),
        ("cursor columns", _cursor_columns),
    ]
    if config.cdc:
        inside.append(("change tracking", _change_tracking))
    results: list[CheckResult] = []
    started = time.monotonic()

    def add(check: str, outcome: Outcome, good: Outcome = ("ok", "")) -> bool:
        nonlocal started
        took, started = time.monotonic() - started, time.monotonic()
        ok = not outcome[0]
        detail, fix = good if ok else outcome
        results.append(CheckResult(name=check, ok=ok, detail=detail, fix=fix, seconds=took))
        return ok

    failed, opened = "", None
    try:
        access = access_check(connector) if add("network", _network(config)) and config.oauth else None
        if not results[0].ok:
            failed = "network"
        elif access and not access.ok:
            failed = "login"
            add("login", (access.detail, _access_fix(connector, access)))
        else:
            try:
                opened = open_session(config, connector.access, bare=True)
                add("login", _FINE, (access.detail, access.fix) if access else ("ok", ""))
            except (HeadraceError, errors.Error, OSError) as error:
                failed = "login"
                add("login", _login(explain(error, name, config), config))
        if opened is not None:
            tried = _Tried(opened, name, config)
            for check, ask in inside:
                try:
                    outcome = ask(tried)
                except (HeadraceError, errors.Error, OSError) as error:
                    told = explain(error, name, config)
                    outcome = (told.what, told.remedy or "See the account's query history.")
                if not add(check, outcome) and check in STOP_AT:
                    failed = check
                    break
    finally:
        if opened is not None:
            with suppress(errors.Error, OSError):
                opened.close(retry=False)
    for check in ["network", "login", *(check for check, _ in inside)][len(results) :]:
        results.append(CheckResult(name=check, ok=False, detail=f"not tried: {failed} failed"))
    return results


class _Tried:
    """A session, and what the checks found so far."""

    def __init__(self, opened: SnowflakeConnection, name: str, config: SnowflakeConfig) -> None:
        self.opened, self.name, self.config = opened, name, config
        self.database = folded(config.database)
        self.schemas = None if config.schemas is None else [folded(schema) for schema in config.schemas]
        self.role = quoted(folded(config.role)) if config.role else ""
        self.tables: list[SourceTable] = []

    def refusal(self, statement: str) -> str:
        """What the server says against a statement; empty where it does not."""
        from snowflake.connector import errors

        try:
            rows(self.opened, statement)
        except errors.ProgrammingError as error:
            return scrubbed(str(error.msg or error), self.config) or str(error_number(error))
        return ""


def _network(config: SnowflakeConfig) -> Outcome:
    where = f"{config.address}:{config.port}"
    fix = "Correct `account`, or `host` and `port`; check that no firewall or network policy is between."
    try:
        judge_host(config)
        socket.create_connection((config.address, config.port), timeout=min(4, config.connect_timeout)).close()
    except UrlRefusedError as error:
        return f"{where}: {error.what}", error.remedy or "Correct `host`."
    except socket.gaierror:
        return f"the name {config.address} does not resolve", fix
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or "refused").lower()
        return f"{where}: {reason}", fix
    return _FINE


def _login(error: HeadraceError, config: SnowflakeConfig) -> Outcome:
    user = quoted(folded(config.user))
    fixes = {
        "key": f"ALTER USER {user} SET RSA_PUBLIC_KEY = '<the public key without its first and last line>';",
        "token": "Renew `token`, and see that the security integration allows the role.",
        "password": f"ALTER USER {user} SET PASSWORD = '...'; or correct `user` and `password`.",
    }
    kind = "key" if config.private_key else "token" if config.token else "password"
    return error.what, error.remedy if config.oauth or "private_key" in error.what else fixes[kind]


def _access_fix(connector: SnowflakeConnector, access: CheckResult) -> str:
    """How a person gives access, and how the account comes to allow it where that may be what is missing."""
    tokens = connector.access_tokens
    if tokens is not None and tokens.state() is not None and "_client" not in access.detail:
        return access.fix
    return f"{access.fix}\nThe account needs:\n{connector.oauth_registration(redirect_address())}"


def _role(tried: _Tried) -> Outcome:
    if not tried.role:
        ((current,),) = rows(tried.opened, "SELECT CURRENT_ROLE()")
        tried.role = quoted(current or "PUBLIC")
        return _FINE
    refusal = tried.refusal(f"USE ROLE {tried.role}")
    return (refusal, f"GRANT ROLE {tried.role} TO USER {quoted(folded(tried.config.user))};") if refusal else _FINE


def _warehouse(tried: _Tried) -> Outcome:
    if tried.config.warehouse:
        warehouse = quoted(folded(tried.config.warehouse))
        refusal = tried.refusal(f"USE WAREHOUSE {warehouse}")
        return (refusal, f"GRANT USAGE ON WAREHOUSE {warehouse} TO ROLE {tried.role};") if refusal else _FINE
    ((current,),) = rows(tried.opened, "SELECT CURRENT_WAREHOUSE()")
    if current:
        return _FINE
    user = quoted(folded(tried.config.user))
    return (
        "no warehouse is named, and the user has no default one",
        f"Set `warehouse`, or: ALTER USER {user} SET DEFAULT_WAREHOUSE = '<name>';",
    )


def _database(tried: _Tried) -> Outcome:
    database = quoted(tried.database)
    refusal = tried.refusal(f"USE DATABASE {database}")
    if refusal:
        return refusal, f"GRANT USAGE ON DATABASE {database} TO ROLE {tried.role};"
    visible = visible_schemas(tried.opened, tried.database)
    if tried.schemas is None:
        if visible:
            return _FINE
        return "no schema can be seen", f"GRANT USAGE ON ALL SCHEMAS IN DATABASE {database} TO ROLE {tried.role};"
    absent = [name for name in tried.schemas if name not in visible]
    if not absent:
        return _FINE
    grants = [f"GRANT USAGE ON SCHEMA {database}.{quoted(name)} TO ROLE {tried.role};" for name in absent]
    return f"not there, or no right to see it: {', '.join(absent)}", "Correct `schemas`, or:\n" + "\n".join(grants)


def _grants(tried: _Tried) -> Outcome:
    """Schemas where the role cannot read the tables it sees. Tries a few: a statement each."""
    tables = list_tables(tried.opened, tried.name, tried.database, tried.schemas, None)
    tried.tables = tables
    problems, fixes = [], []
    started = time.monotonic()
    denied: dict[str, list[str]] = {}
    for table in tables[:MOST_TRIED_TABLES]:
        if time.monotonic() - started > TRY_SECONDS:
            break
        place = relation(tried.database, table.schema_name, table.table_name)
        if tried.refusal(f"SELECT 1 FROM {place} LIMIT 0"):
            denied.setdefault(table.schema_name, []).append(table.name)
    wanted = tried.schemas if tried.schemas is not None else sorted({table.schema_name for table in tables})
    for schema in wanted:
        place = f"{quoted(tried.database)}.{quoted(schema)}"
        if names := denied.get(schema):
            problems.append(f"no SELECT on {len(names)} tables of {schema}, for example {names[0]}")
        elif not any(table.schema_name == schema for table in tables):
            problems.append(f"no table of {schema} can be seen")
        else:
            continue
        fixes.append(f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO ROLE {tried.role};")
        fixes.append(f"GRANT SELECT ON FUTURE TABLES IN SCHEMA {place} TO ROLE {tried.role};")
    if not wanted:
        return (
            "no table can be seen",
            f"GRANT SELECT ON ALL TABLES IN DATABASE {quoted(tried.database)} TO ROLE {tried.role};",
        )
    return "; ".join(problems), "\n".join(fixes)


def _cursor_columns(tried: _Tried) -> Outcome:
    """Large tables of which no column tells when a row changed: each sync reads them whole."""
    found = [
        table
        for table in tried.tables
        if table.by_default and not table.cursor_candidates and (table.estimated_rows or 0) > LARGE_ROWS
    ]
    if not found or tried.config.cdc:
        return _FINE
    names = ", ".join(table.name for table in found[:10])
    return (
        f"no column tells when a row changed, so each sync reads all of: {names}",
        "Name one with --cursor, or follow the changes (--mode cdc) after:\n" + _tracking(tried, found),
    )


def _tracking(tried: _Tried, tables: list[SourceTable]) -> str:
    return "\n".join(
        f"ALTER TABLE {relation(tried.database, t.schema_name, t.table_name)} SET CHANGE_TRACKING = TRUE;"
        for t in tables[:10]
    )


def _change_tracking(tried: _Tried) -> Outcome:
    from assets.sources.snowflake_changes import tracked_tables

    tracked = tracked_tables(tried.opened, f"DATABASE {quoted(tried.database)}")
    off = [
        table
        for table in tried.tables
        if table.kind == "table" and tracked.get((table.schema_name, table.table_name)) is False
    ]
    if not off:
        return _FINE
    return f"off for {len(off)} tables, for example {off[0].name}", _tracking(tried, off)
