"""``pyarrow.compute`` for code that is checked: its functions are made at import, where no type checker sees them."""

from __future__ import annotations

from typing import Any


def arrow_compute() -> Any:
    """The module ``pyarrow.compute``."""
    import pyarrow.compute

    return pyarrow.compute
