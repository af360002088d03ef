"""Templates of payloads, topics and log lines: Jinja2 with nothing in it that can hang, grow without end or pry.

Jinja's own sandbox (https://jinja.palletsprojects.com/en/stable/sandbox/) keeps templates away from Python's internals,
but not from `"a" * 10**9` or a loop in a loop. So the syntax is a list of what is allowed, every loop is counted, and
whatever a template holds (in a variable, a loop or its output) weighs at most `LIMIT` characters, and what goes
through filters and methods is counted too. What remains is a template written to be slow: about a second at most.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2 import Template as JinjaTemplate
from jinja2.filters import FILTERS
from jinja2.meta import find_undeclared_variables
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from assistant.errors import AssistantError, ConfigurationError

SOURCE_LIMIT = 4_096  # characters of a template
LIMIT = 16_384  # characters of a result, and of everything held on the way to it
STEPS = 1_000  # rounds of all loops of one rendering together
WORK = 64 * LIMIT  # characters that go through filters, methods and joins in one rendering
LARGEST = 10**18  # whole numbers

_BUDGET = "_budget"  # where a rendering keeps its counter; fields cannot start with an underscore

METHODS = frozenset(
    {"capitalize", "endswith", "get", "items", "keys", "lower", "lstrip", "rstrip", "split", "startswith", "strip"}
    | {"title", "upper", "values"}
)
_PLAIN_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "first", "float", "int", "items", "last", "length", "list"),
    *("lower", "map", "max", "min", "reverse", "sort", "string", "sum", "title", "trim", "truncate", "unique"),
    *("upper", "urlencode", "wordcount"),
)

_ALLOWED: tuple[type[nodes.Node], ...] = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.For,
    nodes.Assign,
    nodes.Name,
    nodes.Literal,
    nodes.Pair,
    nodes.Keyword,
    nodes.CondExpr,
    nodes.Filter,
    nodes.Test,
    nodes.Call,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Slice,
    nodes.Compare,
    nodes.Operand,
    nodes.Concat,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Neg,
    nodes.Pos,
    nodes.Add,
    nodes.Sub,
    nodes.Mul,
    nodes.Div,
    nodes.FloorDiv,
    nodes.Mod,
)


class _TooMuchError(TemplateError):
    """A template asked for more than it may have."""


class _Budget:
    """What one rendering may still spend."""

    def __init__(self) -> None:
        self.steps = STEPS
        self.work = WORK

    def step(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise _TooMuchError(f"its loops run more than {STEPS} times")

    def pay(self, value: object) -> None:
        self.work -= 1 + LIMIT - _weigh(value)
        if self.work < 0:
            raise _TooMuchError(f"it works through more than {WORK} characters")


def _weigh(value: object, left: int = LIMIT) -> int:
    """What is left of `left` characters after `value`, written out. Raises when nothing is."""
    if isinstance(value, str):
        left -= len(value)
    elif isinstance(value, Mapping):
        left -= 1
        for key, item in value.items():
            left = _weigh(item, _weigh(key, left))
    elif isinstance(value, list | tuple):
        left -= 1
        for item in value:
            left = _weigh(item, left - 1)
    else:
        left -= 1
    if left < 0:
        raise _TooMuchError(f"it makes more than {LIMIT} characters")
    return left


@pass_context
def _held(context: Context, value: Any) -> Any:  # noqa: ANN401 (a template's value)
    """`value` when it is small enough to be kept or worked on, paid for."""
    context[_BUDGET].pay(value)
    return value


@pass_context
def _counted(context: Context, value: Iterable[Any]) -> list[Any]:
    """The rounds of a loop, paid for."""
    items = list(value)
    _weigh(items)
    context[_BUDGET].step(len(items))
    return items


def _range(*arguments: int) -> range:
    numbers = range(*arguments)
    if len(numbers) > STEPS:
        raise _TooMuchError(f"range() of more than {STEPS}")
    return numbers


def _finish(value: Any) -> Any:  # noqa: ANN401 (a template's value)
    """What an expression prints: nothing for what is unknown, JSON for lists and mappings."""
    if value is None:
        return ""
    if isinstance(value, Undefined):
        return value  # StrictUndefined raises when it is printed
    _weigh(value)
    return _tojson(value) if isinstance(value, list | tuple | Mapping) else value


def _tojson(value: object) -> str:
    """JSON on one line, in the letters it was said in (Jinja's own filter escapes for HTML)."""
    _weigh(value)
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=list)


