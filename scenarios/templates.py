"""Templates of scenario files: Jinja in a sandbox, with native values.

A string that is one expression, `"{{ order.total | money }}"`, gives that expression's value with its type; any
other string gives text. There are expressions and `{% if %}`, the filters of `_FILTERS` and the text methods of
`_METHODS`. What a scenario can not do: reach Python's internals, use an undefined name, loop, change a value, or
build huge strings and numbers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, TypeVar

import jinja2
import jinja2.exceptions
import jinja2.nodes
import jinja2.sandbox

from toolenv.tools.calls import Json
from toolenv.tools.errors import ScenarioError

T = TypeVar("T")
Context = Mapping[str, Any]
Rendered = Callable[[Context], Json]

# Both in characters; of a list or mapping, in values.
MAX_SOURCE = 4_000
MAX_RESULT = 100_000
_MAX_BITS = 128
_CACHED = 4_096

_FILTERS = frozenset(
    "abs capitalize count default first float int join last length list lower map max min reject rejectattr"
    " reverse select selectattr sort string sum title trim unique upper".split()
)
_METHODS = frozenset("capitalize endswith lower split startswith strip title upper".split())
_JSON = (str, int, float, list, dict, type(None))
_STATEMENTS = (jinja2.nodes.Output, jinja2.nodes.If)
_WHOLE = re.compile(r"\s*\{\{((?:(?!\}\}|\{\{).)*)\}\}\s*", re.DOTALL)


class TemplateError(ScenarioError):
    """A template that does not compile, or that failed to render."""

    def __init__(self, problem: str) -> None:
        super().__init__([problem])


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise jinja2.exceptions.SecurityError(f"{operator} is for numbers only here")
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _MAX_BITS:
            raise jinja2.exceptions.SecurityError("the number is too large")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Fields before methods: `order.items` is the column `items`."""
        if isinstance(obj, dict):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return isinstance(obj, str) and attr in _METHODS

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format` at all: jinja would let it through, and widths make it a bomb."""


def money(cents: int) -> float:
    """Cents as a decimal amount: 12990 -> 129.9."""
    return round(cents / 100, 2)


def cents(amount: float) -> int:
    """A decimal amount in cents: 129.9 -> 12990."""
    return round(amount * 100)


def _replace(text: str, old: str, new: str) -> str:
    if len(text) + text.count(old) * len(new) > MAX_RESULT:
        raise ValueError("the text is too long")
    return text.replace(old, new)


def _round(number: float, digits: int = 0) -> float:
    if abs(digits) > 15:
        raise ValueError("at most 15 digits")
    return round(number, digits)


_ENVIRONMENT = _Environment(undefined=jinja2.StrictUndefined, autoescape=False)
_ENVIRONMENT.filters = {name: rule for name, rule in _ENVIRONMENT.filters.items() if name in _FILTERS}
_ENVIRONMENT.filters.update(money=money, cents=cents, replace=_replace, round=_round)
_ENVIRONMENT.globals.clear()


_place: ContextVar[str | None] = ContextVar("_place", default=None)


@contextmanager
def located(place: str) -> Iterator[None]:
    """Templates compiled within name `place` in their errors."""
    token = _place.set(place)
    try:
        yield
    finally:
        _place.reset(token)


def compile_template(source: Json) -> Rendered:
    """A function from variables to the value of `source`; mappings and lists are compiled through.

    Raises:
        TemplateError: a syntax error.
    """
    if isinstance(source, str):
        render, place = _compile_text(source), _place.get()
        return render if place is None or "{" not in source else _naming(render, place)
    if isinstance(source, dict):
        fields = {key: compile_template(value) for key, value in source.items()}
        return lambda context: {key: render(context) for key, render in fields.items()}
    if isinstance(source, list):
        items = [compile_template(value) for value in source]
        return lambda context: [render(context) for render in items]
    return lambda context: source


def _naming(render: Rendered, place: str) -> Rendered:
    def named(context: Context) -> Json:
        try:
            return render(context)
        except TemplateError as error:
            raise TemplateError(f"{place}: {error}") from None

    return named


def fields_in(source: str) -> set[tuple[str, str]]:
    """The (variable, field) pairs that a template reads, such as (order, id) of `order.id` or `order['id']`."""
    tree = _parse(source)
    fields = {
        (node.node.name, node.attr)
        for node in tree.find_all(jinja2.nodes.Getattr)
        if isinstance(node.node, jinja2.nodes.Name)
    }
    for item in tree.find_all(jinja2.nodes.Getitem):
        key = item.arg.value if isinstance(item.arg, jinja2.nodes.Const) else None
        if isinstance(item.node, jinja2.nodes.Name) and isinstance(key, str):
            fields.add((item.node.name, key))
    return fields


def names_in(source: Json) -> set[str]:
    """The variables that a template uses."""
    if isinstance(source, str):
        # Nothing binds a name here, so every name is a variable.
        return {name.name for name in _parse(source).find_all(jinja2.nodes.Name)} if "{" in source else set()
    values = source.values() if isinstance(source, dict) else source if isinstance(source, list) else ()
    return set().union(*(names_in(value) for value in values))


def expressions_in(text: str) -> tuple[str, list[Rendered]]:
    """`text` with each `{{ expression }}` replaced by `?`, and the expressions: SQL with bound parameters."""
    found = re.findall(r"\{\{(.*?)\}\}", text, re.DOTALL)
    return re.sub(r"\{\{.*?\}\}", "?", text, flags=re.DOTALL), [_compile_expression(source) for source in found]


@lru_cache(_CACHED)
def _compile_text(source: str) -> Rendered:
    if "{" not in source:
        return lambda context: source
    if (whole := _WHOLE.fullmatch(source)) is not None:
        return _compile_expression(whole.group(1))
    _parse(source)
    template = _attempt(lambda: _ENVIRONMENT.from_string(source))
    return _guarded(template.render, source)


@lru_cache(_CACHED)
def _compile_expression(source: str) -> Rendered:
    _require_short(source)
    expression = _attempt(lambda: _ENVIRONMENT.compile_expression(source.strip(), undefined_to_none=False))

    def evaluate(context: Context) -> Json:
        value = expression(context)
        if isinstance(value, jinja2.Undefined):
            value._fail_with_undefined_error()
        return list(value) if isinstance(value, Iterator) else value

    return _guarded(evaluate, source)


@lru_cache(_CACHED)
def _parse(source: str) -> jinja2.nodes.Template:
    """The syntax tree, in which there may only be text, expressions and `{% if %}`."""
    _require_short(source)
    tree = _attempt(lambda: _ENVIRONMENT.parse(source))
    for statement in tree.find_all(jinja2.nodes.Stmt):
        if not isinstance(statement, _STATEMENTS):
            raise TemplateError(f"there is no {{% {type(statement).__name__.lower()} %}} here, only {{% if %}}")
    return tree


def _require_short(source: str) -> None:
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"a template has at most {MAX_SOURCE} characters; this one has {len(source)}")


def _attempt(build: Callable[[], T]) -> T:
    try:
        return build()
    except (jinja2.TemplateSyntaxError, SyntaxError, ValueError) as error:
        raise TemplateError(str(error)) from None
    except (RecursionError, MemoryError):
        raise TemplateError("the expression is nested too deeply") from None


def _guarded(render: Rendered, source: str) -> Rendered:
    def guarded(context: Context) -> Json:
        try:
            value = render(context)
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
            raise TemplateError(f"{source.strip()!r}: {error}") from None
        if not isinstance(value, _JSON):
            raise TemplateError(f"{source.strip()!r} gives a {type(value).__name__}, which is no value of JSON")
        if isinstance(value, str | list | dict) and _size(value, MAX_RESULT) > MAX_RESULT:
            raise TemplateError(f"{source.strip()[:200]!r}: the result is too large")
        return value

    return guarded


def _size(value: Json, limit: int) -> int:
    """Characters of a text, values of a list or mapping; counting ends beyond `limit`."""
    if isinstance(value, str):
        return len(value)
    if not isinstance(value, list | dict):
        return 1
    size = 1
    for item in value.values() if isinstance(value, dict) else value:
        size += _size(item, limit - size)
        if size > limit:
            break
    return size
