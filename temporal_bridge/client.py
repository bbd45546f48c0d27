"""The blocking client of the bridge: start or attach, wait with progress, cancel."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets import tracing
from assets.errors import BridgeError
from temporal_bridge.event_loop_thread import SLICE_SECONDS, EventLoopThread, connect_until, unreachable
from temporal_bridge.payload_size import refuse_large_payload
from temporal_bridge.server_outage import server_is_away
from temporal_bridge.workflow_run import TaskKind, WorkflowFailedError, WorkflowProgress, WorkflowRun

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle
    from temporalio.runtime import Runtime

    from assets.settings import Settings

__all__ = ["ChildCompleted", "TemporalClient", "WorkflowFailedError", "WorkflowProgress", "WorkflowRun"]

logger = logging.getLogger(__name__)
STEPS_OF_MANY = ("prove_unchanged", "sync_together")
"""Activities whose result has, in ``results``, what children would have ended with."""
_WORKER_CHECK_SECONDS = 2.0
_open_clients = 0
_open_clients_lock = threading.Lock()


@dataclass(frozen=True)
class ChildCompleted:
    """A child workflow ended with a result while its parent goes on."""

    workflow_id: str
    workflow_type: str
    result: Any


class TemporalClient:
    """Blocking facade over Temporal's async client. Use as a context manager, or call `close`.

    What is not given comes from Temporal's own configuration: ``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``,
    ``TEMPORAL_TLS*``, ``TEMPORAL_API_KEY``, ``TEMPORAL_PROFILE`` and its TOML file. Nothing connects before the first
    call.

    Args:
        address: ``host:port``.
        namespace: default ``default``.
        api_key: for Temporal Cloud; turns TLS on.
        tls: force TLS on or off.
        connect_seconds: how long an unreachable server is tried before a `BridgeError`.
        outage_seconds: how long the server may be away while a workflow is waited for.
        worker_wait_seconds: how long a workflow waits for a worker before it is cancelled.
    """

    def __init__(
        self,
        address: str | None = None,
        namespace: str | None = None,
        *,
        api_key: str | None = None,
        tls: bool | None = None,
        connect_seconds: float = 20,
        outage_seconds: float = 300,
        worker_wait_seconds: float = 300,
    ) -> None:
        self._given = {"target_host": address, "namespace": namespace, "api_key": api_key, "tls": tls}
        self._connect_seconds = connect_seconds
        self._outage_seconds = outage_seconds
        self._worker_wait_seconds = worker_wait_seconds
        self._config: dict[str, Any] | None = None
        self._closed = False
        global _open_clients
        with _open_clients_lock:
            _open_clients += 1

    @classmethod
    def from_settings(cls, settings: Settings, address: str | None = None) -> TemporalClient:
        """A client with the installation's time limits; the address is Temporal's own setting unless given."""
        return cls(address, worker_wait_seconds=settings.worker_wait_seconds)

    @property
    def address(self) -> str:
        return str(self._connection["target_host"])

    @property
    def namespace(self) -> str:
        return str(self._connection["namespace"])

    def close(self) -> None:
        """Let go of the connection; the last client of the process stops the thread. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        global _open_clients
        with _open_clients_lock:
            _open_clients -= 1
            last = _open_clients == 0
        if last:
            EventLoopThread.close_shared()

    def __enter__(self) -> TemporalClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # start

    def start_workflow(
        self,
        workflow: Any,
        input: Any,
        *,
        id: str,
        task_queue: str,
        result_type: Any = None,
        summary: str | None = None,
        selection: str | None = None,
        memo: dict[str, Any] | None = None,
    ) -> WorkflowRun:
        """Start a workflow, or attach to the one with this id that runs or has succeeded; failed ones start again.

        Args:
            workflow: the workflow's run method, its class, or its type name.
            input: its one argument.
            id: identity of the work.
            task_queue: queue that its workers poll.
            result_type: type of the result where ``workflow`` is a name.
            summary: one line for Temporal's page.
            selection: field of ``input`` that lists the selected items; an attaching start may name fewer.
            memo: further facts to keep with the workflow, under 1 KiB.

        Raises:
            BridgeError: Temporal is unreachable, the input is too large, or the id belongs to different work.
        """
        from temporalio import workflow as workflows

        if isinstance(workflow, type):
            definition = workflows._Definition.must_from_class(workflow)
            workflow, result_type = definition.run_fn, definition.ret_type or result_type
        name = workflow if isinstance(workflow, str) else workflows._Definition.get_name_and_result_type(workflow)[0]
        if not isinstance(workflow, str):
            result_type = workflows._Definition.get_name_and_result_type(workflow)[1] or result_type
        refuse_large_payload(input, f"the input of {name}")
        token = uuid.uuid4().hex  # tells this start's workflow from one that was there
        trace = tracing.traceparent()

        async def start() -> WorkflowRun:
            from temporal_bridge.workflow_start import start_or_attach

            wanted = WorkflowRun(id, "", str(name), task_queue, self.namespace, result_type=result_type)
            client = await self._client()
            with tracing.attached(trace):
                return await start_or_attach(client, wanted, input, token, summary, selection, memo or {})

        return self._call(start)

    # look

    def describe(self, run: WorkflowRun, *, children: bool = True) -> WorkflowProgress:
        """Look at a workflow, its activities and those of its running children. Needs no worker."""
        return self._call(lambda: self._describe(run, children))

    async def _describe(self, run: WorkflowRun, children: bool) -> WorkflowProgress:
        from temporal_bridge.workflow_progress import look_at

        return await look_at(await self._client(), run.workflow_id, run.run_id, children=children)

    def worker_age(self, task_queue: str, kind: TaskKind = "workflow") -> float | None:
        """Seconds since a worker last polled this queue for this kind of task; None if none is known."""
        return self._call(lambda: self._worker_age(task_queue, kind))

    async def _worker_age(self, task_queue: str, kind: TaskKind) -> float | None:
        from temporal_bridge.workflow_progress import worker_age

        return await worker_age(await self._client(), task_queue, kind)

    def query(self, run: WorkflowRun, name: str) -> Any:
        """Ask the workflow itself. Needs a worker; `describe` does not."""

        async def ask() -> Any:
            return await (await self._handle(run)).query(name)

        return self._call(ask)

    def update(self, workflow_id: str, name: str, argument: Any) -> Any:
        """Send an update to the latest execution of this id, and wait for its answer. Needs a worker.

        Raises:
            BridgeError: the workflow refused it, or has ended.
        """

        once = str(uuid.uuid4())  # tells a repeated call from another update

        async def send() -> Any:
            from temporalio.client import WorkflowUpdateFailedError
            from temporalio.service import RPCError, RPCStatusCode

            handle = (await self._client()).get_workflow_handle(workflow_id)
            try:
                return await handle.execute_update(name, argument, id=once)
            except WorkflowUpdateFailedError as error:
                cause = getattr(error.cause, "message", None) or str(error.cause)
                raise BridgeError(f"refused: {cause}", where=workflow_id, retryable=False) from None
            except RPCError as error:
                if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.FAILED_PRECONDITION):
                    raise BridgeError("the workflow has ended", where=workflow_id, retryable=False) from None
                raise

        return self._call(send)

    def history_json(self, run: WorkflowRun) -> str:
        """The whole history, as ``temporalio.client.WorkflowHistory.from_json`` reads it for a replay."""

        async def fetch() -> str:
            return (await (await self._handle(run)).fetch_history()).to_json()

        return self._call(fetch)

    def recorded_input(self, workflow_id: str) -> Any:
        """The input that the latest execution of this id was started with, decoded."""

        async def read() -> Any:
            from temporal_bridge.workflow_start import recorded_input

            return await recorded_input(await self._client(), workflow_id, "", dict)

        return self._call(read)

    # wait

    def wait(
        self,
        run: WorkflowRun,
        *,
        progress: Callable[[WorkflowProgress], None] | None = None,
        warn: Callable[[str], None] | None = None,
        poll_seconds: float = 1.0,
    ) -> Any:
        """Wait in the calling thread for the result.

        Args:
            run: what `start_workflow` returned.
            progress: called about once every ``poll_seconds``.
            warn: told of a server that is away and of a missing worker; default: this module's log.

        Raises:
            WorkflowFailedError: it failed, was cancelled or terminated, or timed out.
            BridgeError: the server stays away, has lost the workflow, or no worker came.
        """
        following = self.follow(run, warn=warn, poll_seconds=poll_seconds)
        while True:
            try:
                event = next(following)
            except StopIteration as end:
                return end.value
            if progress is not None and isinstance(event, WorkflowProgress):
                progress(event)

    def follow(
        self,
        run: WorkflowRun,
        *,
        child_type: Any = None,
        warn: Callable[[str], None] | None = None,
        poll_seconds: float = 1.0,
    ) -> Generator[WorkflowProgress | ChildCompleted, None, Any]:
        """Like `wait`, as a generator: yields progress, and with ``child_type`` each child's result when it ends.

        So it does with the results of a step that does the work of many children (`STEPS_OF_MANY`).

        Children are read from the history as it grows, which needs no worker and no query. Returns the result.
        """
        from temporal_bridge.workflow_progress import Patience

        patience = Patience(run, self.address, warn or logger.warning, self._outage_seconds, self._worker_wait_seconds)
        children: queue.SimpleQueue[ChildCompleted] = queue.SimpleQueue()
        seen: set[int] = set()
        loop = EventLoopThread.shared()
        waiting = loop.submit(self._result(run, child_type, children, seen))
        next_look = 0.0
        next_worker_check = time.monotonic() + _WORKER_CHECK_SECONDS
        try:
            while True:
                concurrent.futures.wait([waiting], timeout=min(SLICE_SECONDS, poll_seconds))
                while not children.empty():
                    yield children.get()
                if waiting.done():
                    try:
                        return waiting.result()
                    except Exception as error:
                        patience.server_fault(error)  # raises what is no outage, or one too long
                    time.sleep(SLICE_SECONDS)
                    waiting = loop.submit(self._result(run, child_type, children, seen))
                    continue
                if time.monotonic() < next_look:
                    continue
                next_look = time.monotonic() + poll_seconds
                try:
                    look = self._call_once(self._describe(run, True))
                    patience.server_answered()
                    if not look.waiting:
                        patience.worker_seen()
                    elif time.monotonic() >= next_worker_check:
                        next_worker_check = time.monotonic() + _WORKER_CHECK_SECONDS
                        ages = {waits: self._call_once(self._worker_age(*waits)) for waits in look.waiting}
                        if patience.worker_missing(ages):
                            self.cancel(run)
                            raise patience.no_worker_error()
                except BridgeError:
                    raise
                except Exception as error:
                    patience.server_fault(error)
                    continue
                yield look
        finally:
            waiting.cancel()

    async def _result(
        self, run: WorkflowRun, child_type: Any, children: queue.SimpleQueue[ChildCompleted], seen: set[int]
    ) -> Any:
        handle = await self._handle(run)
        if child_type is not None:
            client = await self._client()
            steps: dict[int, str] = {}
            async for event in handle.fetch_history_events(wait_new_event=True):
                if event.HasField("activity_task_scheduled_event_attributes"):
                    steps[event.event_id] = event.activity_task_scheduled_event_attributes.activity_type.name
                if event.HasField("activity_task_completed_event_attributes") and event.event_id not in seen:
                    ended = event.activity_task_completed_event_attributes
                    name = steps.get(ended.scheduled_event_id, "")
                    if name in STEPS_OF_MANY:
                        seen.add(event.event_id)
                        (many,) = await client.data_converter.decode(list(ended.result.payloads), [dict])
                        for result in many["results"]:
                            children.put(ChildCompleted(run.workflow_id, name, child_type.model_validate(result)))
                done = event.child_workflow_execution_completed_event_attributes
                if event.HasField("child_workflow_execution_completed_event_attributes") and event.event_id not in seen:
                    seen.add(event.event_id)
                    (result,) = await client.data_converter.decode(list(done.result.payloads), [child_type])
                    children.put(ChildCompleted(done.workflow_execution.workflow_id, done.workflow_type.name, result))
        return await handle.result()

    # end

    def cancel(self, run: WorkflowRun) -> None:
        """Ask the workflow to clean up and end. Returns when the server has noted it."""
        self._call(lambda: self._cancel(run))

    async def _cancel(self, run: WorkflowRun) -> None:
        from temporalio.service import RPCError, RPCStatusCode

        try:
            await (await self._handle(run)).cancel()
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:  # it has ended already
                raise

    def cancel_and_wait(self, run: WorkflowRun, seconds: float = 60) -> str:
        """Cancel, wait until the clean-up is done, terminate after ``seconds``. Returns the final status in words."""
        self.cancel(run)
        deadline = time.monotonic() + seconds
        while (status := self.describe(run, children=False).status) == "running":
            if time.monotonic() > deadline:
                self._call(lambda: self._terminate(run, f"no end {seconds:.0f} s after it was cancelled"))
                return "terminated"
            time.sleep(0.2)
        return status

    def cancel_latest_and_wait(self, workflow_id: str, seconds: float = 60) -> str:
        """`cancel_and_wait` for whatever runs under this id; ``not started`` if nothing ever did."""
        from temporalio.service import RPCError, RPCStatusCode

        run = WorkflowRun(workflow_id, "", "", "", self.namespace)
        try:
            return self.cancel_and_wait(run, seconds)
        except RPCError as error:
            if error.status != RPCStatusCode.NOT_FOUND:
                raise
            return "not started"

    async def _terminate(self, run: WorkflowRun, reason: str) -> None:
        await (await self._handle(run)).terminate(reason=reason)

    # connection

    @property
    def _connection(self) -> dict[str, Any]:
        if self._config is None:
            from temporalio.envconfig import ClientConfig

            config: dict[str, Any] = dict(ClientConfig.load_client_connect_config())
            config.update({name: value for name, value in self._given.items() if value is not None})
            if self._given["api_key"] and self._given["tls"] is None:
                config["tls"] = True
            config.setdefault("target_host", "127.0.0.1:7233")
            config.setdefault("namespace", "default")
            self._config = config
        return self._config

    async def _client(self) -> Client:
        from temporalio.client import Client
        from temporalio.service import RetryConfig

        from temporal_bridge.codec import KEYS_VARIABLE, data_converter
        from temporal_bridge.tracing import interceptors

        connection = self._connection
        key = (repr(sorted(connection.items(), key=lambda item: item[0])), os.environ.get(KEYS_VARIABLE))

        # The core retries a call for 10 s and prints each try; this class does that itself, and says it once.
        quick = RetryConfig(max_retries=2, max_elapsed_time_millis=2000)

        async def connect() -> Client:
            return await Client.connect(
                **connection, data_converter=data_converter(), retry_config=quick, interceptors=interceptors()
            )

        return await EventLoopThread.shared().client(key, self.address, connect, self._connect_seconds)

    async def connect(self, runtime: Runtime | None = None) -> Client:
        """Connect in the caller's own event loop, with the same rules: for workers and tests."""
        from temporalio.client import Client

        from temporal_bridge.codec import data_converter
        from temporal_bridge.tracing import interceptors

        async def connect() -> Client:
            return await Client.connect(
                **self._connection, data_converter=data_converter(), interceptors=interceptors(), runtime=runtime
            )

        return await connect_until(self.address, connect, self._connect_seconds)

    async def _handle(self, run: WorkflowRun) -> WorkflowHandle[Any, Any]:
        client = await self._client()
        return client.get_workflow_handle(run.workflow_id, run_id=run.run_id or None, result_type=run.result_type)

    def _call(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run one call, and try again while the server is away, until the connect time is over."""
        deadline = time.monotonic() + self._connect_seconds
        while True:
            try:
                return self._call_once(call())
            except Exception as error:
                if not server_is_away(error):
                    raise
                if time.monotonic() > deadline:
                    raise unreachable(self.address, self._connect_seconds, error) from None
            time.sleep(SLICE_SECONDS)

    def _call_once(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        if self._closed:
            coroutine.close()
            raise BridgeError("this Temporal client is closed.", where=self.address)
        return EventLoopThread.shared().call(coroutine)
