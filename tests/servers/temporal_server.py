"""A Temporal dev server of the tests, in memory or on a file that survives a restart."""

from __future__ import annotations

from pathlib import Path

from orchestration.child_process import LOOPBACK, ChildProcess, free_port
from orchestration.temporal_server import temporal_server_args


class TemporalServer:
    """One dev server on a free loopback port; ``restart`` keeps port and database file."""

    def __init__(self, folder: Path, *, db_file: Path | None = None) -> None:
        self.namespace = "default"
        self.port = free_port()
        self.address = f"{LOOPBACK}:{self.port}"
        self._process = ChildProcess(
            "Temporal",
            temporal_server_args(port=self.port, ui_port=None, db_file=db_file),
            folder / "temporal.log",
            grace_seconds=5,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> TemporalServer:
        self._process.start()
        self._process.wait_until(lambda: self._process.listens(self.port), 30)
        return self

    def stop(self) -> None:
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL, as a crash of the machine would."""
        self._process.kill_group()

    def restart(self) -> None:
        self.stop()
        self.start()

    def __enter__(self) -> TemporalServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
