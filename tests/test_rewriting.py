"""Changes in a configuration file touch nothing else, and say so where they cannot."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.config import Loader, parse, shipped
from assistant.errors import ConfigurationError
from assistant.rewriting import GONE, plain, rules_in, scalar, with_rule, with_values, without_rule

FILE = Path("config.yaml")
HOUSE = """\
# my house

rooms:  # two of them
  kitchen: {source: "default", name: 台所}   # by the window
  garden:
    source: 'rtsp://camera/1'  # old camera
    # area: Outside
mqtt:
  # url: mqtt://old
  host: broker.local
  password: ${MQTT_PASSWORD}  # not here

rules:
  # at night
  - name: dog
    when: {sound: dog_bark,
           room: garden}  # the neighbours' one
    do:
      - log: "It barks"
      # - say: quiet!

  # the bell
  -   when:
        sound: doorbell
      do: {log: ring}
# the end
privacy: {transcripts: false}
"""


@pytest.mark.parametrize(
    ("changes", "before", "after"),
    [
        ({("rooms", "kitchen", "source"): "usb:0d8c:0014"}, '"default"', "usb:0d8c:0014".join('""')),
        ({("rooms", "garden", "source"): "default"}, "'rtsp://camera/1'", "default"),
        ({("rooms", "garden", "name"): "Garten"}, "camera\n    # area", "camera\n    name: Garten\n    # area"),
        ({("rooms", "kitchen", "area"): "Kitchen"}, "name: 台所}", "name: 台所, area: Kitchen}"),
        ({("rooms", "attic", "source"): "default"}, "camera\n    #", "camera\n  attic:\n    source: default\n    #"),
        ({("mqtt", "password"): GONE}, "  password: ${MQTT_PASSWORD}  # not here\n", ""),
        ({("mqtt", "host"): "a", ("mqtt", "port"): 8883}, "broker.local", "a"),
        ({("privacy", "transcripts"): True}, "{transcripts: false}", "{transcripts: true}"),
        ({("privacy", "transcripts"): GONE}, "privacy: {transcripts: false}\n", ""),
        ({("clips", "enabled"): True}, "false}\n", "false}\nclips:\n  enabled: true\n"),
        ({("sounds", "ignore"): ["bird", "cat"]}, "false}\n", "false}\nsounds:\n  ignore: [bird, cat]\n"),
    ],
)
def test_only_what_changes_changes(changes: dict[Any, Any], before: str, after: str) -> None:
    changed = with_values(HOUSE, changes)
    expected = HOUSE.replace(before, after, 1)
    if ("mqtt", "port") in changes:
        expected = expected.replace("  # not here\n", "  # not here\n  port: 8883\n")
    assert changed == expected


def test_a_key_with_nothing_but_comments_below_gets_its_first_value() -> None:
    assert with_values("mqtt:\n  # host: x\nrules: []\n", {("mqtt", "host"): "b"}) == (
        "mqtt:\n  host: b\n  # host: x\nrules: []\n"
    )
    assert with_values("", {("privacy", "transcripts"): True}) == "privacy:\n  transcripts: true\n"
    assert with_values("# nothing yet", {("a",): 1}) == "# nothing yet\na: 1\n"
    assert with_values("sounds: {ignore: [a]}", {("sounds", "ignore"): []}) == "sounds: {ignore: []}"
    assert with_values("a:\n  b:\n    - x  # one\n    - y\n  c: 1\n", {("a", "b"): ["z"]}) == "a:\n  b: [z]\n  c: 1\n"
    assert with_values("a: {b: 1, c: 2, d: 3}", {("a", "d"): GONE}) == "a: {b: 1, c: 2}"
    assert with_values("a: {b: 1, c: 2, d: 3}", {("a", "b"): GONE}) == "a: {c: 2, d: 3}"
    assert with_values("a: 1\n", {("x", "y"): GONE}) == "a: 1\n"


def test_a_rule_is_shown_as_it_stands() -> None:
    dog, bell = rules_in(HOUSE)
    assert dog.text.startswith("name: dog\nwhen: {sound: dog_bark,\n       room: garden}  # the neighbours")
    assert dog.text.endswith('do:\n  - log: "It barks"\n  # - say: quiet!\n')
    assert dog.line == HOUSE[: HOUSE.index("- name: dog")].count("\n") + 1
    assert bell.text == "when:\n  sound: doorbell\ndo: {log: ring}\n"
    assert rules_in("") == rules_in("rules:\n") == rules_in("rules: {a: b}\n") == []
    (one,) = rules_in("rules:\n-\n  when: {sound: cat}\n  do: {log: x}\n")
    assert one.text == "when: {sound: cat}\ndo: {log: x}\n"
    assert [one.text for one in rules_in("rules: [{when: a}, {when: b}]\n")] == ["{when: a}", "{when: b}"]


def test_the_same_rule_again_changes_nothing() -> None:
    for number, one in enumerate(rules_in(HOUSE)):
        assert with_rule(HOUSE, number, one.text) == HOUSE


def test_another_rule_takes_its_place() -> None:
    changed = with_rule(
        HOUSE, 1, "name: bell  # new\nwhen: {sound: doorbell}\ndo:\n  - log: |\n      two\n      lines\n"
    )
    assert changed == HOUSE.replace(
        "  -   when:\n        sound: doorbell\n      do: {log: ring}\n",
        "  -   name: bell  # new\n      when: {sound: doorbell}\n      do:\n        - log: |\n            two\n"
        "            lines\n",
    )
    pasted = with_rule(HOUSE, 1, "\n  - when: {sound: cat}\n    do: {log: x}\n\n")
    assert rules_in(pasted)[1].text == "when: {sound: cat}\ndo: {log: x}\n"


def test_one_more_rule_goes_to_the_end() -> None:
    rule = "when: {sound: cat}\ndo: {log: meow}\n"
    shown = "- when: {sound: cat}\n    do: {log: meow}\n"
    assert with_rule(HOUSE, None, rule) == HOUSE.replace("do: {log: ring}\n", f"do: {{log: ring}}\n  {shown}")
    assert with_rule("", None, rule) == f"rules:\n  {shown}"
    assert with_rule("a: 1", None, rule) == f"a: 1\n\nrules:\n  {shown}"
    assert with_rule("rules:\n# none\na: 1\n", None, rule) == f"rules:\n  {shown}# none\na: 1\n"
    assert with_rule("rules: []  # none\n", None, rule) == f"rules:  # none\n  {shown}"
    flat = "rules:\n- when: {sound: bird}\n  do: {log: x}\n"
    assert with_rule(flat, None, rule) == f"{flat}- when: {{sound: cat}}\n  do: {{log: meow}}\n"
    listed = "rules: [{when: {sound: bird}, do: {log: x}}]  # few\n"
    assert with_rule(listed, None, rule) == f"rules:\n  - {{when: {{sound: bird}}, do: {{log: x}}}}  # few\n  {shown}"


def test_a_rule_is_taken_away() -> None:
    assert without_rule(HOUSE, 1) == HOUSE.replace("  -   when:\n        sound: doorbell\n      do: {log: ring}\n", "")
    once = without_rule(HOUSE, 0)
    assert "dog" not in once
    assert "# at night\n\n  # the bell" in once
    assert without_rule("a: 1\nrules:\n  - when: x\nb: 2\n", 0) == "a: 1\nb: 2\n"
    assert without_rule("rules: [{when: x}, {when: y}]\n", 0) == "rules:\n  - {when: y}\n"


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("", "keys and values"),
        ("when: {sound: cat", "line 2: not YAML"),
        ("when: a\n when: b\n", "line 2"),
        ("just words", "keys and values"),
        ("a: 1\n--- \nb: 2\n", "line 2"),
        ("\twhen: a", "line 1"),
        ("when: *unknown", "undefined alias"),
    ],
)
def test_what_is_no_rule_is_told_with_its_line(rule: str, told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        with_rule(HOUSE, 0, rule)


@pytest.mark.parametrize(
    "text",
    [
        "{rules: [{when: {sound: cat}, do: {log: x}}]}",
        "a: &here {b: 1}\nrules: *here\n",
        "rooms: &all\n  a: {source: x}\nclips: *all\n",
    ],
)
def test_what_would_touch_more_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="in the file itself"):
        with_values(with_rule(text, None, "when: {sound: cat}\ndo: {log: x}"), {("clips", "a", "source"): "y"})


def test_the_example_survives_every_change() -> None:
    example = shipped("config.example.yaml").read_text("utf-8")
    for number, one in enumerate(rules_in(example)):
        assert with_rule(example, number, one.text) == example
        assert len(rules_in(without_rule(example, number))) == len(rules_in(example)) - 1
    changed = with_values(
        example,
        {
            ("rooms", "kitchen", "source"): "usb:1",
            ("mqtt", "host"): "x",
            ("mqtt", "tls"): True,
            ("mqtt", "password_file"): GONE,
            ("sounds", "ignore"): ["bird"],
            ("clips", "drop_speech"): True,
        },
    )
    before, after = example.splitlines(), changed.splitlines()
    assert len(set(before) - set(after)) == 5  # one is gone, and `tls` is new
    assert len(set(after) - set(before)) == 5


# --- anything at all --------------------------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)


@given(words)
def test_a_text_is_read_back_as_it_was(text: str) -> None:
    written = with_values("# x\na: {b: 1}\n", {("a", "c"): text})
    assert parse_plain(written)["a"]["c"].replace("$${", "${") == text
    assert yaml.load(f"x: {scalar(text)}", Loader)["x"].replace("$${", "${") == text  # noqa: S506 (a safe one)


def parse_plain(text: str) -> Any:
    return yaml.load(text, Loader)  # noqa: S506 (a safe one)


names = st.sampled_from(["a", "b", "c", "d"])
values = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.sampled_from(["x", "it's", "a: b", "# no", "", "on", "1:30", "- x"]),
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(names, deeper, max_size=3),
    max_leaves=12,
)
comments = st.sampled_from(["", "  # why", " #"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """A mapping written in many ways, comments everywhere."""
    lines: list[str] = []

    def write(value: Any, indent: int, lead: str) -> None:
        note = draw(comments)
        if isinstance(value, dict) and value and draw(st.booleans()):
            lines.append(f"{lead}{note}")
            for key, one in value.items():
                if draw(st.booleans()):
                    lines.append(" " * draw(st.sampled_from([0, indent + 2])) + "# above")
                write(one, indent + 2, " " * (indent + 2) + f"{key}:")
        elif isinstance(value, list) and value and draw(st.booleans()):
            lines.append(f"{lead}{note}")
            for one in value:
                write(one, indent + 4, " " * (indent + 2) + "-")
        else:
            flow = yaml.safe_dump(value, default_flow_style=True, width=1_000).removesuffix("...\n").strip()
            lines.append(f"{lead} {flow}{note}")

    for key, value in draw(st.dictionaries(names, values, min_size=1)).items():
        write(value, 0, f"{key}:")
    return "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n# end\n"]))


@settings(max_examples=120, deadline=None)
@given(documents(), st.lists(names, min_size=1, max_size=3), st.sampled_from(["new", True, 7, ["x", "y"], GONE]))
def test_any_file_means_what_was_asked_for_or_stays(text: str, path: list[str], value: Any) -> None:
    try:
        before = plain(yaml.compose(text, Loader=Loader))
    except yaml.YAMLError:
        return
    try:
        changed = with_values(text, {tuple(path): value})
    except ConfigurationError:
        return
    after = plain(yaml.compose(changed, Loader=Loader)) or {}
    for key, kept in before.items():
        if key != path[0]:
            assert after[key] == kept
    notes = [line for line in text.splitlines() if line.lstrip().startswith("#")]
    found: Any = before
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict | list) and value is not GONE:
        assert [line for line in changed.splitlines() if line.lstrip().startswith("#")] == notes


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(rules_in(shipped("config.example.yaml").read_text("utf-8"))), max_size=6), st.data())
def test_rules_come_and_go_and_the_file_stays_valid(chosen: list[Any], data: st.DataObject) -> None:
    text = "# top\nprivacy: {transcripts: false}\n# bottom\n"
    expected: list[str] = []
    for one in chosen:
        rule = "\n".join(line for line in one.text.splitlines() if not line.startswith("name:"))
        expected.append(rule)
        text = with_rule(text, None, rule)
    parse(text.replace("${", "$${"), FILE)
    while expected:
        number = data.draw(st.integers(0, len(expected) - 1))
        del expected[number]
        text = without_rule(text, number)
        assert [one.text.rstrip("\n") for one in rules_in(text)] == [one.rstrip("\n") for one in expected]
    assert text.startswith("# top\nprivacy: {transcripts: false}\n# bottom\n")
