# ruff: noqa: E501 (the tables of rules read best with one to a line)
"""`check` says what a rule does, and warns of every rule that can never fire and of none that can."""

import json
from pathlib import Path

import pytest

from assistant.config import Config, load, parse, shipped
from assistant.errors import ConfigurationError
from assistant.explain import describe, explain, span_of

HOUSE = """\
rooms: {kitchen: {source: a}, garden: {source: b, languages: [ja]}}
speech: {languages: [en]}
rules:
"""


def warned(rule: str, house: str = HOUSE) -> list[str]:
    profile = "profile: hybrid\n" if "{ask: " in rule or "{describe: " in rule else ""
    return list(explain(parse(profile + house + f"- {rule}\n", Path("c.yaml"))).warnings)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            'when: {sound: dog_bark, room: kitchen, lasting: 120, between: "22:00-07:00"}, cooldown: 10 min, '
            'do: {publish: {topic: house/dog, payload: "{{ label }}"}}',
            'When dog_bark in kitchen lasts 2 min between 22:00 and 07:00, publish "{{ label }}" to house/dog (QoS 1) '
            "(not again for 10 min).",
        ),
        ("when: {sound: any, score: 0.5}, do: {log: x}", 'When any sound starts with a score of at least 0.5, log "x".'),
        ("when: {sound: [cat, bird], state: ended}, do: {log: x}", 'When cat or bird ends, log "x".'),
        ("when: {label: Bark, times: 3, within: 90}, do: {log: x}", "When any sound labelled \"Bark\" is heard 3 times within 90 s"),
        ("when: {sound: any, absent: 1 h, days: weekend}, do: {log: x}", "When no sound was heard for 1 h on the weekend"),
        ("when: {speech: good night, language: en}, do: {log: x}", 'When "good night" is said in the language en, log'),
        ("when: {speech: any, room: [kitchen, garden]}, do: {log: x}", "When anything is said in kitchen or garden, log"),
        ("when: {speech: any, absent: 1 h}, do: {log: x}", "When nothing was said for 1 h, log"),
        (
            "when: {sound: cat}, unconfirmed: true, do: [{ask: {prompt: \"Hungry?\", as: h, choices: [yes, no]}}, {describe: {within: 90}}]",
            'When cat starts, even if only the audio language model hears it, ask "Hungry?" for "yes" or "no" (answers.h, at '
            "most 20 s), then describe what is heard (answers.caption, at most 90 s).",
        ),
        ("when: {sound: cat}, do: [{keep_clip: }, {log: x}]", 'When cat starts, keep the clip, then log "x".'),
        ("when: {regex: a.b}, do: [{log: x}, {log: y}]", 'When something like /a.b/ is said, log "x", then log "y".'),
    ],
)  # fmt: skip
def test_a_rule_is_a_sentence(rule: str, sentence: str) -> None:
    config = parse(f"rules: [{{{rule}}}]", Path("c.yaml"))
    assert describe(config.rules[0]).startswith(sentence)


@pytest.mark.parametrize(
    ("when", "warning"),
    [
        ("{sound: cat, room: kichen}", "can never fire: there is no room kichen; did you mean kitchen?"),
        (
            "{sound: cat, room: [kitchen, attic]}",
            "never fires for all of its list: there is no room attic; there is kitchen or",
        ),
        ("{sound: dog_brk}", "can never fire: there is no event type dog_brk; did you mean dog_bark?"),
        ("{sound: [cat, dgo]}", "never fires for all of its list: there is no event type dgo"),
        ("{sound: Meow}", "can never fire: there is no event type Meow; it is a label of cat: write it as label"),
        ("{sound: speech}", "can never fire: speech is not a sound here; write speech: any"),
        ("{label: Brk}", 'can never fire: no label in the sound table reads "Brk"; did you mean Bark?'),
        ("{label: Silence}", 'can never fire: "Silence" is a label of speech or of a place'),
        ("{label: Meow, sound: dog_bark}", 'can never fire: "Meow" belongs to cat, not to dog_bark'),
        ("{sound: cat, score: 80}", "can never fire: scores go from 0 to 1; did you mean 0.8?"),
        ("{sound: cat, state: heard}", "can never fire: sounds are started and ended"),
        ("{sound: cat, state: ended, lasting: 5}", "can never fire: a sound that has ended does not last"),
        ("{sound: cat, language: en}", "can never fire: sounds have no language"),
        ('{sound: cat, between: "07:00-07:00"}', "can never fire: no time lies between 07:00 and 07:00"),
        ("{speech: any, state: started}", "can never fire: speech is heard, never started"),
        ("{speech: any, lasting: 5}", "can never fire: speech is told when it has ended"),
        ("{speech: any, language: de}", "can never fire: de is not recognised there, only en or ja"),
        ("{speech: any, language: en, room: garden}", "can never fire: en is not recognised there, only ja"),
        ('{speech: "good ?night"}', "looks like a regular expression; write it as regex"),
    ],
)
def test_what_cannot_fire_is_a_warning_with_its_line(when: str, warning: str) -> None:
    (line,) = warned(f"{{when: {when}, do: {{log: x}}}}")
    assert line.startswith("c.yaml:4: rule 1")
    assert warning in line


