"""The prerequisites of a PostgreSQL connector, tried in turn, each with the fix to apply."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

from assets.errors import HeadraceError
from assets.scratch_database import quoted
from assets.sources.postgres_capture import missing_prerequisites
from assets.sources.postgres_connection import PostgresConfig, connection
from assets.sync import CheckResult

NAMES = ("network", "tls", "login", "database", "grants")
CDC_NAMES = ("wal_level", "replication", "replication_slots", "publication")
_MISSING = """
SELECT n.nspname, has_schema_privilege(n.oid, 'USAGE'),
       count(*) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT')), count(*),
       min(c.relname) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY(%(schemas)s))
GROUP BY n.oid, n.nspname ORDER BY 1
"""


def check_postgres(name: str, config: PostgresConfig) -> Iterator[CheckResult]:
    """One result a prerequisite, in the order of ``NAMES``; after a failure the later ones are not tried."""
    started = time.monotonic()
    failed, detail, fix = _network(config)
    stopped, told = failed, 0
    replication: list[tuple[str, str, str]] = []
    if not failed:
        yield CheckResult(name="network", ok=True, detail="ok", seconds=time.monotonic() - started)
        told = 1
        try:
            with connection(name, config) as opened:
                seconds = time.monotonic() - started
                for check in NAMES[1:-1]:
                    yield CheckResult(name=check, ok=True, detail="ok", seconds=seconds)
                told = len(NAMES) - 1
                detail, fix = _grants(opened, config)
                failed = "grants" if detail else ""
                if config.cdc:
                    replication = missing_prerequisites(opened, name, config)
        except HeadraceError as error:
            failed, detail, fix = _classify(error, config)
            stopped = failed = failed if failed in NAMES[told:] else NAMES[told]
    seconds = time.monotonic() - started
    for check in NAMES[told:]:
        if check == failed:
            yield CheckResult(name=check, ok=False, detail=detail, fix=fix, seconds=seconds)
        elif failed and NAMES.index(check) > NAMES.index(failed):
            yield CheckResult(name=check, ok=False, detail=f"not tried: {failed} failed")
        else:
            yield CheckResult(name=check, ok=True, detail="ok", seconds=seconds)
    if config.cdc:
        yield from _of_changes(stopped, replication, seconds)


def _of_changes(failed: str, missing: list[tuple[str, str, str]], seconds: float) -> list[CheckResult]:
    """The prerequisites of mode cdc; one does not stop the others from being tried."""
    results = []
    for check in CDC_NAMES:
        if failed:
            results.append(CheckResult(name=check, ok=False, detail=f"not tried: {failed} failed"))
            continue
        what = "; ".join(detail for name, detail, _ in missing if name == check)
        fix = "\n".join(text for name, _, text in missing if name == check)
        results.append(CheckResult(name=check, ok=not what, detail=what or "ok", fix=fix, seconds=seconds))
    return results


def _network(config: PostgresConfig) -> tuple[str, str, str]:
    if config.host.startswith("/"):
        return "", "", ""
    try:
        socket.create_connection((config.host, config.port), timeout=config.connect_timeout).close()
    except socket.gaierror:
        return "network", f"the name {config.host} does not resolve", "Correct `host`."
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or "refused").lower()
        return (
            "network",
            f"{config.host}:{config.port}: {reason}",
            "Correct `host` and `port`; check that the server listens there and that no firewall is between.",
        )
    return "", "", ""


def _classify(error: HeadraceError, config: PostgresConfig) -> tuple[str, str, str]:
    text = error.what.lower()
    if "ssl" in text or "tls" in text or "certificate" in text:
        fix = "Set `sslmode: prefer`, or turn on ssl at the server." if "not support" in text else ""
        return "tls", error.what, fix or "Correct `sslmode` and `sslrootcert`."
    if "database" in text and "does not exist" in text:
        return "database", error.what, "Correct `database`."
    if "permission denied for database" in text:
        return (
            "database",
            error.what,
            f"GRANT CONNECT ON DATABASE {quoted(config.database)} TO {quoted(config.user)};",
        )
    if "login" in text or "pg_hba" in text or "role" in text:
        fix = error.remedy or f"CREATE ROLE {quoted(config.user)} LOGIN PASSWORD '...';"
        return "login", error.what, fix
    return "login", error.what, error.remedy or "See the server's log."


def _grants(opened: Any, config: PostgresConfig) -> tuple[str, str]:
    user = quoted(config.user)
    rows = opened.execute(_MISSING, {"schemas": config.schemas}).fetchall()
    problems, fixes = [], []
    for schema, usage, denied, total, example in rows:
        if not usage:
            problems.append(f"no USAGE on schema {schema}")
            fixes.append(f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {user};")
        if denied:
            problems.append(f"no SELECT on {denied} of {total} tables in schema {schema}, for example {example}")
            fixes.append(f"GRANT SELECT ON ALL TABLES IN SCHEMA {quoted(schema)} TO {user};")
    if config.schemas and (absent := sorted(set(config.schemas) - {row[0] for row in rows})):
        problems.append(f"schemas without a table: {', '.join(absent)}")
        fixes.append("Correct `schemas`.")
    return "; ".join(problems), "\n".join(fixes)
