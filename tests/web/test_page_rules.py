"""The page Rules in a real browser: sentences, a rehearsal, a bad rule refused, undo to the byte."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
from houses import House
from playwright.async_api import Page, expect
from test_page_shell import serious

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, t3

Make = Callable[..., House]
RULES = """\
rules:
  # the alarm
  - name: smoke alarm to the phone
    when: {sound: [smoke_alarm, co_alarm]}
    do: {publish: {topic: house/alarm, payload: "{{ label }} in {{ room_name }}"}}
    cooldown: 5 s
  - name: the dog barks all night
    when: {sound: dog_bark, lasting: 2 min, between: "22:00-06:00"}
    do: {say: {text: "Quiet!", room: all}}
"""


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Two alarms, then quiet."""
    path = tmp_path / "kitchen.wav"
    alarm = 0.2 * t3(cycles=4)
    soundfile.write(path, placed(placed(noise(300.0, -60.0), alarm, 1.0), alarm, 40.0), SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture
def here(house: Make, recording: Path) -> House:
    return house(settings=RULES).start("--source", f"kitchen={recording}")


async def test_rules_are_sentences_with_what_became_of_them(here: House, page: Page) -> None:
    await page.goto(f"{here.url}#/rules")
    await expect(page).to_have_title("Rules · Kikimimi")
    card = page.get_by_role("region", name="smoke alarm to the phone")
    await expect(card.locator(".sentence")).to_have_text(
        re.compile(
            r"When Smoke alarm or Carbon monoxide alarm starts → "
            r"send .*label.* to house/alarm \(then not again for 5 sec\)"
        )
    )
    await expect(page.locator(".sentence").nth(1)).to_have_text(
        re.compile(r"When Barking dog lasts 2 min between 22:00 and 06:00 → say “Quiet!” everywhere")
    )
    await expect(card).to_contain_text(re.compile("fired (once|2 times)"), timeout=30_000)
    await card.get_by_text("The last evaluations").click()
    await expect(card.get_by_text("Fired", exact=True).first).to_be_visible()
    await expect(card.get_by_role("link", name="Smoke alarm, kitchen").first).to_have_attribute(
        "href", re.compile("#/events/01")
    )
    assert not await serious(page)


async def test_a_rehearsal_counts_right(here: House, page: Page) -> None:
    await page.goto(f"{here.url}#/rules")
    card = page.get_by_role("region", name="smoke alarm to the phone")
    await expect(card).to_contain_text("fired 2 times", timeout=90_000)
    await card.get_by_role("button", name="Try on the last 7 days").click()
    await expect(card.get_by_text("Would have fired 2 times")).to_be_visible()
    await expect(card.get_by_text("house/alarm").nth(1)).to_be_visible()
    await page.get_by_role("button", name="Try all on the last 7 days").click()
    await expect(page.get_by_role("heading", name="What would have happened")).to_be_visible()
    assert not await serious(page)


async def test_a_bad_rule_is_refused_line_by_line(here: House, page: Page) -> None:
    before = here.config.read_bytes()
    await page.goto(f"{here.url}#/rules/2")
    await expect(page.get_by_role("heading", name="Edit “the dog barks all night”")).to_be_visible()
    await page.get_by_role("button", name="YAML").click()
    text = page.get_by_label("The rule as YAML")
    await expect(text).to_have_value(re.compile("^name: the dog barks all night\nwhen:"))
    await text.fill("name: dog\nwhen: {sound: dog_bark}\ndo:\n  - shout: loud\n")
    alert = page.get_by_role("alert")
    await expect(alert).to_contain_text("One mistake")
    await expect(alert).to_contain_text("Line 4")
    await expect(alert).to_contain_text('there is no action "shout"')
    await expect(page.locator(".gutter .wrong")).to_have_text("4")
    await expect(page.get_by_role("button", name="Save rule")).to_be_disabled()
    assert not await serious(page)
    assert here.config.read_bytes() == before
    await text.fill("name: dog\nwhen: {sound: dog_barks}\ndo:\n  - log: loud\n")
    await expect(page.get_by_text("did you mean dog_bark?")).to_be_visible()
    await page.get_by_role("link", name="Cancel").click()
    await expect(page.get_by_role("heading", name="the dog barks all night")).to_be_visible()
    assert here.config.read_bytes() == before


async def test_a_rule_is_built_saved_switched_and_undone_to_the_byte(here: House, page: Page) -> None:
    before = here.config.read_bytes()
    await page.goto(f"{here.url}#/rules")
    await page.get_by_role("link", name="New rule").click()
    await page.get_by_label("Name", exact=True).fill("bell: at night")
    await page.get_by_role("group", name="Sounds").get_by_role("button", name="Cat").click()
    await page.get_by_role("group", name="In").get_by_role("button", name="kitchen").click()
    await page.get_by_label("What happens").select_option("lasts")
    await page.get_by_label("How long").fill("5")
    await page.get_by_role("switch", name="Only at certain hours").click()
    await page.get_by_label("Message").fill('say "hi" {{ label }}')
    await expect(page.locator(".preview .sentence")).to_have_text(
        re.compile("When Doorbell or Cat lasts 5 min in kitchen between 22:00 and 07:00")
    )
    await expect(page.get_by_text("This rule is right.")).to_be_visible()
    assert not await serious(page)
    await page.get_by_role("button", name="Save rule").click()
    card = page.get_by_role("region", name="bell: at night")
    await expect(card).to_be_visible()
    saved = here.config.read_text()
    assert '  - name: "bell: at night"\n    when:\n      sound: [doorbell, cat]\n      room: kitchen\n' in saved
    assert saved.startswith(before.decode().rstrip("\n"))
    assert here.call("GET", "rules")[1]["rules"][2]["followed"]
    await card.get_by_role("switch").click()
    await expect(card.get_by_role("switch", name="bell: at night: Off")).not_to_be_checked()
    assert "enabled: false" in here.config.read_text()
    await page.get_by_text("Earlier versions of the file").click()
    await expect(page.get_by_role("button", name="Bring back")).to_have_count(2)
    await page.get_by_role("button", name="Bring back").nth(1).click()
    await expect(page.get_by_text("The former version is back.")).to_be_visible()
    await expect(card).to_be_hidden()
    assert here.config.read_bytes() == before


async def test_a_rule_is_deleted_and_comes_back(here: House, page: Page) -> None:
    before = here.config.read_bytes()
    await page.goto(f"{here.url}#/rules/1")
    await page.get_by_role("button", name="Delete").click()
    await page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("The rule is deleted.")).to_be_visible()
    await expect(page.get_by_role("heading", name="smoke alarm to the phone")).to_be_hidden()
    assert b"smoke alarm to the phone" not in here.config.read_bytes()
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_role("heading", name="smoke alarm to the phone")).to_be_visible()
    assert here.config.read_bytes() == before


