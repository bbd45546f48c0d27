"""The one-machine stack: Temporal dev server, worker and, where wanted, Dagster's webserver and daemon."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO

import psutil
from pydantic import SecretStr

from assets.errors import ConflictError
from assets.settings import Settings
from orchestration.child_process import LOOPBACK, ChildProcess, ServerProcessError, free_port, port_answers
from orchestration.code_locations import locations_of_stack
from orchestration.stack_record import StackRecord, record_path, running_stack, write_record
from orchestration.stack_requests import StackRequests
from orchestration.supervisor import SupervisedServer, Supervisor
from orchestration.temporal_server import temporal_server_args, worker_polls

__all__ = ["LocalStack", "StackRecord", "running_stack", "stack_in_use", "up"]

TEMPORAL_PORT, TEMPORAL_UI_PORT, DAGSTER_PORT = 7233, 8233, 3000


TEMPORAL = "Temporal"
_PORT_TAKEN = re.compile("address already in use|failed to bind", re.IGNORECASE)
"""How Temporal, Dagster's code server (gRPC) and webserver say so."""


class LocalStack:
    """The processes of one home. They end with this process, however it ends.

    Example:
        with LocalStack(settings).start(dagster=True) as stack:
            print(stack.ui_url)
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.home = settings.home_path
        self._lock: IO[str] | None = None
        self._supervisor: Supervisor | None = None
        self._transient, self._login = False, True
        self._workers: list[SupervisedServer] = []
        self._ports: list[int] = []
        self._record: StackRecord | None = None
        self._requests: StackRequests | None = None

    def start(
        self,
        temporal: bool = True,
        worker: bool = True,
        dagster: bool = False,
        *,
        transient: bool = False,
        login: bool = True,
    ) -> LocalStack:
        """Start the stack and return it; every server answers when this returns.

        Args:
            temporal: start a Temporal dev server; otherwise ``TEMPORAL_ADDRESS`` names one.
            worker: start a worker and wait until it polls.
            dagster: start Dagster's code location, webserver and daemon too.
            transient: the stack ends with a command; `stop` waits for other commands that use it.
            login: False: the webserver asks nobody for a login.

        Raises:
            ConflictError: a stack runs in this home already.
            ServerProcessError: a server did not come up.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self._transient, self._login = transient, login
        try:
            try:
                self._record = self._start(temporal, worker, dagster)
            except ServerProcessError as error:
                # all servers of this stack have ended; the one that took the port may have too
                taken = any(port_answers(port) for port in self._ports) or _PORT_TAKEN.search(str(error))
                # Temporal's dev server has ports of its own choice, too, and tells little when it loses one
                if not taken and error.where != TEMPORAL:
                    raise
                # Another process took a port between the choice and the start: once more, on any free ports.
                self._workers.clear()
                self._record = self._start(temporal, worker, dagster, usual_ports=False)
            if worker and not transient:
                self._requests = StackRequests(self.settings, self._record.temporal_address)
                self._requests.start()
        except BaseException:
            self._release()
            raise
        return self

    def _start(self, temporal: bool, worker: bool, dagster: bool, usual_ports: bool = True) -> StackRecord:
        servers: list[SupervisedServer] = []
        address, temporal_ui_url = os.environ.get("TEMPORAL_ADDRESS", ""), None
        if temporal:
            port = free_port(TEMPORAL_PORT if usual_ports else None)
            ui_port = free_port(TEMPORAL_UI_PORT if usual_ports else None)
            self._ports += [port, ui_port]
            address, temporal_ui_url = f"{LOOPBACK}:{port}", f"http://{LOOPBACK}:{ui_port}"
            database = self.home / "temporal.db"
            args = temporal_server_args(port=port, ui_port=ui_port, db_file=database)
            lock = database.with_suffix(".lock")  # the server of a stack that was killed needs a moment to end
            child = ChildProcess(TEMPORAL, args, self._log_file("temporal"), grace_seconds=5, lock=lock)
            servers.append(SupervisedServer(child, partial(child.listens, port, ui_port)))
        environment = self._environment(address, embedded=temporal)
        if worker:
            child = ChildProcess(
                "Worker",
                [sys.executable, "-m", "temporal_bridge.worker", "--grace-seconds", "10"],
                self._log_file("worker"),
                env=environment,
                grace_seconds=20,
            )
            queue = self.settings.task_queue
            server = SupervisedServer(child, lambda: worker_polls(address, queue, child.pid), stage=1)
            servers.append(server)
            self._workers.append(server)
        dagster_url = None
        if dagster:
            more, dagster_url = self._dagster_servers(environment, DAGSTER_PORT if usual_ports else None)
            servers += more
        self._supervisor = Supervisor(servers)
        self._supervisor.start()
        record = StackRecord(
            pid=os.getpid(),
            process_started=psutil.Process().create_time(),
            home=self.home,
            temporal_address=address,
            temporal_ui_url=temporal_ui_url,
            dagster_url=dagster_url,
            worker=worker,
            transient=self._transient,
        )
        write_record(self.settings, record)
        return record

    def stop(self) -> None:
        """Stop everything; returns when all processes are gone. Safe to call twice."""
        if self._lock is None:
            return
        if self._transient:
            self._wait_for_users()
        self._release()

    def __enter__(self) -> LocalStack:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def record(self) -> StackRecord:
        """Addresses of the started stack, as `stack.json` holds them."""
        if self._record is None:
            raise ServerProcessError("is not started.", where="stack")
        return self._record

    @property
    def temporal_address(self) -> str:
        return self.record.temporal_address

    @property
    def dagster_url(self) -> str | None:
        return self.record.dagster_url

    @property
    def ui_url(self) -> str | None:
        return self.record.ui_url

    @property
    def failure(self) -> str | None:
        """Why the stack gave up, if it did."""
        return self._supervisor.failure if self._supervisor else None

    @property
    def worker_pid(self) -> int | None:
        """Process id of the running worker; none while it is being started again."""
        return next((s.child.pid for s in self._workers if s.child.running), None)

    def _dagster_servers(
        self, environment: dict[str, str], usual_port: int | None
    ) -> tuple[list[SupervisedServer], str]:
        from assets.catalog.store import Catalog
        from orchestration.dagster_instance import prepare_dagster_home

        dagster_home = prepare_dagster_home(self.settings)
        environment = {**environment, "DAGSTER_HOME": str(dagster_home)}
        web_port = free_port(usual_port)
        locations = [
            (location, free_port())
            for location in locations_of_stack(self.settings, Catalog.from_settings(self.settings))
        ]
        self._ports += [web_port, *(port for _, port in locations)]
        environment["HEADRACE_CODE_LOCATIONS"] = str(len(locations))
        # Webserver and daemon share the code locations, so that a new connector shows in both at once.
        workspace = self.home / "workspace.yaml"
        workspace.write_text(
            "load_from:\n"
            + "".join(
                f"  - grpc_server:\n      host: {LOOPBACK}\n      port: {port}\n      location_name: {location.name}\n"
                for location, port in locations
            )
        )
        web = ["--host", LOOPBACK, "--port", str(web_port), "--workspace", str(workspace)]
        if not self._login:
            web.append("--no-auth")

        def child(name: str, log: str, program: str, args: list[str], **more: str) -> ChildProcess:
            command = [sys.executable, "-m", program, *args]
            return ChildProcess(name, command, self._log_file(log), env=environment | more, grace_seconds=10)

        servers = []
        for location, port in locations:
            code = ["code-server", "start", "--host", LOOPBACK, "--port", str(port)]
            module = ["--module-name", "orchestration.definitions", "--location-name", location.name]
            served = child(
                f"Dagster code location{location.suffix}",
                f"dagster-code{location.suffix}",
                "dagster",
                code + module,
                HEADRACE_CODE_LOCATION=str(location.number),
            )
            # the first one makes Dagster's databases in a new home: two at once would make them twice
            stage = 1 if location.is_first else 2
            servers.append(SupervisedServer(served, partial(served.listens, port), 120, stage))
        webserver = child("Webserver", "webserver", "orchestration.web", web)
        servers += [
            SupervisedServer(webserver, partial(webserver.listens, web_port), 120, 3),
            SupervisedServer(
                child("Dagster daemon", "dagster-daemon", "dagster._daemon", ["run", "-w", str(workspace)]),
                lambda: True,
                stage=3,
            ),
        ]
        return servers, f"http://{LOOPBACK}:{web_port}"

    def _environment(self, temporal_address: str, embedded: bool) -> dict[str, str]:
        environment = {**os.environ, "HEADRACE_HOME": str(self.home), "PYTHONUNBUFFERED": "1"}
        for name, value in self.settings.model_dump(exclude={"home"}, exclude_none=True).items():
            text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            environment[f"HEADRACE_{name.upper()}"] = text
        if embedded:
            # Names meant for a server elsewhere (TLS, API key, profile) must not reach the one on loopback.
            environment = {k: v for k, v in environment.items() if not k.startswith("TEMPORAL_")}
            environment |= {"TEMPORAL_ADDRESS": temporal_address, "TEMPORAL_NAMESPACE": "default"}
        environment.setdefault("DO_NOT_TRACK", "1")
        return environment

    def _log_file(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _take_lock(self) -> None:
        lock = (self.home / "stack.lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise ConflictError(
                "a stack runs in this home already.", where=str(self.home), remedy="See: headrace status"
            ) from None
        self._lock = lock

    def _wait_for_users(self) -> None:
        with _users_file(self.settings).open("a+") as users:
            fcntl.flock(users, fcntl.LOCK_EX)  # their locks end with their processes
            record_path(self.settings).unlink(missing_ok=True)

    def _release(self) -> None:
        if self._requests is not None:
            self._requests.stop()
            self._requests = None
        record_path(self.settings).unlink(missing_ok=True)
        if self._supervisor is not None:
            self._supervisor.stop()
        self._workers.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _users_file(settings: Settings) -> Path:
    return settings.home_path / "stack.users"


def _lock_shared(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:  # the stack is ending
        return False
    return True


@contextlib.contextmanager
def stack_in_use(settings: Settings, wait_seconds: float = 90) -> Iterator[StackRecord]:
    """Yield the stack of this home: the running one, or one started for the duration of the block.

    A stack that another command started for itself stays up until this block ends too. Where ``TEMPORAL_ADDRESS`` is
    set, that server and its workers are used and nothing is started.
    """
    external = os.environ.get("TEMPORAL_ADDRESS")
    if external:
        yield StackRecord(
            pid=os.getpid(), process_started=0, home=settings.home_path, temporal_address=external, worker=True
        )
        return
    settings.home_path.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_seconds
    while True:
        with _users_file(settings).open("a+") as users:
            record = running_stack(settings) if _lock_shared(users) else None
            if record is not None:
                yield record
                return
        stack = LocalStack(settings)
        try:
            stack.start(transient=True)
        except ConflictError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)  # another command is starting or stopping its own
            continue
        with stack:
            yield stack.record
        return


def up(settings: Settings, login: bool = True) -> int:
    """Run the whole stack until Ctrl-C or SIGTERM; print its one address. Returns the exit code."""
    with _ended_by_signal(), LocalStack(settings) as stack:
        print(stack.start(dagster=True, login=login).ui_url, flush=True)
        _tell_about_login(settings, f"{stack.ui_url}/headrace", login)
        while not stack.failure:
            time.sleep(0.5)
        print(stack.failure, file=sys.stderr)
        return 1
    return 0


def _tell_about_login(settings: Settings, pages: str, login: bool) -> None:
    """Say on stderr how the first person comes in, or that everybody does."""
    from assets.catalog.access import SETUP_LINK_HOURS
    from assets.catalog.store import Catalog

    if not login:
        print("NO LOGIN: whoever reaches this address may read and do everything.", file=sys.stderr, flush=True)
        return
    catalog = Catalog.from_settings(settings)
    secret = None if settings.oidc_issuer else catalog.access.make_setup_link()
    catalog.close()
    if secret is not None:
        print("Nobody can log in yet. Make the first administrator here, once,", file=sys.stderr)
        print(f"within {SETUP_LINK_HOURS} hours: {pages}/setup?token={secret}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _ended_by_signal() -> Iterator[None]:
    """End the block in order at the first Ctrl-C, SIGTERM or SIGHUP; further ones do not cut the ending short."""
    asked = False

    def end(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except KeyboardInterrupt:
        if not asked:
            raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
