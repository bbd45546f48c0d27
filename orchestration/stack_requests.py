"""A running stack does the syncs that commands ask it for, through a socket in its home.

A command then needs neither Temporal's client nor the catalog, whose start costs more than a small sync. A request and
its answers are lines of JSON. A command that dies leaves its sync running; one that is interrupted has it cancelled.
The socket belongs to the home's owner alone. A stack with other settings refuses, and the command does it by itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import assets.errors
from assets.errors import HeadraceError
from assets.settings import Settings

if TYPE_CHECKING:
    from orchestration.headrace import Headrace
    from orchestration.reports import SyncProgress
    from temporal_bridge.client import TemporalClient

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 10.0
MAX_REQUEST = 1 << 20
MAX_REQUESTS = 64
_LONGEST_ADDRESS = 100  # of a UNIX socket, in bytes


def address(settings: Settings) -> Path | None:
    """Where the stack of this home listens; None where the path is too long for a socket."""
    path = settings.home_path / "stack.sock"
    return path if len(os.fsencode(path)) <= _LONGEST_ADDRESS else None


def fingerprint(settings: Settings) -> str:
    """Of the program and all settings. Only this travels, never a setting."""
    text = settings.model_dump(mode="python")
    values = {name: v.get_secret_value() if hasattr(v, "get_secret_value") else str(v) for name, v in text.items()}
    values["home"] = str(settings.home_path)
    values["program"] = f"{__file__} {Path(__file__).stat().st_mtime_ns}"
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


# the command's side


def sync_by_stack(
    settings: Settings, options: dict[str, Any], progress: Callable[[SyncProgress], None] | None
) -> dict[str, Any] | None:
    """Have the running stack do ``Headrace.sync(**options)``. Returns the report as JSON; None where none can.

    Raises:
        HeadraceError: what the sync raised.
    """
    path = address(settings)
    if path is None or os.environ.get("TEMPORAL_ADDRESS") or not path.exists():
        return None
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(CONNECT_SECONDS)
        try:
            peer.connect(str(path))
            _say(peer, {"fingerprint": fingerprint(settings)})
            lines = _lines(peer)
            if next(lines, {}).get("accepted") is not True:
                return None
            # only now: a stack that answers too late must not begin what this process does by itself
            _say(peer, {"sync": options, "progress": progress is not None})
        except OSError:
            return None
        peer.settimeout(None)
        while True:
            try:
                for answer in lines:
                    if "report" in answer:
                        return answer["report"]
                    if "error" in answer:
                        raise _error(answer["error"])
                    if progress is not None:
                        progress(_progress(answer["progress"]))
                raise assets.errors.BridgeError(
                    "the stack ended before the sync did; it goes on when the stack is started again.",
                    where=str(settings.home_path),
                    remedy="Run: headrace up, then: headrace status",
                )
            except KeyboardInterrupt:
                _say(peer, {"cancel": True})
                while peer.recv(1 << 16):  # until the clean-up is done
                    pass
                raise


def _progress(told: dict[str, Any]) -> SyncProgress:
    from orchestration.reports import SyncProgress

    return SyncProgress.model_validate(told)


def _error(told: dict[str, Any]) -> Exception:
    kind = getattr(assets.errors, told["type"], None)
    if isinstance(kind, type) and issubclass(kind, HeadraceError):
        return kind(told["what"], where=told["where"], remedy=told["remedy"], retryable=told["retryable"])
    return type(told["type"], (Exception,), {})()  # an unforeseen one: only its name is known here


# the stack's side


class StackRequests:
    """Serves the commands of one home while the block runs. Needs no thread of the caller."""

    def __init__(self, settings: Settings, temporal_address: str) -> None:
        self._settings, self._temporal_address = settings, temporal_address
        self._fingerprint = fingerprint(settings)
        self._path = address(settings)
        self._listening: socket.socket | None = None
        self._free = threading.Semaphore(MAX_REQUESTS)
        self._ready: tuple[Headrace, TemporalClient] | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Listen; nothing listens where the home's path is too long for a socket."""
        if self._path is None:
            return
        self._path.unlink(missing_ok=True)  # of a stack that died: this one holds the home's lock
        listening = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listening.bind(str(self._path))
        finally:
            os.umask(before)
        listening.listen(16)
        self._listening = listening
        threading.Thread(target=self._serve, args=(listening,), name="stack-requests", daemon=True).start()
        threading.Thread(target=self._warm_up, name="stack-requests-imports", daemon=True).start()

    def stop(self) -> None:
        """Accept nothing more. Syncs under way go on in Temporal."""
        if self._listening is not None and self._path is not None:
            self._path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._listening.shutdown(socket.SHUT_RDWR)
            self._listening.close()
            self._listening = None
        with self._lock:
            if self._ready is not None:
                self._ready[1].close()
                self._ready = None

    def _warm_up(self) -> None:
        """Import and open what a first request would wait for."""
        import temporal_bridge.workflow_progress
        import temporal_bridge.workflow_start  # noqa: F401

        with contextlib.suppress(HeadraceError):  # a request will say so
            self._headrace()

    def _headrace(self) -> Headrace:
        from orchestration.dataset_run import temporal_in_use  # noqa: F401
        from orchestration.headrace import Headrace
        from temporal_bridge.client import TemporalClient
        from temporal_bridge.workflows.dataset_sync import DatasetSyncWorkflow  # noqa: F401

        with self._lock:
            if self._ready is None:
                headrace = Headrace(settings=self._settings)
                headrace.catalog  # noqa: B018
                # kept open, so that the connection of a sync outlives it
                self._ready = headrace, TemporalClient.from_settings(self._settings, self._temporal_address)
            return self._ready[0]

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                peer, _ = listening.accept()
            except OSError:  # closed
                return
            if not self._free.acquire(blocking=False):
                peer.close()
                continue
            threading.Thread(target=self._answer, args=(peer,), name="stack-request", daemon=True).start()

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            try:
                peer.settimeout(REQUEST_SECONDS)
                lines = _lines(peer)
                accepted = next(lines, {}).get("fingerprint") == self._fingerprint
                _say(peer, {"accepted": accepted})
                request = next(lines, {}) if accepted else {}
                peer.settimeout(None)
                if "sync" in request:
                    _Sync(peer, lines, request).run(self._headrace)
            except (OSError, ValueError):
                return
            finally:
                self._free.release()


