"""A real Home Assistant with a real broker and the real daemon: `make test-ha`. Not collected by a plain `pytest`.

One house for all tests, in the order in which they stand. KIKIMIMI_AUDIO, a folder with manifest.csv and clips/ (see
benchmarks/sounds.py), adds real voices and cries to those that are computed here.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import drive
import numpy as np
import pytest
import soundfile
import soxr
import yaml
from house import Broker, Daemon, HomeAssistant, Listener, Microphones, free_port, retained, wait

from assistant.events import SAMPLE_RATE, Samples
from assistant.outputs.mqtt import STABLE_AFTER
from assistant.synthesis import scaled, t3

pytestmark = pytest.mark.timeout(600)

RIGHT_WITHIN = 5.0  # seconds
AUDIO = os.environ.get("KIKIMIMI_AUDIO")
ROOMS = {"kitchen": ("台所", "Kitchen"), "bedroom": ("Bedroom", "Upstairs")}
LIGHT = "house/kitchen/light/set"
BLUEPRINTS = Path(__file__).parents[2] / "config/home-assistant/blueprints"

HUB = {
    "binary_sensor.kikimimi_service": "on",
    "binary_sensor.kikimimi_any_alert": "off",
    "switch.kikimimi_listening": "on",
    "notify.kikimimi_say": "unknown",
    "sensor.kikimimi_detection_lag": None,
    "sensor.kikimimi_dropped_audio": None,
    "sensor.kikimimi_cpu": None,
    "sensor.kikimimi_memory": None,
}
ROOM = {
    "event.{}_sound": None,
    "event.{}_doorbell": None,
    "sensor.{}_last_sound": None,
    "sensor.{}_last_speech": None,
    "sensor.{}_sound_level": None,
    "binary_sensor.{}_microphone": "on",
    "sensor.{}_microphone_problem": "none",
    "switch.{}_listening": "on",
    "select.{}_sensitivity": "balanced",
    "button.{}_test_alert": None,
    "notify.{}_say": None,
    "image.{}_spectrogram": None,
}


class Phone:
    """A mobile app: what is pushed to it."""

    def __init__(self) -> None:
        self.pushed: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.pushed.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/push"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@dataclass
class House:
    """All that runs."""

    folder: Path
    broker: Broker
    microphones: Microphones
    daemon: Daemon
    assistant: HomeAssistant
    listener: Listener
    wyoming: int
    phone: Phone = field(default_factory=Phone)

    def configure(self, rooms: tuple[str, ...] = tuple(ROOMS), groups: dict[str, Any] | None = None) -> None:
        """Write the daemon's configuration. `groups`: the sounds, in place of the shipped ones."""
        config: dict[str, Any] = {
            "rooms": {
                room: {"source": self.microphones.url(room), "name": ROOMS[room][0], "area": ROOMS[room][1]}
                for room in rooms
            },
            "mqtt": {"host": "127.0.0.1", "port": self.broker.port},
            "speech": {"languages": ["en"]},
            "devices": [{"name": "kitchen light", "area": "Kitchen", "domain": "light", "topic": LIGHT}],
            "wyoming": {"port": self.wyoming},
        }
        if groups is not None:
            table = self.folder / "sounds.yaml"
            table.write_text(yaml.safe_dump({"groups": groups}, allow_unicode=True))
            config["sounds"] = {"table": str(table)}
        self.daemon.config.write_text(yaml.safe_dump(config, allow_unicode=True))

    def call(self, method: str, path: str, data: Any = None) -> Any:
        return drive.call(method, path, data, self.assistant.token)

    def service(self, name: str, entity: str, **data: Any) -> None:
        domain, _, service = name.partition(".")
        self.call("POST", f"/api/services/{domain}/{service}", {"entity_id": entity, **data})

    def states(self) -> dict[str, str]:
        try:
            return {state["entity_id"]: state["state"] for state in self.call("GET", "/api/states")}
        except (OSError, ValueError):
            return {}

    def state(self, entity: str) -> str | None:
        return self.states().get(entity)

    def template(self, text: str) -> Any:
        return self.call("POST", "/api/template", {"template": text})


def groups() -> dict[str, Any]:
    from assistant.config import shipped  # noqa: PLC0415

    return dict(yaml.safe_load(shipped("sounds.yaml").read_text("utf-8"))["groups"])


def clip(path: Path) -> Samples:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono: Samples = np.asarray(soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE), np.float32)
    return mono