@pytest.mark.parametrize("when", ["{regex: a}", "{speech: any}", "{exactly: stop}"])
def test_speech_rules_need_speech(when: str) -> None:
    (line,) = warned(f"{{when: {when}, do: {{log: x}}}}", "speech: {enabled: false}\nrules:\n")
    assert "can never fire: speech.enabled is false" in line


def test_an_english_model_hears_no_japanese() -> None:
    lines = warned(
        "{when: {speech: any, language: ja}, do: {log: x}}", "speech: {model: tiny.en, languages: [en, ja]}\nrules:\n"
    )
    assert lines[0] == "c.yaml:1: tiny.en knows English only, not ja"
    assert "can never fire: ja is not recognised there, only en" in lines[1]


@pytest.mark.parametrize(
    ("do", "warning"),
    [
        ('{log: "{{ text }}"}', "no value for text while privacy.transcripts is off"),
        ('{log: "{{ event.words }}"}', "no value for words while privacy.transcripts is off"),
        (
            "[{ask: {prompt: What was said, as: w}}, {log: x}]",
            "answers.w stays without a value while privacy.transcripts is",
        ),
        ("[{describe: {as: w}}, {log: x}]", "answers.w stays without a value while privacy.transcripts is"),
        (
            "[{ask: {prompt: x, as: w, choices: [a, b]}}, {log: '{{ answers.w.upper() }}'}]",
            "has no attribute 'upper', when the model gives no answer",
        ),
        (
            "[{ask: {prompt: '{{ label.nosuch }}', as: w, choices: [a, b]}}, {log: x}]",
            "has no attribute 'nosuch', when tried",
        ),
        ('{log: "{{ label.nosuch }}"}', "has no attribute 'nosuch', when tried on an event of its kind"),
        (
            "{publish: {topic: homeassistant/x/config, payload: x}}",
            "homeassistant/x/config is Home Assistant's discovery",
        ),
        ("{publish: {topic: kikimimi/status, payload: x}}", "kikimimi/status is one of the daemon's own topics"),
        (
            '{publish: {topic: "kikimimi/{{ room }}/event", payload: x}}',
            "kikimimi/kitchen/event is one of the daemon's",
        ),
    ],
)
def test_doubtful_actions_are_warnings(do: str, warning: str) -> None:
    (line,) = warned(f"{{when: {{speech: hello}}, do: {do}}}")
    assert warning in line


@pytest.mark.parametrize(
    "rule",
    [
        "{when: {sound: any}, do: {log: '{{ score | round(2) }}'}}",
        "{when: {sound: other, label: Animal}, do: {log: x}}",
        "{when: {sound: any, label: bark}, do: {log: x}}",
        "{when: {sound: dog_bark, label: Bark, state: ended}, do: {log: '{{ duration | round }}'}}",
        "{when: {speech: 'what time is it?', language: ja, room: garden}, do: {log: x}}",
        "{when: {sound: any, absent: 5}, do: {log: '{{ lasted | round }} {{ room_name }}'}}",
        "{when: {sound: cat}, do: {publish: {topic: 'kikimimi/{{ room }}/say', payload: x}}}",
        "{when: {sound: cat}, do: {publish: {topic: kikimimi2/status, payload: x}}}",
        "{when: {sound: cat}, do: [{describe: {}}, {log: '{{ answers.caption | upper }} {{ answers.get(\"caption\") }}'}]}",
        "{when: {speech: any}, do: [{ask: {prompt: x, as: w, choices: [a, b]}}, {log: '{{ answers.w }}'}]}",
    ],
)
def test_what_works_is_no_warning(rule: str) -> None:
    assert warned(rule) == []


