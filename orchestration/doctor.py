"""What the installation needs on this machine, each tried, with the fix where one is missing."""

from __future__ import annotations

import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from assets.errors import HeadraceError
from assets.settings import Settings
from assets.sync import CheckResult
from orchestration.reports import DoctorReport

FREE_BYTES = 1024**3
PACKAGES = ("dagster", "temporalio", "dlt", "deltalake", "duckdb", "pyarrow")


class _Problem(Exception):
    def __init__(self, detail: str, fix: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.fix = fix


def examine(settings: Settings) -> DoctorReport:
    """Try everything. Never raises for a missing piece; connects to no source."""
    checks = [
        _tried("python", _python),
        _tried("packages", _packages),
        _tried("home", lambda: _home(settings)),
        _tried("catalog", lambda: _catalog(settings)),
        _tried("secrets", lambda: _secrets(settings)),
        _tried("lakehouse", lambda: _lakehouse(settings)),
        _tried("fast reader", _fast_reader),
        _tried("temporal", lambda: _temporal(settings)),
    ]
    return DoctorReport(ok=all(check.ok for check in checks), checks=tuple(checks))


def _tried(name: str, attempt: Callable[[], str]) -> CheckResult:
    started = time.monotonic()
    ok, fix = True, ""
    try:
        detail = attempt()
    except _Problem as problem:
        ok, detail, fix = False, problem.detail, problem.fix
    except HeadraceError as error:
        ok, detail, fix = False, f"{error.where}: {error.what}".lstrip(": "), error.remedy
    except Exception as error:  # a doctor reports whatever is wrong
        ok, detail = False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    return CheckResult(name=name, ok=ok, detail=detail, fix=fix, seconds=round(time.monotonic() - started, 3))


def _python() -> str:
    return f"Python {sys.version.split()[0]}"


def _packages() -> str:
    found, missing = [], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        raise _Problem(f"missing: {', '.join(missing)}", "Install the project again: make install")
    return ", ".join(found)


def _home(settings: Settings) -> str:
    home = settings.home_path
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"x")
    except OSError as error:
        raise _Problem(
            f"{home} cannot be written ({error.strerror})", "Set HEADRACE_HOME to a folder of yours."
        ) from None
    free = shutil.disk_usage(home).free
    if free < FREE_BYTES:
        raise _Problem(f"{free / 1024**2:,.0f} MB are free in {home}", "Make room: at least 1 GB.")
    return f"{home}, {free / 1024**3:,.1f} GB free"


def _catalog(settings: Settings) -> str:
    from assets.catalog.store import Catalog

    catalog = Catalog.from_settings(settings)
    try:
        return f"{len(catalog.connectors())} connectors, {len(catalog.pipelines())} pipelines"
    finally:
        catalog.close()


def _secrets(settings: Settings) -> str:
    if settings.secret_key is not None:
        return "the key comes from HEADRACE_SECRET_KEY"
    key = settings.home_path / "secret.key"
    if not key.exists():
        return "no secret is stored yet"
    mode = stat.S_IMODE(key.stat().st_mode)
    if mode & 0o077:
        raise _Problem(f"{key} can be read by others (mode {mode:o})", f"chmod 600 {key}")
    return str(key)


def _lakehouse(settings: Settings) -> str:
    from assets.lakehouse.interface import TableId, open_lakehouse

    table = TableId(layer="bronze", connector="doctor", table="public.doctor")
    lakehouse = open_lakehouse(settings)
    lakehouse.state(table)
    return lakehouse.uri(table).partition("/bronze/")[0]


def _fast_reader() -> str:
    from assets.sources.postgres_fast import extension_file

    file, why = extension_file()
    if file is None:
        raise _Problem(why, "Reads still work, slower. Install the project again: make install")
    return str(file.name)


def _temporal(settings: Settings) -> str:
    import os

    from orchestration.local import running_stack

    external = os.environ.get("TEMPORAL_ADDRESS")
    record = running_stack(settings)
    if external or record:
        from temporal_bridge.client import TemporalClient
        from temporal_bridge.workflows.task_queues import WORKER_ROLES, role_queue, start_command

        address = external or (record.temporal_address if record else None)
        with TemporalClient(address, connect_seconds=5) as client:
            ages = {
                queue: client.worker_age(queue, "activity")
                for queue in (role_queue(settings.task_queue, role) for role in WORKER_ROLES)
            }
        deserted = [queue for queue, age in ages.items() if age is None]
        if deserted:
            raise _Problem(
                f"{address}: no worker polls the task queue `{deserted[0]}`",
                f"Start one with: {start_command(deserted[0])}",
            )
        return f"{address}, workers polled {max(age or 0 for age in ages.values()):.0f} s ago"
    from orchestration.temporal_server import temporal_binary

    temporal_binary()
    return "no stack runs; sync starts one for its own duration"
