"""Changes in the text of a configuration file that leave everything else as it stands, to the byte.

Comments, order, quotes and `${NAME}` stay, since only the text of what changes is cut out and written anew: a library
that reads and writes the whole file would lay out its lists again and lose the comments beside what goes. Whatever a
file looks like, the result is read again and must mean what was asked for; else nothing is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from assistant.config import Loader
from assistant.errors import ConfigurationError

Path = tuple[str | int, ...]
STEP = 2  # columns that what we write is indented by
PLAIN = re.compile(r"[A-Za-z_/~][A-Za-z0-9_./@~+-]*")
BY_HAND = "this cannot be changed here without touching more of the file; remedy: change it in the file itself"


class Gone:
    """In place of a value: the key is to be removed."""


GONE = Gone()
Value = str | int | float | bool | None | Sequence[str] | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RuleText:
    """One rule as it stands in the file."""

    text: str  # moved to the left margin, without the dash
    line: int  # of the file, from 1
    start: int  # characters: where its first line begins
    end: int  # after the newline of its last
    column: int  # where its text begins in its lines


def with_values(text: str, changes: Mapping[Path, Value | Gone]) -> str:
    """`text` with other values. Raises `ConfigurationError` for a text that is not YAML, or laid out too oddly."""
    wanted = plain(_root(text)) or {}
    for path, value in changes.items():
        if isinstance(value, Gone):
            _take(wanted, path)
        else:
            _put(wanted, path, plain(yaml_node(_inline(value))))
        text = _without(text, path) if isinstance(value, Gone) else _with(text, path, value)
    return _checked(text, wanted)


def rules_in(text: str) -> list[RuleText]:
    """The rules of a file, in order. Those of a list in brackets stand in it as they would on lines of their own."""
    node = _at(_root(text), ("rules",))
    if not isinstance(node, yaml.SequenceNode):
        return []
    if node.flow_style:
        return [
            RuleText(
                text[item.start_mark.index : _end(item, text)],
                item.start_mark.line + 1,
                item.start_mark.index,
                _end(item, text),
                0,
            )
            for item in node.value
        ]
    return [_block(text, node, item) for item in node.value]


def with_rule(text: str, number: int | None, rule: str) -> str:
    """`text` with another rule at `number` (from 0), or with None one more at the end. Raises `ConfigurationError`."""
    rule = _margin(rule)
    item = yaml_node(rule)
    if not isinstance(item, yaml.MappingNode):
        raise ConfigurationError("a rule needs keys and values, for example: when: {sound: doorbell}")
    text = _listed(text)
    wanted = plain(_root(text)) or {}
    rules = rules_in(text)
    if number is None:
        _put(wanted, ("rules",), [*(wanted.get("rules") or []), plain(item)])
        text = _appended(text, rules, rule)
    else:
        wanted["rules"][number] = plain(item)
        place = rules[number]
        lead = text[place.start : place.start + place.column]
        if place.text.rstrip("\n") != rule.rstrip("\n"):
            text = text[: place.start] + _indented(rule, place.column, lead) + text[place.end :]
    return _checked(text, wanted)


def without_rule(text: str, number: int) -> str:
    """`text` without a rule. Raises `ConfigurationError`."""
    text = _listed(text)
    wanted = plain(_root(text)) or {}
    rules = rules_in(text)
    if len(rules) == 1:
        return with_values(text, {("rules",): GONE})
    del wanted["rules"][number]
    return _checked(text[: rules[number].start] + text[rules[number].end :], wanted)


def yaml_node(text: str) -> yaml.Node | None:
    """The nodes of a text. Raises `ConfigurationError` with the line."""
    try:
        return yaml.compose(text, Loader=Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigurationError(f"line {mark.line + 1 if mark else 1}: not YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"line 1: not YAML: {str(error).splitlines()[0]}") from None


def plain(node: yaml.Node | None) -> Any:  # noqa: ANN401 (a tree of whatever was written)
    """What nodes mean, to be compared: scalars with their type."""
    if isinstance(node, yaml.MappingNode):
        return {key.value: plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [plain(item) for item in node.value]
    return None if node is None or node.tag.endswith(":null") else (node.tag, node.value)


def scalar(value: str) -> str:
    """A text as it is written: bare where that is safe, else in quotes. `${` in it is meant as it stands."""
    return _quoted(value.replace("${", "$${"))


# --- how it is done ---------------------------------------------------------------------------------------------------


def _root(text: str) -> yaml.Node | None:
    root = yaml_node(text)
    if root is not None and not isinstance(root, yaml.MappingNode) and not root.tag.endswith(":null"):
        raise ConfigurationError("line 1: needs keys and values")
    return root


def _checked(text: str, wanted: object) -> str:
    if (plain(_root(text)) or None) != (wanted or None):
        raise ConfigurationError(BY_HAND)
    return text


def _put(tree: Any, path: Path, value: object) -> None:  # noqa: ANN401 (what nodes mean)
    """Do to what nodes mean what is to be done to the text. Raises `ConfigurationError` where a value is in the way."""
    for key in path[:-1]:
        if isinstance(tree, dict) and not tree.get(str(key)):
            tree[str(key)] = {}
        tree = tree[key] if isinstance(tree, dict) or isinstance(key, int) else None
    if not isinstance(tree, dict):
        raise ConfigurationError(BY_HAND)
    tree[str(path[-1])] = value


def _take(tree: Any, path: Path) -> None:  # noqa: ANN401
    """Take a key away, and what is empty then."""
    below = tree.get(path[0])
    if len(path) > 1 and isinstance(below, dict):
        _take(below, path[1:])
        if below:
            return
    tree.pop(path[0], None)


def _at(node: yaml.Node | None, path: Path) -> yaml.Node | None:
    for key in path:
        if isinstance(node, yaml.MappingNode):
            node = next((value for name, value in node.value if name.value == key), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
        else:
            return None
    return node


def _is_empty(node: yaml.Node | None) -> bool:
    return node is None or node.tag.endswith(":null")


def _end(node: yaml.Node, text: str) -> int:
    """After the last character of a node: that of PyYAML for blocks lies after the comments that follow."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        last = node.value[-1]
        if isinstance(node, yaml.MappingNode):
            key, value = last
            return max(_end(value, text), int(key.end_mark.index) + 1)
        return _end(last, text)
    end = int(node.end_mark.index)
    if isinstance(node, yaml.ScalarNode) and node.style in {"|", ">"}:
        return len(text[:end].rstrip())
    return end