def test_the_profile_embedded_answers_nothing() -> None:
    text = """rules:
- name: dog
  when: {sound: dog_bark}
  do:
  - log: x
  - describe: {}
  - ask: {prompt: x, as: y}
"""
    with pytest.raises(ConfigurationError) as caught:
        explain(parse(text, Path("c.yaml")))
    assert str(caught.value).splitlines() == [
        f'c.yaml:{line}: rule "dog": {kind} needs an audio language model, which the profile embedded does not have; '
        "remedy: profile: hybrid, qwen or remote (kikimimi doctor tells what fits), or remove the action"
        for line, kind in ((6, "describe"), (7, "ask"))
    ]
    assert explain(parse(f"profile: qwen\n{text}", Path("c.yaml"))).warnings == ()


def test_profiles_with_a_language_model_say_what_rules_act_on() -> None:
    lines = explain(parse("profile: qwen\nrules: [{when: {sound: cat}, do: {log: x}}]", Path("c.yaml"))).lines
    assert lines[1:3] == (
        "Profile: qwen, with the audio language model qwen-audio-chat",
        "  rules act only on what a tagger or recogniser heard too, unless they say unconfirmed: true",
    )


def test_rooms_with_the_same_microphone() -> None:
    report = explain(parse("rooms: {a: {}, b: {}}", Path("c.yaml")))
    assert report.warnings == ("c.yaml:1: rooms a and b hear the same source; give each its own (kikimimi devices)",)


def test_nothing_configured() -> None:
    report = explain(Config())
    assert report.lines == (
        "Configuration: none, everything has its default",
        "Rooms: none given, the default microphone is home",
        "Broker: none given, the embedded one",
        "Rules: none",
    )
    assert report.warnings == ()


def test_passwords_are_not_shown() -> None:
    text = 'rooms: {a: {source: "rtsp://me:geheim@c/1"}}\nmqtt: {url: "mqtt://me:geheim@h:1"}'
    assert "geheim" not in json.dumps(explain(parse(text, Path("c.yaml"))).lines)


def test_the_example_has_no_warnings() -> None:
    assert explain(load(shipped("config.example.yaml"))).warnings == ()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (90, "90 s"), (120, "2 min"), (5400, "1 h 30 min"), (86_461, "1 d 1 min 1 s")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span_of(seconds) == text


# --- clips ------------------------------------------------------------------------------------------------------------

KEEPING = "rules: [{when: {sound: cat}, do: {keep_clip: true}}, {when: {speech: any}, do: {keep_clip: true}}]\n"


def test_a_clip_that_is_never_kept_is_warned_of() -> None:
    first, second = explain(parse(KEEPING, Path("c.yaml"))).warnings
    assert first == "c.yaml:1: rule 1: keeps no clip while clips.enabled is false; set it to true"
    assert "rule 2" in second
    assert explain(parse(KEEPING + "clips: {enabled: true}", Path("c.yaml"))).warnings == ()
    (only,) = explain(parse(KEEPING + "clips: {enabled: true, drop_speech: true}", Path("c.yaml"))).warnings
    assert only == "c.yaml:1: rule 2: keeps no clip of speech while clips.drop_speech is true"


def test_what_is_kept_is_explained_and_checked() -> None:
    report = explain(parse("clips: {enabled: true, drop_speech: true, keep: [alerts, dog_brk, any]}", Path("c.yaml")))
    assert report.warnings == ("c.yaml:1: clips.keep: there is no event type dog_brk; did you mean dog_bark?",)
    (line,) = [line for line in report.lines if line.startswith("Clips:")]
    assert line == (
        "Clips: alerts, dog_brk, any and what rules keep, none with speech; in kikimimi/clips in the state folder, "
        "for 30 days, at most 1000 MB"
    )
    assert not any(line.startswith("Clips") for line in explain(Config()).lines)


def test_what_is_ignored_fires_nothing_and_what_is_unknown_is_not_ignored() -> None:
    house = "sounds: {ignore: [cat, kat]}\nrules:\n"
    told = warned("when: {sound: cat}, do: {log: x}".join("{}"), house)
    assert any("rule 1 can never fire: cat is in sounds.ignore" in line for line in told)
    assert any("c.yaml:1: sounds.ignore: there is no event type kat; did you mean cat?" in line for line in told)


def test_a_rule_that_rests_says_so() -> None:
    config = parse(HOUSE + "- {when: {sound: cat}, do: {log: x}, enabled: false}\n", Path("c.yaml"))
    assert describe(config.rules[0]).endswith("(It is switched off.)")
