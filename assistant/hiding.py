"""Secrets in the text of a rule: taken out before somebody sees it, put back when it is saved.

What a webhook is sent with may be one: the path of its address, its headers, what is called token or password in its
JSON. `${NAME}` is none. A mark stands for each; it is only put back where a secret stood, for the same host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from assistant.config import SECRET_KEY, VARIABLE
from assistant.errors import ConfigurationError
from assistant.rewriting import RuleText, yaml_node

MARK = re.compile(r"‹hidden \d+›")
ORIGIN = re.compile(r"https?://[^/?#\s{]*")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A secret of a rule, and what is shown in its place."""

    shown: str  # the scalar, as somebody sees it
    written: str  # the scalar, as it stands in the file
    mark: str
    value: str  # what the mark stands for
    origin: str  # of the webhook that it belongs to


@dataclass(frozen=True, slots=True)
class _Scalar:
    start: int
    end: int
    value: str
    origin: str
    is_url: bool


def hide(rule: RuleText) -> tuple[str, list[Hidden]]:
    """The text of a rule without its secrets, and those. A text that cannot be read by itself is not shown."""
    try:
        node = yaml_node(rule.text)
    except ConfigurationError:  # an alias of something outside
        return "# this rule uses parts of the rest of the file; change it there\n", []
    text, hidden = rule.text, []
    found = [scalar for scalar in _secrets(node, rule.text) if _is_hidden(scalar)]
    for number, scalar in enumerate(found, 1):
        mark = f"‹hidden {number}›"
        kept = scalar.origin + "/" if scalar.is_url else ""
        value = scalar.value[len(scalar.origin) :].removeprefix("/") if scalar.is_url else scalar.value
        shown = json.dumps(kept + mark, ensure_ascii=False)
        hidden.append(Hidden(shown, rule.text[scalar.start : scalar.end], mark, value, scalar.origin))
    for scalar, one in sorted(zip(found, hidden, strict=True), key=lambda pair: -pair[0].start):
        text = text[: scalar.start] + one.shown + text[scalar.end :]
    return text, hidden


def reveal(text: str, hidden: list[Hidden]) -> str:
    """The text with its secrets back in their places. Raises `ConfigurationError` for a mark that stands elsewhere."""
    if MARK.search(text) is None:
        return text
    known = {one.mark: one for one in hidden}
    for scalar in sorted(_secrets(yaml_node(text), text), key=lambda scalar: -scalar.start):
        if (match := MARK.search(scalar.value)) is None:
            continue
        one = known.get(match[0])
        if one is None or one.origin != scalar.origin:
            break
        written = text[scalar.start : scalar.end]
        whole = one.written if written == one.shown else json.dumps(scalar.value.replace(one.mark, one.value))
        text = text[: scalar.start] + whole + text[scalar.end :]
    if left := MARK.search(text):
        line = text.count("\n", 0, left.start()) + 1
        raise ConfigurationError(
            f"line {line}: {left[0]} stands for a secret of another place or host; remedy: write it anew, best as "
            "${NAME} or {file: PATH}"
        )
    return text


def _is_hidden(scalar: _Scalar) -> bool:
    rest = scalar.value[len(scalar.origin) :] if scalar.is_url else scalar.value
    return bool(rest.strip("/")) and not any(match[2] for match in VARIABLE.finditer(rest))


def _secrets(node: yaml.Node | None, text: str) -> Iterator[_Scalar]:
    """The scalars of webhooks that may be secrets."""
    for webhook in _webhooks(node):
        url = next((value for key, value in webhook.value if key.value == "url"), None)
        match = ORIGIN.match(url.value) if isinstance(url, yaml.ScalarNode) else None
        origin = match[0] if match else ""
        for key, value in webhook.value:
            for place, scalar in _scalars(value, (str(key.value),)):
                is_url = place == ("url",)
                if is_url or (place[0] == "headers" and place[-1] != "file") or SECRET_KEY.search(place[-1]):
                    end = scalar.end_mark.index
                    if scalar.style in {"|", ">"}:
                        end = len(text[:end].rstrip())
                    yield _Scalar(scalar.start_mark.index, end, scalar.value, origin, is_url)


def _webhooks(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "webhook" and isinstance(value, yaml.MappingNode):
                yield value
            elif isinstance(value, yaml.CollectionNode):
                yield from _webhooks(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _webhooks(item)


def _scalars(node: yaml.Node, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], yaml.ScalarNode]]:
    if isinstance(node, yaml.ScalarNode):
        yield place, node
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _scalars(value, (*place, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _scalars(item, place)
