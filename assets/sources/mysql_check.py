"""The prerequisites of a MySQL or MariaDB connector, tried in turn, each with the statement that fixes it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from assets.errors import HeadraceError, SourceAccessError
from assets.sources.mysql_catalogue import list_tables, visible_databases
from assets.sources.mysql_connection import MysqlConfig, connection, explain, is_mariadb, quoted, rows
from assets.sync import CheckResult

if TYPE_CHECKING:
    import pymysql

CONNECTING = ("network", "tls", "login")
LARGE_ROWS = 100_000
MOST_TRIED_TABLES = 200
_APPLIES = "SELECT 1 FROM information_schema.processlist WHERE user = 'system user' AND command <> 'Daemon' LIMIT 1"
Outcome = tuple[str, str]
"""What is wrong and the statement that fixes it; two empty texts where nothing is."""


def check_mysql(name: str, config: MysqlConfig) -> Iterator[CheckResult]:
    """One result a prerequisite; after a failure to connect, or without a database, the later ones are not tried."""
    inside: list[tuple[str, Callable[[pymysql.Connection[Any], MysqlConfig], Outcome]]] = [
        ("database", _database),
        ("grants", _grants),
        ("late commits", _late_commits),
        ("cursor index", _cursor_index),
    ]
    if config.cdc:
        inside += [("binlog", _binlog), ("replication grants", _replication_grants)]
    names = [*CONNECTING, *(check for check, _ in inside)]
    told = 0
    started = time.monotonic()

    def result(check: str, outcome: Outcome) -> CheckResult:
        nonlocal started, told
        took, started, told = time.monotonic() - started, time.monotonic(), told + 1
        return CheckResult(name=check, ok=not outcome[0], detail=outcome[0] or "ok", fix=outcome[1], seconds=took)

    network = _network(config)
    failed = "network" if network[0] else ""
    yield result("network", network)
    if not failed:
        try:
            with connection(name, config) as opened:
                for check in CONNECTING[1:]:
                    yield result(check, ("", ""))
                for check, tried in inside:
                    outcome = tried(opened, config)
                    yield result(check, outcome)
                    if outcome[0] and check == "database":
                        failed = check
                        break
        except HeadraceError as error:
            failed, outcome = _classify(error, config, names[told:])
            for check in names[told : names.index(failed)]:
                yield result(check, ("", ""))
            yield result(failed, outcome)
    for check in names[told:]:
        yield CheckResult(name=check, ok=False, detail=f"not tried: {failed} failed")


def _network(config: MysqlConfig) -> Outcome:
    try:
        if config.unix_socket:
            with socket.socket(socket.AF_UNIX) as opened:
                opened.settimeout(config.connect_timeout)
                opened.connect(config.unix_socket)
        else:
            socket.create_connection((config.host, config.port), timeout=config.connect_timeout).close()
    except socket.gaierror:
        return f"the name {config.host} does not resolve", "Correct `host`."
    except OSError as error:
        reason = "no answer" if isinstance(error, TimeoutError) else (error.strerror or "refused").lower()
        where = config.unix_socket or f"{config.host}:{config.port}"
        return f"{where}: {reason}", (
            "Correct `host`, `port` or `unix_socket`; check that the server listens there and no firewall is between."
        )
    return "", ""


def _classify(error: HeadraceError, config: MysqlConfig, left: list[str]) -> tuple[str, Outcome]:
    text = error.what.lower()
    if "tls" in left and ("tls" in text or "ssl" in text or "certificate" in text):
        fix = "Set `tls: prefer`, or turn on TLS at the server." if "support" in text else ""
        if "require_secure_transport" in text or "insecure transport" in text:
            fix = "Set `tls: require`."
        return "tls", (error.what, fix or "Correct `tls` and `tls_ca`.")
    if "login" in left:
        user = f"{literal(config.user)}@'%'"
        return "login", (error.what, f"CREATE USER {user} IDENTIFIED BY '...'; or correct `user` and `password`.")
    return left[0], (error.what, error.remedy or "See the server's log.")


def literal(text: str) -> str:
    """A text as MySQL writes it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def account(opened: pymysql.Connection[Any]) -> str:
    """The account that the server matched, as GRANT takes it."""
    ((found,),) = rows(opened, "SELECT current_user()")
    user, _, host = found.rpartition("@")
    return f"{literal(user)}@{literal(host)}"


def _database(opened: pymysql.Connection[Any], config: MysqlConfig) -> Outcome:
    visible = visible_databases(opened)
    if config.databases is None:
        if visible:
            return "", ""
        return "this login may see no database", f"GRANT SELECT ON *.* TO {account(opened)};"
    absent = [name for name in config.databases if name not in visible]
    if not absent:
        return "", ""
    fix = "\n".join(f"GRANT SELECT ON {quoted(name)}.* TO {account(opened)};" for name in absent)
    return f"not there, or no right to see it: {', '.join(absent)}", f"Correct `databases`, or:\n{fix}"


def _grants(opened: pymysql.Connection[Any], config: MysqlConfig) -> Outcome:
    """Databases where this login cannot read every table that it sees."""
    import pymysql

    wanted = config.databases if config.databases is not None else visible_databases(opened)
    problems, fixes = [], []
    for database in wanted:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = %s ORDER BY 1 LIMIT %s"
        tables = [table for (table,) in rows(opened, query, [database, MOST_TRIED_TABLES])]
        denied = []
        for table in tables:
            try:
                rows(opened, f"SELECT * FROM {quoted(database)}.{quoted(table)} LIMIT 0")
            except pymysql.Error as error:
                if error.args[0] in (1142, 1143, 1044):
                    denied.append(table)
        grant = f"GRANT SELECT ON {quoted(database)}.* TO {account(opened)};"
        if denied:
            problems.append(f"no SELECT on {len(denied)} tables of {database}, for example {denied[0]}")
            fixes.append(grant)
        elif not tables and config.databases is not None:
            problems.append(f"no table of {database} can be seen")
            fixes.append(grant)
    return "; ".join(problems), "\n".join(fixes)


