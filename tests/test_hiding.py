"""Secrets of webhooks leave a rule's text and come back where they stood, and nowhere else."""

import pytest

from assistant.errors import ConfigurationError
from assistant.hiding import hide, reveal
from assistant.rewriting import rules_in

RULE = """\
rules:
  - name: tell
    when: {sound: smoke_alarm}
    do:
      - webhook:
          url: 'https://hooks.example.org/services/T0KEN?room={{ room }}'  # ours
          headers: {Authorization: Bearer abcdef, X-File: {file: /etc/token}, X-Env: "Bearer ${TOKEN}"}
          json: {token: s3cret, text: "{{ label }}"}
      - webhook: {url: "http://hub.local/api/${HOOK}"}
      - webhook: {url: http://hub.local/}
      - log: "https://not.a/webhook"
"""


def shown() -> tuple[str, list[str]]:
    (rule,) = rules_in(RULE)
    text, hidden = hide(rule)
    return text, [one.mark for one in hidden]


def test_secrets_are_not_shown() -> None:
    text, marks = shown()
    assert len(marks) == 3
    for secret in ("T0KEN", "abcdef", "s3cret"):
        assert secret not in text
    for plain in ("https://hooks.example.org/", "/etc/token", "${TOKEN}", "${HOOK}", "{{ label }}", "# ours"):
        assert plain in text


def test_they_come_back_byte_for_byte() -> None:
    (rule,) = rules_in(RULE)
    text, hidden = hide(rule)
    assert reveal(text, hidden) == rule.text
    changed = text.replace("name: tell", "name: other").replace('‹hidden 2›"', '‹hidden 2› more"')
    back = reveal(changed, hidden)
    assert '"Bearer abcdef more"' in back
    assert "T0KEN?room={{ room }}'  # ours" in back
    assert "name: other" in back


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://not.a/webhook", "‹hidden 2›"),  # into the log, which is shown
        ("https://hooks.example.org/", "https://evil.example/"),  # to another host
        ("{{ label }}", "‹hidden 3›"),  # into what is sent as text
        ("‹hidden 3›", "‹hidden 7›"),
        ("http://hub.local/}", "http://hub.local/‹hidden 1›}"),
    ],
)
def test_they_go_nowhere_else(old: str, new: str) -> None:
    (rule,) = rules_in(RULE)
    text, hidden = hide(rule)
    assert old in text
    with pytest.raises(ConfigurationError, match="stands for a secret of another place"):
        reveal(text.replace(old, new), hidden)


def test_a_rule_that_needs_the_rest_of_the_file_is_not_shown() -> None:
    text = "rooms: &r {a: {source: x}}\nrules:\n  - {when: *r, do: {webhook: {url: 'https://h/secret'}}}\n"
    (rule,) = rules_in(text)
    assert "secret" not in hide(rule)[0]
    assert hide(rules_in("rules:\n  - when: {sound: cat}\n    do: {log: x}\n")[0])[1] == []
    assert reveal("no marks: [", []) == "no marks: ["
