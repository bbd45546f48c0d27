"""The conditions of a row filter that an API applies by itself, in parameters that its config declares."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from assets.row_filter import RowFilter
from assets.sources.rest_config import Endpoint

if TYPE_CHECKING:
    from sqlglot import exp


def filtered_endpoint(endpoint: Endpoint, row_filter: str) -> Endpoint:
    """The endpoint asked for the filter's rows only, as far as its parameters tell them.

    The filter is applied to what comes all the same, so a parameter may let more rows pass than the filter does.

    Args:
        row_filter: ``SourceTable.row_filter`` of the endpoint's own table.
    """
    if not row_filter or not endpoint.filters:
        return endpoint
    params = dict(endpoint.params)
    for node in RowFilter.parse(row_filter).parts():
        for column, operator, value in _conditions(node):
            for declared in endpoint.filters:
                fits = declared.operator in (operator, operator + "=")  # >= lets pass what > does
                if fits and declared.field.replace(".", "__") == column:
                    params.setdefault(declared.param, value)
    return endpoint.model_copy(update={"params": params})


def _conditions(node: exp.Expr) -> list[tuple[str, str, str]]:
    """Column, operator and value of what has to hold for each row that passes."""
    from sqlglot import exp

    node = node.unnest()
    operators = {exp.EQ: "=", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
    if isinstance(node, exp.Between):
        return [(node.this.name, ">=", _text(node.args["low"])), (node.this.name, "<=", _text(node.args["high"]))]
    if isinstance(node, exp.In) and len(node.expressions) == 1:
        return [(node.this.name, "=", _text(node.expressions[0]))]
    operator = operators.get(type(node))
    return [(node.this.name, operator, _text(node.expression))] if operator else []


def _text(node: exp.Expr) -> str:
    value = RowFilter.value_of(node)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
