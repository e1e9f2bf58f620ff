"""Conditions that select clips by their columns: `motion > 0.02 and not static and (cut < 0.15 or aesthetic >= 5)`.

The text is read with Python's parser, and only comparisons (also chained), `in [...]`, `and`, `or`, `not`, columns,
numbers, strings and `true` or `false` are understood; nothing is ever executed. A missing value (null or NaN) makes a
comparison neither true nor false, as in SQL: neither it nor its `not` selects the clip, while `or` may still do so.
"""

import ast
import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from animatediff.errors import UserError

_Value = Callable[[pa.Table], Any]
"""Table -> a column of it, or a plain constant."""
_Test = Callable[[pa.Table], Any]
"""Table -> boolean column with nulls, or one boolean for all rows."""

_COMPARISONS: dict[type[ast.cmpop], Callable[..., Any]] = {
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
}
_BOOLEANS = {"true": True, "false": False}


@dataclass(frozen=True)
class Where:
    """A condition, ready to be applied."""

    text: str
    columns: frozenset[str]
    """The columns that it needs."""
    _test: _Test = field(repr=False, compare=False)

    def mask(self, table: pa.Table) -> np.ndarray:
        """Which rows of a table are selected: (n,) bool.

        Raises:
            UserError: the table lacks a column, or a column has another type than its use here wants.
        """
        missing = sorted(self.columns - set(table.column_names))
        if missing:
            raise UserError(f"where {self.text!r}: the clips have no column {missing[0]!r}")
        chosen = self._test(table)
        if isinstance(chosen, pa.Scalar):
            return np.full(len(table), bool(chosen.as_py()))
        return np.asarray(pc.fill_null(chosen, False), dtype=bool)


def parse(text: str, columns: Collection[str] | None = None) -> Where:
    """Read a condition.

    Args:
        text: the condition.
        columns: names that it may use; None takes any, as long as no dataset is known.

    Raises:
        UserError: it is no condition, or uses a name that is not there.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        parser = _Parser(text, columns)
        test = parser.test(tree)
    except SyntaxError as error:
        where = f" at character {error.offset}" if error.offset else ""
        raise UserError(f"where {text!r}: {error.msg}{where}; write it like motion > 0.02 and not static") from error
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"where {text[:80]!r}: it cannot be read: {error or 'nested too deeply'}") from error
    return Where(text, frozenset(parser.used), test)


class _Parser:
    """Turns the closed grammar into functions of a table, and refuses the rest."""

    def __init__(self, text: str, columns: Collection[str] | None) -> None:
        self._text, self._columns = text, columns
        self.used: set[str] = set()

    def test(self, node: ast.expr) -> _Test:
        """What is true or false of a clip."""
        if isinstance(node, ast.BoolOp):
            combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
            tests = [self.test(value) for value in node.values]
            return lambda table: reduce(combine, [test(table) for test in tests])
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            negated = self.test(node.operand)
            return lambda table: pc.invert(negated(table))
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Name | ast.Constant):
            return self._flag(node)
        raise self._error(node, "is no condition: combine comparisons with and, or, not")

    def _comparison(self, node: ast.Compare) -> _Test:
        pairs = zip(pairwise([node.left, *node.comparators]), node.ops, strict=True)
        tests = [self._one_comparison(left, op, right, node) for (left, right), op in pairs]
        return lambda table: reduce(pc.and_kleene, [test(table) for test in tests])

    def _one_comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr, whole: ast.expr) -> _Test:
        if isinstance(op, ast.In | ast.NotIn):
            return self._membership(left, right, whole, negate=isinstance(op, ast.NotIn))
        if type(op) not in _COMPARISONS:
            raise self._error(whole, "is not understood: compare with < <= == != >= > or in")
        compare, a, b = _COMPARISONS[type(op)], self._value(left), self._value(right)
        if not _is_column(left) and not _is_column(right):
            raise self._error(whole, "names no column")

        def test(table: pa.Table) -> Any:
            x, y = a(table), b(table)
            return self._checked(whole, lambda: compare(_like(x, y), _like(y, x)))

        return test

    def _membership(self, left: ast.expr, right: ast.expr, whole: ast.expr, *, negate: bool) -> _Test:
        if not _is_column(left) or not isinstance(right, ast.List | ast.Tuple | ast.Set):
            raise self._error(whole, "is not understood: write column in [1, 2, 3]")
        column, values = self._value(left), [self._constant(item) for item in right.elts]

        def test(table: pa.Table) -> Any:
            x = column(table)
            found = self._checked(whole, lambda: pc.is_in(x, pa.array(values, x.type)))
            found = pc.invert(found) if negate else found
            return pc.if_else(pc.is_valid(x), found, pa.scalar(None, pa.bool_()))

        return test

    def _flag(self, node: ast.Name | ast.Constant) -> _Test:
        value = self._value(node)

        def test(table: pa.Table) -> Any:
            flag = value(table)
            if isinstance(flag, bool):
                return pa.scalar(flag)
            if not pa.types.is_boolean(flag.type):
                raise self._error(node, f"is {flag.type}, not true or false: compare it with something")
            return flag

        if isinstance(node, ast.Constant) and not isinstance(node.value, bool):
            raise self._error(node, "alone is no condition")
        return test

    def _value(self, node: ast.expr) -> _Value:
        if _is_column(node):
            name = self._known(ast.unparse(node))
            return lambda table: _without_nan(table[name])
        constant = self._constant(node)
        return lambda table: constant

    def _constant(self, node: ast.expr) -> bool | int | float | str:
        if isinstance(node, ast.Name) and node.id in _BOOLEANS:
            return _BOOLEANS[node.id]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = node.operand.value
            if isinstance(number, int | float) and not isinstance(number, bool):
                return -number
        if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            return node.value
        raise self._error(node, "is not understood: use columns, numbers, strings, true and false")

    def _known(self, name: str) -> str:
        if self._columns is not None and name not in self._columns:
            close = difflib.get_close_matches(name, self._columns, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(self._columns))}"
            raise UserError(f"where {self._text!r}: there is no column {name!r}, {hint}")
        self.used.add(name)
        return name

    def _checked(self, node: ast.expr, compute: Callable[[], Any]) -> Any:
        try:
            return compute()
        except (pa.ArrowException, OverflowError, TypeError) as error:
            raise self._error(node, "compares things of different types") from error

    def _error(self, node: ast.expr, problem: str) -> UserError:
        return UserError(f"where {self._text!r}: {ast.unparse(node)!r} {problem}")


def _is_column(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id not in _BOOLEANS


def _without_nan(column: Any) -> Any:
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)


def _like(value: Any, other: Any) -> Any:
    """Return a constant in the type of the floats that it is compared with.

    Or a stored 0.02 would be less than 0.02.
    """
    if isinstance(value, pa.ChunkedArray | pa.Array):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and pa.types.is_floating(other.type):
        return pa.scalar(value, other.type)
    return pa.scalar(value)
