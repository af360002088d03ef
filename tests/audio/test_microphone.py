"""Real PortAudio on a private PulseAudio with a null sink; devices and identities from trees made here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from assistant.audio import microphone
from assistant.audio.microphone import Device, find
from assistant.errors import SourceError

pytestmark = pytest.mark.alone

ROOT = Path(microphone.__file__).parents[2]


def device(index: int, name: str, *identities: str, default: bool = False) -> Device:
    return Device(index, name, 2, 48000.0, identities, default)


KNOWN = [
    device(0, "HDA Intel PCH: ALC887 (hw:0,0)", default=True),
    device(1, "USB PnP Sound Device: Audio (hw:1,0)", "usb:0d8c:0014@1-1.4"),
    device(2, "USB PnP Sound Device: Audio (hw:2,0)", "usb:0d8c:0014@1-1.3"),
    device(3, "Jabra SPEAK 410: USB Audio (hw:3,0)", "usb:0b0e:0412:A1B2", "usb:0b0e:0412@1-2"),
    device(4, "Jabra SPEAK 410: USB Audio #1 (hw:3,1)", "usb:0b0e:0412:A1B2", "usb:0b0e:0412@1-2"),
]


class TestFind:
    @pytest.mark.parametrize(
        ("name", "index"),
        [
            ("default", 0),
            ("2", 2),
            ("alc887", 0),
            ("hw:2,0", 2),
            ("usb:0d8c:0014@1-1.3", 2),
            ("usb:0b0e:0412:A1B2", 3),
            ("usb:0b0e:0412@1-2", 3),
            ("usb:0b0e:0412", 3),
        ],
    )
    def test_one(self, name, index):
        assert find(name, KNOWN).index == index

    @pytest.mark.parametrize("name", ["PnP", "usb:0d8c:0014"])
    def test_several(self, name):
        with pytest.raises(SourceError, match=r"several microphones match \(1 USB.*2 USB.*remedy"):
            find(name, KNOWN)

    @pytest.mark.parametrize("name", ["none", "17", "usb:dead:beef", "usb:0d8c:001"])
    def test_none(self, name):
        with pytest.raises(SourceError, match="no such microphone .*remedy: kikimimi devices"):  # noqa: RUF043
            find(name, KNOWN)


def card(sysfs: Path, number: int, port: str, **files: str) -> None:
    """A USB sound card as the kernel lays it out."""
    usb = sysfs / "devices/pci0000:00/usb1" / port
    (usb / f"{port}:1.0").mkdir(parents=True)
    for name, content in files.items():
        (usb / name).write_text(content + "\n")
    folder = sysfs / f"class/sound/card{number}"
    folder.mkdir(parents=True)
    (folder / "device").symlink_to(usb / f"{port}:1.0")


class TestIdentities:
    def test_serial_and_port(self, tmp_path):
        card(tmp_path, 1, "1-1.4", idVendor="0b0e", idProduct="0412", serial="A1 B2:3")
        card(tmp_path, 2, "1-2", idVendor="0d8c", idProduct="0014")
        (tmp_path / "class/sound/card0").mkdir()
        assert microphone._identities(tmp_path / "class/sound") == {
            "1": ("usb:0b0e:0412:A1_B2_3", "usb:0b0e:0412@1-1.4"),
            "2": ("usb:0d8c:0014@1-2",),
        }

    def test_the_same_serial_twice_is_none(self, tmp_path):
        for number, port in ((1, "1-1"), (2, "1-2")):
            card(tmp_path, number, port, idVendor="0d8c", idProduct="0014", serial="0001")
        assert microphone._identities(tmp_path / "class/sound") == {
            "1": ("usb:0d8c:0014@1-1",),
            "2": ("usb:0d8c:0014@1-2",),
        }

    def test_no_sound_cards(self, tmp_path):
        assert microphone._identities(tmp_path) == {}


CAPTURE = """
import asyncio, json, sys, time
import numpy as np
from assistant.audio.microphone import Microphone
from assistant.errors import SourceError

async def main():
    source = Microphone("room", sys.argv[1])
    chunks, arrivals = [], []
    failure = None
    try:
        async for chunk in source.chunks():
            if not chunks:
                print("listening", flush=True)
            chunks.append(chunk)
            arrivals.append(time.time())
            if chunk.end > 16000 * float(sys.argv[2]):
                break
    except SourceError as error:
        failure = str(error)
    samples = np.concatenate([chunk.samples for chunk in chunks]) if chunks else np.zeros(0, np.float32)
    if len(sys.argv) > 3:
        np.save(sys.argv[3], samples)
    jumps = sum(two.start - one.end for one, two in zip(chunks, chunks[1:]))
    print(json.dumps({
        "failure": failure, "samples": len(samples), "jumps": jumps, "lost": source.stats.lost_seconds,
        "lag": [float(np.median([at - chunk.time for at, chunk in zip(arrivals, chunks)])) if chunks else 0.0],
    }))