class _Sync:
    """One sync for one command."""

    def __init__(self, peer: socket.socket, lines: Iterator[dict[str, Any]], request: dict[str, Any]) -> None:
        self._peer, self._lines, self._request = peer, lines, request
        self._gone, self._cancelled = threading.Event(), threading.Event()

    def run(self, headrace: Callable[[], Headrace]) -> None:
        threading.Thread(target=self._listen, name="stack-request-peer", daemon=True).start()
        options = dict(self._request["sync"])
        try:
            report = headrace().sync(**options, progress=self._progress)
            answer: dict[str, Any] = {"report": report.to_json()}
        except KeyboardInterrupt:
            answer = {"error": {"type": "KeyboardInterrupt"}}
        except HeadraceError as error:
            told = {"what": error.what, "where": error.where, "remedy": error.remedy, "retryable": error.retryable}
            answer = {"error": {"type": type(error).__name__, **told}}
        except Exception as error:  # its text may hold anything: only its type is told
            answer = {"error": {"type": type(error).__name__}}
        with contextlib.suppress(OSError):
            _say(self._peer, answer)

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in self._lines:
                if line.get("cancel"):
                    self._cancelled.set()
                    return
        self._gone.set()

    def _progress(self, progress: Any) -> None:
        """Called about once a second while the sync is waited for, in its thread."""
        if self._cancelled.is_set():
            raise KeyboardInterrupt
        if self._request.get("progress") and not self._gone.is_set():
            with contextlib.suppress(OSError):
                _say(self._peer, {"progress": progress.model_dump(mode="json")})


def _say(peer: socket.socket, message: dict[str, Any]) -> None:
    peer.sendall(json.dumps(message).encode() + b"\n")


def _lines(peer: socket.socket) -> Iterator[dict[str, Any]]:
    with peer.makefile("rb") as received:
        while line := received.readline():
            yield json.loads(line)