def manifest(**wanted: str) -> list[dict[str, str]]:
    if AUDIO is None:
        return []
    with (Path(AUDIO) / "manifest.csv").open(encoding="utf-8") as lines:
        return [row for row in csv.DictReader(lines) if all(want in row[key] for key, want in wanted.items())]


def spoken(text: str, folder: Path) -> Samples:
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("espeak-ng is not installed")
    path = folder / "spoken.wav"
    subprocess.run([program, "-v", "en-us", "-s", "140", "-w", path, text], check=True)
    return clip(path)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    broker = Broker(folder)
    broker.start()
    it = House(
        folder, broker, Microphones(), Daemon(folder), HomeAssistant(), Listener(broker.port), wyoming=free_port()
    )
    it.configure()
    automations = folder / "automations.yaml"
    automations.write_text(yaml.safe_dump(automation_list()))
    print(f"\nlogs in {folder} and {it.assistant.root}/hass.log")
    try:
        it.assistant.do("start", str(broker.port), HA_AUTOMATIONS=str(automations), HA_BLUEPRINTS=str(BLUEPRINTS))
        it.daemon.start()
        wait(lambda: it.state("binary_sensor.bedroom_microphone") == "on", 60, "the daemon listens")
        yield it
    finally:
        it.daemon.stop()
        it.assistant.do("stop")
        it.listener.stop()
        broker.stop()
        it.microphones.stop()


def automation_list() -> list[dict[str, Any]]:
    """One automation of each blueprint, as the user interface writes them; each also tells the broker."""

    def made(blueprint: str, **inputs: Any) -> dict[str, Any]:
        tell = {"action": "mqtt.publish", "data": {"topic": f"fired/{blueprint}", "payload": "{{ message }}"}}
        return {
            "id": blueprint,
            "alias": blueprint,
            "use_blueprint": {"path": f"kikimimi/{blueprint}.yaml", "input": {**inputs, "more": [tell]}},
        }

    return [
        made("alarm_heard", rooms=["event.kitchen_sound", "event.bedroom_sound"]),
        made("baby_cry", cry=["binary_sensor.bedroom_baby_cry"]),
        made(
            "appliance_finished",
            beep=["binary_sensor.kitchen_appliance_beep"],
            name="dishwasher",
            say=["notify.kitchen_say"],
        ),
    ]


def expected(rooms: tuple[str, ...] = tuple(ROOMS), **changed: str) -> dict[str, str]:
    """The states that are known whatever was heard. Others must at least be there."""
    known = {entity: state for entity, state in HUB.items() if state is not None and state != "unknown"}
    for room in rooms:
        known |= {entity.format(room): state for entity, state in ROOM.items() if state is not None}
        known |= {f"binary_sensor.{room}_{kind}": "off" for kind in groups()}
    return known | {entity.replace("__", "."): state for entity, state in changed.items()}


def wrong(house: House, want: dict[str, str], rooms: tuple[str, ...] = tuple(ROOMS)) -> list[str]:
    """Entities that are missing, unavailable, or have another state than they should."""
    now = house.states()
    every = [*HUB, *(entity.format(room) for room in rooms for entity in ROOM), *want]
    return [
        f"{entity} is {now.get(entity)}"
        for entity in dict.fromkeys(every)
        if now.get(entity) in (None, "unavailable") or (entity in want and now[entity] != want[entity])
    ]


# what is there


def test_every_entity_is_there_with_its_state(house: House) -> None:
    wait(lambda: not wrong(house, expected()), 10, "states")
    wait(lambda: house.state("sensor.kikimimi_memory") not in (None, "unknown"), 15, "health figures")

    listed = house.template("{{ integration_entities('mqtt') | join(' ') }}").split()
    promised = {*HUB, *(entity.format(room) for room in ROOMS for entity in ROOM)}
    promised |= {f"binary_sensor.{room}_{kind}" for room in ROOMS for kind in groups()}
    assert set(listed) == promised
    print(f"\n{len(promised)} entities")


def test_every_entity_belongs_to_its_device_in_its_area(house: House) -> None:
    hub = house.template("{{ device_id('switch.kikimimi_listening') }}")
    assert house.template(f"{{{{ device_attr('{hub}', 'name') }}}}") == "Kikimimi"
    for entity in HUB:
        assert house.template(f"{{{{ device_id('{entity}') }}}}") == hub
    for room, (name, area) in ROOMS.items():
        device = house.template(f"{{{{ device_id('switch.{room}_listening') }}}}")
        entities = [entity.format(room) for entity in ROOM] + [f"binary_sensor.{room}_{kind}" for kind in groups()]
        got = house.template(f"{{{{ {entities} | map('device_id') | unique | join }}}}")
        assert got == device
        assert house.template(f"{{{{ device_attr('{device}', 'name') }}}}") == name
        assert house.template(f"{{{{ device_attr('{device}', 'via_device_id') }}}}") == hub
        assert house.template(f"{{{{ {entities} | map('area_name') | unique | join }}}}") == area