asyncio.run(main())
"""


def in_process(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CAPTURE, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    answer: dict[str, object] = json.loads(out.splitlines()[-1])
    return answer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "pulse"])
def test_what_is_played_is_heard(pulse, tmp_path, name):
    environment, _ = pulse
    at = np.arange(48000 * 3) / 48000
    wave = tmp_path / "tone.wav"
    soundfile.write(wave, np.stack([0.5 * np.sin(2 * np.pi * 1000 * at)] * 2, axis=1), 48000)
    process = in_process([name, "4", str(tmp_path / "heard.npy")], environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    subprocess.run(["paplay", "--device=room", str(wave)], env=environment, check=True, timeout=30)
    told = result(process)
    assert told["failure"] is None
    assert told["jumps"] == 0
    assert told["lag"][0] < 0.2  # type: ignore[index]
    heard = np.load(tmp_path / "heard.npy")
    loud = heard[np.abs(heard) > 0.01]
    assert len(loud) > 2.5 * 16000 * 0.9
    spectrum = np.abs(np.fft.rfft(heard[-32000:-16000]))
    assert spectrum.argmax() == 1000
    assert np.sqrt(np.mean(heard[-32000:-16000] ** 2)) == pytest.approx(0.354, abs=0.01)


@pytest.mark.slow
def test_a_frozen_sound_server_is_an_error_and_the_process_still_ends(pulse):
    environment, server = pulse
    process = in_process(["default", "60"], environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    os.kill(server, signal.SIGSTOP)
    began = time.monotonic()
    told = result(process)
    assert "default: no audio for 2 s; remedy" in str(told["failure"])
    assert time.monotonic() - began < 10


@pytest.mark.slow
def test_a_dead_sound_server_is_an_error(pulse):
    environment, server = pulse
    process = in_process(["default", "60"], environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    os.kill(server, signal.SIGKILL)
    assert "default: " in str(result(process)["failure"])


TWO = """
import asyncio, contextlib, json, sys
from pathlib import Path
from assistant import portaudio
from assistant.audio.microphone import Microphone
from assistant.errors import SourceError

async def hear(source, seconds, heard, came=None):
    try:
        async with contextlib.aclosing(source.chunks()) as chunks:
            async for chunk in chunks:
                heard.append(chunk)
                if came is not None and len(heard) == 20:
                    came.set()
                if chunk.end > 16000 * seconds:
                    return None
    except SourceError as error:
        return str(error)

async def main():
    folder = Path(sys.argv[1])
    portaudio.CARDS = folder / "cards"
    portaudio.CARDS.mkdir()
    chunks, came = [], asyncio.Event()
    first = Microphone("one", "pulse")
    hearing = asyncio.create_task(hear(first, 10, chunks, came))
    await came.wait()
    second = []
    refused = await hear(Microphone("two", "kitchenmic"), 1, second)
    with (folder / "asound.conf").open("a") as config:
        config.write("pcm.before { type pulse }\\npcm.kitchenmic { type pulse }\\n")
    (portaudio.CARDS / "card1").mkdir()
    failure = await hear(Microphone("two", "kitchenmic"), 1, second)
    print(json.dumps({
        "refused": refused, "second": failure, "first": await hearing, "lost": first.stats.lost_seconds,
        "samples": sum(len(chunk.samples) for chunk in chunks), "end": chunks[-1].end, "heard": len(second),
        "open": len(portaudio.opened),
    }))

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_device_that_comes_while_another_one_is_heard(pulse, tmp_path):
    """PortAudio would not see it: its list is made anew, and the stream that is open goes on."""
    environment, _ = pulse
    told = result(
        subprocess.Popen(
            [sys.executable, "-c", TWO, str(tmp_path)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    assert "kitchenmic: no such microphone" in str(told["refused"])
    assert told["second"] is None
    assert told["heard"] > 10  # type: ignore[operator]
    assert told["first"] is None
    assert 0.0 < told["lost"] < 4.0  # type: ignore[operator]
    assert told["samples"] + 16000 * told["lost"] == pytest.approx(told["end"], abs=100)  # type: ignore[operator]
    assert told["open"] == 0


def test_no_device_is_one_line_with_the_remedy(portaudio):
    failure = str(result(in_process(["no-such-microphone", "1"], dict(os.environ)))["failure"])
    assert "no microphone found; remedy" in failure or "no-such-microphone: no such microphone" in failure
    assert "\n" not in failure


def test_no_portaudio_is_one_line_with_the_remedy(monkeypatch):

    class Refuses:
        def find_spec(self, name, _path=None, _target=None):
            if name == "sounddevice":
                raise OSError("PortAudio library not found")

    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Refuses(), *sys.meta_path])
    with pytest.raises(SourceError, match="apt-get install libportaudio2"):
        microphone.devices()


# format


class Card:
    """What `sounddevice` says of a card that refuses the first `busy` questions, and formats that it has not."""

    class PortAudioError(Exception):
        pass

    def __init__(self, busy: int, takes: tuple[tuple[float, int], ...]) -> None:
        self.busy, self.takes = busy, takes

    def check_input_settings(self, _index: int, count: int, _kind: str, _extra: None, rate: float) -> None:
        self.busy -= 1
        if self.busy >= 0 or (rate, count) not in self.takes:
            raise self.PortAudioError("Device unavailable")


@pytest.mark.parametrize("busy", [0, 1, 9])
def test_a_device_that_is_just_coming_back_is_not_heard_in_a_poor_format(busy: int):
    every = tuple((rate, count) for rate in (48e3, 44.1e3, 32e3, 16e3, 8e3) for count in (2, 1))
    assert microphone._format(Card(busy, every), Device(0, "pulse", 32, 44_100.0, (), True)) == (48_000.0, 2)


def test_a_format_that_the_device_has_is_found():
    device = Device(0, "headset", 1, 48_000.0, (), False)
    assert microphone._format(Card(0, ((16e3, 1), (8e3, 1))), device) == (16_000.0, 1)
    with pytest.raises(Card.PortAudioError):
        microphone._format(Card(0, ()), device)
