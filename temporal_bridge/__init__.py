"""How long work survives: Temporal client, workflows, activities, worker and the Dagster Pipes client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temporal_bridge.client import TemporalClient
    from temporal_bridge.pipes import PipesTemporalClient
    from temporal_bridge.resource import TemporalResource

__all__ = ["PipesTemporalClient", "TemporalClient", "TemporalResource"]

_HOMES = {
    "PipesTemporalClient": "temporal_bridge.pipes",
    "TemporalClient": "temporal_bridge.client",
    "TemporalResource": "temporal_bridge.resource",
}


def __getattr__(name: str) -> Any:
    """Import on first use: a workflow file imports this package by the way and must not load Dagster."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