# what is heard, and what people build on it


def test_an_alarm_makes_the_blueprint_push_its_picture(house: House) -> None:
    app = {
        "device_id": "phone",
        "app_id": "test",
        "app_name": "Test",
        "app_version": "1",
        "device_name": "Phone of Ann",
        "manufacturer": "Test",
        "model": "Test",
        "os_name": "Test",
        "os_version": "1",
        "supports_encryption": False,
        "app_data": {"push_token": "token", "push_url": house.phone.url},
    }
    house.call("POST", "/api/mobile_app/registrations", app)
    phone = wait_for(house, "{{ device_id('Phone of Ann') or '' }}")
    automations = yaml.safe_load((house.assistant.root / "conf/automations.yaml").read_text())
    for automation in automations:
        automation["use_blueprint"]["input"]["phone"] = phone
    (house.assistant.root / "conf/automations.yaml").write_text(yaml.safe_dump(automations))
    house.call("POST", "/api/services/automation/reload", {})
    house.microphones.play("kitchen", scaled(t3(cycles=4), -25.0))
    wait(lambda: house.state("binary_sensor.kitchen_smoke_alarm") == "on", 30, "the alarm is heard")
    wait(lambda: house.state("binary_sensor.kikimimi_any_alert") == "on", 1, "the next message")
    wait(lambda: house.phone.pushed, 10, "the phone is told")
    pushed = house.phone.pushed[0]
    assert pushed["title"].startswith("台所: ")
    assert pushed["data"]["image"] == "/api/image_proxy/image.kitchen_spectrogram"
    request = urllib.request.Request(
        drive.BASE + pushed["data"]["image"], headers={"Authorization": f"Bearer {house.assistant.token}"}
    )
    with urllib.request.urlopen(request, timeout=10) as picture:
        assert picture.read(8) == b"\x89PNG\r\n\x1a\n"
    wait(lambda: house.listener.payloads("fired/alarm_heard"), 5, "the other actions")
    wait(lambda: house.state("binary_sensor.kitchen_smoke_alarm") == "off", 45, "the alarm ended")


def wait_for(house: House, template: str) -> str:
    wait(lambda: house.template(template), 10, template)
    return str(house.template(template))


def test_a_cry_fires_the_blueprint(house: House) -> None:
    cries = [row["file"] for row in manifest(label="Baby cry")]
    if cries and AUDIO is not None:
        for name in cries[:3]:
            house.microphones.play("bedroom", scaled(clip(Path(AUDIO) / name), -25.0))
    else:
        pretended(house, "bedroom", "baby_cry")
    wait(lambda: house.listener.payloads("fired/baby_cry"), 30, "the automation fires")
    wait(lambda: any("baby cries" in push.get("title", "") for push in house.phone.pushed), 5, "the phone is told")


def test_an_appliance_fires_the_blueprint(house: House) -> None:
    pretended(house, "kitchen", "appliance_beep")
    wait(lambda: house.listener.payloads("fired/appliance_finished"), 10, "the automation fires")
    wait(lambda: b"The dishwasher has finished." in house.listener.payloads("kikimimi/kitchen/say"), 5, "it is said")


def pretended(house: House, room: str, kind: str) -> None:
    """A sound for which there is no recording here: on and off on its real topic."""
    topic = f"kikimimi/{room}/sound/{kind}/state"
    house.listener.publish(topic, "ON", retain=True)
    time.sleep(1.0)
    house.listener.publish(topic, "OFF", retain=True)


# what can be set


