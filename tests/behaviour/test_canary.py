"""No secret and no row data leaves the tables: not in Temporal's database, not in logs, not in the catalog."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from orchestration.headrace import Headrace
from orchestration.local import LocalStack
from tests.behaviour.installation import Installation

ROW = "canary-of-a-row"
FAILURE = b"invalid input syntax for type integer"


def stored(home: Path) -> dict[str, bytes]:
    """Every file of the installation outside its tables."""
    tables = {"lakehouse", "staging", "scratch"}
    files = [path for path in home.rglob("*") if path.is_file() and path.relative_to(home).parts[0] not in tables]
    return {str(path.relative_to(home)): path.read_bytes() for path in files}


@pytest.mark.parametrize("encrypted", [False, True])
def test_neither_a_success_nor_a_failure_tells_a_secret_or_a_row(
    crashing: Installation, encrypted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = crashing
    if encrypted:
        monkeypatch.setenv("HEADRACE_PAYLOAD_KEYS", "k1:" + base64.b64encode(bytes(range(32))).decode())
    shop.execute(
        f"UPDATE t SET name = '{ROW}' || id",
        "CREATE VIEW broken AS SELECT id, name::int AS number FROM t",
    )
    with LocalStack(shop.settings).start():
        good, bad = Headrace(home=shop.settings.home_path).sync("shop", ["public.t", "public.broken"]).tables
    assert (good.status, bad.status) == ("succeeded", "failed")
    assert bad.error is not None and FAILURE.decode() in bad.error
    assert ROW not in bad.error
    files = stored(shop.settings.home_path)
    assert {"temporal.db", "catalog.db", "logs/worker.log"} <= set(files)
    for name, content in files.items():
        assert ROW.encode() not in content, name
        assert shop.server.password.encode() not in content, name
    history = b"".join(content for name, content in files.items() if name.startswith("temporal.db"))
    assert (FAILURE in history) is not encrypted, "the failure is readable without the codec, and unreadable with it"
    assert (b"error_classification.py" in history) is not encrypted, "and so are stack traces"
