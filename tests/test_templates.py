"""Templates render what they should, refuse what could hang, and never let a Python error out."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.errors import AssistantError, ConfigurationError
from assistant.templates import LIMIT, SOURCE_LIMIT, Template

VALUES = {
    "room": "kitchen",
    "text": None,
    "label": "Bark",
    "score": 0.9432,
    "words": [{"word": "good", "start": 0.0, "end": 0.4}, {"word": "night", "start": 0.4, "end": 1.0}],
    "long": "x" * LIMIT,
    "quoted": 'say "hi" <台所>',
}


def render(source: str) -> str:
    return Template(source, VALUES, "place").render(VALUES)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ label }} in {{ room }}", "Bark in kitchen"),
        ("{{ score | round(2) }}", "0.94"),
        ("{{ (score * 100) | round }} %", "94 %"),
        ("[{{ text }}]", "[]"),
        ("{{ {'room': room, 'text': text} | tojson }}", '{"room": "kitchen", "text": null}'),
        ("{{ quoted | tojson }}", '"say \\"hi\\" <台所>"'),
        ("{{ words | map(attribute='word') | join(' ') }}", "good night"),
        (
            "{% for w in words %}{{ loop.index }}{{ w.word }}{% if not loop.last %},{% endif %}{% endfor %}",
            "1good,2night",
        ),
        ("{% set names = {'kitchen': '台所'} %}{{ names[room] }}", "台所"),
        ("{{ words[0:1] }}", '[{"word": "good", "start": 0.0, "end": 0.4}]'),
        ("{% if score > 0.5 and room in ['kitchen', 'hall'] %}yes{% else %}no{% endif %}", "yes"),
        ("{{ label.upper() ~ '!' }}{{ 'a' + 'b' }}{{ 7 % 4 }}", "BARK!ab3"),
        ("{% for key, value in words[0].items() %}{{ key }}={{ value }} {% endfor %}", "word=good start=0.0 end=0.4 "),
        ("{{ range(3) | list }}", "[0, 1, 2]"),
        ("{{ room.nosuch | default('none') }}", "none"),
        ("no template at all", "no template at all"),
    ],
)
def test_renders(source: str, expected: str) -> None:
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ nosuch }}", "unknown field 'nosuch'"),
        ("{{ label ", "unexpected end of template"),
        ("{% if %}", "Expected an expression"),
        ("{{ label | center(99) }}", "no filter 'center'"),
        ("{{ label | attr('upper') }}", "no filter 'attr'"),
        ("{{ '{:>9}'.format(label) }}", "can be called"),
        ("{{ lipsum() }}", "can be called"),
        ("{{ cycler(1) }}", "can be called"),
        ("{{ self }}", "self is not available"),
        ("{{ _budget }}", "_budget is not available"),
        ("{{ 2 ** 9 }}", "Pow is not available"),
        ("{% macro x() %}{% endmacro %}", "Macro is not available"),
        ("{% include 'x' %}", "Include is not available"),
        ("{% filter upper %}x{% endfilter %}", "FilterBlock is not available"),
        ("{% for a in words recursive %}{% endfor %}", "recursive"),
        ("{{ " + "(" * 2000 + "1" + ")" * 2000 + " }}", "cannot be read"),
        ("x" * (SOURCE_LIMIT + 1), "characters"),
    ],
)
def test_refuses_when_it_is_read(source: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Template(source, VALUES, "config.yaml: payload")
    assert reason in str(refused.value)
    assert str(refused.value).startswith("config.yaml: payload: ")


@pytest.mark.parametrize(
    "source",
    [
        "{{ text.upper() }}",
        "{{ room.nosuch }}",
        "{{ room.__class__ }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ words.append(1) if false else words.__init__ }}",
        "{{ 1 / 0 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ [1] * 10000000000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 999999999999999999999 * 2 }}",
        "{{ range(10000000000) }}",
        "{{ range(0, 10000000000, 1) | list }}",
        "{% for i in range(10000000000) %}{% endfor %}",
        "{% for i in range(900) %}{% for j in range(900) %}{% endfor %}{% endfor %}",
        "{{ long ~ long }}",
        "{{ long + long }}",
        "{{ [long, long] | join }}",
        "{{ ['a', 'b'] | join(long) }}",
        "{{ long | replace('x', long) }}",
        "{{ long }}{{ long }}",
        "{{ 1.5 | round(1000000000) }}",
        "{% set b = [long, long] %}{{ b | length }}",
        "{% for i in range(1000) %}{% if long | upper | title == '' %}{% endif %}{% endfor %}",
    ],
)
def test_fails_in_time_and_with_its_place(source: str) -> None:
    began = time.perf_counter()
    with pytest.raises(AssistantError) as failed:
        try:
            render(source)
        except ConfigurationError as error:  # refused on reading is as good
            raise AssistantError(str(error)) from None
    assert str(failed.value).startswith("place: ")
    assert time.perf_counter() - began < 2.0


def test_nested_lists_do_not_explode() -> None:
    sets = "".join(f"{{% set a{i} = [{','.join([f'a{i - 1}'] * 9)}] %}}" for i in range(1, 12))
    with pytest.raises(AssistantError, match="more than"):
        render("{% set a0 = ['x'] %}" + sets + "{{ a11 }}")


def test_knows_the_fields_it_uses() -> None:
    assert Template("{{ room }} {% for w in words %}{{ w.word }}{% endfor %}", VALUES).names == {"room", "words"}


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="{}%|~'\"()[].,:+-*/ abroomtextwordsifforin01", max_size=60))
def test_never_lets_a_python_error_out(source: str) -> None:
    try:
        text = render("{{ " + source + " }}")
    except AssistantError:
        return
    assert len(text) <= LIMIT


def test_members_of_a_field_are_known() -> None:
    source = "{% if a.one %}{{ a['two'] ~ a.get('three') ~ b.four ~ a.five.six ~ a[b.seven] }}{% endif %}"
    assert Template(source, {"a", "b"}).members("a") == {"one", "two", "five"}