def test_switch_select_button_and_notify_act(house: House) -> None:
    topics = house.listener.payloads
    house.service("switch.turn_off", "switch.kitchen_listening")
    wait(lambda: house.state("event.kitchen_sound") == "unavailable", 5, "a disabled room is unavailable")
    assert house.state("binary_sensor.kitchen_microphone") == "unknown"
    assert topics("kikimimi/kitchen/status")[-1] == b"disabled"
    house.service("switch.turn_on", "switch.kitchen_listening")
    wait(lambda: house.state("binary_sensor.kitchen_microphone") == "on", 10, "the room listens again")
    house.service("select.select_option", "select.kitchen_sensitivity", option="miss nothing")
    wait(lambda: topics("kikimimi/kitchen/sensitivity/state")[-1] == b"miss nothing", 5, "the choice")
    wait(lambda: house.state("select.kitchen_sensitivity") == "miss nothing", 5, "the choice is shown")
    fired = len(topics("fired/alarm_heard"))
    house.service("button.press", "button.bedroom_test_alert")
    wait(lambda: len(topics("fired/alarm_heard")) > fired, 10, "the blueprint reacts to the test")
    house.service("notify.send_message", "notify.kikimimi_say", message="Dinner is ready.")
    wait(lambda: b"Dinner is ready." in topics("kikimimi/say"), 5, "the text")
    assert "is refused" not in house.daemon.log.read_text()
    house.service("select.select_option", "select.kitchen_sensitivity", option="balanced")
    wait(lambda: house.state("select.kitchen_sensitivity") == "balanced", 5, "the choice")


# Wyoming


def test_the_wyoming_entry_hears_and_acts(house: House) -> None:
    house.assistant.do("wyoming", str(house.wyoming))
    wait(lambda: any(entity.startswith("stt.") for entity in house.states()), 10, "a speech-to-text entity")
    stt = next(entity for entity in house.states() if entity.startswith("stt."))
    agents = [
        entity for entity in house.states() if entity.startswith("conversation.") and "home_assistant" not in entity
    ]
    print(f"\n{stt} {agents}")
    assert len(agents) == 1
    speech: list[tuple[str, Samples]] = []
    if AUDIO is not None:
        rows = [row for row in manifest(kind="speech", language="en") if len(row["transcript"].split()) >= 3]
        speech = [(row["transcript"], clip(Path(AUDIO) / row["file"])) for row in rows[:8]]
    speech = speech or [("turn on the kitchen light", spoken("turn on the kitchen light", house.folder))]
    errors = words = 0
    for transcript, samples in speech:
        heard = recognised(house, stt, samples)
        missed, total = distance(plain(transcript), plain(heard))
        errors, words = errors + missed, words + total
    print(f"speech to text: {len(speech)} clips, {words} words, word error rate {errors / words:.1%}")
    assert errors / words < 0.35
    data = {"text": "turn on the kitchen light", "language": "en", "agent_id": agents[0]}
    answer = house.call("POST", "/api/conversation/process", data)
    wait(lambda: house.listener.payloads(LIGHT), 5, f"the light is switched: {answer}")
    assert house.listener.payloads(LIGHT)[-1] == b"ON"
    print("agent:", answer["response"]["speech"])


