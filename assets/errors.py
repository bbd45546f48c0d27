"""Typed errors: what failed, where, and what to do next. Never a secret in a message."""

from __future__ import annotations

from collections.abc import Sequence


def sentence(text: str) -> str:
    """A text in one line that ends as a sentence does."""
    line = " ".join(text.split())
    return line if not line or line[-1] in ".!?:;" else f"{line}."


def told(what: str, where: str = "", remedy: str = "") -> str:
    """What failed and where, in one line; the remedy, if any, begins a line of its own, which pages show apart."""
    head = f"{where}: {sentence(what)}" if where else sentence(what)
    return f"{head}\n{remedy.strip()}" if remedy.strip() else head


class HeadraceError(Exception):
    """Base of all errors a user sees. As text it is what `told` makes of it.

    Args:
        what: what failed, a plain sentence without secrets.
        where: connector, table or column it concerns, such as ``shop/public.orders``.
        remedy: what to do next, often a command.
        retryable: whether the same call may succeed later without a change by a person.
    """

    retryable_by_default = False

    def __init__(self, what: str, *, where: str = "", remedy: str = "", retryable: bool | None = None) -> None:
        self.what = what
        self.where = where
        self.remedy = remedy
        self.retryable = self.retryable_by_default if retryable is None else retryable
        super().__init__(self.text)

    @property
    def text(self) -> str:
        return told(self.what, self.where, self.remedy)


class ConfigurationError(HeadraceError):
    """A setting, a connector config or a pipeline definition is wrong.

    Args:
        fields: what is wrong with which field, ``("auth.token", "Field required")``, where that is known.
    """

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        retryable: bool | None = None,
        fields: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(what, where=where, remedy=remedy, retryable=retryable)
        self.fields = tuple(fields)


class UrlRefusedError(ConfigurationError):
    """A user-supplied URL leads where Headrace does not go: see ``assets/url_guard.py``."""


class NotFoundError(HeadraceError):
    """A connector, pipeline, table or run of that name does not exist."""


class ConflictError(HeadraceError):
    """Something of that name exists already, or another run holds the table."""


class TableHeldError(ConflictError):
    """A run that syncs many tables in one workflow holds this table."""


class ChangedError(ConflictError):
    """It was changed by somebody else since it was read."""


class SourceUnreachableError(HeadraceError):
    """The source does not answer (network, restart); worth a retry."""

    retryable_by_default = True


class SourceAccessError(HeadraceError):
    """The source refuses: login, grant, TLS mode, missing database or table."""


class UnsupportedTableError(HeadraceError):
    """The table cannot be synced as it stands (name, columns, key), and why."""


class SchemaDriftError(HeadraceError):
    """The source's columns changed in a way that the table's policy refuses; the message says what changed."""


class WatermarkError(HeadraceError):
    """The watermark is missing, belongs to another source, or would move back."""


class StreamLostError(WatermarkError):
    """The source no longer has the changes since the last sync: the table has to be read anew."""


class SchemaChangedError(HeadraceError):
    """The source's columns changed in a way that the sync cannot follow."""


class LakehouseError(HeadraceError):
    """A table, part or commit of the lakehouse is unreadable or was refused."""


class CommitConflictError(LakehouseError):
    """Another writer committed first; worth a retry after reading the table again."""

    retryable_by_default = True


class OvertakenError(LakehouseError):
    """Another run committed to the table since this one began: what was staged is of an older state."""


class MismatchError(HeadraceError):
    """Source, staged and stored rows differ; the sync is not proven."""


class BridgeError(HeadraceError):
    """Temporal is unreachable, no worker polls, or the work was refused."""
