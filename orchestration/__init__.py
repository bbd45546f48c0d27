"""What runs when, and who sees it: Dagster definitions, the Python API, the command line, the one-machine stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestration.headrace import Headrace

__all__ = ["Headrace"]


def __getattr__(name: str) -> Any:
    """Import the API when it is asked for: a code location loads this package too."""
    if name == "Headrace":
        from orchestration.headrace import Headrace

        return Headrace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
