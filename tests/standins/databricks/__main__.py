"""``python -m tests.standins.databricks --folder DIR --port N``: runs the stand-in until it is stopped."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path

from tests.standins.databricks.server import Server
from tests.standins.databricks.warehouses import WAREHOUSE_ID


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--die-with-parent", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    token = os.environ.get("STANDIN_TOKEN", "dapi-standin")
    server = Server(options.folder, port=options.port, token=token)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with server:
        print(json.dumps({"url": server.url, "warehouse": WAREHOUSE_ID}), flush=True)
        if options.die_with_parent:
            sys.stdin.buffer.read()
        else:
            signal.pause()
    os._exit(0)


if __name__ == "__main__":
    main()
