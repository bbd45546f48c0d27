"""Times in S3's answers, parsed by the standard library.

botocore asks dateutil, which takes two thirds of what a listing costs: 95 ms a thousand objects, 28 without (measured
with botocore 1.43). What the standard library does not take is still botocore's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any


def parsed_time(value: Any) -> datetime:
    """A moment with its zone."""
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    from botocore.utils import parse_timestamp

    return parse_timestamp(value)


def use_quick_times(session: Any) -> None:
    """Have the clients of a ``boto3.Session`` that are made from now on parse times so."""
    parsers = session._session.get_component("response_parser_factory")
    parsers.set_parser_defaults(timestamp_parser=parsed_time)
