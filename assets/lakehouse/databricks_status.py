"""Setting up and examining a Unity Catalog workspace: what there is, and the exact grants that are missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assets.lakehouse import databricks_sql as sql
from assets.lakehouse.databricks_client import MissingError, databricks_errors
from assets.lakehouse.lakehouse_status import LakehouseStatus, tried
from assets.sync import CheckResult

if TYPE_CHECKING:
    from assets.lakehouse.databricks import DatabricksLakehouse

NEEDED = {
    "CATALOG": ("USE_CATALOG",),
    "SCHEMA": ("USE_SCHEMA", "CREATE_TABLE", "SELECT", "MODIFY"),
    "VOLUME": ("READ_VOLUME", "WRITE_VOLUME"),
}
"""docs.databricks.com/data-governance/unity-catalog/manage-privileges/privileges."""
USABLE = ("RUNNING", "STARTING", "STOPPED", "STOPPING")
"""States of a warehouse that serve: a stopped one starts for a statement."""


def initialise(lakehouse: DatabricksLakehouse) -> list[str]:
    """Make the catalog, the schemas and the volume that are missing. Returns what was made."""
    client = lakehouse.connection.client
    made: list[str] = []
    if not _there(lambda: client.catalogs.get(lakehouse.catalog)):
        with databricks_errors(lakehouse.catalog):
            client.catalogs.create(lakehouse.catalog)
        made.append(f"catalog {lakehouse.catalog}")
    missing = [("schema", f"{lakehouse.catalog}.{name}") for name in lakehouse.schemas]
    missing += [("volume", f"{lakehouse.catalog}.{lakehouse.volume}")] if lakehouse.volume else []
    absent = [
        f"{kind} {full}"
        for kind, full in missing
        if not _there(lambda k=kind, f=full: client.schemas.get(f) if k == "schema" else client.volumes.read(f))
    ]
    lakehouse.prepare()
    return made + absent


def _there(look) -> bool:
    try:
        with databricks_errors(""):
            look()
    except MissingError:
        return False
    return True


def examine(lakehouse: DatabricksLakehouse) -> LakehouseStatus:
    """Reach the workspace and look at everything a sync needs. Starts no warehouse, changes nothing."""
    checks = list(_checks(lakehouse))
    return LakehouseStatus(
        engine="databricks",
        where=f"{lakehouse.connection.host} {lakehouse.catalog}",
        ok=all(check.ok for check in checks),
        checks=tuple(checks),
    )


def _checks(lakehouse: DatabricksLakehouse) -> Iterator[CheckResult]:
    user = ""

    def workspace() -> tuple[str, str, str]:
        nonlocal user
        with databricks_errors(lakehouse.connection.host):
            user = str(lakehouse.connection.client.current_user.me().user_name)
        return f"as {user}", "", ""

    def warehouse() -> tuple[str, str, str]:
        id = lakehouse.warehouse.id
        with databricks_errors(f"warehouse {id}"):
            found = lakehouse.connection.client.warehouses.get(id)
        state = found.state.value if found.state else "?"
        wrong = "" if state in USABLE else f"{found.name} is {state}"
        return f"{found.name} is {state}", wrong, "Set HEADRACE_DATABRICKS_WAREHOUSE_ID to one that runs."

    first = tried("workspace", workspace)
    yield first
    if not first.ok:
        return
    yield tried("warehouse", warehouse)
    places = [("CATALOG", lakehouse.catalog)]
    places += [("SCHEMA", f"{lakehouse.catalog}.{schema}") for schema in lakehouse.schemas]
    places += [("VOLUME", f"{lakehouse.catalog}.{lakehouse.volume}")] if lakehouse.volume else []
    for kind, full in places:
        yield tried(f"{kind.lower()} {full}", lambda k=kind, f=full: _granted(lakehouse, k, f, user))


def _granted(lakehouse: DatabricksLakehouse, kind: str, full: str, user: str) -> tuple[str, str, str]:
    client = lakehouse.connection.client
    look = {"CATALOG": client.catalogs.get, "SCHEMA": client.schemas.get, "VOLUME": client.volumes.read}[kind]
    try:
        with databricks_errors(full):
            owner = look(full).owner
    except MissingError:
        return "", "it does not exist", "Run: headrace lakehouse init"
    if owner == user:
        return "owned", "", ""
    with databricks_errors(full):
        found = client.grants.get_effective(kind, full, principal=user).privilege_assignments or []
    held = {p.privilege.value for a in found for p in a.privileges or [] if p.privilege}
    missing = [] if "ALL_PRIVILEGES" in held else [name for name in NEEDED[kind] if name not in held]
    if not missing:
        return "granted", "", ""
    listed = ", ".join(name.replace("_", " ") for name in missing)
    grant = f"GRANT {listed} ON {kind} {sql.name(*full.split('.'))} TO {sql.name(user)};"
    return "", f"missing: {listed}", grant