def _late_commits(opened: pymysql.Connection[Any], config: MysqlConfig) -> Outcome:
    from assets.sources.mysql_snapshot import activity

    if config.late_commits == "overlap" or activity(opened) is not None:
        return "", ""
    return (
        "this login may not see other transactions, so rows that commit late are only found within the overlap "
        f"({config.overlap_seconds} s)",
        f"GRANT PROCESS ON *.* TO {account(opened)};",
    )


def _cursor_index(opened: pymysql.Connection[Any], config: MysqlConfig) -> Outcome:
    """Large tables whose cursor column leads no index: each incremental read scans them."""
    tables = [
        table
        for table in list_tables(opened, "", config.databases, None)
        if table.kind != "view" and len(table.cursor_candidates) == 1 and (table.estimated_rows or 0) > LARGE_ROWS
    ]
    problems, fixes = [], []
    for table in tables[:MOST_TRIED_TABLES]:
        query = (
            "SELECT 1 FROM information_schema.statistics "
            "WHERE table_schema = %s AND table_name = %s AND seq_in_index = 1 AND column_name = %s LIMIT 1"
        )
        column = table.cursor_candidates[0]
        if not rows(opened, query, [table.schema_name, table.table_name, column]):
            problems.append(f"{table.name} has no index on {column}")
            relation = f"{quoted(table.schema_name)}.{quoted(table.table_name)}"
            fixes.append(f"CREATE INDEX {quoted(f'headrace_{column}'[:60])} ON {relation} ({quoted(column)});")
    return "; ".join(problems[:10]), "\n".join(fixes[:10])


def _binlog(opened: pymysql.Connection[Any], config: MysqlConfig) -> Outcome:
    return binlog_prerequisites(opened, config)


def binlog_prerequisites(opened: pymysql.Connection[Any], config: MysqlConfig, *, named: bool = True) -> Outcome:
    """What the server's binlog lacks to be followed; ``named``: over alterations, which takes columns' names."""
    names = ["log_bin", "binlog_format", "binlog_row_image", "binlog_row_metadata", "gtid_mode", "log_slave_updates"]
    names += ["log_replica_updates", "binlog_row_value_options"]
    marks = ", ".join(["%s"] * len(names))
    found = dict(rows(opened, f"SHOW GLOBAL VARIABLES WHERE variable_name IN ({marks})", names))
    problems, fixes = [], []
    if found.get("log_bin") != "ON":
        problems.append("the binlog is off")
        fixes.append("Start the server with log_bin and a server_id.")
    wanted = {"binlog_format": "ROW", "binlog_row_image": "FULL"} | ({"binlog_row_metadata": "FULL"} if named else {})
    wanted["binlog_row_value_options"] = ""
    for variable, value in wanted.items():
        if variable in found and found[variable].upper() != value:
            problems.append(f"{variable} is {found[variable]}")
            fixes.append(f"SET GLOBAL {variable} = '{value}';")
    if not is_mariadb(opened) and found.get("gtid_mode", "OFF") != "ON":
        problems.append(f"gtid_mode is {found.get('gtid_mode', 'OFF')}")
        steps = ("enforce_gtid_consistency = ON", "gtid_mode = OFF_PERMISSIVE", "gtid_mode = ON_PERMISSIVE")
        fixes += [f"SET GLOBAL {step};" for step in (*steps, "gtid_mode = ON")]
    updates = found.get("log_replica_updates") or found.get("log_slave_updates")
    if updates == "OFF" and rows(opened, _APPLIES):
        problems.append("the server is a replica that does not log what it applies")
        fixes.append("Start it with log_slave_updates (MySQL 8.0.26: log_replica_updates), or connect to its source.")
    return "; ".join(problems), "\n".join(fixes)


def replication_grant(name: str, config: MysqlConfig, rights: list[str]) -> str:
    """The GRANT for the login as the server knows it."""
    with connection(name, config) as opened:
        return f"GRANT {', '.join(rights)} ON *.* TO {account(opened)};"


def refused(error: Exception, opened: pymysql.Connection[Any], name: str, config: MysqlConfig) -> HeadraceError:
    """The server's refusal to tell of its binlog, with the GRANT."""
    if error.args[:1] != (1227,):
        return explain(error, name, config)
    right = "BINLOG MONITOR" if is_mariadb(opened) else "REPLICATION CLIENT"
    return SourceAccessError(
        f"login {config.user} may not see the binlog", where=name, remedy=f"GRANT {right} ON *.* TO {account(opened)};"
    )


def _replication_grants(opened: pymysql.Connection[Any], config: MysqlConfig) -> Outcome:
    """The rights that reading the binlog needs, as far as the server lists them."""
    listed = " ".join(str(row[0]).upper() for row in rows(opened, "SHOW GRANTS")).partition(" ON ")
    granted = listed[0] + listed[1] + listed[2]
    monitor = ("BINLOG MONITOR", "REPLICATION CLIENT") if is_mariadb(opened) else ("REPLICATION CLIENT",)
    missing = []
    if "ALL PRIVILEGES ON *.*" not in granted:
        if "REPLICATION SLAVE" not in granted:
            missing.append("REPLICATION SLAVE")
        if not any(right in granted for right in monitor):
            missing.append(monitor[0])
    if not missing:
        return "", ""
    return f"missing: {', '.join(missing)}", f"GRANT {', '.join(missing)} ON *.* TO {account(opened)};"
