"""The rows of an endpoint: pages followed by dlt's paginators, loops and wrong totals told, nested rows normalised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from assets.errors import ConfigurationError, SourceAccessError, SourceUnreachableError
from assets.oauth import AccessTokens
from assets.sources.rest_client import Alive, ExactFloat, Login, RestSession, SecretStore, explained
from assets.sources.rest_config import AutoPages, Endpoint, Pages, RestConfig
from assets.text_columns import Written, json_text
from assets.url_guard import UrlGuard

Row = dict[str, Any]
_TOTALS = ("total", "total_count", "totalCount", "count", "total_results", "totalResults")


def written(value: Any) -> Any:
    """JSON values with numbers as they were written."""
    if isinstance(value, dict):
        return {name: written(item) for name, item in value.items()}
    if isinstance(value, list):
        return [written(item) for item in value]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return Written(value)
    return Written(value.text) if isinstance(value, ExactFloat) else value


def _paginator(pages: Pages) -> Any:
    from dlt.sources.helpers.rest_client import paginators as kinds

    options = pages.model_dump(exclude={"type"}, exclude_none=True)
    made = {
        "single_page": kinds.SinglePagePaginator,
        "header_link": kinds.HeaderLinkPaginator,
        "json_link": kinds.JSONLinkPaginator,
        "cursor": kinds.JSONResponseCursorPaginator,
        "header_cursor": kinds.HeaderCursorPaginator,
    }
    if pages.type == "auto":
        return None
    # a total that is too small would end these early, so an empty page ends them and the total is compared afterwards
    if pages.type == "offset":
        return kinds.OffsetPaginator(**options, total_path=None, stop_after_empty_page=True)
    if pages.type == "page_number":
        return kinds.PageNumberPaginator(**options, total_path=None, stop_after_empty_page=True)
    return made[pages.type](**options)


class EndpointReader:
    """Reads endpoints of one API with one login.

    Args:
        alive: called before and while requests wait; raises to cancel.
    """

    def __init__(
        self,
        config: RestConfig,
        name: str,
        alive: Alive,
        secrets: SecretStore | None = None,
        access_tokens: AccessTokens | None = None,
    ) -> None:
        from dlt.sources.helpers.rest_client.client import RESTClient

        self._config, self._name = config, name
        guard = UrlGuard.from_settings()
        guard.check(config.base_url)
        self.login = Login(config, guard, name, secrets, access_tokens)
        self.session = RestSession(config, guard, self.login, name, alive)
        self._client = RESTClient(
            base_url=config.base_url, headers=dict(config.headers), auth=self.login, session=self.session
        )

    def endpoint(self, name: str) -> Endpoint:
        return next(endpoint for endpoint in self._config.endpoints if endpoint.name == name)

    def rows(self, endpoint: Endpoint, since: str | None = None, max_pages: int | None = None) -> Iterator[list[Row]]:
        """Pages of rows; for an endpoint with a parent, those of each of the parent's rows in turn."""
        if endpoint.parent is None:
            yield from self._pages(endpoint, endpoint.path, {}, since, max_pages)
            return
        parent = endpoint.parent
        seen: set[tuple[str, ...]] = set()
        for page in self.rows(self.endpoint(parent.endpoint), None, max_pages):
            for row in page:
                values = {name: _field(row, field) for name, field in parent.params.items()}
                key = tuple(str(value) for value in values.values())
                if key in seen:
                    continue  # the parent's pages moved while they were read
                seen.add(key)
                missing = [name for name, value in values.items() if value in (None, "") or not isinstance(value, str)]
                if missing:
                    raise SourceAccessError(
                        f"a row of {parent.endpoint} has no value for {', '.join(missing)}",
                        where=f"{self._name}/{endpoint.name}",
                    )
                path = endpoint.path.format(**{n: _path_part(v) for n, v in values.items()})
                kept = {f"_parent_{name}": _field(row, name) for name in parent.include}
                yield from self._pages(endpoint, path, kept, since, max_pages)

    def _pages(
        self, endpoint: Endpoint, path: str, kept: Row, since: str | None, max_pages: int | None
    ) -> Iterator[list[Row]]:
        where = f"{self._name}/{endpoint.name}"
        params = {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in endpoint.params.items()
        }
        if endpoint.incremental and since is not None:
            params[endpoint.incremental.start_param] = since
        pages = endpoint.paginator or self._config.paginator
        asked: set[str] = set()
        contents: set[bytes] = set()
        totals: list[int] = []
        keys: set[bytes] = set()
        rows = count = 0
        with explained(where):
            for page in self._client.paginate(
                path=path,
                method=endpoint.method,
                params=params,
                json=json.loads(json.dumps(endpoint.body)) if endpoint.body is not None else None,
                paginator=_paginator(pages),
                data_selector=endpoint.data_selector,
                hooks={"response": []},
            ):
                count += 1
                if count > self._config.max_pages:
                    raise SourceAccessError(f"more than {self._config.max_pages} pages", where=where)
                sent = page.response.request
                request = f"{sent.url} {sent.body!r}"
                found = [written(row) if isinstance(row, dict) else {"value": written(row)} for row in page]
                content = hashlib.sha256(json_text(found).encode()).digest()
                if request in asked or (found and content in contents):
                    raise SourceAccessError(
                        f"page {count} is one that came before: the pages go round in a circle",
                        where=where,
                        remedy="Correct `paginator`.",
                    )
                asked.add(request)
                if not endpoint.primary_key:
                    contents.clear()  # without a key, rows far apart may be equal
                contents.add(content)
                rows += len(found)
                if endpoint.total_path:
                    totals += _totals(endpoint.total_path, page.response.json())
                    keys |= {_key(row, endpoint.primary_key) for row in found}
                if isinstance(pages, AutoPages) and count == 1:
                    self._refuse_half(page, len(found), where)
                yield [row | kept for row in found] if kept else found
                if max_pages is not None and count >= max_pages:
                    return
        self._compare_total(totals, len(keys) if endpoint.primary_key else rows, where)

    @staticmethod
    def _refuse_half(page: Any, rows: int, where: str) -> None:
        """No paginator was recognised, and yet the answer speaks of more rows: never take a part for the whole."""
        body = page.response.json()
        if page.paginator.has_next_page or not isinstance(body, dict):
            return
        stated = [body[name] for name in _TOTALS if type(body.get(name)) is int]
        if any(total > rows for total in stated) or body.get("has_more") is True:
            raise ConfigurationError(
                "the first page says that there are more rows, and how to get them was not recognised",
                where=where,
                remedy="Set `paginator`.",
            )

    @staticmethod
    def _compare_total(totals: list[int], rows: int, where: str) -> None:
        if totals and totals[0] == totals[-1] and totals[0] != rows:
            raise SourceUnreachableError(
                f"the API says {totals[0]} rows and gave {rows}",
                where=where,
                remedy="Correct `total_path` or `paginator`, or leave total_path out.",
            )


