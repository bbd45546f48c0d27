"""Processes that a test started, told by their command lines."""

from __future__ import annotations

import contextlib

import psutil


def children_with(word: str) -> set[psutil.Process]:
    """Descendants of this process one of whose arguments is ``word``; others come and go while it looks."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if word in process.cmdline():
                found.add(process)
    return found
