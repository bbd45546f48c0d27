"""What a running one-machine stack says about itself: ``<home>/stack.json``."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from assets.settings import Settings
from orchestration.child_process import port_answers


class StackRecord(BaseModel):
    """Addresses of a running stack and the process that holds it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pid: int
    process_started: float = Field(description="start time of the process, so that a reused pid is not taken for it")
    home: Path
    temporal_address: str
    temporal_namespace: str = "default"
    temporal_ui_url: str | None = None
    dagster_url: str | None = None
    worker: bool = False
    transient: bool = Field(default=False, description="ends with the command that started it")
    started_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @property
    def ui_url(self) -> str | None:
        """The one address for a person: Dagster where it runs, else Temporal's page."""
        return self.dagster_url or self.temporal_ui_url

    @property
    def alive(self) -> bool:
        """Whether that very process lives and its Temporal server answers."""
        try:
            same = abs(psutil.Process(self.pid).create_time() - self.process_started) < 2
        except psutil.Error:
            return False
        return same and port_answers(int(self.temporal_address.rpartition(":")[2]))


def record_path(settings: Settings) -> Path:
    return settings.home_path / "stack.json"


def write_record(settings: Settings, record: StackRecord) -> None:
    """Replace ``stack.json`` in one step."""
    path = record_path(settings)
    temporary = path.with_name(f".stack.{os.getpid()}.json")
    content = record.model_dump(mode="json") | {"ui_url": record.ui_url}
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)


def running_stack(settings: Settings) -> StackRecord | None:
    """Return the stack that runs in this home, or none; a record of a dead one does not count."""
    try:
        record = StackRecord.model_validate_json(record_path(settings).read_text())
    except (FileNotFoundError, ValidationError):
        return None
    return record if record.alive else None
