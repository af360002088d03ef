"""What was heard, over HTTP: a whole daemon, real sounds, a real history and real clips."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.message import Message
from pathlib import Path
from typing import Any

import soundfile
from histories import remembered
from houses import House
from sounds import alarm, doorbells, sirens

from assistant.events import Event, State, Word
from assistant.verdicts import Verdict

Make = Callable[..., House]
CLIPS = "clips: {enabled: true, free: 0}\n"


def until(found: Callable[[], Any], seconds: float = 40.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def events(here: House, query: str = "") -> list[dict[str, Any]]:
    status, answer = here.call("GET", f"events?{query}")
    assert status == 200, answer
    return list(answer["events"])


def ended(here: House, event_type: str) -> dict[str, Any] | None:
    return next((one for one in events(here, f"type={event_type}") if one["event"]["state"] == "ended"), None)


def fetched(here: House, path: str, **headers: str) -> tuple[int, Message, bytes]:
    request = urllib.request.Request(f"{here.url}api/{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_what_was_heard_is_found_counted_and_played(house: Make, tmp_path: Path) -> None:
    here = house(settings=CLIPS).start("--source", f"kitchen={doorbells(tmp_path / 'bells.wav')}")
    one = until(lambda: (bell := ended(here, "doorbell")) and bell["clip"]["state"] == "kept" and bell)
    identity = one["event"]["id"]
    assert one["clip"] == {"state": "kept", "picture": True}
    assert one["threshold"]["in_force"] == 0.12
    assert one["opinion"] is None

    # filters and pages
    assert events(here, "room=hall") == []
    assert events(here, "kind=speech") == []
    assert [x["event"]["id"] for x in events(here, "room=kitchen&room=hall&type=doorbell&type=cat")][-1] == identity
    until(lambda: len(events(here)) > 1)
    _, page = here.call("GET", "events?limit=1")
    _, after = here.call("GET", f"events?limit=1&before={page['next']}")
    assert after["events"][0]["event"]["id"] != page["events"][0]["event"]["id"]
    now = time.time()
    assert events(here, f"since={now + 60}") == []
    assert events(here, f"until={now - 600}") == []
    assert here.call("GET", "events?limit=1000")[0] == 422
    assert here.call("GET", "events?before=yesterday")[0] == 422

    # counts
    start = datetime.fromisoformat(one["event"]["start"])
    day = start.astimezone(UTC).date()
    _, hours = here.call("GET", f"events/hours?day={day}&zone=UTC&type=doorbell")
    assert hours["rows"][0]["event_type"] == "doorbell"
    assert hours["rows"][0]["hours"][start.hour] >= 1
    assert sum(hours["rows"][0]["hours"]) == hours["rows"][0]["total"]
    assert here.call("GET", f"events/hours?day={day - timedelta(days=1)}&zone=UTC")[1]["rows"] == []
    _, days = here.call("GET", f"events/days?last={day + timedelta(days=1)}&zone=Pacific/Kiritimati")
    assert days["days"][-1]["day"] == str((start + timedelta(hours=14)).date())
    assert here.call("GET", f"events/hours?day={day}&zone=Mars/Olympus")[0] == 404
    assert here.call("GET", "events/hours?day=2026-02-30")[0] == 404

    # one of them, and its clip
    _, alone = here.call("GET", f"events/{identity}")
    assert alone["lengths"]["before"] == one["event"]["offset"] if one["event"]["offset"] < 3 else 3.0
    status, headers, flac = fetched(here, f"events/{identity}/clip")
    assert (status, headers["content-type"], headers["accept-ranges"]) == (200, "audio/flac", "bytes")
    assert soundfile.info(io.BytesIO(flac)).duration == alone["lengths"]["seconds"]
    size = len(flac)
    for wanted, begin, end in (
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, size),
        ("bytes=-50", size - 50, size),
        (f"bytes=10-{size * 2}", 10, size),
    ):
        status, headers, part = fetched(here, f"events/{identity}/clip", range=wanted)
        assert (status, part) == (206, flac[begin:end]), wanted
        assert headers["content-range"] == f"bytes {begin}-{end - 1}/{size}"
    status, headers, _ = fetched(here, f"events/{identity}/clip", range=f"bytes={size}-")
    assert (status, headers["content-range"]) == (416, f"bytes */{size}")
    for nonsense in ("bytes=5-2", "bytes=-", "metres=0-5", "bytes=0-1,5-6"):
        assert fetched(here, f"events/{identity}/clip", range=nonsense)[0] == 200
    status, headers, png = fetched(here, f"events/{identity}/picture")
    assert (status, headers["content-type"], png[:4]) == (200, "image/png", b"\x89PNG")

    # clips that are not there
    assert fetched(here, "events/01M8HNK843GQZE9344RVMPN7YF/clip")[0] == 404
    assert fetched(here, "events/..%2f..%2fswitches/clip")[0] in {404, 422}
    for file in (here.folder / "state").rglob(f"{identity}.*"):
        file.unlink()
    status, _, told = fetched(here, f"events/{identity}/clip")
    assert (status, json.loads(told)["detail"]) == (410, "somebody has deleted the clip from its folder")
    here.stop()
    here.start("--source", f"kitchen={doorbells(tmp_path / 'bells.wav')}")
    status, _, told = fetched(here, f"events/{identity}/clip")
    assert status == 410
    assert "deleted" in json.loads(told)["detail"]
    assert here.call("GET", f"events/{identity}")[1]["clip"]["state"] == "forgotten"


def test_not_this_raises_the_threshold_and_can_be_taken_back(house: Make, tmp_path: Path) -> None:
    source = f"kitchen={doorbells(tmp_path / 'bells.wav')}"
    here = house().start("--source", source)
    identity = until(lambda: ended(here, "doorbell"))["event"]["id"]
    status, said = here.call("PUT", f"events/{identity}/verdict", {"opinion": "wrong"})
    assert status == 200
    assert (said["before"], said["threshold"]["in_force"], said["why"]) == (0.12, 0.144, "moved")
    assert said["threshold"]["wrong"] == 1
    assert events(here, "type=doorbell")[-1]["opinion"] == "wrong"
    assert here.call("GET", "thresholds")[1] == [said["threshold"]]
    here.stop()
    here.start("--source", source)
    assert here.call("GET", "thresholds")[1] == [said["threshold"]]
    status, back = here.call("DELETE", f"events/{identity}/verdict")
    assert (status, back["before"], back["threshold"]["in_force"]) == (200, 0.144, 0.12)
    assert here.call("DELETE", f"events/{identity}/verdict")[0] == 404
    assert here.call("GET", "thresholds")[1] == []
    assert here.call("PUT", f"events/{identity}/verdict", {"opinion": "perhaps"})[0] == 422
    assert here.call("PUT", "events/NOBODY/verdict", {"opinion": "wrong"})[0] == 404
    # a strong one was no near miss
    _, sure = here.call("PUT", f"events/{identity}/verdict", {"opinion": "correct"})
    assert (sure["moved"], sure["why"]) == (False, "sure")


def test_a_raised_threshold_holds_after_a_restart_and_falls_at_once(house: Make, tmp_path: Path) -> None:
    """Sirens that score 0.85, where 0.3 × 2.99 is needed."""
    here = house()
    said = [
        Verdict(
            event=f"A{i}", room="kitchen", kind="siren", event_type="siren", label="Siren", opinion="wrong",
            score=1.0, plain=0.3, at=1.0,
        ).model_dump(mode="json")
        for i in range(6)
    ]  # fmt: skip
    state = here.folder / "state" / "kikimimi"
    state.mkdir(parents=True)
    (state / "verdicts.json").write_text(json.dumps({"verdicts": said}))
    here.start("--source", f"kitchen={sirens(tmp_path / 'sirens.wav')}")
    assert here.call("GET", "thresholds")[1][0]["in_force"] == 0.896
    until(lambda: events(here, "type=appliance_beep"))  # what YAMNet also hears in them
    time.sleep(3.0)
    assert events(here, "type=siren") == []
    assert here.call("DELETE", "thresholds/kitchen/siren")[0] == 204
    assert here.call("DELETE", "thresholds/kitchen/siren")[0] == 404
    until(lambda: events(here, "type=siren"))


def test_what_is_snoozed_is_told_to_nobody_until_it_ends(house: Make, tmp_path: Path) -> None:
    source = f"kitchen={doorbells(tmp_path / 'bells.wav', count=30)}"
    rule = "rules: [{name: bell, when: {sound: doorbell}, do: {log: the bell was heard}}]\n"
    here = house(settings=rule).start("--source", source)
    identity = until(lambda: ended(here, "doorbell"))["event"]["id"]
    status, snooze = here.call("PUT", f"events/{identity}/snooze", {"seconds": 300})
    assert (status, snooze["silenced"], snooze["life_safety"]) == (200, 0, False)
    assert events(here, "type=doorbell")[0]["snoozed_until"] == snooze["until"]
    heard = len(events(here, "type=doorbell"))
    until(lambda: here.call("GET", "snoozes")[1][0]["silenced"] == 1)
    assert len(events(here, "type=doorbell")) == heard
    assert here.log.read_text().count("the bell was heard") == heard

    here.stop()
    here.start("--source", source)  # it survives
    assert here.call("GET", "snoozes")[1][0]["silenced"] >= 1
    until(lambda: here.call("GET", "snoozes")[1][0]["silenced"] == 2)
    assert here.call("DELETE", "snoozes/kitchen/doorbell")[0] == 204
    assert here.call("DELETE", "snoozes/kitchen/doorbell")[0] == 404
    assert here.call("GET", "snoozes")[1] == []
    until(lambda: len(events(here, "type=doorbell")) > heard)
    assert here.call("PUT", f"events/{identity}/snooze", {"seconds": 1e9})[0] == 422


def test_an_alarm_that_still_sounds_when_its_snooze_is_over_is_told(house: Make, tmp_path: Path) -> None:
    source = f"kitchen={alarm(tmp_path / 'alarm.wav')}"
    here = house().start("--source", source)
    one = until(lambda: events(here, "type=smoke_alarm"))[0]
    assert one["life_safety"] is True
    status, snooze = here.call("PUT", f"events/{one['event']['id']}/snooze", {"seconds": 40})
    assert (status, snooze["life_safety"]) == (200, True)
    here.stop()
    here.start("--source", source)
    until(lambda: here.call("GET", "snoozes")[1][0]["silenced"] == 1)
    assert len(events(here, "type=smoke_alarm")) == 1
    again = until(lambda: len(found := events(here, "type=smoke_alarm")) == 2 and found[0], 45.0)
    assert again["event"]["state"] == "started"
    assert here.call("GET", "snoozes")[1] == []


def test_what_was_said_is_private_again_once_it_is_switched_off(house: Make, tmp_path: Path) -> None:
    here = house(settings="privacy: {transcripts: true}\n")
    said = Event(
        "01M8HNK843GQZE9344RVMPN7YF", "kitchen", "mic", "speech", State.HEARD, "speech", "Speech", 0.8,
        text="Turn on the light", words=(Word("Turn", 0.0, 0.2),), start="2026-11-28T10:00:00.000+00:00",
    )  # fmt: skip
    remembered(here.folder / "state" / "kikimimi" / "history.db", [said])
    source = f"kitchen={doorbells(tmp_path / 'bells.wav', first=60.0)}"
    here.start("--source", source)
    assert events(here, "text=LIGHT")[0]["event"]["text"] == "Turn on the light"
    assert here.call("GET", "events/about")[1]["words"] is True
    here.stop()
    here.config.write_text(here.config.read_text().replace("transcripts: true", "transcripts: false"))
    here.start("--source", source)
    assert events(here, "text=light") == []
    assert here.call("GET", "events/hours?day=2026-11-28&text=light")[1]["rows"] == []
    (one,) = events(here)
    assert (one["event"]["text"], one["event"]["words"]) == (None, None)
    assert here.call("GET", f"events/{said.id}")[1]["event"]["text"] is None
    assert here.call("GET", "events/about")[1]["words"] is False


def test_without_a_history_the_last_events_can_still_be_judged(house: Make, tmp_path: Path) -> None:
    here = house(settings="history: {enabled: false}\n")
    here.start("--source", f"kitchen={doorbells(tmp_path / 'bells.wav')}")
    status, answer = here.call("GET", "events")
    assert (status, answer["detail"]) == (409, "nothing is remembered; remedy: history.enabled: true")
    assert here.call("GET", "events/about")[1]["remembered"] is False
