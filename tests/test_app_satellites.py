"""The daemon with satellites: which room acts, what is answered where, and what is told when one is gone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from satellites import satellite
from test_app import until
from test_app_commands import house, spoken

from assistant.config import parse
from assistant.startup import ModelFiles

CONFIG = """\
privacy: {transcripts: true}
wyoming: {enabled: false}
speech: {languages: [en]}
rooms:
  kitchen: {source: "wyoming://127.0.0.1:PORT0", wake: none}
  hall: {source: "wyoming://127.0.0.1:PORT1", wake: none}
  bedroom: {source: "wyoming://127.0.0.1:PORT2"}
devices:
  - {name: kitchen light, area: kitchen, domain: light, topic: zigbee/kitchen/set}
"""


@pytest.mark.slow
async def test_of_satellites_that_hear_a_command_the_best_acts_and_answers(
    yamnet_path: Path, whisper_base_path: Path, tmp_path: Path
) -> None:
    said = await spoken("Turn on the kitchen light.")
    async with satellite(floor_dbfs=-40.0) as far, satellite(floor_dbfs=-60.0) as near, satellite("wake") as bed:
        text = CONFIG
        for number, one in enumerate((far, near, bed)):
            text = text.replace(f"PORT{number}", str(one.port))
        files = ModelFiles(yamnet_path, whisper_base_path)
        async with house(parse(text, Path("c.yaml")), files, tmp_path) as (client, daemon, _, _port):
            await until(lambda: daemon.health()["rooms_online"] == 3)
            await until(lambda: far.streaming and near.streaming)
            far.say(0.5 * said)
            near.say(said)
            await until(lambda: client.on("zigbee/kitchen/set"))
            await until(lambda: far.events("transcript") and near.events("transcript"))
            await until(lambda: near.events("audio-stop"))  # the reply, where it was heard
            assert client.on("zigbee/kitchen/set") == ["ON"]
            assert [json.loads(one)["room"] for one in client.on("kikimimi/hall/intent")] == ["hall"]
            assert client.on("kikimimi/kitchen/intent") == []
            assert not far.events("audio-start")
            assert daemon.health()["commands_understood"] == 1

            killed = time.monotonic()
            await near.kill()
            await until(lambda: client.on("kikimimi/hall/status")[-1] == "offline", 10.0)
            assert time.monotonic() - killed < 2.0
            await near.start()
            await until(lambda: client.on("kikimimi/hall/status")[-1] == "online", 10.0)
            assert client.on("kikimimi/kitchen/status")[-1] == "online"

            await bed.wake("okay_nabu")
            bed.say(said)
            await until(lambda: len(client.on("zigbee/kitchen/set")) == 2)
            await until(lambda: not bed.streaming)  # it waits for its next wake word
            await until(lambda: bed.events("audio-stop"))
            assert [json.loads(one)["room"] for one in client.on("kikimimi/bedroom/intent")] == ["bedroom"]
            assert daemon.health()["source_errors"] >= 1
