"""Functions that kits of the tests call: they leave files behind, so that a test sees what ran, and when."""

from __future__ import annotations

import time
from pathlib import Path

from assets.errors import HeadraceError
from assets.kits.functions import kit_function


class PassingError(HeadraceError):
    """Worth a retry."""

    retryable_by_default = True


@kit_function("meet")
def meet(folder: str, name: str, wait_for: int = 1) -> int:
    """Stay until so many calls are under way at once; returns the most that were seen."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{name}.in").touch()
    most, deadline = 0, time.monotonic() + 60
    while time.monotonic() < deadline:
        most = max(most, len(list(place.glob("*.in"))) - len(list(place.glob("*.out"))))
        if most >= wait_for:
            break
        time.sleep(0.02)
    time.sleep(0.1)
    most = max(most, len(list(place.glob("*.in"))) - len(list(place.glob("*.out"))))
    (place / f"{name}.out").touch()
    return most


@kit_function("fail_at_first")
def fail_at_first(folder: str, times: int) -> int:
    """Fail that often in a way that passes; returns the number of the call that succeeded."""
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    number = len(list(place.iterdir())) + 1
    (place / str(number)).touch()
    if number <= times:
        raise PassingError(f"call {number} failed")
    return number


@kit_function("take_long")
def take_long(seconds: float) -> str:
    time.sleep(seconds)
    return "done"
