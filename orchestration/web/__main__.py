"""Starts the webserver: ``python -m orchestration.web --workspace FILE``."""

from __future__ import annotations

import argparse

import dagster as dg
import uvicorn

from assets.settings import Settings
from orchestration.headrace import Headrace
from orchestration.web.dagster_internals import open_workspace
from orchestration.web.origin import is_loopback
from orchestration.web.webserver import HeadraceWebserver

_DATABASE_TIMEOUT_MS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW = 15_000, 3600, 20


def main() -> None:
    parser = argparse.ArgumentParser(description="Dagster's UI, Headrace's pages and the REST API at one address.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    parser.add_argument("--workspace", required=True, help="Dagster's workspace.yaml")
    parser.add_argument("--path-prefix", default="", help="path under which a proxy shows the server, such as /data")
    parser.add_argument("--no-auth", action="store_true", help="no login at all; on loopback only")
    options = parser.parse_args()
    loopback_only = is_loopback(options.host)
    if options.no_auth and not loopback_only:
        parser.error("--no-auth needs a loopback address: whoever reaches the server could do everything")
    prefix = "/" + options.path_prefix.strip("/") if options.path_prefix.strip("/") else ""
    with dg.DagsterInstance.get() as instance:
        instance.optimize_for_webserver(_DATABASE_TIMEOUT_MS, _POOL_RECYCLE_SECONDS, _POOL_OVERFLOW)
        with open_workspace(instance, options.workspace) as workspace:
            server = HeadraceWebserver(
                workspace,
                Headrace(settings=Settings()),
                prefix,
                login=not options.no_auth,
                loopback_only=loopback_only,
            )
            uvicorn.run(
                server.create_asgi_app(), host=options.host, port=options.port, log_level="warning", server_header=False
            )


if __name__ == "__main__":
    main()
