"""Row filters: ``region = 'EU' and (amount > 10 or note is null)``. Parsed once, pushed to SQL or applied to Arrow.

Allowed are columns compared with literals (``= <> < <= > >=``, ``in``, ``between``, ``like``, ``is [not] null``),
and ``and``, ``or``, ``not``, brackets. No function, no query, no second table. Names are taken as
the source spells them; another case serves where it is unambiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from functools import reduce
from typing import TYPE_CHECKING, Any

from assets.arrow_compute import arrow_compute
from assets.errors import ConfigurationError

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlglot import exp

MAX_CHARACTERS = 4_000
_HELP = "Write it like: region = 'EU' and amount > 10."


class RowFilter:
    """A filter that was checked: only the allowed parts are in it."""

    def __init__(self, expression: exp.Expr) -> None:
        self._expression = expression

    @classmethod
    def parse(cls, text: str) -> RowFilter:
        """Parse and check.

        Raises:
            ConfigurationError: it is no filter, or holds what is not allowed.
        """
        import sqlglot
        from sqlglot import exp
        from sqlglot.errors import SqlglotError

        if len(text) > MAX_CHARACTERS:
            raise ConfigurationError(f"the row filter is longer than {MAX_CHARACTERS} characters.")
        try:
            parsed = sqlglot.parse(text, dialect="postgres")
        except (SqlglotError, RecursionError):
            raise ConfigurationError("the row filter cannot be read.", remedy=_HELP) from None
        if len(parsed) != 1 or not isinstance(parsed[0], exp.Expr):
            raise ConfigurationError("the row filter is no single condition.", remedy=_HELP)
        _check(parsed[0])
        return cls(parsed[0])

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it names, each once."""
        from sqlglot import exp

        return tuple(dict.fromkeys(column.name for column in self._expression.find_all(exp.Column)))

    def resolved(self, columns: Sequence[str]) -> RowFilter:
        """The same filter with every column under the name that the source gives it.

        Raises:
            ConfigurationError: a column is not there, or several fit.
        """
        names = {}
        for name in self.columns:
            fits = [c for c in columns if c == name] or [c for c in columns if c.lower() == name.lower()]
            if len(fits) != 1:
                why = "is not there" if not fits else f"could be {' or '.join(fits[:3])}"
                raise ConfigurationError(f"the row filter's column {name} {why}.", remedy=_HELP)
            names[name] = fits[0]
        return self.renamed(names)

    def renamed(self, names: dict[str, str]) -> RowFilter:
        """The same filter over other names; those that are not in ``names`` stay."""
        from sqlglot import exp

        copy = self._expression.copy()
        for column in list(copy.find_all(exp.Column)):
            column.set("this", exp.to_identifier(names.get(column.name, column.name), quoted=True))
        return RowFilter(copy)

    def and_also(self, other: RowFilter) -> RowFilter:
        from sqlglot import exp

        return RowFilter(exp.and_(self._expression.copy(), other._expression.copy()))

    def sql(self, dialect: str = "postgres") -> str:
        """As SQL of a sqlglot dialect: identifiers quoted, literals escaped by it. Put it into brackets."""
        return self._expression.sql(dialect=dialect, identify=True, comments=False)

    def parts(self) -> list[exp.Expr]:
        """The conditions that all have to hold."""
        from sqlglot import exp

        whole = self._expression.unnest()
        return list(whole.flatten()) if isinstance(whole, exp.And) else [whole]

    @staticmethod
    def value_of(node: exp.Expr) -> str | Decimal | int | bool:
        """A literal's value."""
        return _literal(node)

    def mask(self, batch: pa.RecordBatch) -> pa.Array:
        """Which rows of the batch pass; a comparison with NULL passes nothing, as in SQL."""
        import pyarrow as pa

        try:
            return arrow_compute().fill_null(_Evaluation(batch).of(self._expression), False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            kinds = ", ".join(f"{name}: {batch.schema.field(name).type}" for name in self.columns)
            raise ConfigurationError(
                f"the row filter compares what has no comparison ({kinds}): {str(error).splitlines()[0][:200]}",
                remedy=_HELP,
            ) from None


def _refuse(node: Any) -> ConfigurationError:
    return ConfigurationError(f"the row filter may not hold: {str(node.sql())[:80]}", remedy=_HELP)


def _check(node: exp.Expr) -> None:
    from sqlglot import exp

    if isinstance(node, exp.And | exp.Or):
        for side in node.flatten():
            _check(side)
    elif isinstance(node, exp.Paren | exp.Not):
        _check(node.this)
    elif isinstance(node, exp.EQ | exp.NEQ | exp.LT | exp.LTE | exp.GT | exp.GTE | exp.Like):
        _column(node.this)
        _literal(node.expression)
    elif isinstance(node, exp.Between):
        _column(node.this)
        _literal(node.args["low"])
        _literal(node.args["high"])
        if node.args.get("symmetric"):
            raise _refuse(node)
    elif isinstance(node, exp.In):
        _column(node.this)
        if not node.expressions or any(v for k, v in node.args.items() if k not in ("this", "expressions")):
            raise _refuse(node)
        for item in node.expressions:
            _literal(item)
    elif isinstance(node, exp.Is):
        _column(node.this)
        if not isinstance(node.expression, exp.Null):
            raise _refuse(node)
    else:
        raise _refuse(node)


def _column(node: Any) -> str:
    from sqlglot import exp

    if not isinstance(node, exp.Column) or node.table or not isinstance(node.this, exp.Identifier):
        raise _refuse(node)
    return node.name


def _literal(node: Any) -> str | Decimal | int | bool:
    from sqlglot import exp

    if isinstance(node, exp.Boolean):
        return bool(node.this)
    negative = isinstance(node, exp.Neg)
    value = node.this if negative else node
    if not isinstance(value, exp.Literal) or (negative and value.is_string):
        raise _refuse(node)
    if value.is_string:
        return str(value.this)
    try:
        number = Decimal(str(value.this))
    except InvalidOperation:
        raise _refuse(node) from None
    number = -number if negative else number
    return int(number) if number == number.to_integral_value() and "." not in str(value.this) else number


class _Evaluation:
    """One batch's rows under a checked expression, by three-valued logic."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._batch = batch

    def of(self, node: exp.Expr) -> Any:
        from sqlglot import exp

        pc = arrow_compute()
        if isinstance(node, exp.And | exp.Or):
            join: Callable[[Any, Any], Any] = pc.and_kleene if isinstance(node, exp.And) else pc.or_kleene
            return reduce(join, [self.of(side) for side in node.flatten()])
        if isinstance(node, exp.Paren):
            return self.of(node.this)
        if isinstance(node, exp.Not):
            return pc.invert(self.of(node.this))
        values = self._batch.column(_column(node.this))
        if isinstance(node, exp.Is):
            return pc.is_null(values)
        if isinstance(node, exp.Between | exp.LT | exp.LTE | exp.GT | exp.GTE):
            self._require_order(node, values.type)
        if isinstance(node, exp.Between):
            above = pc.greater_equal(values, self._scalar(node.args["low"], values.type))
            return pc.and_kleene(above, pc.less_equal(values, self._scalar(node.args["high"], values.type)))
        if isinstance(node, exp.In):
            equal = [pc.equal(values, self._scalar(item, values.type)) for item in node.expressions]
            return reduce(pc.or_kleene, equal)
        if isinstance(node, exp.Like):
            return pc.match_like(values, str(_literal(node.expression)))
        compare = {
            exp.EQ: pc.equal,
            exp.NEQ: pc.not_equal,
            exp.LT: pc.less,
            exp.LTE: pc.less_equal,
            exp.GT: pc.greater,
            exp.GTE: pc.greater_equal,
        }[type(node)]
        return compare(values, self._scalar(node.expression, values.type))

    @staticmethod
    def _require_order(node: exp.Expr, kind: pa.DataType) -> None:
        """Text has another order than the numbers that it may hold."""
        import pyarrow as pa
        from sqlglot import exp

        name = _column(node.this)
        literals = [node.args["low"], node.args["high"]] if isinstance(node, exp.Between) else [node.expression]
        if pa.types.is_string(kind) and not all(isinstance(_literal(item), str) for item in literals):
            raise ConfigurationError(
                f"column {name} is text, and the row filter compares its order with a number.",
                remedy=f"Compare it with a text ({name} >= '10'), or for equality only.",
            )

    def _scalar(self, node: Any, kind: pa.DataType) -> Any:
        import pyarrow as pa

        value = _literal(node)
        if isinstance(value, bool) and pa.types.is_integer(kind):  # MySQL's booleans are small integers
            value = int(value)
        try:
            if pa.types.is_timestamp(kind) and isinstance(value, str):
                moment = pa.scalar(value).cast(pa.timestamp("us"))
                return moment if kind.tz is None else arrow_compute().assume_timezone(moment, "UTC")
            if pa.types.is_decimal(kind) and not isinstance(value, bool):
                return pa.scalar(Decimal(value))
            if isinstance(value, str) or pa.types.is_string(kind) or pa.types.is_floating(kind):
                text = value if isinstance(value, str) else str(value)
                return pa.scalar(text).cast(kind)
            return pa.scalar(value)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, InvalidOperation):
            raise ConfigurationError(
                f"the row filter compares a column of type {kind} with a literal of another kind.", remedy=_HELP
            ) from None


def range_filter(column: str, low: str | None, high: str | None) -> RowFilter:
    """``column`` between two literals, both included; None is open. One of them is given."""
    from sqlglot import exp

    name = exp.column(exp.to_identifier(column, quoted=True))
    bounds: list[exp.Expr] = []
    if low is not None:
        bounds.append(exp.GTE(this=name.copy(), expression=exp.Literal.string(low)))
    if high is not None:
        bounds.append(exp.LTE(this=name.copy(), expression=exp.Literal.string(high)))
    return RowFilter(reduce(lambda a, b: exp.and_(a, b), bounds))


__all__ = ["RowFilter", "range_filter"]