async def test_another_change_meanwhile_loses_nothing(here: House, page: Page) -> None:
    page.excused.append("409")  # type: ignore[attr-defined]
    await page.goto(f"{here.url}#/rules/2")
    await page.get_by_role("button", name="YAML").click()
    text = page.get_by_label("The rule as YAML")
    await text.fill("name: mine\nwhen: {sound: dog_bark}\ndo: {log: mine}\n")
    await expect(page.get_by_text("This rule is right.")).to_be_visible()
    here.config.write_text(here.config.read_text() + "# theirs\n")
    await page.get_by_role("button", name="Save rule").click()
    await expect(page.get_by_text("your text is still here")).to_be_visible()
    await expect(text).to_have_value(re.compile("^name: mine"))
    await page.get_by_role("button", name="Save rule").click()
    await expect(page.get_by_role("heading", name="mine", exact=True)).to_be_visible()
    assert here.config.read_text().endswith("# theirs\n")
    # where the rule itself is another one by now, nobody's is overwritten
    await page.goto(f"{here.url}#/rules/2")
    await page.get_by_role("button", name="YAML").click()
    await text.fill("name: mine too\nwhen: {sound: dog_bark}\ndo: {log: mine}\n")
    await expect(page.get_by_text("This rule is right.")).to_be_visible()
    here.config.write_text(here.config.read_text().replace("name: mine", "name: theirs"))
    await page.get_by_role("button", name="Save rule").click()
    await expect(page.get_by_text("will be added as a new one")).to_be_visible()
    await page.get_by_role("button", name="Save rule").click()
    await expect(page.get_by_role("heading", name="mine too", exact=True)).to_be_visible()
    await expect(page.get_by_role("heading", name="theirs", exact=True)).to_be_visible()
