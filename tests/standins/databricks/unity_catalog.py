"""Catalogs, schemas, tables and volumes, kept in one JSON file beside their folders."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from deltalake import DeltaTable

from tests.standins.databricks.errors import ApiError, not_found

_NAME = re.compile(r"[^./ \x00-\x1f\x7f]{1,255}\Z")
OWNER = "headrace@example.com"


class UnityCatalog:
    """The namespace of one workspace. Names compare without case, as in Unity Catalog."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self._file = folder / "unity_catalog.json"
        if self._file.exists():
            stored = json.loads(self._file.read_text())
        else:
            stored = {"catalogs": {}, "tables": {}, "volumes": {}, "grants": []}
        self.catalogs: dict[str, list[str]] = stored["catalogs"]
        self.tables: dict[str, dict[str, Any]] = stored["tables"]
        self.volumes: dict[str, dict[str, Any]] = stored["volumes"]
        self.grants: list[dict[str, Any]] = stored["grants"]

    def save(self) -> None:
        draft = self._file.with_suffix(".tmp")
        content = {"catalogs": self.catalogs, "tables": self.tables, "volumes": self.volumes, "grants": self.grants}
        draft.write_text(json.dumps(content))
        draft.replace(self._file)

    # namespaces

    def create_catalog(self, name: str, *, exists_ok: bool = False) -> dict[str, Any]:
        with self.lock:
            name = _checked(name)
            if name in self.catalogs and not exists_ok:
                raise ApiError(400, "CATALOG_ALREADY_EXISTS", f"Catalog '{name}' already exists")
            self.catalogs.setdefault(name, ["default", "information_schema"])
            self.save()
            return self.catalog(name)

    def catalog(self, name: str) -> dict[str, Any]:
        if name.lower() not in self.catalogs:
            raise not_found("catalog", name)
        return {"name": name.lower(), "owner": OWNER, "catalog_type": "MANAGED_CATALOG", "full_name": name.lower()}

    def create_schema(self, catalog: str, name: str, *, exists_ok: bool = False) -> dict[str, Any]:
        with self.lock:
            self.catalog(catalog)
            name, schemas = _checked(name), self.catalogs[catalog.lower()]
            if name in schemas and not exists_ok:
                raise ApiError(400, "SCHEMA_ALREADY_EXISTS", f"Schema '{catalog}.{name}' already exists")
            if name not in schemas:
                schemas.append(name)
                self.save()
            return self.schema(catalog, name)

    def schema(self, catalog: str, name: str) -> dict[str, Any]:
        self.catalog(catalog)
        if name.lower() not in self.catalogs[catalog.lower()]:
            raise not_found("schema", f"{catalog}.{name}")
        full = f"{catalog.lower()}.{name.lower()}"
        return {"name": name.lower(), "catalog_name": catalog.lower(), "full_name": full, "owner": OWNER}

    # volumes

    def create_volume(self, catalog: str, schema: str, name: str, *, exists_ok: bool = False) -> dict[str, Any]:
        with self.lock:
            self.schema(catalog, schema)
            full = f"{catalog}.{schema}.{_checked(name)}".lower()
            if full in self.volumes and not exists_ok:
                raise ApiError(400, "VOLUME_ALREADY_EXISTS", f"Volume '{full}' already exists")
            if full not in self.volumes:
                self.volumes[full] = {"volume_id": str(uuid.uuid4()), "created_at": int(time.time() * 1000)}
                self.volume_folder(full).mkdir(parents=True, exist_ok=True)
                self.save()
            return self.volume(full)

    def volume(self, full_name: str) -> dict[str, Any]:
        full = full_name.lower()
        if full not in self.volumes:
            raise not_found("volume", full_name)
        catalog, schema, name = full.split(".")
        location = f"file://{self.volume_folder(full)}"
        return self.volumes[full] | {
            "name": name,
            "catalog_name": catalog,
            "schema_name": schema,
            "full_name": full,
            "volume_type": "MANAGED",
            "storage_location": location,
            "owner": OWNER,
        }

    def volume_folder(self, full_name: str) -> Path:
        return self.folder / "Volumes" / Path(*full_name.lower().split("."))

    def volume_path(self, path: str) -> Path:
        """The file behind ``/Volumes/catalog/schema/volume/...``."""
        parts = path.strip("/").split("/")
        if len(parts) < 4 or parts[0] != "Volumes" or any(part in ("", ".", "..") for part in parts):
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Invalid path: {path}")
        full = ".".join(parts[1:4]).lower()
        if full not in self.volumes:
            raise not_found("volume", full)
        return self.volume_folder(full).joinpath(*parts[4:])

    # tables

    def table_location(self, key: tuple[str, ...]) -> str | None:
        found = self.tables.get(".".join(key))
        return found["location"] if found else None

    def known_tables(self) -> dict[tuple[str, ...], str]:
        """Name -> what pysail reads and writes it as."""
        return {tuple(full.split(".")): f"delta.`{t['location']}`" for full, t in self.tables.items()}

    def add_table(self, key: tuple[str, ...], **facts: Any) -> None:
        with self.lock:
            self.tables[".".join(key)] = facts
            self.save()

    def drop_table(self, key: tuple[str, ...]) -> None:
        with self.lock:
            table = self.tables.pop(".".join(key))
            self.save()
            shutil.rmtree(table["location"], ignore_errors=True)

    def table(self, full_name: str) -> dict[str, Any]:
        full = full_name.lower()
        if full not in self.tables:
            raise not_found("table", full_name)
        stored = self.tables[full]
        catalog, schema, name = full.split(".")
        columns = []
        for position, field in enumerate(DeltaTable(stored["location"]).schema().fields):
            kind = sql_type(json.loads(field.type.to_json()) if field.type.to_json().startswith("{") else _plain(field))
            columns.append(
                {
                    "name": field.name,
                    "type_text": kind.lower(),
                    "type_name": kind.split("(")[0].split("<")[0],
                    "type_json": field.to_json(),
                    "position": position,
                    "nullable": field.nullable,
                }
            )
        return {
            "name": name,
            "catalog_name": catalog,
            "schema_name": schema,
            "full_name": full,
            "table_type": "MANAGED",
            "data_source_format": "DELTA",
            "storage_location": f"file://{stored['location']}",
            "columns": columns,
            "properties": stored["properties"],
            "owner": OWNER,
            "created_at": stored["created_at"],
        }


def _plain(field: Any) -> str:
    return json.loads(field.type.to_json())


def sql_type(delta: Any) -> str:
    """Delta's type, as the log spells it, in SQL."""
    if isinstance(delta, dict):
        if delta["type"] == "array":
            return f"ARRAY<{sql_type(delta['elementType'])}>"
        if delta["type"] == "map":
            return f"MAP<{sql_type(delta['keyType'])}, {sql_type(delta['valueType'])}>"
        inner = ", ".join(f"{field['name']}: {sql_type(field['type'])}" for field in delta["fields"])
        return f"STRUCT<{inner}>"
    names = {"long": "BIGINT", "integer": "INT", "short": "SMALLINT", "byte": "TINYINT", "void": "VOID"}
    return names.get(delta, str(delta).upper().replace(" ", ""))


def _checked(name: str) -> str:
    if not _NAME.match(name):
        raise ApiError(400, "INVALID_PARAMETER_VALUE", f"'{name}' is not a valid name")
    return name.lower()