def _field(row: Row, path: str) -> Any:
    value: Any = row
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _path_part(value: str) -> str:
    """One part of a path: dots are escaped too, so that no value climbs out of its place."""
    return quote(value, safe="").replace(".", "%2E") if value.strip(".") == "" else quote(value, safe="")


def _totals(path: str, body: Any) -> list[int]:
    from dlt.common import jsonpath

    found = jsonpath.find_values(path, body)
    return [int(found[0])] if found and str(found[0]).isdigit() else []


def _key(row: Row, key: list[str]) -> bytes:
    return hashlib.blake2b(json_text([_field(row, name) for name in key]).encode(), digest_size=16).digest()


# nested rows, as dlt normalises them


def normalised(table: str, row: Row, key: list[str], number: int) -> Iterator[tuple[str, Row]]:
    """A row and the rows of its lists as (table, flat row): objects become ``a__b``, lists tables ``table__a``.

    ``_dlt_id`` identifies a row by its key (else by its content and place), ``_dlt_parent_id`` and ``_dlt_list_idx``
    place a list's row. They are the same in every read.
    """
    base = json_text([_field(row, name) for name in key] if key else [row, number])
    yield from _flattened(table, row, _digest(table, base), {})


def _flattened(table: str, row: Row, identity: str, place: Row) -> Iterator[tuple[str, Row]]:
    flat: Row = {}
    lists: list[tuple[str, list[Any]]] = []

    def walk(value: Row, prefix: str) -> None:
        for name, item in value.items():
            full = f"{prefix}{name}"
            if isinstance(item, dict):
                walk(item, f"{full}__")
            elif isinstance(item, list):
                lists.append((full, item))
            else:
                flat[full] = item

    walk(row, "")
    yield table, flat | place | {"_dlt_id": identity}
    for name, items in lists:
        child = f"{table}__{name}"
        for index, item in enumerate(items):
            inner = item if isinstance(item, dict) else {"value": item}
            where = {"_dlt_parent_id": identity, "_dlt_list_idx": Written(index)}
            yield from _flattened(child, inner, _digest(identity, f"{child}_{index}"), where)


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
