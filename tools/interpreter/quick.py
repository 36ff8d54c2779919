"""What a line of Python could do as well, as tools of their own: cheaper, and hard to get wrong."""

from __future__ import annotations

import ast
import csv
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

from toolenv.tools.calls import Json
from toolenv.tools.errors import InvalidQuery, RuleViolation
from toolenv.tools.interpreter import workspace
from toolenv.tools.interpreter.arguments import Expression, Path, reads
from toolenv.tools.world import World

_LARGEST: Final = 1e15
_MOST_COLUMNS: Final = 40

Number = int | float

_OPERATORS: Final[dict[type[ast.AST], Callable[..., Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: math.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "abs": abs,
    "ceil": math.ceil,
    "floor": math.floor,
    "max": max,
    "min": min,
    "round": round,
    "sqrt": math.sqrt,
    "sum": lambda *numbers: sum(numbers),
}


@reads
def calculate(world: World, expression: Expression) -> dict[str, Json]:
    """Work out an arithmetic expression, such as (1200 - 75.5) * 3 / 4.

    Args:
        expression: Numbers, + - * / // % **, parentheses, and abs ceil floor max min round sqrt sum.
    """
    try:
        value = _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError, TypeError) as error:
        raise InvalidQuery(f"can not be worked out: {error}"[:200], field="expression", rule="arithmetic") from None
    except ZeroDivisionError:
        raise RuleViolation("division_by_zero", "the expression divides by zero", field="expression") from None
    except OverflowError:
        raise _too_large() from None
    return {"value": int(value) if isinstance(value, float) and value.is_integer() else round(value, 10)}


@reads
def describe_csv(world: World, path: Path) -> dict[str, Json]:
    """Describe a CSV file: its rows, and of each column the type, how many values are missing, and their range.

    Args:
        path: The file's path.
    """
    text = workspace.read(world, path)
    try:
        delimiter = csv.Sniffer().sniff(text[:2_000].partition("\n")[0] or ",", ",;\t|").delimiter
    except csv.Error:
        delimiter = ","
    try:
        header, *rows = list(csv.reader(text.splitlines(), delimiter=delimiter)) or [[]]
    except csv.Error as error:
        raise RuleViolation("not_csv", f"not a CSV file: {error}", field="path") from None
    columns = [_column(name, [row[i] if i < len(row) else "" for row in rows]) for i, name in enumerate(header)]
    return {"rows": len(rows), "delimiter": delimiter, "columns": columns[:_MOST_COLUMNS]}


def _value(node: ast.AST) -> Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return _small(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _small(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _small(_OPERATORS[type(node.op)](_value(node.operand)))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        if node.keywords:
            raise ValueError("functions take numbers only")
        return _small(_FUNCTIONS[node.func.id](*map(_value, node.args)))
    raise ValueError(f"only numbers, operators and the functions {', '.join(_FUNCTIONS)}")


def _small(number: Any) -> Number:
    if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
        raise ValueError("the result is no number")
    if abs(number) > _LARGEST:
        raise _too_large()
    return number


def _too_large() -> RuleViolation:
    return RuleViolation("too_large", f"numbers go up to {_LARGEST:g}", field="expression")


def _column(name: str, values: Sequence[str]) -> dict[str, Json]:
    filled = [value.strip() for value in values if value.strip()]
    described: dict[str, Json] = {"name": name, "missing": len(values) - len(filled)}
    numbers = [number for value in filled if (number := _number(value)) is not None]
    if filled and len(numbers) == len(filled):
        mean = round(math.fsum(numbers) / len(numbers), 4)
        return {**described, "type": "number", "min": min(numbers), "max": max(numbers), "mean": mean}
    described |= {"type": "text", "distinct": len(set(filled))}
    if filled:
        described |= {"min": min(filled), "max": max(filled)}
    return described


def _number(text: str) -> Number | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not math.isfinite(number) or abs(number) > _LARGEST:
        return None
    return int(number) if number.is_integer() else number
