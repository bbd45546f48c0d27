"""Connector type ``rest_api``: endpoints of a JSON API as tables.

What columns there are is known when all rows are: a read first spools the rows, then types them over all values. The
watermark keeps what each column has shown, so that a window's rows never narrow a type.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlencode

from assets.errors import ConfigurationError, HeadraceError, NotFoundError, SourceAccessError
from assets.oauth import OAuthClient, access_check
from assets.sources.interface import Connector, TableRead
from assets.sources.rest_config import AuthorizationCode, Endpoint, RestConfig
from assets.sync import CheckResult, Column, SourceTable, WindowPlan
from assets.sync_plan import ReadEstimate
from assets.text_columns import ColumnFacts, observe_json

if TYPE_CHECKING:
    import pyarrow as pa

    from assets.sources.rest_pages import EndpointReader

SCHEMA = "api"
SAMPLED_PAGES = 2
ROW_ID = "_dlt_id"


class RestConnector(Connector):
    """A JSON API over HTTP."""

    type_name: ClassVar[str] = "rest_api"
    Config = RestConfig
    config: RestConfig

    def reader(self) -> EndpointReader:
        from assets.sources.rest_pages import EndpointReader

        return EndpointReader(self.config, self.name, self._alive, self.secret_store, self.access_tokens)

    def _alive(self) -> None:
        if self.progress:
            self.progress(0, 0)

    def oauth_client(self) -> OAuthClient | None:
        from assets.sources.rest_client import oauth_client

        auth = self.config.auth
        return oauth_client(auth) if isinstance(auth, AuthorizationCode) else None

    def endpoint_of(self, table: str) -> tuple[Endpoint, str]:
        """A table's endpoint, and the table's name without its schema (``orders__lines``: a list in ``orders``).

        Raises:
            NotFoundError: there is no such endpoint.
        """
        short = table.removeprefix(f"{SCHEMA}.")
        root, nested, _ = short.partition("__")
        for endpoint in self.config.endpoints:
            if endpoint.name == root and table == f"{SCHEMA}.{short}" and (not nested or endpoint.nested == "tables"):
                return endpoint, short
        raise NotFoundError(
            "there is no such endpoint.",
            where=f"{self.name}/{table}",
            remedy=f"Run: headrace connectors discover {self.name}",
        )

    def check(self) -> list[CheckResult]:
        return list(self.checks())

    def checks(self) -> Iterator[CheckResult]:
        """Network, login, and each endpoint's first page."""
        from assets.sources.object_store import reachable

        names = ["network", "login", *(f"endpoint {endpoint.name}" for endpoint in self.config.endpoints)]
        reader: EndpointReader | None = None
        quick = self.config.model_copy(update={"retries": 0, "timeout_seconds": min(5, self.config.timeout_seconds)})
        trial = RestConnector(self.name, quick)
        trial.secret_store, trial.access_tokens = self.secret_store, self.access_tokens
        stopped = False
        for name in names:
            started = time.monotonic()
            if stopped:
                yield CheckResult(name=name, ok=False, detail="not tried: an earlier check failed")
                continue
            problem = fix = ""
            try:
                if name == "network":
                    reader = trial.reader()
                    problem, fix = reachable(self.config.base_url, 4)
                    fix = fix.replace("endpoint_url", "base_url")
                elif name == "login":
                    assert reader is not None
                    if self.oauth_client():
                        access = access_check(self)
                        stopped = not access.ok
                        yield access
                        continue
                    if reader.login.renewable:
                        reader.login.token()
                else:
                    assert reader is not None
                    next(reader.rows(reader.endpoint(name.removeprefix("endpoint ")), max_pages=1), None)
            except HeadraceError as error:
                problem, fix = error.what, error.remedy
            seconds = time.monotonic() - started
            stopped = bool(problem) and name in ("network", "login")
            yield CheckResult(name=name, ok=not problem, detail=problem or "ok", fix=fix, seconds=seconds)

    def discover(self, tables: Sequence[str] | None = None) -> list[SourceTable]:
        """Columns and lists of the first pages; a read finds those that come later."""
        if tables is not None:
            return [self._sampled(*self.endpoint_of(name))[name] for name in tables]
        found: dict[str, SourceTable] = {}
        for endpoint in self.config.endpoints:
            found |= self._sampled(endpoint, endpoint.name)
        return list(found.values())

    def _sampled(self, endpoint: Endpoint, wanted: str) -> dict[str, SourceTable]:
        from assets.sources.rest_read import table_rows

        facts: dict[str, dict[str, ColumnFacts]] = {endpoint.name: {}, wanted: {}}
        try:
            for page in self.reader().rows(endpoint, self._first(endpoint), SAMPLED_PAGES):
                for name, rows in table_rows(endpoint, page, 0).items():
                    known = facts.setdefault(name, {})
                    for column in dict.fromkeys(key for row in rows for key in row):
                        observe_json(known.setdefault(column, ColumnFacts()), [row.get(column) for row in rows])
        except SourceAccessError as error:
            refused = self._table(endpoint, wanted, {}).model_copy(update={"refusal": error.what})
            return {refused.name: refused}
        described = [self._table(endpoint, name, found) for name, found in facts.items()]
        return {table.name: table for table in described}

    @staticmethod
    def _first(endpoint: Endpoint) -> str | None:
        return endpoint.incremental.initial_value if endpoint.incremental else None

    def _table(self, endpoint: Endpoint, name: str, facts: dict[str, ColumnFacts]) -> SourceTable:
        root = name == endpoint.name
        key = tuple(field.replace(".", "__") for field in endpoint.primary_key) if root else (ROW_ID,)
        if endpoint.nested == "tables" and not key:
            key = (ROW_ID,)
        columns = columns_of(facts, endpoint.columns if root else {})
        present = {column.name for column in columns}
        missing = [Column(name=n, source_type="json", arrow_type="string") for n in key if n not in present]
        incremental = endpoint.incremental if root else None
        return SourceTable(
            name=f"{SCHEMA}.{name}",
            schema_name=SCHEMA,
            table_name=name,
            kind="endpoint",
            tracks="cursor" if incremental else "none",
            columns=(*missing, *columns),
            primary_key=key,
            cursor_candidates=(incremental.field.replace(".", "__"),) if incremental else (),
        )

    def probe(self, tables: Sequence[str]) -> str:
        """An API tells nothing without being read: every look counts as a change."""
        return f"{time.time_ns()}"

    @contextmanager
    def open_read(self, plan: WindowPlan) -> Iterator[TableRead]:
        from assets.sources.rest_read import RestRead

        endpoint, short = self.endpoint_of(plan.table.name)
        described = endpoint.incremental.field.replace(".", "__") if endpoint.incremental else None
        if plan.cursor and plan.cursor != described:
            raise ConfigurationError(
                f"the endpoint cannot be asked by {plan.cursor}",
                where=f"{self.name}/{plan.table.name}",
                remedy="Describe `incremental` of the endpoint in the connector's config.",
            )
        with RestRead(self, endpoint, short, plan.key, plan=plan, row_filter=plan.table.row_filter) as read:
            yield read

    def estimate(
        self, plan: WindowPlan, loaded: Callable[[], Iterator[pa.RecordBatch]] | None = None, *, keys: bool = False
    ) -> ReadEstimate:
        """The first request; how many rows and pages follow is told by the API page by page."""
        from assets.sources.rest_filter import filtered_endpoint
        from assets.sources.rest_read import lowered

        endpoint, short = self.endpoint_of(plan.table.name)
        if short == endpoint.name:
            endpoint = filtered_endpoint(endpoint, plan.table.row_filter)
        since = self._first(endpoint)
        if endpoint.incremental and plan.mode == "incremental" and plan.previous and plan.previous.value:
            since = lowered(plan.previous.value, endpoint.incremental.overlap)
        params = {name: str(value) for name, value in endpoint.params.items()}
        if endpoint.incremental and since is not None:
            params[endpoint.incremental.start_param] = since
        query = f"?{urlencode(params)}" if params else ""
        request = f"{endpoint.method} {self.config.base_url.rstrip('/')}/{endpoint.path.lstrip('/')}{query}"
        each = f" for each row of {endpoint.parent.endpoint}" if endpoint.parent else ""
        return ReadEstimate(statements=(f"{request}{each}, page by page",), detail="an API tells it page by page")

    @contextmanager
    def open_verify(self, table: SourceTable, columns: Sequence[str] | None = None) -> Iterator[TableRead]:
        from assets.sources.rest_read import RestRead

        endpoint, short = self.endpoint_of(table.name)
        with RestRead(self, endpoint, short, table.primary_key, only=columns, row_filter=table.row_filter) as read:
            yield read

    def source(self, tables: Sequence[str] | None = None, **options: Any) -> Any:
        from assets.sources.arrow_dlt import arrow_source

        return arrow_source(self, tables)


def columns_of(facts: dict[str, ColumnFacts], declared: dict[str, str]) -> tuple[Column, ...]:
    """Columns by what their JSON values have shown."""
    return tuple(
        Column(name=name, source_type="declared", arrow_type=declared[name], rule="declared")
        if name in declared
        else Column(name=name, source_type="json", arrow_type=found.arrow_type())
        for name, found in facts.items()
    )
