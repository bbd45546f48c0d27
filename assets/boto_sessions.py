"""boto3 sessions as they are made here: what botocore does slowly and need not, it does once a process or not at all.

A session reads botocore's descriptions of services and addresses for its first client, 90 to 280 ms of processor time,
and every table's read makes a session; shared, the next clients take 13. Times of listings are parsed by dateutil, 95
ms a thousand objects; 28 with the standard library (both measured with botocore 1.43).
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any


def boto_session(inner: Any = None, **login: Any) -> Any:
    """A ``boto3.Session``.

    Args:
        inner: the ``botocore.session.Session`` below it; default: a new one.
        login: as ``boto3.Session`` takes it.

    Raises:
        botocore.exceptions.BotoCoreError: there is no such profile.
    """
    import boto3
    import botocore.session

    inner = inner or botocore.session.get_session()
    inner.register_component("data_loader", _descriptions())
    session = boto3.Session(botocore_session=inner, **login)
    inner.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parsed_time)
    return session


@cache
def _descriptions() -> Any:
    """What is read of botocore's data files, kept for the process."""
    from botocore.loaders import Loader

    class SharedLoader(Loader):
        @property
        def search_paths(self) -> list[str]:
            return list(self._search_paths)  # every boto3 session adds its own folder, which would add up

    return SharedLoader()


def parsed_time(value: Any) -> datetime:
    """A moment with its zone; what the standard library does not take is botocore's."""
    if isinstance(value, str) and value.endswith("Z"):
        try:
            return datetime.fromisoformat(value)
        except ValueError:
            pass
    from botocore.utils import parse_timestamp

    return parse_timestamp(value)