def recognised(house: House, entity: str, samples: Samples) -> str:
    held = io.BytesIO()
    soundfile.write(held, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    form = "format=wav; codec=pcm; sample_rate=16000; bit_rate=16; channel=1; language=en"
    request = urllib.request.Request(
        f"{drive.BASE}/api/stt/{entity}",
        held.getvalue(),
        {"Authorization": f"Bearer {house.assistant.token}", "X-Speech-Content": form},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        result = json.load(answer)
    assert result["result"] == "success", result
    return str(result["text"])


def plain(text: str) -> list[str]:
    return re.sub(r"[^\w' ]", " ", text.lower()).split()


def distance(want: list[str], got: list[str]) -> tuple[int, int]:
    """Word errors (Levenshtein) and words wanted."""
    row = list(range(len(got) + 1))
    for i, word in enumerate(want, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(got, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (word != other))
    return row[-1], len(want)


def complaints(house: House) -> list[str]:
    """What Home Assistant logged of what we send. It has complaints of its own: there is no FFmpeg, for example."""
    about = r"kikimimi|mqtt|blueprint|automation|template|wyoming|notify|mobile_app|event|sensor|image"
    said = [line for line in house.assistant.log().splitlines() if re.search(r" (WARNING|ERROR|CRITICAL) ", line)]
    return [line for line in said if re.search(about, line, re.IGNORECASE)]


def test_the_log_has_no_word_about_us(house: House) -> None:
    assert complaints(house) == []


# restarts


@pytest.mark.parametrize("order", list(itertools.permutations(("assistant", "broker", "daemon"))), ids="-".join)
def test_states_are_right_soon_after_each_restart(house: House, order: tuple[str, ...]) -> None:
    wait(lambda: house.microphones.quiet, 60, "all has been played")
    time.sleep(5.0)  # what was played last may begin to be heard
    lasting = {(f"binary_sensor.{room}_{kind}", "on") for room in ROOMS for kind in groups()}
    wait(lambda: not lasting & set(house.states().items()), 60, "no sound lasts")
    for number, what in enumerate(order):
        choice = ("fewer false alarms", "miss nothing", "balanced")[number]
        went = {"assistant": assistant_again, "broker": broker_again, "daemon": daemon_again}[what]
        began = went(house, choice)
        want = expected(select__kitchen_sensitivity=choice)
        try:
            wait(lambda want=want: not wrong(house, want), 20, "states")  # type: ignore[misc]
        except AssertionError as error:
            pytest.fail(f"{what}: {error}: {wrong(house, want)[:6]}")
        took = time.monotonic() - began
        print(f"\n{'-'.join(order)}: states right {took:.2f} s after the return of the {what}")
        assert took < RIGHT_WITHIN, what


def assistant_again(house: House, choice: str) -> float:
    """Home Assistant is away while a choice changes; counted from when it answers."""
    house.assistant.do("halt")
    house.listener.publish("kikimimi/kitchen/sensitivity/set", choice)
    house.assistant.do("resume")
    return time.monotonic()


def broker_again(house: House, choice: str) -> float:
    """The broker forgets everything; counted from when Home Assistant, which tries each 10 s, is there again."""
    choose(house, choice)
    time.sleep(STABLE_AFTER + 1.0)  # a daemon that has just lost a connection waits longer before it tries again
    told = len(house.listener.payloads("kikimimi/status"))
    house.broker.stop()
    wait(lambda: house.state("binary_sensor.kikimimi_service") == "unavailable", 5, "Home Assistant has noticed")
    time.sleep(1.0)
    house.broker.start()
    listening = time.monotonic()
    wait(lambda: len(house.listener.payloads("kikimimi/status")) > told, 10, "the daemon is there")
    took = time.monotonic() - listening
    print(f"\nthe daemon has told a new broker everything after {took:.2f} s")
    assert took < RIGHT_WITHIN
    # no topic but the connection itself decides whether this one is available
    wait(lambda: house.state("binary_sensor.kikimimi_service") != "unavailable", 15, "Home Assistant is there")
    back = time.monotonic()
    print(f"Home Assistant is there after {back - listening:.2f} s")
    return back


def daemon_again(house: House, choice: str) -> float:
    """Counted from the start of the process."""
    choose(house, choice)
    house.daemon.stop()
    wait(lambda: house.state("binary_sensor.kikimimi_service") == "off", 5, "the service is gone")
    house.daemon.start()
    return time.monotonic()


def choose(house: House, choice: str) -> None:
    house.service("select.select_option", "select.kitchen_sensitivity", option=choice)
    wait(lambda: house.state("select.kitchen_sensitivity") == choice, 5, "the choice")


# what goes


def test_a_removed_room_and_sound_leave_nothing(house: House) -> None:
    device = house.template("{{ device_id('switch.bedroom_listening') }}")
    fewer = {kind: group for kind, group in groups().items() if kind != "dog_bark"}
    house.daemon.stop()
    house.configure(rooms=("kitchen",), groups=fewer)
    house.daemon.start()
    wait(lambda: house.state("binary_sensor.kitchen_microphone") == "on", 20, "the daemon is back")
    wait(lambda: not any("bedroom" in entity for entity in house.states()), 10, "the room is gone")
    wait(lambda: house.state("binary_sensor.kitchen_dog_bark") is None, 10, "the sound is gone")
    entities = house.template("{{ integration_entities('mqtt') | join(' ') }}")
    assert "bedroom" not in entities
    assert "dog_bark" not in entities
    assert house.template(f"{{{{ device_attr('{device}', 'name') }}}}") in (None, "None")
    kept = retained(house.broker.port)
    assert [topic for topic in kept if "bedroom" in topic or "dog_bark" in topic] == []
    assert not [topic for topic, payload in kept.items() if "config" in topic and b"dog_bark" in payload]


def test_the_log_has_no_word_about_us_in_the_end(house: House) -> None:
    lost = r"Error returned from MQTT server|The client is not currently connected|Failed to connect to MQTT"
    assert [line for line in complaints(house) if not re.search(lost, line)] == []  # the broker was killed often


def test_purge_leaves_nothing(house: House) -> None:
    house.daemon.stop()
    told = house.daemon.run("mqtt", "purge", "-c", str(house.daemon.config), "--yes")
    print(f"\n{told.splitlines()[0]}")
    kept = retained(house.broker.port)
    assert [topic for topic in kept if topic.startswith("kikimimi/") or "kikimimi" in topic] == []
    wait(lambda: not house.template("{{ integration_entities('mqtt') | join(' ') }}"), 10, "the entities are gone")
