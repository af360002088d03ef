"""What the page Health is told: put together from a real daemon, and how far away an address is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from outputs.brokers import free_port

from assistant import doctor
from assistant import vitals as module
from assistant.app import Daemon, daemon
from assistant.config import parse
from assistant.errors import AssistantError
from assistant.events import SAMPLE_RATE
from assistant.models import store
from assistant.startup import ModelFiles, Room
from assistant.synthesis import noise, placed, t3
from assistant.vitals import Vitals, reach_of
from assistant.web.health import Health


@pytest.fixture
def alarm(tmp_path: Path) -> Path:
    path = tmp_path / "kitchen.wav"
    soundfile.write(path, placed(noise(60.0, -60.0), 0.2 * t3(cycles=5), 3.0), SAMPLE_RATE, subtype="PCM_16")
    return path


@pytest.fixture(autouse=True)
def _nothing_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "fetched", type(store.fetched)())


@pytest.fixture
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield


@asynccontextmanager
async def running(
    tmp_path: Path, yamnet: Path, rooms: list[Room], settings: str = ""
) -> AsyncIterator[tuple[Daemon, Vitals, list[Any]]]:
    own = f"broker: {{port: {free_port()}}}\nwyoming: {{enabled: false}}\nsay: {{enabled: false}}\n"
    own += "speech: {enabled: false}\n" + ("" if "web:" in settings else "web: {enabled: false}\n")
    config = parse(own + settings, tmp_path / "config.yaml")
    told: list[Any] = []
    async with daemon(config, rooms, ModelFiles(yamnet, None), state=tmp_path / "state") as here:
        task = asyncio.create_task(here.run())
        try:
            yield here, Vitals(here.parts, told.append), told
        finally:
            here.stop()
            await task


async def until(condition: Any, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.mark.usefixtures("_own_state")
async def test_a_house_alone_is_well_and_nothing_leaves_it(tmp_path: Path, yamnet_path: Path, alarm: Path) -> None:
    async with running(tmp_path, yamnet_path, [Room("kitchen", str(alarm))]) as (_, vitals, _told):
        await until(lambda: {"sound", "mqtt", "history"} <= {stage.name for stage in vitals.health().stages})
        health = vitals.health()
        assert not health.troubles
        assert health.stays
        (broker,) = health.ways
        assert (broker.kind, broker.reach, broker.direction) == ("mqtt", "machine", "out")
        assert broker.messages is not None
        assert broker.bytes is not None
        assert broker.messages > 10
        assert broker.bytes > 1000
        stages = {stage.name: stage for stage in health.stages}
        assert {"gate", "tagger", "loop"} <= set(stages)
        assert all(0.0 <= stage.p50_ms <= stage.p95_ms < 60_000 for stage in stages.values())
        assert {queue.name for queue in health.queues} >= {"utterances", "mqtt", "history"}
        assert [(one.role, one.device, one.why) for one in health.models] == [("sounds", "CPU", "small")]
        assert Health.model_validate_json(health.model_dump_json()) == health


@pytest.mark.usefixtures("_own_state")
async def test_every_way_out_is_listed_without_a_secret(tmp_path: Path, yamnet_path: Path) -> None:
    rooms = [
        Room("garden", "rtsp://user:hunter2@camera.local/garden?token=hunter2"),
        Room("bedroom", "wyoming://127.0.0.1:9"),
    ]
    settings = (
        "webhooks: {hosts: [hooks.example.org, '192.168.1.5:8123']}\n"
        "web: {host: 0.0.0.0, port: 0, password: 'hunter2hunter2', public_url: 'https://home.example.org/k/'}\n"
        "profile: remote\nmodels: {remote: {url: 'https://127.0.0.1:9/v1', token: 'hunter2hunter2'}}\n"
    )
    settings = settings.replace("'hunter2hunter2'", "'${PAGE_PASSWORD}'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAGE_PASSWORD", "hunter2hunter2")
        async with running(tmp_path, yamnet_path, rooms, settings) as (_, vitals, _told):
            store.fetched["pip's index"] += 1_000
            await until(lambda: any(trouble.name == "room" for trouble in vitals.health().troubles))
            health = vitals.health()
            found = {(way.kind, way.address): (way.reach, way.direction) for way in health.ways}
            assert found[("webhook", "hooks.example.org")] == ("internet", "out")
            assert found[("webhook", "192.168.1.5:8123")] == ("network", "out")
            assert found[("stream", "camera.local")] == ("network", "out")
            assert found[("satellite", "127.0.0.1:9")] == ("machine", "out")
            assert found[("remote", "127.0.0.1:9")] == ("machine", "out")
            assert [(one.name, one.device) for one in health.models][1:2] == [("remote", "https://127.0.0.1:9")]
            assert found[("page", "0.0.0.0:0")] == ("network", "in")
            assert found[("page", "home.example.org")] == ("internet", "in")
            assert found[("models", "pip's index")] == ("internet", "out")
            assert not health.stays
            assert "hunter2" not in health.model_dump_json()
            assert "bedroom" in " ".join(trouble.detail for trouble in health.troubles)


@pytest.mark.usefixtures("_own_state")
async def test_pages_that_show_it_are_told_and_nobody_else(
    tmp_path: Path, yamnet_path: Path, alarm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.1)
    async with running(tmp_path, yamnet_path, [Room("kitchen", str(alarm))]) as (_, vitals, told):
        vitals.watch({"kitchen"})
        await asyncio.sleep(0.3)
        assert not told
        vitals.watch({"kitchen", "health"})
        vitals.watch({"health"})
        await until(lambda: len(told) >= 3)
        assert told[-1]["type"] == "vitals"
        assert told[-1]["health"]["figures"]["cpu_percent"] >= 0.0
        vitals.watch(set())
        count = len(told)
        await asyncio.sleep(0.3)
        assert len(told) == count


@pytest.mark.usefixtures("_own_state")
async def test_the_checks_are_made_once_for_all_who_ask_and_kept(
    tmp_path: Path, yamnet_path: Path, alarm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[bool] = []
    examine = doctor.examine

    def look(*arguments: Any, **options: Any) -> doctor.Report:
        looked.append(options["running"])
        return examine(*arguments, **options)

    monkeypatch.setattr(doctor, "examine", look)
    async with running(tmp_path, yamnet_path, [Room("kitchen", str(alarm))]) as (here, vitals, _):
        await until(here.parts().mqtt.connected.is_set)
        first, second = await asyncio.gather(vitals.checked(anew=False), vitals.checked(anew=True))
        assert first is second
        assert await vitals.checked(anew=True) is first  # it is not five seconds old
        assert looked == [True]
        monkeypatch.setattr(module, "AGAIN", 0.0)
        assert await vitals.checked(anew=False) is first
        assert await vitals.checked(anew=True) is not first
        names = {check.name: check.works for check in first.checks}
        assert names["broker: publish"]
        assert names["state folder"]
        assert {disk.name for disk in first.disks} == {"state", "models", "clips"}


@pytest.mark.usefixtures("_own_state")
async def test_checks_that_hang_block_nothing_and_are_said_to(
    tmp_path: Path, yamnet_path: Path, alarm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, calls = threading.Event(), []

    def hang(*_arguments: Any, **_options: Any) -> None:
        calls.append(1)
        release.wait(30)

    monkeypatch.setattr(doctor, "examine", hang)
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    async with running(tmp_path, yamnet_path, [Room("kitchen", str(alarm))]) as (_, vitals, _told):
        for _ in range(2):
            with pytest.raises(AssistantError, match="have not ended"):
                await vitals.checked(anew=True)
        assert len(calls) == 1
        release.set()


def test_how_far_away_an_address_is() -> None:
    assert {reach_of(host) for host in ("127.0.0.1", "::1", "localhost", "x.localhost", None)} == {"machine"}
    near = ("192.168.1.5", "10.0.0.1", "fe80::1", "fd00::1", "broker", "broker.local", "Box.Fritz.Box")
    assert {reach_of(host) for host in near} == {"network"}
    assert {reach_of(host) for host in ("8.8.8.8", "2606:4700::1111", "hooks.example.org")} == {"internet"}
