"""S3: parquet objects into Bronze, beside pyarrow's own dataset read of the same objects to nowhere.

    python -m bench.s3_files --objects 1000 --rows 60000 --rounds 3

One object of 60,000 rows is about 2 MB. Goal: pyarrow's time / Headrace's time >= 0.8.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from assets.lakehouse.interface import TableId
from assets.settings import Settings
from assets.steps import SyncSteps
from assets.sync import TableSync
from tests.servers.s3_server import S3Server


def one_object(number: int, rows: int) -> bytes:
    """Columns as orders have them: keys, codes, decimals in cents, times, a text."""
    random = np.random.default_rng(number)
    ids = np.arange(number * rows, (number + 1) * rows)
    table = pa.table(
        {
            "id": ids,
            "customer": random.integers(0, 1_000_000, rows),
            "code": pa.array(random.choice(["A", "B", "C"], rows)),
            "price": pa.array(random.integers(100, 1_000_000, rows)).cast(pa.decimal128(19, 0)),
            "rate": random.random(rows),
            "at": pa.array(random.integers(1_600_000_000, 1_700_000_000, rows) * 1_000_000).cast(pa.timestamp("us")),
            "text": pa.array([f"order {n % 9973}" for n in ids]),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=100)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    os.environ["HEADRACE_URL_ALLOW"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, S3Server(Path(folder) / "s3") as server:
        bucket, client, size = server.create_bucket(), server.client(), 0
        for number in range(options.objects):
            body = one_object(number, options.rows)
            size += len(body)
            client.put_object(Bucket=bucket, Key=f"t/{number:05d}.parquet", Body=body)
        files = fs.S3FileSystem(
            access_key=server.access_key_id,
            secret_key=server.secret_access_key,
            endpoint_override=server.endpoint_url.removeprefix("http://"),
            scheme="http",
            region=server.region,
        )
        steps = SyncSteps.from_settings(Settings(home=Path(folder) / "home"))
        login = {"access_key_id": server.access_key_id, "secret_access_key": server.secret_access_key}
        ratios = []
        for number in range(options.rounds):
            name = f"lake{number}"
            steps.catalog.add_connector(name, "s3", {"bucket": bucket, "endpoint_url": server.endpoint_url} | login)
            started = time.perf_counter()
            rows = sum(b.num_rows for b in ds.dataset(f"{bucket}/t", filesystem=files, format="parquet").to_batches())
            dataset = time.perf_counter() - started

            started = time.perf_counter()
            work = TableSync(connector=name, table="files.t", run_group=uuid.uuid4().hex, mode="full")
            steps.commit_bronze(work, steps.extract(work, steps.open_window(work), 1))
            headrace = time.perf_counter() - started
            bronze = TableId(layer="bronze", connector=name, table="files.t")
            stored = steps.lakehouse.state(bronze)
            assert stored is not None and stored.rows == rows == options.objects * options.rows
            steps.lakehouse.clear_staging(name, "files.t")
            steps.lakehouse.drop(bronze)  # each round finds the memory for the disk's cache that the first one found
            ratios.append(dataset / headrace)
            print(f"dataset read {dataset:.2f} s, Headrace to Bronze {headrace:.2f} s, ratio {ratios[-1]:.2f}")
        print(f"{options.objects} objects, {size / 1e6:.0f} MB, {rows:,} rows: ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
