"""Our Files, Unity Catalog and Jobs calls against minilake, a second implementation of the shapes, not ours."""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from databricks.sdk.service.catalog import ColumnInfo, ColumnTypeName, DataSourceFormat, TableType
from databricks.sdk.service.jobs import Task

from assets.databricks_job import DatabricksJob, JobRunLook
from assets.databricks_job_runs import DatabricksJobs
from assets.lakehouse.databricks import DatabricksLakehouse
from assets.lakehouse.databricks_types import DATABRICKS_TYPES
from assets.lakehouse.interface import TableId
from assets.settings import Settings
from assets.sync import Manifest
from assets.types import arrow_type
from tests.polling import wait_until
from tests.servers.minilake_server import MISSING, PROGRAM, MinilakeServer

TABLE = TableId(layer="bronze", connector="shop", table="public.orders")


@pytest.fixture(scope="module")
def minilake(server_folder: Path) -> Iterator[MinilakeServer]:
    if not PROGRAM.exists():
        pytest.skip(MISSING)
    with MinilakeServer(server_folder / "minilake") as server:
        yield server


@pytest.fixture
def lakehouse(minilake: MinilakeServer, tmp_path: Path) -> DatabricksLakehouse:
    return DatabricksLakehouse.from_settings(Settings(home=tmp_path, **minilake.settings()))


def test_catalog_schemas_and_volume_are_made_once_and_found_again(lakehouse: DatabricksLakehouse) -> None:
    made = {"catalog contract", "schema contract.bronze", "schema contract.silver", "schema contract.headrace"}
    assert set(lakehouse.initialise()) == made | {"volume contract.headrace.staging"}
    assert lakehouse.initialise() == []
    names = [f"contract.{name}" for name in ("bronze", "silver", "headrace")]
    assert {s.full_name for s in lakehouse.connection.client.schemas.list("contract")} >= set(names)


def test_parts_manifests_and_notes_go_through_the_files_api_and_are_removed(lakehouse: DatabricksLakehouse) -> None:
    lakehouse.initialise()
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.string())])
    batches = [pa.record_batch([[i, i + 1], ["ä", None]], schema) for i in (1, 10)]
    written = []
    for stream in ("rows", "deletes"):  # two folders of one run
        with lakehouse.part_writer("shop", "public.orders", "run 1/ä", 1, stream, schema) as writer:
            for batch in batches:
                writer.write(batch)
        written.append(writer.parts)
    for parts in written:
        assert sum(part.rows for part in parts) == 4
        assert pa.Table.from_batches(list(lakehouse.read_parts(parts))).equals(pa.Table.from_batches(batches))
    manifest = Manifest(
        connector="shop", table="public.orders", run_group="run 1/ä", tag="t", attempt=1, mode="full", key=("id",),
        columns=(), parts=written[0], deletes=written[1],
    )  # fmt: skip
    uri = lakehouse.write_manifest(manifest)
    assert lakehouse.read_manifest(uri) == manifest
    lakehouse.write_manifest(manifest.model_copy(update={"rows_read": 4}))  # an upload that is repeated overwrites
    assert lakehouse.read_manifest(uri).rows_read == 4
    note = lakehouse.write_note("shop", "public.orders", "run 1/ä", "chunk-0", "seen")
    assert lakehouse.read_note(note) == "seen"

    files = lakehouse.connection.client.files
    (folder,) = files.list_directory_contents(f"{lakehouse.staging_root}/shop")
    lakehouse.clear_staging("shop", "public.orders")
    lakehouse.clear_staging("shop", "public.orders")  # what is gone may be cleared again
    assert [entry.path for entry in files.list_directory_contents(f"{lakehouse.staging_root}/shop")] == []
    assert folder.is_directory and folder.path
    assert lakehouse.read_note(note) is None


def test_a_tables_columns_are_read_as_the_types_of_the_contract(lakehouse: DatabricksLakehouse) -> None:
    lakehouse.initialise()
    kinds = {f"c{i}": (sql, contract) for i, (contract, sql) in enumerate(DATABRICKS_TYPES.items())}
    kinds["c_decimal"] = ("DECIMAL(38,9)", "decimal128(38, 9)")
    columns = [
        ColumnInfo(name=name, type_text=sql.lower(), type_name=ColumnTypeName.STRING, position=i)
        for i, (name, (sql, _)) in enumerate(kinds.items())
    ]
    catalog, schema, name = lakehouse.qualified_name(TABLE).split(".")
    lakehouse.connection.client.tables.create(
        name=name, catalog_name=catalog, schema_name=schema, table_type=TableType.MANAGED,
        data_source_format=DataSourceFormat.DELTA, storage_location="", columns=columns,
    )  # fmt: skip
    found = lakehouse.schema(TABLE)
    assert {f.name: f.type for f in found} == {name: arrow_type(contract) for name, (_, contract) in kinds.items()}


def ended(jobs: DatabricksJobs, run_id: int) -> JobRunLook:
    wait_until(lambda: jobs.look(run_id).ended)
    return jobs.look(run_id)


def test_runs_are_submitted_once_by_their_token_looked_at_and_read(
    lakehouse: DatabricksLakehouse, tmp_path: Path
) -> None:
    jobs, client = DatabricksJobs(lakehouse.connection), lakehouse.connection.client

    def task(key: str, source: str, *after: str) -> dict[str, object]:
        path = f"/Shared/{uuid.uuid4().hex}.py"
        client.workspace.import_(path, content=base64.b64encode(source.encode()).decode(), overwrite=True)
        depends = [{"task_key": earlier} for earlier in after]
        return {"task_key": key, "spark_python_task": {"python_file": path}, "depends_on": depends}

    count = tmp_path / "count"
    first = task("first", f"open({str(count)!r}, 'a').write('x')")
    job = DatabricksJob(name="two", tasks=(first, task("second", "print('told')", "first")))
    token = uuid.uuid4().hex * 2
    run_id = jobs.start(job, token)
    assert jobs.start(job, token) == run_id
    assert ended(jobs, run_id).result_state == "SUCCESS"
    result = jobs.result(run_id)
    assert {t.task_key: (t.state, (t.output or "").strip()) for t in result.tasks} == {
        "first": ("SUCCESS", ""),
        "second": ("SUCCESS", "told"),
    }
    assert count.read_text() == "x"
    assert result.run_page_url and str(run_id) in result.run_page_url

    broken = jobs.start(DatabricksJob(name="broken", tasks=(task("only", "raise ValueError('no such day')"),)), "b")
    assert ended(jobs, broken).result_state == "FAILED"
    assert [t.state for t in jobs.result(broken).tasks] == ["FAILED"]

    stored = client.jobs.create(name="stored", tasks=[Task.from_dict(first)])
    run_id = jobs.start(DatabricksJob(name="stored", job_id=stored.job_id), "s")
    assert ended(jobs, run_id).result_state == "SUCCESS"

    # minilake takes a cancel and looks at it before the next task only: the shape is shown, the end is not
    slow = (task("slow", "import time; time.sleep(1)"), task("never", "raise ValueError", "slow"))
    run_id = jobs.start(DatabricksJob(name="slow", tasks=slow), f"c{time.monotonic_ns()}")
    jobs.cancel(run_id)
    assert ended(jobs, run_id).result_state == "CANCELED"
