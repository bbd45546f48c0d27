"""Kits that a test writes into the home and runs."""

from __future__ import annotations

import textwrap
from typing import Any

from assets.kits.kit_file import kit_folder
from assets.kits.model import KitResult
from orchestration.headrace import Headrace


def write_kit(hr: Headrace, name: str, text: str) -> str:
    """Write a kit without its name's line; returns the name."""
    folder = kit_folder(hr.settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(f"name: {name}\n" + textwrap.dedent(text))
    return name


def run(hr: Headrace, kit: str, inputs: dict[str, Any] | None = None) -> KitResult:
    """Run it to its end."""
    result = hr.kits.run(kit, inputs)
    assert isinstance(result, KitResult)
    return result