def _line_end(text: str, index: int) -> int:
    """After the newline of the line that `index` lies in."""
    newline = text.find("\n", index)
    return len(text) if newline < 0 else newline + 1


def _with(text: str, path: Path, value: Value) -> str:
    root = _root(text)
    known = next(length for length in range(len(path), -1, -1) if length == 0 or _at(root, path[:length]) is not None)
    node = root if known == 0 else _at(root, path[:known])
    if known == len(path):
        assert node is not None  # noqa: S101 (known)
        return _replaced(text, root, path, node, value)
    rest = path[known:]
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        close = node.end_mark.index - 1
        comma = ", " if node.value else ""
        return text[:close].rstrip() + f"{comma}{rest[0]}: {_inline(_nested(rest[1:], value))}" + text[close:]
    if isinstance(node, yaml.MappingNode):
        at, column = _line_end(text, _end(node, text)), node.start_mark.column
    elif known == 0:
        at, column = len(text), 0
    elif _is_empty(node):  # a key with nothing below it, or nothing but comments
        key = _key(root, path[:known])
        at, column = _line_end(text, key.end_mark.index), key.start_mark.column + STEP
    else:
        raise ConfigurationError(BY_HAND)
    return _inserted(text, at, _written(rest, value, column))


def _replaced(text: str, root: yaml.Node | None, path: Path, node: yaml.Node, value: Value) -> str:
    start, end = node.start_mark.index, _end(node, text)
    if (isinstance(node, yaml.CollectionNode) and not node.flow_style) or start == end:
        start = _key(root, path).end_mark.index + 1  # after the colon
        return text[:start] + f" {_inline(value)}" + text[max(end, start) :]
    return text[:start] + _inline(value) + text[end:]


def _without(text: str, path: Path) -> str:
    root = _root(text)
    parent, node = (root if len(path) == 1 else _at(root, path[:-1])), _at(root, path)
    if node is None or not isinstance(parent, yaml.MappingNode):
        return text
    if len(parent.value) == 1 and len(path) > 1:
        return _without(text, path[:-1]) if isinstance(path[-2], str) else text
    key = _key(root, path)
    start, end = key.start_mark.index, max(_end(node, text), key.end_mark.index + 1)
    if not parent.flow_style:
        first = text.rfind("\n", 0, start) + 1
        return text[:first] + text[_line_end(text, end) :]
    if after := re.match(r"\s*,\s*", text[end:]):
        return text[:start] + text[end + after.end() :]
    before = re.search(r",\s*$", text[:start])
    return text[: before.start() if before else start] + text[end:]


def _key(root: yaml.Node | None, path: Path) -> yaml.Node:
    parent = _at(root, path[:-1]) if len(path) > 1 else root
    assert isinstance(parent, yaml.MappingNode)  # noqa: S101 (it was found there)
    key: yaml.Node = next(name for name, _ in parent.value if name.value == path[-1])
    return key