def _join(values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    items = [str(item[attribute] if attribute is not None else item) for item in values]
    _weigh(separator * min(len(items), LIMIT) if len(separator) * len(items) <= LIMIT else [separator] * LIMIT)
    _weigh(items)
    return separator.join(items)


def _replace(text: object, old: str, new: str) -> str:
    source = str(text)
    if len(source) + source.count(old) * len(new) > 2 * LIMIT:
        raise _TooMuchError(f"it makes more than {LIMIT} characters")
    return source.replace(old, new)


def _round(value: float, precision: int = 0) -> float:
    """Jinja's `round`, without its methods and for -12 to 12 digits; whole numbers print without a point."""
    if not -12 <= precision <= 12:
        raise _TooMuchError("round() takes -12 to 12 digits")
    rounded = round(float(value), precision)
    return int(rounded) if precision <= 0 and math.isfinite(rounded) else rounded


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox with arithmetic on numbers only and short texts."""

    intercepted_binops = frozenset({"+", "*", "%"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            return _held(context, left + right)
        for value in (left, right):
            if not isinstance(value, int | float) or abs(value) > LARGEST:
                raise _TooMuchError(f"{operator} works on numbers up to 10^18 only; ~ joins texts")
        return super().call_binop(context, operator, left, right)


class _Limiter(NodeTransformer):
    """Refuses what is not in the list and puts the counters in."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:  # noqa: ANN401
        if not isinstance(node, _ALLOWED):
            raise TemplateSyntaxError(f"{type(node).__name__} is not available here", node.lineno)
        return super().generic_visit(node, *args, **kwargs)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:  # noqa: N802 (named after the node)
        if node.name == "self" or node.name.startswith("_"):
            raise TemplateSyntaxError(f"{node.name} is not available here", node.lineno)
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 (named after the node)
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not available here", node.lineno)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_counted")
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802 (named after the node)
        self.generic_visit(node)
        node.node = _filtered(node.node, "_held")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 (named after the node)
        self.generic_visit(node)
        return _filtered(node, "_held")

    def visit_Call(self, node: nodes.Call) -> nodes.Node:  # noqa: N802 (named after the node)
        function = node.node
        named = isinstance(function, nodes.Name) and function.name == "range"
        if not named and not (isinstance(function, nodes.Getattr) and function.attr in METHODS):
            raise TemplateSyntaxError(
                f"only range() and the methods {', '.join(sorted(METHODS))} can be called; use a filter", node.lineno
            )
        self.generic_visit(node)
        if isinstance(function, nodes.Getattr):
            function.node = _filtered(function.node, "_held")
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:  # noqa: N802 (named after the node)
        if node.node is None or node.name not in _FILTERS or node.name.startswith("_"):
            names = ", ".join(sorted(name for name in _FILTERS if not name.startswith("_")))
            raise TemplateSyntaxError(f"there is no filter {node.name!r}; there are {names}", node.lineno)
        self.generic_visit(node)
        node.node = _filtered(node.node, "_held")
        return node


def _filtered(node: nodes.Node, name: str) -> nodes.Filter:
    """`node|name`."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


_FILTERS: dict[str, Callable[..., Any]] = {
    **{name: FILTERS[name] for name in _PLAIN_FILTERS},
    "join": _join,
    "replace": _replace,
    "round": _round,
    "tojson": _tojson,
    "_counted": _counted,
    "_held": _held,
}


def _url_part(value: Any) -> Any:  # noqa: ANN401 (a template's value)
    """What an expression prints into a URL: it stays within its segment, or within its value in the query."""
    printed = _finish(value)
    return printed if isinstance(printed, Undefined) else quote(str(printed), safe="")


def _environment(finalize: Callable[[Any], Any]) -> _Environment:
    environment = _Environment(undefined=StrictUndefined, finalize=finalize, optimized=False, autoescape=False)
    environment.filters = dict(_FILTERS)
    environment.globals = {"range": _range}
    return environment


_ENVIRONMENT, _URL_ENVIRONMENT = _environment(_finish), _environment(_url_part)


class Template:
    """A checked template; `names` are the fields it uses."""

    def __init__(self, source: str, fields: Collection[str], place: str = "template", *, url: bool = False) -> None:
        """`fields` are the names it may use, `place` is where it stands, for errors. Raises `ConfigurationError`.

        With `url` whatever an expression prints is escaped for a URL.
        """
        environment = _URL_ENVIRONMENT if url else _ENVIRONMENT
        self.place = place
        self.source = source
        if len(source) > SOURCE_LIMIT:
            raise ConfigurationError(
                f"{place}: the template has {len(source)} characters, at most {SOURCE_LIMIT} are read"
            )
        try:
            tree = environment.parse(source)
            self._members = frozenset(_members(tree))
            tree = _Limiter().visit(tree)
            self.names = frozenset(find_undeclared_variables(tree)) - {"range"}
            self.literals = tuple(data.data for data in tree.find_all(nodes.TemplateData))
            code = environment.compile(tree)
            self._template = JinjaTemplate.from_code(environment, code, dict(environment.globals))
        except TemplateSyntaxError as error:
            where = f" in line {error.lineno} of the template" if "\n" in source else ""
            raise ConfigurationError(f"{place}: {error.message}{where}") from None
        except Exception as error:  # what the parser and compiler raise for nonsense is not documented
            raise ConfigurationError(f"{place}: the template cannot be read: {_say(error)}") from None
        if unknown := sorted(self.names - set(fields)):
            raise ConfigurationError(f"{place}: unknown field {unknown[0]!r}; there are {', '.join(sorted(fields))}")

    def members(self, field: str) -> frozenset[str]:
        """What the template takes out of a field by name, as in `field.name` and `field["name"]`; methods left out."""
        return frozenset(name for owner, name in self._members if owner == field)

    def render(self, values: Mapping[str, Any]) -> str:
        """The text for `values` (plain texts, numbers, lists and mappings). Raises `AssistantError`."""
        parts: list[str] = []
        left = LIMIT
        try:
            for part in self._template.generate({**values, _BUDGET: _Budget()}):
                left = _weigh(part, left)
                parts.append(part)
        except Exception as error:  # any Python error can come out of an expression on unexpected values
            raise AssistantError(f"{self.place}: {_say(error)}") from None
        return "".join(parts)


def _members(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    """Name of a variable and of what is taken out of it, wherever that is plain to see."""
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        match node:
            case nodes.Getattr(node=nodes.Name(name=owner), attr=name) if name not in METHODS:
                yield owner, name
            case nodes.Getitem(node=nodes.Name(name=owner), arg=nodes.Const(value=str(name))):
                yield owner, name


def _say(error: Exception) -> str:
    """An error of the template engine as a short sentence."""
    text = str(error).splitlines()[0][:200] if str(error) else ""
    if isinstance(error, TemplateError) or not text:
        return text or type(error).__name__
    return f"{text} ({type(error).__name__})"
