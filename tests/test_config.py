# ruff: noqa: E501 (the tables of mistakes read best with one to a line)
"""Every mistake in a configuration ends in one line with file, line, key and remedy, and nothing else."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from assistant.config import Config, check_profile, find, json_schema, load, parse, shipped
from assistant.errors import AssistantError, ConfigurationError

FILE = Path("config.yaml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as wrong:
        parse(text, FILE)
    return str(wrong.value).splitlines()


# --- what is right ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "---\n", "{}", "mqtt:\nrooms:\nrules:\n", "sounds: {activity: , windows: }"]
)
def test_everything_has_a_default(text: str) -> None:
    assert parse(text, FILE).model_dump() == Config().model_dump()


def test_reads_a_house() -> None:
    config = parse(
        """
        rooms:
          kitchen: {name: 台所, source: "usb mic", languages: [ja]}
          garden:
        speech: {model: tiny.en, words: [Kikimimi]}
        sounds: {hold: 2, activity: {open_db: 7}}
        devices: [{name: lamp, aliases: [light], area: Bedroom}]
        privacy: {transcripts: on}
        rules: [{when: {sound: cat}, do: {publish: {topic: a, payload: ON}}}]
        """,
        FILE,
    )
    assert config.rooms["kitchen"].name == "台所"
    assert config.rooms["garden"].source == "default"
    assert config.sounds.activity.open_db == 7
    assert config.speech.model == "tiny.en"
    assert config.privacy.transcripts
    assert config.rules[0].do[0].publish is not None
    assert config.rules[0].do[0].publish.payload == "ON"  # in YAML 1.1 it would be true
    assert config.devices[0].aliases == ("light",)
    assert config.place("rooms", "kitchen", "name") == "config.yaml:3: "
    assert config.place("nowhere") == "config.yaml:2: "


def test_clips_are_off_and_then_of_alerts() -> None:
    clips = parse("clips:", FILE).clips
    assert (clips.enabled, clips.keep, clips.drop_speech) == (False, ("alerts",), False)
    assert parse("clips: {dir: ~/clips}", FILE).clips.dir == Path.home() / "clips"


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE", "home")
    monkeypatch.setenv("PORT", "1884")
    config = parse('mqtt: {host: "${HOUSE}.local", port: "${PORT}", client_id: "$${x} $5"}', FILE)
    assert (config.mqtt.host, config.mqtt.port, config.mqtt.client_id) == ("home.local", 1884, "${x} $5")


def test_what_a_variable_holds_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE", "a: ${NOPE} # b")
    assert parse('mqtt: {client_id: "${HOUSE}"}', FILE).mqtt.client_id == "a: ${NOPE} # b"


def test_aliases_may_be_used() -> None:
    config = parse("rooms: {a: {languages: &l [en, ja]}, b: {languages: *l}}", FILE)
    assert config.rooms["b"].languages == ("en", "ja")


def test_secrets_stay_out_of_repr_and_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "geheim")
    config = parse(
        'mqtt: {host: h, username: me, password: "${SECRET}"}\nrooms: {a: {source: "rtsp://me:geh@geheim@c/1"}}', FILE
    )
    assert config.mqtt.password is not None
    assert config.mqtt.password.get_secret_value() == "geheim"
    assert "geheim" not in repr(config)
    assert "geheim" not in str(config)
    assert config.rooms["a"].shown_source == "rtsp://***@c/1"
    text = 'mqtt: {port: "${SECRET}", password: [geheim], keepalive: "mqtt://a:geheim@h"}\nrooms: {a: {source: {b: geheim}}}'
    assert not any("geheim" in line for line in mistakes(text))


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mqtt:\n  prot: 1883", 'config.yaml:2: mqtt.prot: unknown key; did you mean "port"?'),
        ("homeasistant: {}", 'config.yaml:1: homeasistant: unknown key; did you mean "homeassistant"?'),
        ("homeasistant:", 'config.yaml:1: homeasistant: unknown key; did you mean "homeassistant"?'),
        ("metrics: {}", "config.yaml:1: metrics: is not needed any more: the page serves /metrics by itself, see web"),
        ("web: {host: 0.0.0.0}", "config.yaml:1: web: on 0.0.0.0 others can see the page, so it asks for a password"),
        ("web: {password: short}", "config.yaml:1: web.password: shorter than 8 characters; remedy: a longer one"),
        ("web: {public_url: kikimimi.example}", "config.yaml:1: web.public_url: must read http://host/ or https://host/path/"),
        ("clips: {keeep: []}", 'config.yaml:1: clips.keeep: unknown key; did you mean "keep"?'),
        ("clips: {keep: [speech], drop_speech: true}", "config.yaml:1: clips: keep has speech, of which drop_speech keeps"),
        ("clips: {dir: ~nobody-here/x}", "config.yaml:1: clips.dir: ~nobody-here/x: there is no such home directory"),
        ("rules:\n- when: {sound: a}\n  do:\n  - keep_clip: 5", "config.yaml:4: rules[1].do[1].keep_clip: takes nothing; write"),
        (
            "rules:\n- when: {sound: a, absent: 5}\n  do: {keep_clip: true}",
            "config.yaml:2: rules[1]: absent hears nothing that could be kept; remove keep_clip",
        ),
        ("privacy: {xyz: 1}", "config.yaml:1: privacy.xyz: unknown key; there are transcripts"),
        ("rooms: {a: {sorce: x}}", 'config.yaml:1: rooms.a.sorce: unknown key; did you mean "source"?'),
        ("sounds: {activity: {open: 1}}", 'config.yaml:1: sounds.activity.open: unknown key; did you mean "open_db"?'),
        ("\n\nmqtt:\n  port: abc", 'config.yaml:4: mqtt.port: not a whole number: "abc"'),
        ("mqtt: {port: 99999}", 'config.yaml:1: mqtt.port: should be less than or equal to 65535: "99999"'),
        ("mqtt: {port: 18.5}", 'config.yaml:1: mqtt.port: not a whole number: "18.5"'),
        ("privacy: {transcripts: maybe}", 'config.yaml:1: privacy.transcripts: neither true nor false: "maybe"'),
        ("mqtt: 5", 'config.yaml:1: mqtt: needs keys and values below it: "5"'),
        ("rules: {a: 1}", "config.yaml:1: rules: needs a list, for example [a, b]"),
        ("rooms: {a: {name: 5}}", 'config.yaml:1: rooms.a.name: not a text: "5"; put it in quotes'),
        ("speech: {languages: []}", "config.yaml:1: speech.languages: needs at least one item"),
        ("profile: foo", 'config.yaml:1: profile: there is no profile "foo"; use "embedded"'),
        ("sounds: {table: ~nobody-here/x}", "config.yaml:1: sounds.table: ~nobody-here/x: there is no such home directory"),
        ("a: 1\nmqtt: {}\nmqtt: {}", "config.yaml:3: mqtt: stands twice, first in line 2; remove one"),
        ("mqtt:\n\thost: x", "config.yaml:2: not YAML: found character '\\t'"),
        ("mqtt: {host: ${X}}", "config.yaml:1: not YAML: expected ',' or '}', but got '{'; remedy: put texts with { or }"),
        ("mqtt: {host: !secret x}", "config.yaml:1: mqtt.host: the tag !secret is not known; secrets are written ${NAME}"),
        ("mqtt: !!python/object:os.system {}", "config.yaml:1: mqtt: the tag tag:yaml.org,2002:python/object:os.system"),
        ("- 1", "config.yaml: needs keys and values"),
        ("just words", "config.yaml: needs keys and values"),
        ("? [1]\n: 2", "config.yaml:1: the file: a key must be a text"),
        ("a: 1\n---\nb: 1", "config.yaml:2: not YAML: but found another document"),
        ("rules: [{when: {sound: a}, do: {publish: {topic: a, payload: {{ x }}}}}]", "a template needs quotes"),
        ("rules:\n- name: dog\n  when: {sond: a}", 'config.yaml:3: rules["dog"].when.sond: unknown key; did you mean "sound"?'),
        ("rules:\n- when: {sound: a}", "config.yaml:2: rules[1].do: is missing"),
        ("rules:\n- when: {sound: a}\n  do:\n  - log: x\n  - email: hi", 'config.yaml:5: rules[1].do[2]: there is no action "email"'),
        (
            "rules:\n- when: {sound: a}\n  do:\n  - publish:\n      topic: a/#\n      payload: x",
            'config.yaml:5: rules[1].do[1].publish.topic: "a/#" holds the wildcard #',
        ),
        (
            'rules:\n- when: {sound: a}\n  do:\n  - log: "{{ nosuch }}"',
            "config.yaml:4: rules[1].do[1].log: unknown field 'nosuch'; there are ",
        ),
        ("rules:\n- &a {name: x, when: {sound: a}, do: {log: x}}\n- *a", 'config.yaml:1: rules: two rules have the name "x"'),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place(text: str, expected: str) -> None:
    assert any(expected in line for line in mistakes(text)), mistakes(text)


def test_all_mistakes_are_told_at_once_in_order() -> None:
    lines = mistakes('mqtt:\n  prot: 1\n  port: abc\nfoo: 1\nfoo: 2\nprofile: later\nmodels: {dir: "${NOPE_X}"}')
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4", "5", "6", "7"]
    assert "NOPE_X is not set; remedy: export NOPE_X=" in lines[-1]


@pytest.mark.parametrize(
    "room", ["Küche", "Kitchen", "a/b", "a+", "", "status", "alert", "health", "listening", "ask", "say", "reply"]
)
def test_room_ids_fit_into_topics(room: str) -> None:
    (line,) = mistakes(f"rooms:\n  {json.dumps(room, ensure_ascii=False)}: {{}}")
    assert line.startswith("config.yaml:2: ")
    assert "room id" in line


def test_profiles_are_named() -> None:
    (line,) = mistakes("profile: later")
    assert 'use "embedded", "qwen", "hybrid" or "remote"' in line


def test_the_profile_remote_needs_an_address() -> None:
    with pytest.raises(ConfigurationError, match=r"config\.yaml:1: models\.remote\.url: .* needs it"):
        check_profile(parse("profile: remote", Path("config.yaml")))
    asks = "rules: [{when: {sound: dog_bark}, do: [{describe: {}}]}]"
    check_profile(parse(f"profile: remote\nmodels: {{remote: {{url: 'http://h'}}}}\n{asks}", Path("config.yaml")))
    alone = "{url: 'http://h', transcription_model: w}"
    with pytest.raises(ConfigurationError, match=r"models\.remote does not name; remedy: models\.remote\.model"):
        check_profile(parse(f"profile: remote\nmodels: {{remote: {alone}}}\n{asks}", Path("config.yaml")))


def test_tokens_are_not_shown() -> None:
    (line,) = mistakes("models: {remote: {token: two geheim words}}")
    assert "geheim" not in line
    (line,) = mistakes("serve: {host: 0.0.0.0}")
    assert "remedy: serve.token_file" in line


@pytest.mark.parametrize("profile", ["embedded", "qwen", "hybrid"])
def test_profiles(profile: str) -> None:
    assert parse(f"profile: {profile}", FILE).profile == profile


def test_the_audio_language_model_is_a_name_or_a_folder() -> None:
    assert parse("models: {audio_llm: }", FILE).models.audio_llm.checkpoint == "qwen-audio-chat"
    config = parse("models: {audio_llm: {checkpoint: /models/mine, device: cpu, dtype: float32}}", FILE)
    assert config.models.audio_llm.checkpoint == "/models/mine"
    (line,) = mistakes("models: {audio_llm: {quantisation: int2}}")
    assert "models.audio_llm.quantisation" in line


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)),
        "[" * 200_000,
        "{a: " * 5_000,
        "- " * 5_000,
        "a: " + "x," * 60_000,
        "".join(f"k{number}: [1, 2, 3]\n" for number in range(9_000)),
    ],
    ids=["recursive", "bomb", "brackets", "braces", "dashes", "long", "many"],
)
def test_bombs_end_soon(text: str) -> None:
    began = time.process_time()
    assert mistakes(text)
    assert time.process_time() - began < 10


def test_a_hundred_megabytes_are_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.yaml").open("wb") as file:
        file.truncate(100_000_000)
    began = time.process_time()
    with pytest.raises(ConfigurationError, match="larger than 256 KiB"):
        load(tmp_path / "config.yaml")
    assert time.process_time() - began < 1


# --- webhooks and the embedded broker ---------------------------------------------------------------------------------


def webhook(url: str, more: str = "", hosts: str = "[a.example]") -> str:
    url = json.dumps(url)
    return f"webhooks: {{hosts: {hosts}}}\nrules: [{{when: {{sound: cat}}, do: {{webhook: {{url: {url}{more}}}}}}}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            webhook("https://b.example/x"),
            'rules[1].do[1].webhook.url: the host b.example is not listed; remedy: webhooks: {hosts: ["b.example"]}',
        ),
        (webhook("https://a.example:8443/x"), "the host a.example:8443 is not listed"),
        (webhook("https://a.example.evil/x"), "is not listed"),
        (webhook("https://{{ room }}.example/x"), "neither host nor port is a template"),
        (webhook("https://a.example:{{ room }}/x"), "neither host nor port is a template"),
        (webhook("https://a.example{{ room }}/x"), "neither host nor port is a template"),
        (webhook("{{ room }}"), "not an address"),
        (webhook("https://u:p@a.example/x"), "a login goes into headers"),
        (webhook("https://a.example@evil/x"), "not an address"),
        (webhook("https://a.example\\@evil/x"), "not an address"),
        (webhook("file:///etc/passwd"), "not an address"),
        (webhook("https://a.example:99999/x"), "the port is 1 to 65535"),
        (webhook("https://a.example/x#y"), "does not belong"),
        (webhook("https://a.example/{{ nope }}"), "unknown field 'nope'"),
        (webhook("https://a.example/", ", method: DELETE"), "method"),
        (webhook("https://a.example/", ", body: a, json: {b: c}"), "json and body are both given"),
        (webhook("https://a.example/", ", method: GET, body: a"), "GET has no body"),
        (webhook("https://a.example/", ', json: {a: ["{{ nope }}"]}'), "json: unknown field 'nope'"),
        (webhook("https://a.example/", ", headers: {Host: evil}"), "ours to write"),
        (webhook("https://a.example/", ', headers: {"a b": c}'), "a header's name"),
        (webhook("https://a.example/", ', headers: {a: "b\\r\\nc: d"}'), "one line of at most"),
        (webhook("https://a.example/", hosts='["*.example"]'), "is no host"),
        (webhook("https://a.example/", hosts='["https://a.example"]'), "is no host"),
        (
            "broker: {host: 0.0.0.0}",
            "broker: on 0.0.0.0 others can reach the embedded broker, so it asks for a password; remedy",
        ),
    ],
)
def test_a_mistake_in_a_webhook_or_broker(text: str, expected: str) -> None:
    assert any(expected in line for line in mistakes(text)), mistakes(text)


def test_a_webhook_and_its_secrets_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "geheim")
    config = parse(
        webhook("https://A.example/${TOKEN}?r={{ room }}", ', headers: {Authorization: "Bearer ${TOKEN}"}'), FILE
    )
    action = config.rules[0].do[0].webhook
    assert action is not None
    assert action.url == "https://A.example/geheim?r={{ room }}"
    assert action.headers["Authorization"].get_secret_value() == "Bearer geheim"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfe\x00\x01", ":1: not UTF-8 text"),
        (b"a: 1\nb: \xe9", ":2: not UTF-8 text"),
        (b"mqtt: {host: \x00}", ":1: not YAML: it holds a control character"),
        (bytes(range(256)) * 10, "not UTF-8 text"),
        (b"x" * 300_000, "larger than 256 KiB"),
    ],
)
def test_garbage_files(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=re.escape(expected)) as wrong:
        load(file)
    assert str(file) in str(wrong.value)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("privacy: {transcripts: true}", "utf-8-sig")
    assert load(tmp_path / "c.yaml").privacy.transcripts


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file; remedy: name another with -c FILE"):
        load(tmp_path / "none.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").touch(mode=0)
    with pytest.raises(ConfigurationError, match="Permission denied"):
        load(tmp_path / "c.yaml")


def test_the_users_file_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert find() in (None, Path("/etc/kikimimi/config.yaml"))
    (tmp_path / "kikimimi").mkdir()
    (tmp_path / "kikimimi" / "config.yaml").write_text("privacy: {transcripts: true}")
    assert load().privacy.transcripts
    assert load().file == tmp_path / "kikimimi" / "config.yaml"


def test_shipped_files() -> None:
    assert yaml.safe_load(shipped("sounds.yaml").read_text("utf-8"))["groups"]
    with pytest.raises(AssistantError, match=r"nothing\.yaml is missing from this installation"):
        shipped("nothing.yaml")


# --- the example and the schema ---------------------------------------------------------------------------------------


def keys(schema: dict[str, Any]) -> set[str]:
    named = {key for definition in schema["$defs"].values() for key in definition.get("properties", {})}
    return named | set(schema["properties"])


def test_the_example_is_right_and_shows_every_key() -> None:
    file = shipped("config.example.yaml")
    assert load(file).rules
    text = file.read_text("utf-8")
    shown = set(re.findall(r"(?:^|[\s{,])([a-z_]+):", text))
    told = set(re.findall(r"^# +([a-z]+(?:, [a-z]+)?)   ", text, re.MULTILINE))
    told = {word for words in told for word in words.split(", ")}
    assert not keys(json_schema()) - shown - told


def test_the_example_shows_the_defaults_of_the_stages() -> None:
    example, default = load(shipped("config.example.yaml")), Config()
    assert example.sounds == default.sounds
    own = {"languages", "words"}
    assert example.speech.model_dump(exclude=own) == default.speech.model_dump(exclude=own)


def test_the_schema_is_current() -> None:
    assert json.loads(shipped("schema.json").read_text("utf-8")) == json_schema(), (
        "remedy: python -m assistant.config > config/schema.json"
    )


def test_the_schema_takes_the_example_and_refuses_a_mistake() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    validator = jsonschema.Draft202012Validator(json_schema())
    document = yaml.safe_load(shipped("config.example.yaml").read_text("utf-8"))
    document = {key: value for key, value in document.items() if value is not None}
    validator.validate(document)
    assert not validator.is_valid({**document, "rooms": {"a": {"sorce": "x"}}})


# --- anything ---------------------------------------------------------------------------------------------------------


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
words = st.sampled_from(
    ["rooms", "mqtt", "rules", "when", "do", "sound", "publish", "topic", "speech", "lasting", "port"]
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=8), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(list(Config.model_fields)), trees, max_size=4))
def test_any_tree_is_read_or_refused(document: dict[str, Any]) -> None:
    read_or_refused(yaml.safe_dump(document, allow_unicode=True))


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%@`,? \n\t\x00$é台mqtrules", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refused(text)


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries({"when": trees, "do": trees}))
def test_any_rule_is_read_or_refused(rule: dict[str, Any]) -> None:
    read_or_refused(yaml.safe_dump({"rules": [rule]}, allow_unicode=True))


def read_or_refused(text: str) -> None:
    try:
        parse(text, FILE)
    except ConfigurationError as error:
        assert all(line.startswith("config.yaml:") for line in str(error).splitlines())


def test_a_host_that_is_not_listed_is_told_with_its_line() -> None:
    head = "rules:\n- when: {sound: cat}\n  do:\n"
    for do in ("    webhook:\n      url: https://h/x\n", "  - webhook:\n      url: https://h/x\n"):
        (told,) = mistakes(head + do)
        assert told.startswith("config.yaml:5: rules[1].do"), told