def _nested(path: Path, value: Value) -> Value:
    for key in reversed(path):
        value = {str(key): value}
    return value


def _written(path: Path, value: Value, column: int) -> str:
    """The lines of a new key, those above it that are new too, and their value."""
    lines = [f"{' ' * (column + STEP * depth)}{key}:" for depth, key in enumerate(path)]
    return "\n".join(lines) + f" {_inline(value)}\n"


def _inserted(text: str, at: int, lines: str) -> str:
    newline = "\n" if at and text[at - 1] != "\n" else ""
    return text[:at] + newline + lines + text[at:]


def _inline(value: Value) -> str:
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, str):
        return scalar(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(key)}: {_inline(one)}" for key, one in value.items()) + "}"
    return "[" + ", ".join(_inline(one) for one in value) + "]"


def _quoted(text: str) -> str:
    if PLAIN.fullmatch(text) and plain(yaml.compose(text, Loader=Loader)) == ("tag:yaml.org,2002:str", text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(sign if sign.isprintable() else f"\\U{ord(sign):08x}" for sign in quoted)


# rules


def _block(text: str, node: yaml.Node, item: yaml.Node) -> RuleText:
    """A rule on lines of its own, with the comments below it that are indented as it is."""
    dash = node.start_mark.column
    start = text.rfind("\n", 0, item.start_mark.index) + 1
    if text[start : item.start_mark.index].strip() != "-":  # the dash stands alone on a line above
        start = text.rfind("\n" + " " * dash + "-", 0, start) + 1
    end = _line_end(text, _end(item, text))
    while (line := text[end : _line_end(text, end)]) and re.match(rf" {{{dash + 1},}}#", line):
        end = _line_end(text, end)
    column = item.start_mark.column
    lines = text[start:end].splitlines(keepends=True)
    shown = [lines[0][column:], *(line[min(column, len(line) - len(line.lstrip(" "))) :] for line in lines[1:])]
    if text.rfind("\n", 0, item.start_mark.index) + 1 != start:
        shown = shown[1:]
    return RuleText("".join(shown), item.start_mark.line + 1, start, end, column)


def _margin(rule: str) -> str:
    """A rule as somebody typed it, moved to the left margin; a dash before it is taken away."""
    lines = rule.replace("\r\n", "\n").rstrip().split("\n")
    while lines and not lines[0].strip():
        del lines[0]
    if lines and (dash := re.match(r" *- +(?=\S)", lines[0])):
        lines = [" " * dash.end() + lines[0][dash.end() :], *lines[1:]]
    indents = [len(line) - len(line.lstrip(" ")) for line in lines if line.strip()]
    return "\n".join(line[min(indents, default=0) :] for line in lines) + "\n"


def _indented(rule: str, column: int, lead: str) -> str:
    """A rule behind its dash."""
    first, *rest = rule.rstrip("\n").split("\n")
    if lead.strip() != "-":
        lead = "- ".rjust(column)
    return "\n".join([lead + first, *(" " * column + line if line.strip() else line for line in rest)]) + "\n"


def _listed(text: str) -> str:
    """The same file, its rules on lines of their own rather than in brackets."""
    node = _at(_root(text), ("rules",))
    if not isinstance(node, yaml.SequenceNode) or not node.flow_style or not node.value:
        return text
    root = _root(text)
    if isinstance(root, yaml.MappingNode) and root.flow_style:
        raise ConfigurationError(BY_HAND)
    start = _key(root, ("rules",)).end_mark.index + 1
    items = "".join(f"\n{' ' * STEP}- {text[item.start_mark.index : _end(item, text)]}" for item in node.value)
    return text[:start] + items + text[_end(node, text) :]


def _appended(text: str, rules: Sequence[RuleText], rule: str) -> str:
    if rules:
        last = rules[-1]
        dash = " " * (len(text[last.start :]) - len(text[last.start :].lstrip(" ")))
        blank = "\n" if len(rules) > 1 and text[: last.start].endswith("\n\n") else ""
        return _inserted(text, last.end, blank + _indented(rule, len(dash) + 2, dash + "- "))
    root = _root(text)
    lines = _indented(rule, 2 * STEP, " " * STEP + "- ")
    node = _at(root, ("rules",))
    if node is None:
        blank = "\n" if text.strip() else ""
        if text and not text.endswith("\n"):
            blank = "\n" + blank
        return f"{text}{blank}rules:\n{lines}"
    if not _is_empty(node):  # []
        start = _key(root, ("rules",)).end_mark.index + 1
        text = text[:start] + text[node.end_mark.index :]
    return _inserted(text, _line_end(text, _key(_root(text), ("rules",)).end_mark.index), lines)
