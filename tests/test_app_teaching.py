"""A sound is taught while the real daemon runs: from the command line to MQTT, Home Assistant and a rule, and back."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chimes
import numpy as np
import pytest
import soundfile
from forked import kikimimi
from outputs.brokers import Mosquitto, Subscriber, until
from test_reload import BASE, client, mosquitto, running  # noqa: F401 (fixtures)

from assistant.events import SAMPLE_RATE
from assistant.synthesis import noise, placed, scaled


@pytest.fixture
def kitchen(tmp_path: Path) -> Iterator[Path]:
    """Four minutes in which the chime rings every eight seconds."""
    bed = noise(240.0, -60.0, seed=3)
    for turn in range(29):
        bed = placed(bed, scaled(chimes.rings(100 + turn % 7), -28.0), 4.0 + 8.0 * turn)
    soundfile.write(tmp_path / "kitchen.wav", np.clip(bed, -1, 1), SAMPLE_RATE, subtype="PCM_16")
    yield tmp_path / "kitchen.wav"


def teach(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`kikimimi teach` beside the daemon of `running(folder, …)`."""
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "none")}
    return kikimimi("teach", *arguments, environment=environment)


def chime_events(subscriber: Subscriber) -> list[dict[str, Any]]:
    events = [json.loads(payload) for payload in subscriber.payloads("kikimimi/kitchen/event")]
    return [event for event in events if event["event_type"] == "kitchen_chime"]


async def test_it_is_heard_without_a_restart_and_forgotten_again(
    tmp_path: Path,
    mosquitto: Mosquitto,  # noqa: F811
    client: Subscriber,  # noqa: F811
    yamnet_path: Path,
    kitchen: Path,
) -> None:
    config = BASE.format(port=mosquitto.port) + (
        f"rooms: {{kitchen: {{source: '{kitchen}'}}}}\n"
        "web: {enabled: false}\n"
        "rules:\n- when: {sound: kitchen_chime}\n  do: {publish: {topic: house/ding, payload: '{{ label }}'}}\n"
    )
    files = [str(path) for path in chimes.files(tmp_path / "rings")]
    state = "kikimimi/kitchen/sound/kitchen_chime/state"
    async with running(tmp_path, config) as daemon:
        await until(lambda: client.payloads("kikimimi/kitchen/status")[-1:] == ["online"])
        done = await asyncio.to_thread(teach, tmp_path, "台所のチャイム", *files, "--name", "kitchen_chime")
        assert done.returncode == 0, done.stderr
        assert "kitchen_chime (台所のチャイム): clear" in done.stdout
        await until(lambda: client.payloads(state)[:1] == ["OFF"], 20)
        await until(lambda: "ON" in client.payloads(state), 30)
        await until(lambda: client.payloads("house/ding")[-1:] == ["台所のチャイム"], 10)
        await until(lambda: client.payloads(state)[-1] == "OFF", 20)
        await until(lambda: len(chime_events(client)) >= 2, 10)  # the state is told before its event
        own = chime_events(client)
        assert [event["state"] for event in own[:2]] == ["started", "ended"]
        assert own[0]["label"] == "台所のチャイム"
        assert "kitchen_chime" in client.payloads("kikimimi/kitchen/trigger")
        (topic,) = {t for t in client.topics() if t.startswith("homeassistant/device/") and "kitchen" in t}
        announced = json.loads(client.payloads(topic)[-1])["components"]
        assert announced["sound_kitchen_chime"]["name"] == "台所のチャイム"
        assert "trigger_kitchen_chime" in announced
        assert "kitchen_chime" in announced["sound_event"]["event_types"]

        done = await asyncio.to_thread(teach, tmp_path, "台所のチャイム", "--delete")
        assert done.returncode == 0, done.stderr
        await until(lambda: client.payloads(state)[-1:] == [""], 20)
        await until(lambda: "sound_kitchen_chime" not in json.loads(client.payloads(topic)[-1])["components"], 10)
        emptied = [json.loads(payload)["components"].get("sound_kitchen_chime") for payload in client.payloads(topic)]
        assert {"platform": "binary_sensor"} in emptied
        heard = len(client.payloads("house/ding"))
        await asyncio.sleep(17)  # it rings twice
        assert len(client.payloads("house/ding")) == heard
        assert "Traceback" not in daemon.log


def test_the_command_line_lists_refuses_and_forgets(tmp_path: Path, yamnet_path: Path) -> None:
    files = [str(path) for path in chimes.files(tmp_path / "rings", (1, 2, 3))]
    assert "no sound was taught yet" in teach(tmp_path, "--list").stdout
    for arguments, code, told in (
        (["doorbell", *files], 2, "my_doorbell"),
        (["Chime", files[0]], 2, "best are 3 to 5"),
        (["Chime", *files[:2], str(tmp_path / "none.wav")], 3, "none.wav"),
        (["Chime", *files, "--name", "No Name"], 2, "a-z, 0-9 and _"),
        (["Chime", "--delete"], 1, "no sound Chime was taught; there is none"),
        ([], 2, "kikimimi teach NAME FILES"),
        (["--list", "Chime"], 2, "stands alone"),
    ):
        done = teach(tmp_path, *arguments)
        assert (done.returncode, told in done.stderr) == (code, True), (arguments, done.stderr)
        assert "Traceback" not in done.stderr
    done = teach(tmp_path, "Chime", *files, "--json")
    line = json.loads(done.stdout)
    assert (line["name"], line["title"], len(line["examples"])) == ("chime", "Chime", 3)
    assert json.loads(teach(tmp_path, "--list", "--json").stdout)[0]["name"] == "chime"
    (tmp_path / "state/kikimimi/taught/broken.npz").write_bytes(b"PK")
    listed = teach(tmp_path, "--list")
    assert "chime" in listed.stdout
    assert "broken.npz cannot be used" in listed.stderr
    again = str(chimes.files(tmp_path, (5,))[0])
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = kikimimi("listen", "-c", str(config_without_speech(tmp_path)), "--json", again, environment=environment)
    assert done.returncode == 0, done.stderr
    assert "chime" in chimes.types(done.stdout)
    assert teach(tmp_path, "chime", "--delete").stdout == "chime: forgotten\n"


def config_without_speech(folder: Path) -> Path:
    path = folder / "quiet.yaml"
    path.write_text("speech: {enabled: false}\n")
    return path
